#!/usr/bin/env python3
"""Measure training on a CPU against NeMo's stock way, in one run."""

import json
import multiprocessing
import os
import random
import shlex
import statistics
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from asr_with_nemo.base.files import check_output, write_if_changed
from asr_with_nemo.base.machine import code_commit, describe_machine, device_name, package_versions
from asr_with_nemo.cli import run
from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.trials import environment

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import DictConfig

DataDir = Annotated[Path, typer.Option(help="The folder of train_manifest.json.")]
Config = Annotated[str, typer.Option(help="Name of the training config.")]
Rounds = Annotated[int, typer.Option(help="How often each way is run, in turn.", min=1)]
Steps = Annotated[int, typer.Option(help="Training steps of a round.", min=1)]
Output = Annotated[Path | None, typer.Option(help="Write all figures to this .json file.")]
"""Options of the benchmarks of training."""

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PARTS = ("loading", "features", "forward", "loss", "backward", "optimiser")

STOCK = [
    "model.train_ds.batch_size=32",
    "model.train_ds.use_semi_sorted_batching=false",
    "~model.train_ds.augmentor",
    "++model.optim.fused=false",
    "trainer.precision=32-true",
]
"""quartznet_an4.yaml's network as NeMo's example configs train: a plain shuffled loader, batches of 32, fp32."""

PUBLISHED = [
    "model.encoder.jasper.0.stride=[1]",
    "model.encoder.jasper.0.residual=true",
    "model.train_ds.batch_size=32",
    "model.train_ds.use_semi_sorted_batching=false",
    "+model.train_ds.trim_silence=true",
    "+model.train_ds.max_duration=16.7",
    "model.spec_augment.freq_masks=0",
    "model.spec_augment.time_masks=0",
    "+model.spec_augment.rect_masks=5",
    "+model.spec_augment.rect_freq=50",
    "+model.spec_augment.rect_time=120",
    "model.optim.name=novograd",
    "model.optim.betas=[0.8,0.5]",
    "trainer.precision=32-true",
    "trainer.gradient_clip_val=0",
]
"""config.yaml as NeMo published it (examples/asr/conf/config.yaml, 2020), in fp32."""

LONG_KERNELS = (33, 39, 51, 63, 75)
"""Of QuartzNet's blocks (S. Kriman et al., "QuartzNet: Deep automatic speech recognition with 1D time-channel separable
convolutions", ICASSP 2020). Before them stands a layer of 33 with stride 2, after them one of 87 with dilation 2."""

SAME = 1e-4
"""How much the log-probabilities of the fast layers may differ from NeMo's."""


# --- A way to train ---------------------------------------------------------------------------------------------------


@dataclass
class Way:
    """A model, its training data, and how it is trained: steps as Lightning makes them, without Lightning.

    Args:
        config: for this machine (`training.fit_to_machine`).
        stock: with NeMo's own layers, and its files read each time.
    """

    config: "DictConfig"
    stock: bool

    @cached_property
    def model(self) -> "EncDecCTCModel":
        """The model, with the training data that the config names."""
        import torch

        from asr_with_nemo.training.run import build_model

        torch.manual_seed(0)
        if not self.stock:
            return build_model(self.config)
        from nemo.collections.asr.models import EncDecCTCModel

        return EncDecCTCModel(cfg=self.config.model)

    @cached_property
    def optimizer(self) -> "torch.optim.Optimizer":
        """The config's, with a rate so low that any number of steps does no harm."""
        from omegaconf import OmegaConf

        settings = OmegaConf.to_container(self.config.model.optim, resolve=True) | {"lr": 1e-5}
        settings.pop("sched")
        return self.model.setup_optimization(settings)[0]

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16 where autocast does."""
        return self.config.trainer.precision == "bf16-mixed"

    def sound(self, batches: Sequence[Sequence[int]]) -> float:
        """Seconds of sound in batches, as the manifest has them."""
        rows = self.model.train_dataloader().dataset.manifest_processor.collection
        return sum(rows[number].duration for batch in batches for number in batch)

    def draw(self, share: float, most: int | None = None) -> list[list[int]]:
        """The batches of a new epoch, as numbers of utterances; of them a share, drawn evenly over lengths."""
        loader = self.model.train_dataloader()
        rows = loader.dataset.manifest_processor.collection
        batches = [list(batch) for batch in (loader.batch_sampler or loader.sampler)]
        batches.sort(key=lambda batch: max(rows[number].duration for number in batch))
        count = min(max(1, round(share * len(batches))), most or len(batches))
        chosen = [batches[int((place + random.random()) * len(batches) / count)] for place in range(count)]
        return random.sample(chosen, count)

    def warm_up(self, most: int | None) -> None:
        """Make two steps; before, load as in the first epochs of a training, until all is in memory at every speed."""
        if not self.stock:
            for _ in range(1 if most or "augmentor" not in self.config.model.train_ds else 20):
                for number in range(len(self.model.train_dataloader().dataset)):
                    self.load([number])
        self.run(self.draw(1.0, 2))

    def measure(self, share: float, most: int | None) -> dict[str, float]:
        """Train for a share of an epoch: the seconds that an epoch takes, whole and by part, and the work done."""
        batches = self.draw(share, most)
        limit = matrix_product_rate(self.bf16)
        seconds, frames = self.run(batches)
        limit = max(limit, matrix_product_rate(self.bf16))
        scale = self.sound([range(len(self.model.train_dataloader().dataset))]) / self.sound(batches)
        in_network = seconds["forward"] + seconds["backward"]
        flops = frames * self.flop_per_frame
        return {part: scale * of for part, of in seconds.items()} | {
            "seconds": scale * sum(seconds.values()),
            "gflops": flops / sum(seconds.values()) / 1e9,
            "limit": limit / 1e9,
            "of_limit": flops / sum(seconds.values()) / limit,
            "network_of_limit": flops / in_network / limit,
        }

    def describe(self) -> dict[str, Any]:
        """What is trained, and how."""
        return {
            "precision": self.config.trainer.precision,
            "batch_size": self.config.model.train_ds.batch_size,
            "weights": sum(weight.numel() for weight in self.model.parameters()),
            "gflop_a_second_of_sound": round(self.flop_per_frame * 100 / 1e9, 3),
        }

    def in_layers(self, batches: Sequence[Sequence[int]]) -> float:
        """Make a training step of each batch: the seconds of forward and backward pass."""
        seconds, _ = self.run(batches)
        return seconds["forward"] + seconds["backward"]

    def difference_from_stock(self, batches: Sequence[Sequence[int]]) -> float:
        """The greatest difference of the log-probabilities from those of NeMo's layers with the same weights."""
        import torch

        stock = Way(self.config, stock=True)
        stock.model.load_state_dict(self.model.state_dict())
        difference = 0.0
        with torch.inference_mode():
            for batch in batches:
                signal, lengths, *_ = stock.load(batch)
                of_stock, of_ours = (
                    way.model.eval()(input_signal=signal, input_signal_length=lengths)[0] for way in (stock, self)
                )
                difference = max(difference, float((of_stock - of_ours).abs().max()))
        return difference

    def load(self, batch: Sequence[int]) -> tuple:
        """A batch as the model's loader gives it: signals, lengths, texts, lengths of texts."""
        loader = self.model.train_dataloader()
        return loader.collate_fn([loader.dataset[number] for number in batch])

    def run(self, batches: Sequence[Sequence[int]]) -> tuple[dict[str, float], int]:
        """Make a training step of each batch.

        Returns:
            the seconds that each part of a step took in all, and the frames of 10 ms that went through the network,
            padding included.
        """
        import torch
        from nemo.core.classes.mixins import AccessMixin

        model, optimizer, clip = self.model.train(), self.optimizer, self.config.trainer.gradient_clip_val
        seconds, frames = dict.fromkeys(PARTS, 0.0), 0
        now = time.perf_counter()

        def lap(part: str) -> None:
            nonlocal now
            before, now = now, time.perf_counter()
            seconds[part] += now - before

        for batch in batches:
            signal, signal_lengths, texts, text_lengths = self.load(batch)
            lap("loading")
            # As NeMo's training_step, which can't be called without a trainer.
            AccessMixin.reset_registry(model)
            AccessMixin.set_access_enabled(model.is_interctc_enabled(), model.model_guid)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                features, lengths = model.preprocessor(input_signal=signal, length=signal_lengths)
                features = model.spec_augmentation(input_spec=features, length=lengths)
                lap("features")
                encoded, encoded_lengths = model.encoder(audio_signal=features, length=lengths)
                log_probs = model.decoder(encoder_output=encoded)
                lap("forward")
                loss = model.loss(
                    log_probs=log_probs,
                    targets=texts,
                    input_lengths=encoded_lengths,
                    target_lengths=text_lengths,
                )
                loss, _ = model.add_interctc_losses(loss, texts, text_lengths, compute_wer=False)
                lap("loss")
            AccessMixin.set_access_enabled(False, model.model_guid)
            optimizer.zero_grad()
            loss.backward()
            lap("backward")
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            lap("optimiser")
            frames += features.shape[0] * features.shape[2]
        return seconds, frames

    @cached_property
    def flop_per_frame(self) -> float:
        """Floating-point operations of a training step for each frame of 10 ms.

        The multiplications and additions of all convolutions and matrix products of encoder and decoder in the forward
        pass, counted by torch, times three: the backward pass makes two products for each one of the forward pass.
        (torch's own count of a depthwise convolution's backward pass is too large by the number of channels.) What is
        done by element is not counted. The count is of NeMo's layers, for the fast ones too: the useful work.
        """
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from asr_with_nemo.training import channels_last

        channels_last.slow_down(self.model.encoder)
        channels_last.slow_down(self.model.decoder)
        features = torch.zeros(4, self.config.model.preprocessor.features, 400)  # (B, D, T)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoded, _ = self.model.encoder(audio_signal=features, length=torch.full((4,), 400))
            self.model.decoder(encoder_output=encoded)
        if not self.stock:
            channels_last.speed_up(self.model)
        return 3 * counter.get_total_flops() / (4 * 400)


class Side:
    """Ways to train that share a process of their own: NeMo's, or ours.

    What one side sets for its process (ours keeps memory that was freed) must not help the other.
    """

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)

    def hold(self, way: Way) -> "Held":
        """Move a way there."""
        return Held(self._process, self._process.submit(_hold, way).result())


@dataclass
class Held:
    """A way in the process of its side."""

    process: ProcessPoolExecutor
    number: int

    def __call__(self, method: str, *arguments: Any) -> Any:
        return self.process.submit(_call, self.number, method, *arguments).result()


_held: list[Way] = []  # in a side's process


def _begin() -> None:
    import lightning.pytorch as pl

    from asr_with_nemo.base.machine import quieten

    quieten()
    pl.seed_everything(0, verbose=False)


def _hold(way: Way) -> int:
    _held.append(way)
    return len(_held) - 1


def _call(number: int, method: str, *arguments: Any) -> Any:
    return getattr(_held[number], method)(*arguments)


def matrix_product_rate(bf16: bool, size: int = 2048, seconds: float = 0.3) -> float:
    """Floating-point operations a second in products of large square matrices: about what the machine can do."""
    import torch

    a, b = torch.randn(2, size, size).to(torch.bfloat16 if bf16 else torch.float32)
    torch.mm(a, b)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


# --- The configs ------------------------------------------------------------------------------------------------------


def load_config(name: str, data_dir: Path, overrides: Sequence[str] = ()) -> "DictConfig":
    """A config of the course for this machine's CPU; what the overrides say binds."""
    from asr_with_nemo.training import config as training_config
    from asr_with_nemo.training.config import complete_config, fit_to_machine, overridden_keys

    overrides = [f"data_dir={data_dir}", "trainer.accelerator=cpu", *overrides]
    config = complete_config(training_config.load_config(CONFIGS, name, overrides))
    return fit_to_machine(config, overridden_keys(overrides))[0]


def with_long_kernels(data_dir: Path, precision: str) -> "DictConfig":
    """The course's recipe with a network of QuartzNet's kernels, each block once (R=1), and unchanged sound."""
    from omegaconf import OmegaConf

    config = load_config("quartznet_an4", data_dir, [f"trainer.precision={precision}", "~model.train_ds.augmentor"])
    first, block, *_, last = config.model.encoder.jasper
    config.model.encoder.jasper = [
        OmegaConf.merge(first, {"kernel": [33]}),
        *(OmegaConf.merge(block, {"kernel": [kernel], "repeat": 1}) for kernel in LONG_KERNELS),
        OmegaConf.merge(block, {"kernel": [87], "dilation": [2], "repeat": 1, "residual": False}),
        last,
    ]
    return config


# --- Measuring --------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {name: round(of(values), 4) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


def hold_each(ways: Mapping[Hashable, tuple["DictConfig", Mapping[str, str]]]) -> dict[Hashable, Held]:
    """Hold our way of each config in a process of its own, with variables of its environment that no other has."""
    for variable in {variable for _, variables in ways.values() for variable in variables}:
        os.environ.pop(variable, None)
    held = {}
    for name, (config, variables) in ways.items():
        with environment(**variables):  # of the process that starts here
            held[name] = Side().hold(Way(config, stock=False))
    return held


def warmed_up(ways: Mapping[Hashable, Held], drawing: Held, most: int) -> list[list[int]]:
    """Draw batches for all ways, of an epoch at most, by one of them, and make two steps of each way."""
    batches = drawing("draw", 1.0, most)
    for way in ways.values():
        way("in_layers", batches[:2])
    return batches


def time_layers(
    ways: Mapping[Hashable, Held], batches: Sequence[Sequence[int]], seconds: Mapping[Hashable, list[float]]
) -> None:
    """Make a training step of each batch, each way in turn, and add the seconds of forward and backward pass."""
    for name, way in ways.items():
        seconds[name].append(way("in_layers", batches))


def compare(ways: dict[str, Held], rounds: int, share: float, most: int | None) -> dict:
    """Train each way in turn, round after round, and compare what an epoch takes; the first way is the slower one."""
    for way in ways.values():
        way("warm_up", most)
    measured: dict[str, list[dict]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), "rounds", delay=1, leave=False):
        for name, way in ways.items():
            measured[name].append(way("measure", share, most))
    result: dict = {}
    for name, way in ways.items():
        result[name] = way("describe")
        result[name] |= {key: spread([one[key] for one in measured[name]]) for key in measured[name][0]}
    return result | {"times_faster": ratios(*([one["seconds"] for one in of] for of in measured.values()))}


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times faster it was, pair by pair."""
    return spread([one / other for one, other in zip(slow, fast, strict=True)])


def compare_layers(stock: Side, ours: Side, data_dir: Path, precisions: Sequence[str], rounds: int, most: int) -> dict:
    """NeMo's layers and the fast ones on the same batches, in each precision: forward and backward, what differs."""
    ways: dict[tuple[str, str], Held] = {}
    for precision in precisions:
        config = with_long_kernels(data_dir, precision)
        ways["nemo", precision] = stock.hold(Way(config, stock=True))
        ways["ours", precision] = ours.hold(Way(config, stock=False))
    batches = warmed_up(ways, ways["ours", precisions[0]], most)
    seconds = {name: [] for name in ways}
    for _ in tqdm(range(rounds), "long kernels", delay=1, leave=False):
        time_layers(ways, batches, seconds)
    result: dict = {"batches": len(batches)}
    for precision in precisions:
        nemo, fast = seconds["nemo", precision], seconds["ours", precision]
        steps = {name: spread([one / len(batches) for one in of]) for name, of in (("nemo", nemo), ("ours", fast))}
        result[precision] = steps | {"times_faster": ratios(nemo, fast)}
    result["as_trained"] = ratios(seconds["nemo", precisions[0]], seconds["ours", precisions[-1]])
    result["greatest_difference"] = ways["ours", precisions[0]]("difference_from_stock", batches)
    return result


# --- Saying it --------------------------------------------------------------------------------------------------------


def times(ratio: dict[str, float], rounds: int) -> str:
    """A ratio for the reader."""
    over = f" ({ratio['min']:.1f} to {ratio['max']:.1f} over {rounds} rounds)" if rounds > 1 else ""
    return f"{ratio['median']:.1f} times faster{over}"


def print_comparison(title: str, result: dict, rounds: int) -> None:
    """The table of one comparison of two ways."""
    names = [name for name in result if name != "times_faster"]
    print(f"\n{title}: {times(result['times_faster'], rounds)}")
    rows = {"": names, "precision": [result[name]["precision"] for name in names]}
    rows["batch size"] = [str(result[name]["batch_size"]) for name in names]
    rows["weights"] = [f"{result[name]['weights'] / 1e6:.2f} M" for name in names]
    rows["an epoch"] = [f"{result[name]['seconds']['median']:.1f} s" for name in names]
    for part in PARTS:
        medians = [(result[name][part]["median"], result[name]["seconds"]["median"]) for name in names]
        rows[f"  {part}"] = [f"{median:.2f} s {median / whole:5.0%}" for median, whole in medians]
    rows["work in it"] = [
        f"{result[name]['gflops']['median'] * result[name]['seconds']['median']:.0f} GFLOP" for name in names
    ]
    rows["achieved"] = [f"{result[name]['gflops']['median']:.0f} GFLOP/s" for name in names]
    rows["matrix product"] = [f"{result[name]['limit']['median']:.0f} GFLOP/s" for name in names]
    rows["of the limit"] = [f"{result[name]['of_limit']['median']:.0%}" for name in names]
    rows["  forward, backward"] = [f"{result[name]['network_of_limit']['median']:.0%}" for name in names]
    for name, cells in rows.items():
        print(f"  {name:20}" + "".join(f"{cell:>20}" for cell in cells))


def main(
    data_dir: DataDir = Path("data/an4"),
    rounds: Rounds = 5,
    share: Annotated[float, typer.Option(help="How much of an epoch a round runs.", min=0.01, max=1.0)] = 0.25,
    output: Output = None,
    quick: Annotated[bool, typer.Option(help="One round of two batches: to see that it works, not how fast.")] = False,
) -> None:
    """Measure training on a CPU against NeMo's stock way, in one run.

    The ways take turns, so that a busy machine slows them alike; the ratios of the rounds count, the seconds vary.
    NeMo's are in one process and ours in another: what speeds up a whole process counts as ours.
    Steps are those of a real training: loading, features with SpecAugment, forward, CTC loss, backward, gradient
    clipping, optimiser; without Lightning, validation, logs or an average of the weights. A round runs a share of an
    epoch's batches, drawn evenly over their lengths, and its time is scaled by seconds of sound to an epoch.

    1. The same network, configs/quartznet_an4.yaml's: NeMo's plain loader, batches of 32, fp32 and layers, against the
       course's batches of about one length, bf16 where the CPU has it, layers and recordings kept in memory.
       Neither side changes the speed of recordings; SpecAugment is on both.

    2. NeMo's published config.yaml (Jasper 4x1, stride 1) against the course's recipe as it is trained.

    3. QuartzNet's long kernels (33 to 75, 87 with dilation 2; the recipe's width, each block once): NeMo's layers
       against the fast ones on the same batches, forward and backward, in each precision that the CPU has; and the
       greatest difference of what they give.

    The work is what the network's convolutions and matrix products need, padding included; the limit is a large
    matrix product in the same precision, measured before and after each run.
    """
    if output is not None:
        check_output(output)
    from asr_with_nemo.base.machine import quieten

    quieten()
    rounds, most = (1, 2) if quick else (rounds, None)
    ours = load_config("quartznet_an4", data_dir)
    path = ours.model.train_ds.manifest_filepath
    utterances = manifest.read_manifest(path)
    sound = sum(utterance["duration"] for utterance in utterances)
    load = os.getloadavg()[0]
    print(f"{path}: {len(utterances)} utterances, {sound / 60:.1f} minutes; {os.cpu_count()} cores, load {load:.1f}")

    stock, fast = Side(), Side()
    same_network = compare(
        {
            "NeMo's way": stock.hold(Way(load_config("quartznet_an4", data_dir, STOCK), stock=True)),
            "ours": fast.hold(Way(load_config("quartznet_an4", data_dir, ["~model.train_ds.augmentor"]), stock=False)),
        },
        rounds,
        share,
        most,
    )
    print_comparison("The same network", same_network, rounds)
    published_config = compare(
        {
            "published config": stock.hold(Way(load_config("config", data_dir, PUBLISHED), stock=True)),
            "ours": fast.hold(Way(ours, stock=False)),
        },
        rounds,
        share,
        most,
    )
    print_comparison("NeMo's published config.yaml and our recipe", published_config, rounds)

    precisions = list(dict.fromkeys(["32-true", ours.trainer.precision]))
    long_kernels = compare_layers(stock, fast, data_dir, precisions, rounds, most=2 if quick else 8)
    print("\nLong kernels, a step's forward and backward:")
    for precision in precisions:
        one = long_kernels[precision]
        print(
            f"  {precision:12} NeMo's layers {one['nemo']['median']:.2f} s, ours {one['ours']['median']:.2f} s: "
            f"{times(one['times_faster'], rounds)}"
        )
    print(f"  as each trains here, 32-true and {precisions[-1]}: {times(long_kernels['as_trained'], rounds)}")
    difference = long_kernels["greatest_difference"]
    print(f"  greatest difference of the log-probabilities in fp32: {difference:.1e}")
    if output is not None:
        result = {
            "corpus": an4.corpus_of(path),
            "utterances": len(utterances),
            "duration": round(sound, 2),
            "rounds": rounds,
            "share": share,
            "quick": quick,
            "same_network": same_network,
            "published_config": published_config,
            "long_kernels": long_kernels,
            "machine": describe_machine(device_name()) | {"load": round(load, 2)},
            "versions": package_versions(),
            "commit": code_commit(),
            "command": shlex.join(["python", "scripts/benchmarks/training.py", *sys.argv[1:]]),
        }
        write_if_changed(output, json.dumps(result, indent=1) + "\n")
    if difference > SAME:
        raise InputError(f"the fast layers differ from NeMo's by {difference:.1e}, where {SAME} is expected of fp32")


if __name__ == "__main__":
    run(main)
