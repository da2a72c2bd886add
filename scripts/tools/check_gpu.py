#!/usr/bin/env python3
"""Check training and recognition on this machine's GPU, and measure them against NeMo's own way and a CPU."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_with_nemo.base.files import check_output, write_if_changed
from asr_with_nemo.base.machine import code_commit
from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel
    from omegaconf import DictConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STEPS = 20  # training steps that a GPU and a CPU are compared over
SAME_LOSS = 1e-6  # how much the losses of a GPU may differ from those of a CPU, of the loss, in double precision
STOCK = {
    "model.train_ds.batch_size": "32",
    "model.train_ds.use_semi_sorted_batching": "false",
    "++model.optim.fused": "false",
    "trainer.precision": "32-true",
}
"""What differs in NeMo's example configs from quartznet_an4: a plain shuffled loader, batches of 32, fp32."""
DURATIONS = [0, 1, 2, 3, 4]
LARGE = {"n_layers": 17, "d_model": 512, "n_heads": 8}
"""The encoder of the large FastConformer, as NeMo publishes it (examples/asr/conf/fastconformer), 115 M parameters."""
SMALL = {"n_layers": 4, "d_model": 144, "n_heads": 4, "subsampling_factor": 4}
PIECES = 1024  # outputs of the large models


# --- Helpers ----------------------------------------------------------------------------------------------------------


def config_of(name: str, data_dir: Path, runs: Path, **overrides: str) -> "DictConfig":
    """A complete config of the course, for this machine, with overrides (`key=value` as a dictionary)."""
    from asr_with_nemo.training.config import complete_config, fit_to_machine, load_config, overridden_keys

    given = [f"data_dir={data_dir}", f"exp_manager.exp_dir={runs}"]
    given += [key if value == "" else f"{key}={value}" for key, value in overrides.items()]
    config = complete_config(load_config(CONFIGS, name, given))
    return fit_to_machine(config, overridden_keys(given))[0]


def epoch_clock():
    """A callback of Lightning that notes when each epoch's training has ended."""
    import lightning.pytorch as pl

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._since = 0.0

        def on_train_epoch_start(self, *_: object) -> None:
            _wait()
            self._since = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            _wait()
            self.seconds.append(round(time.perf_counter() - self._since, 3))

    return Clock()


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    _wait()
    started = time.perf_counter()
    result = work()
    _wait()
    return time.perf_counter() - started, result


def _peak_gib() -> float | None:
    import torch

    return round(torch.cuda.max_memory_allocated() / 2**30, 3) if torch.cuda.is_available() else None


def device() -> str:
    """The GPU, or the CPU where the check is only tried out."""
    from asr_with_nemo.base.machine import has_working_gpu

    return "cuda" if has_working_gpu() else "cpu"


# --- The parts of the check -------------------------------------------------------------------------------------------


def machine(data_dir: Path, runs: Path, quick: bool) -> dict:
    """The card, its driver's and torch's versions."""
    import torch

    from asr_with_nemo.base.machine import describe_machine, device_name, package_versions

    found: dict[str, Any] = {"cpu": device_name(), "cuda": torch.version.cuda}
    if device() == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {
            "memory_gib": round(about.total_memory / 2**30, 1),
            "capability": f"{about.major}.{about.minor}",
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    return found | {"machine": describe_machine(device_name(device())), "versions": package_versions()}


def steps(data_dir: Path, runs: Path, quick: bool) -> dict:
    """The same first steps of the recipe on a CPU and on the GPU, by our layers and by NeMo's.

    Without what is random (dropout, SpecAugment, augmentation, dither). Rounding errors grow from step to step, so the
    losses are held against one another in double precision; beside them those in fp32, in TF32 and in bf16.
    """
    import torch
    from nemo.collections.asr.models import EncDecCTCModel

    from asr_with_nemo.training.run import build_model

    still = {"model.dropout": "0", "~model.train_ds.augmentor": "", "model.preprocessor.dither": "0"}
    still |= {"~model.train_ds.vocal_tract": "", "trainer.precision": "32-true", "trainer.accelerator": "cpu"}
    config = config_of("quartznet_an4", data_dir, runs, **still)
    config.model.train_ds.num_workers = 0
    torch.manual_seed(0)
    first = build_model(config).train()
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    batches = []
    for batch, _ in zip(first.train_dataloader(), range(3 if quick else STEPS), strict=False):
        with torch.no_grad():
            features, frames = first.preprocessor(input_signal=batch[0], length=batch[1])
        batches.append((features, frames, batch[2], batch[3]))

    def losses(where: str, stock: bool, kind: "torch.dtype", tf32: bool = False) -> tuple[list[float], float]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        model = EncDecCTCModel(cfg=config.model) if stock else build_model(config)
        model.load_state_dict(weights)
        model.spec_augmentation = None
        wide = torch.float64 if kind == torch.float64 else torch.float32
        model = model.to(where, wide).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        found = []

        def step(batch: Sequence["torch.Tensor"]) -> None:
            features, frames, texts, text_lengths = (tensor.to(where) for tensor in batch)
            with torch.autocast(where, torch.bfloat16, enabled=kind == torch.bfloat16):
                output, lengths, _ = model(processed_signal=features.to(wide), processed_signal_length=frames)
                loss = model.loss(log_probs=output, targets=texts, input_lengths=lengths, target_lengths=text_lengths)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())

        step(batches[0])  # kernels are chosen in the first step
        seconds, _ = _timed(lambda: [step(batch) for batch in batches[1:]])
        return [float(loss) for loss in found], round(seconds / max(1, len(batches) - 1), 4)

    gpu = device()
    ways = {
        "cpu, ours, fp64": ("cpu", False, torch.float64),
        "gpu, ours, fp64": (gpu, False, torch.float64),
        "gpu, NeMo's layers, fp64": (gpu, True, torch.float64),
        "cpu, ours, fp32": ("cpu", False, torch.float32),
        "gpu, NeMo's layers, fp32": (gpu, True, torch.float32),
        "gpu, ours, fp32": (gpu, False, torch.float32),
        "gpu, ours, TF32": (gpu, False, torch.float32, True),
        "gpu, ours, bf16": (gpu, False, torch.bfloat16, True),
        "gpu, NeMo's layers, bf16": (gpu, True, torch.bfloat16, True),
    }
    losses(gpu, True, torch.float32)  # the first steps of a process load kernels and get memory
    found = {}
    for name, way in ways.items():
        values, seconds = losses(*way)
        found[name] = {"losses": values, "seconds_a_step": seconds}
    base = found["cpu, ours, fp64"]["losses"]
    for entry in found.values():
        differences = [abs(one - other) / other for one, other in zip(entry["losses"], base, strict=True)]
        entry |= {"difference_at_first": differences[0], "largest_difference": max(differences)}
    return {
        "steps": len(batches),
        "tolerance": SAME_LOSS,
        "within": found["gpu, ours, fp64"]["largest_difference"] <= SAME_LOSS,
        "ways": found,
    }


def transducer_losses(data_dir: Path, runs: Path, quick: bool) -> dict:
    """The losses of NeMo's CUDA kernels and of the CPU, and their gradients, for the same random outputs."""
    import torch
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    from asr_with_nemo.training.tdt_loss import TDTLoss

    torch.manual_seed(0)
    utterances, frames, labels, vocabulary = (2, 12, 4, 8) if quick else (8, 120, 40, 64)
    lengths = torch.randint(frames // 2, frames + 1, (utterances,))
    lengths[0] = frames
    texts = torch.randint(0, vocabulary, (utterances, labels))
    text_lengths = torch.randint(1, labels + 1, (utterances,))
    text_lengths[0] = labels
    found = {}
    for name, extra in (("rnnt", 0), ("tdt", len(DURATIONS))):
        outputs = torch.randn(utterances, frames, labels + 1, vocabulary + 1 + extra)

        def ours(outputs: "torch.Tensor", name: str = name) -> "torch.Tensor":
            if name == "tdt":
                loss = TDTLoss(vocabulary, DURATIONS, sigma=0.02, omega=0.0)
                return loss(outputs, texts, lengths, text_lengths).sum()
            loss = RNNTLoss(num_classes=vocabulary, loss_name="pytorch", reduction="sum")
            return loss(log_probs=outputs, targets=texts, input_lengths=lengths, target_lengths=text_lengths)

        def nemos(outputs: "torch.Tensor", name: str = name) -> "torch.Tensor":
            settings = {"durations": DURATIONS, "sigma": 0.02, "omega": 0.0} if name == "tdt" else None
            kind = "tdt" if name == "tdt" else "warprnnt_numba"
            loss = RNNTLoss(num_classes=vocabulary, loss_name=kind, loss_kwargs=settings, reduction="sum")
            to = outputs.device
            return loss(
                log_probs=outputs,
                targets=texts.to(to),
                input_lengths=lengths.to(to),
                target_lengths=text_lengths.to(to),
            )

        sides = {}
        for side, of, where in (("cpu", ours, "cpu"), ("nemo", nemos, device())):
            if (side, name, where) == ("nemo", "tdt", "cpu"):
                continue  # NeMo has no TDT loss for a CPU
            inputs = outputs.to(where).requires_grad_()
            of(inputs).backward()  # compiles the kernels
            inputs.grad = None

            def both(inputs: "torch.Tensor" = inputs, of: Callable = of) -> "torch.Tensor":
                value = of(inputs)
                value.backward()
                return value.detach()

            seconds, value = _timed(both)
            sides[side] = float(value), inputs.grad.detach().cpu(), seconds
        entry = {side: {"loss": value, "seconds": round(seconds, 5)} for side, (value, _, seconds) in sides.items()}
        if len(sides) == 2:
            (one, one_grad, _), (other, other_grad, _) = sides.values()
            entry["difference"] = abs(one - other) / other
            entry["gradient_difference"] = float((one_grad - other_grad).abs().max() / other_grad.abs().max())
        found[name] = entry
    return found


def families(data_dir: Path, runs: Path, quick: bool) -> dict:
    """A few steps of a small FastConformer with each kind of decoder, by train.py's own way and NeMo's own losses."""
    import torch

    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import decoding
    from asr_with_nemo.training.config import load_config
    from asr_with_nemo.training.run import read_log, train

    found: dict[str, dict] = {}
    files = [row["audio_filepath"] for row in _rows(data_dir, "dev")][:8]
    for kind in ("ctc", "rnnt", "tdt", "tdt and ctc"):
        folder = runs / kind.replace(" ", "_")
        folder.mkdir(parents=True)
        epochs = 1 if quick else 3
        (folder / "family.yaml").write_text(
            json.dumps(_training(fast_conformer(kind, SMALL, _letters()), data_dir, epochs))
        )
        limit = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"] if quick else []
        config = load_config(folder, "family", [f"exp_manager.exp_dir={folder}", *limit])
        torch.cuda.reset_peak_memory_stats() if torch.cuda.is_available() else None
        clock = epoch_clock()
        try:
            seconds, path = _timed(lambda config=config, clock=clock: train(config, callbacks=[clock]))
            log = read_log(path.parent)
            texts = [heard.text for heard in decoding.transcribe(load_model(path), files, progress=False)]
            found[kind] = {
                "seconds": round(seconds, 2),
                "seconds_an_epoch": clock.seconds,
                "losses": [round(row["train_loss_epoch"], 4) for row in log],
                "dev_wer": [round(row["val_wer"], 4) for row in log if row.get("val_wer") == row.get("val_wer")],
                "peak_gib": _peak_gib(),
                "transcribed": len(texts),
            }
        except Exception as error:  # any of them is a finding
            traceback.print_exc()
            found[kind] = {"failed": _reason(error)}
    return found


def epochs(data_dir: Path, runs: Path, quick: bool) -> dict:
    """Seconds an epoch of the recipe's network: by our defaults for this machine, and by NeMo's stock way."""
    import lightning.pytorch as pl
    from nemo.collections.asr.models import EncDecCTCModel

    from asr_with_nemo.training.run import train

    count = 1 if quick else 4
    limit = {"+trainer.limit_train_batches": "3"} if quick else {}
    validate = {"trainer.max_epochs": str(count), "trainer.check_val_every_n_epoch": str(count)}
    found: dict[str, Any] = {}
    ours = {
        "ours": {},
        "ours, without augmentation": {"~model.train_ds.augmentor": ""},
        "ours, no workers": {"model.train_ds.num_workers": "0"},
        "ours, batches of 64": {"model.train_ds.batch_size": "64"},
    }
    for name, overrides in ours.items():
        clock = epoch_clock()
        given = limit | validate | overrides
        config = config_of("quartznet_an4", data_dir, runs / name.replace(" ", "_").replace(",", ""), **given)
        try:
            train(config, overridden=set(given), callbacks=[clock])
            found[name] = _about(config) | {"seconds": clock.seconds}
        except Exception as error:
            found[name] = {"failed": _reason(error)}
    stock = {
        "NeMo's stock way": STOCK | {"~model.train_ds.augmentor": ""},
        "NeMo's stock way, in bf16": STOCK | {"~model.train_ds.augmentor": "", "trainer.precision": "bf16-mixed"},
        "NeMo's stock way, in bf16 and batches of 16": STOCK
        | {"~model.train_ds.augmentor": "", "trainer.precision": "bf16-mixed", "model.train_ds.batch_size": "16"},
    }
    for name, overrides in stock.items():
        clock = epoch_clock()
        config = config_of("quartznet_an4", data_dir, runs, **overrides)
        trainer = pl.Trainer(
            accelerator="auto",
            devices=1,
            precision=config.trainer.precision,
            max_epochs=count,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            **({"limit_train_batches": 3} if quick else {}),
        )
        try:
            trainer.fit(EncDecCTCModel(cfg=config.model, trainer=trainer))
            found[name] = _about(config) | {"seconds": clock.seconds}
        except Exception as error:
            found[name] = {"failed": _reason(error)}
    for entry in found.values():
        if "seconds" in entry:  # the first epoch starts workers and chooses kernels
            entry["median"] = statistics.median(entry["seconds"][1:] or entry["seconds"])
    return found


def recipe(data_dir: Path, runs: Path, quick: bool) -> dict:
    """The recipe, quartznet_an4, for 120 epochs at its defaults for this machine: seconds, and WER on dev and test."""
    from asr_with_nemo.models.loading import alphabet, load_model
    from asr_with_nemo.models.names import ASSETS
    from asr_with_nemo.recognition import beam, evaluation
    from asr_with_nemo.training.run import train

    clock = epoch_clock()
    short = {"trainer.max_epochs": "1", "+trainer.limit_train_batches": "3", "trainer.check_val_every_n_epoch": "1"}
    config = config_of("quartznet_an4", data_dir, runs, **(short if quick else {}))
    seconds, path = _timed(lambda: train(config, callbacks=[clock]))
    model = load_model(path)
    found: dict[str, Any] = _about(config) | {
        "seconds": round(seconds, 1),
        "epochs": len(clock.seconds),
        "seconds_an_epoch": statistics.median(clock.seconds),
    }
    search = beam.load(ASSETS / "an4.arpa", alphabet(model))
    for split in ("dev", "test"):
        for name, by in (("greedy", None), ("language model", search)):
            result = evaluation.evaluate(model, data_dir / f"{split}_manifest.json", 64, search=by)
            low, high = result.ci95
            found[f"{split}, {name}"] = {
                "wer": round(result.wer, 4),
                "errors": result.words.errors,
                "words": result.words.words,
                "interval": [round(low, 4), round(high, 4)],
            }
    return found


def article(data_dir: Path, runs: Path, quick: bool) -> dict:
    """The article's Jasper 4x1, config.yaml, for 10 epochs."""
    from asr_with_nemo.training.run import read_log, train

    clock = epoch_clock()
    given = {"trainer.max_epochs": "1" if quick else "10"} | ({"+trainer.limit_train_batches": "3"} if quick else {})
    config = config_of("config", data_dir, runs, **given)
    seconds, path = _timed(lambda: train(config, callbacks=[clock]))
    log = read_log(path.parent)
    return _about(config) | {
        "seconds": round(seconds, 1),
        "seconds_an_epoch": clock.seconds,
        "losses": [round(row["train_loss_epoch"], 3) for row in log],
        "dev_wer": [round(row["val_wer"], 4) for row in log],
    }


def transcription(data_dir: Path, runs: Path, quick: bool) -> dict:
    """Seconds of sound a second (RTFx) by NeMo's `transcribe` and by ours, and memory; texts against the CPU's.

    Of the model that ships on AN4's test set, and of a large FastConformer with random weights on the same recordings.
    """
    import torch
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import decoding

    rows = _rows(data_dir, "test")[: 8 if quick else None]
    files = [row["audio_filepath"] for row in rows]
    found: dict[str, Any] = {}

    def measure(model: "ASRModel", rounds: int) -> Iterator[tuple[str, dict]]:
        sound = sum(row["duration"] for row in rows) * rounds
        asked = files * rounds
        for precision in ("fp32", "bf16"):
            for batch in (1, 64):
                context = torch.autocast(device(), torch.bfloat16) if precision == "bf16" else nullcontext()
                some = asked if batch > 1 else files
                length = sound if batch > 1 else sound / rounds
                ways: dict[str, Callable[[], list]] = {
                    "NeMo's": lambda some=some, batch=batch: model.transcribe(some, batch_size=batch, verbose=False),
                    "ours": lambda some=some, batch=batch: decoding.transcribe(model, some, batch, progress=False),
                }
                for name, way in ways.items():
                    with context:
                        way()  # kernels are chosen
                        if torch.cuda.is_available():
                            torch.cuda.reset_peak_memory_stats()
                        seconds, heard = _timed(way)
                    texts = [one.text for one in heard][: len(files)]
                    yield (
                        f"{name}, {precision}, batch {batch}",
                        {"rtfx": round(length / seconds, 1), "seconds": round(seconds, 3), "peak_gib": _peak_gib()}
                        | {"texts": texts},
                    )

    model = load_model("an4")
    on_cpu = [heard.text for heard in decoding.transcribe(model.to("cpu"), files, progress=False)]
    model = model.to(device())
    found["an4"] = dict(measure(model, 1 if quick else 4))
    for entry in found["an4"].values():
        entry["texts_unlike_the_cpu"] = sum(a != b for a, b in zip(entry.pop("texts"), on_cpu, strict=True))
    torch.manual_seed(0)
    size = SMALL if quick else LARGE
    large = EncDecCTCModel(cfg=OmegaConf.create(fast_conformer("ctc", size, _pieces()))).to(device()).eval()
    found["large FastConformer, random weights"] = dict(measure(large, 1 if quick else 2))
    for entry in found["large FastConformer, random weights"].values():
        entry.pop("texts")
    return found


def large(data_dir: Path, runs: Path, quick: bool) -> dict:
    """A training step of a FastConformer of the published large size: which batch of 16 s fits, memory, speed."""
    import torch
    from nemo.collections.asr import models
    from omegaconf import OmegaConf

    from asr_with_nemo.models.model_config import class_of

    found: dict[str, Any] = {}
    seconds, pieces = (2, 6) if quick else (16, 64)
    for kind in ("ctc", "tdt and ctc"):
        section = OmegaConf.create(fast_conformer(kind, SMALL if quick else LARGE, _pieces()))
        torch.manual_seed(0)
        model = getattr(models, class_of(section))(cfg=section).to(device()).train()
        if device() == "cpu":
            from asr_with_nemo.models.recognizer import durations
            from asr_with_nemo.training import tdt_loss

            if frames := durations(model):
                tdt_loss.use(model.loss, frames, model.cfg.loss.tdt_kwargs)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device() == "cuda")
        entry: dict[str, Any] = {"parameters": sum(weight.numel() for weight in model.parameters()), "batches": {}}
        for batch in (1, 2) if quick else (8, 16, 32, 64, 128, 256):
            signal = 0.1 * torch.randn(batch, 16_000 * seconds, device=device())
            lengths = torch.full((batch,), 16_000 * seconds, device=device())
            texts = torch.randint(0, PIECES, (batch, pieces), device=device())
            text_lengths = torch.full((batch,), pieces, device=device())

            def step(
                model: "ASRModel" = model,
                optimizer: "torch.optim.Optimizer" = optimizer,
                given: tuple = (signal, lengths, texts, text_lengths),
            ) -> float:
                with torch.autocast(device(), torch.bfloat16):
                    loss = _loss(model, *given)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return float(loss.detach())

            try:
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                step()
                took, values = _timed(lambda step=step: [step() for _ in range(1 if quick else 3)])
                each = took / len(values)
                entry["batches"][batch] = {
                    "seconds_a_step": round(each, 4),
                    "utterances_a_second": round(batch / each, 1),
                    "peak_gib": _peak_gib(),
                    "loss": round(values[-1], 2),
                }
            except torch.OutOfMemoryError as error:
                entry["batches"][batch] = {"failed": _reason(error)}
                break
            except Exception as error:
                entry["batches"][batch] = {"failed": _reason(error)}
                break
        found[kind] = entry
        del model, optimizer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def _loss(
    model: "ASRModel",
    signal: "torch.Tensor",
    lengths: "torch.Tensor",
    texts: "torch.Tensor",
    text_lengths: "torch.Tensor",
) -> "torch.Tensor":
    """The loss of a batch as NeMo's `training_step` computes it, which can't be called without a trainer."""
    output = model(input_signal=signal, input_signal_length=lengths)
    if not hasattr(model, "joint"):
        log_probs, frames = output[:2]
        return model.loss(log_probs=log_probs, targets=texts, input_lengths=frames, target_lengths=text_lengths)
    encoded, frames = output[:2]
    predicted, predicted_lengths, _ = model.decoder(targets=texts, target_length=text_lengths)
    loss, *_ = model.joint(
        encoder_outputs=encoded,
        decoder_outputs=predicted,
        encoder_lengths=frames,
        transcripts=texts,
        transcript_lengths=predicted_lengths,
        compute_wer=False,
    )
    if hasattr(model, "ctc_decoder"):
        by_ctc = model.ctc_loss(
            log_probs=model.ctc_decoder(encoder_output=encoded),
            targets=texts,
            input_lengths=frames,
            target_lengths=text_lengths,
        )
        loss = 0.7 * loss + 0.3 * by_ctc
    return loss


# --- Models and data --------------------------------------------------------------------------------------------------


def fast_conformer(kind: str, encoder: dict[str, int], vocabulary: list[str]) -> dict:
    """The `model` section of a FastConformer, as NeMo's published configs have it, with a vocabulary of its own.

    Args:
        kind: its decoders: "ctc", "rnnt", "tdt" or "tdt and ctc".
        encoder: layers, width and heads.
        vocabulary: outputs; as labels, since a tokenizer has to be trained.
    """
    modules = "nemo.collections.asr.modules"
    width = encoder["d_model"]
    ctc = {"_target_": f"{modules}.ConvASRDecoder", "feat_in": width, "num_classes": len(vocabulary)}
    ctc["vocabulary"] = vocabulary
    model: dict[str, Any] = {
        "sample_rate": 16_000,
        "labels": vocabulary,
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 80,
            "n_fft": 512,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "conv_kernel_size": 9,
        }
        | encoder,
        "decoder": dict(ctc),
        "optim": {"name": "adamw", "lr": 0.001, "sched": {"name": "CosineAnnealing", "warmup_steps": 20}},
    }
    if kind == "ctc":
        return model
    hidden = 640
    model |= {
        "model_defaults": {"enc_hidden": width, "pred_hidden": hidden, "joint_hidden": hidden},
        "decoder": {
            "_target_": f"{modules}.RNNTDecoder",
            "prednet": {"pred_hidden": hidden, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": f"{modules}.RNNTJoint",
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "jointnet": {"joint_hidden": hidden, "activation": "relu", "dropout": 0.2},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {"loss_name": "default"},
    }
    if "tdt" in kind:
        model["joint"]["num_extra_outputs"] = len(DURATIONS)
        model["decoding"] |= {"model_type": "tdt", "durations": DURATIONS}
        model["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": DURATIONS, "sigma": 0.02, "omega": 0.1}}
    if "and ctc" in kind:
        model["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": dict(ctc), "decoding": {"strategy": "greedy_batch"}}
    return model


def _training(model: dict, data_dir: Path, epochs: int) -> dict:
    """A training config, as NeMo publishes them."""
    for name, split, size in (("train_ds", "train", 16), ("validation_ds", "dev", 32)):
        model[name] = {
            "manifest_filepath": str(data_dir / f"{split}_manifest.json"),
            "sample_rate": 16_000,
            "batch_size": size,
            "shuffle": split == "train",
        }
    trainer = {"devices": -1, "accelerator": "auto", "max_epochs": epochs, "num_sanity_val_steps": 0}
    return {"name": "family", "model": model, "trainer": trainer, "exp_manager": {"exp_dir": "runs"}}


def _letters() -> list[str]:
    return [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def _pieces() -> list[str]:
    return [chr(0x4E00 + number) for number in range(PIECES)]


def _rows(data_dir: Path, split: str) -> list[dict]:
    from asr_with_nemo.data import manifest

    return manifest.read_manifest(data_dir / f"{split}_manifest.json")


def _about(config: "DictConfig") -> dict:
    train = config.model.train_ds
    return {"precision": str(config.trainer.precision), "batch_size": train.batch_size, "workers": train.num_workers}


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:600]}"


# --- The whole --------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[Path, Path, bool], dict], int]] = {
    "machine": (machine, 60),
    "steps": (steps, 90),
    "transducer_losses": (transducer_losses, 60),
    "recipe": (recipe, 420),
    "transcription": (transcription, 90),
    "large": (large, 90),
    "families": (families, 150),
    "epochs": (epochs, 150),
    "article": (article, 120),
}
"""What is checked, and the seconds that it may take."""


def main(
    output: Annotated[Path, typer.Option(help="Write the findings to this .json file.")] = Path("results/gpu/gpu.json"),
    data_dir: Annotated[Path, typer.Option(help="The folder of AN4's manifests.")] = Path("data/an4"),
    only: Annotated[str, typer.Option(help=f"Parts to run, with commas between: {', '.join(PARTS)}.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="A step or two of each, to see that it runs.")] = False,
    commit: Annotated[str, typer.Option(help="Of this code, where git can't tell.")] = "",
    part: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Check training and recognition on this machine's GPU, and measure them against NeMo's own way and a CPU.

    Each part runs in a process of its own, and what it found is written as soon as it ends; a part that fails is a
    finding too. All of it takes some eight minutes on an H100. Without a GPU, --quick tries it out on the CPU.

    Examples:

        python scripts/tools/check_gpu.py --output results/gpu/h100.json

        python scripts/tools/check_gpu.py --only steps,large
    """
    if part:
        _run_part(part, output, data_dir, quick)
        return
    names = only.split(",") if only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise InputError(f"--only {unknown[0]}: expected some of {', '.join(PARTS)}")
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    findings: dict[str, Any] = {"commit": commit or code_commit()}
    findings |= json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
    command = shlex.join(["python", "scripts/tools/check_gpu.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        environment = os.environ | {"WANDB_MODE": "disabled"}
        for name in names:
            found = Path(scratch, f"{name}.json")
            arguments = [__file__, "--part", name, "--output", found, "--data-dir", data_dir]
            started = time.perf_counter()
            try:
                done = subprocess.run(
                    [sys.executable, *map(str, arguments), *(["--quick"] if quick else [])],
                    env=environment,
                    timeout=PARTS[name][1],
                    check=False,
                )
                failed = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired as error:
                failed = f"not finished after {error.timeout:.0f} s"
            whole = round(time.perf_counter() - started, 1)
            result = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {"failed": failed}
            findings[name] = result | {"whole_seconds": whole}
            write_if_changed(output, json.dumps(findings | {"command": command}, indent=1) + "\n")
            said = result.get("failed", "done")
            typer.echo(f"{name}: {said} ({whole:.0f} s)")


def _run_part(name: str, output: Path, data_dir: Path, quick: bool) -> None:
    from asr_with_nemo.base.machine import quieten

    quieten()
    with tempfile.TemporaryDirectory(prefix="gpu-check-runs-") as runs:
        try:
            found = PARTS[name][0](data_dir, Path(runs), quick)
        except Exception as error:
            traceback.print_exc()
            found = {"failed": _reason(error)}
    write_if_changed(output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
