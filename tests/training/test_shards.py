"""Train from shards: which are read when, the batches, the processes, and what a kill leaves behind."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.shards import Shard, Shards
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.own_data import sharding
from asr_with_nemo.training import finetuning, shards
from asr_with_nemo.training.config import complete_config, load_config, overridden_keys
from asr_with_nemo.training.run import train
from tests.conftest import ROOT, first_rows
from tests.recognizers import training_config
from tests.storage_server import storage

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def corpus(small_corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training utterances in four shards, and 9 of dev."""
    folder = first_rows(small_corpus, tmp_path_factory.mktemp("corpus"), train=24, dev=9)
    path = folder / "train_manifest.json"
    sharding.make(path, sharding.default_place(path), 4, workers=1, progress=False)
    return folder


def settings(corpus: Path, runs: Path, *more: str) -> list[str]:
    return [
        f"data_dir={corpus}",
        f"model.train_ds.shar_path={corpus}/shards/train",
        f"exp_manager.exp_dir={runs}",
        "exp_manager.create_wandb_logger=false",
        "trainer.accelerator=cpu",
        "trainer.precision=32",
        "trainer.max_epochs=3",
        "model.train_ds.batch_size=4",
        *more,
    ]


def trained(overrides: list[str], name: str = "config") -> Path:
    return train(load_config(ROOT / "configs", name, overrides), overridden_keys(overrides))


def test_a_batch_that_a_process_gets_again_teaches_it_nothing():
    weights = torch.ones(3, requires_grad=True)
    padding = shards.Padding(SimpleNamespace(own=2))
    for number, expected in ((1, 3.0), (2, 0.0), (5, 0.0)):
        weights.grad = None
        loss = (3 * weights).sum()
        padding.on_train_batch_start(None, None, None, number)
        padding.on_before_backward(None, None, loss)
        loss.backward()
        assert weights.grad.tolist() == [expected] * 3


def rewrite(folder: Path, change) -> None:
    """Write shards again with other rows, and their notes: change(row, description, recording) changes them."""
    notes = json.loads((folder / "shards.json").read_text())
    for shard in notes["shards"]:
        name = shard["name"]
        with gzip.open(folder / f"cuts.{name}.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        with tarfile.open(folder / f"recording.{name}.tar") as archive:
            parts = {one.name: archive.extractfile(one).read() for one in archive}
        with tarfile.open(folder / f"recording.{name}.tar", "w") as archive:
            for row in rows:
                about, sound = json.loads(parts[f"{row['id']}.json"]), parts[f"{row['id']}.flac"]
                sound = change(row, about, sound) or sound
                for member, content in (
                    (f"{row['id']}.flac", sound),
                    (f"{row['id']}.json", json.dumps(about).encode()),
                ):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        with gzip.open(folder / f"cuts.{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for file, about in shard["files"].items():
            content = (folder / file).read_bytes()
            about |= {"size": len(content), "md5": hashlib.md5(content).hexdigest()}
    (folder / "shards.json").write_text(json.dumps(notes))


def command(kind: str, source: str) -> dict:
    sources = [{"type": kind, "channels": [0], "source": source}]
    return {"id": "x", "sources": sources, "sampling_rate": 16_000, "num_samples": 16_000, "duration": 1.0}


def room(source: dict) -> list[dict]:
    return [{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": source}}]


def another_track(row: dict, source: dict) -> None:
    track = {"type": "MonoCut", "offset": 0.0, "cut": {key: row[key] for key in row if key != "type"}}
    row |= {"type": "MixedCut", "tracks": [track, track | {"cut": track["cut"] | {"id": "z", "recording": source}}]}


def array(kind: str) -> dict:
    return {"storage_type": kind, "storage_path": "pipe:touch sprung", "storage_key": "0,1", "shape": [1]}


HOSTILE_ROWS = {
    "a command": lambda row, about: row["recording"].update(command("command", "touch sprung")),
    "an address": lambda row, about: row["recording"].update(command("url", "http://127.0.0.1:9/x")),
    "another file": lambda row, about: row["recording"].update(command("file", "/etc/hostname")),
    "a command in the tar": lambda row, about: about.update(command("command", "touch sprung") | {"id": about["id"]}),
    "a room in the tar": lambda row, about: about.update(transforms=room(command("command", "touch sprung"))),
    "a room": lambda row, about: row["recording"].update(transforms=room(command("command", "touch sprung"))),
    "another track": lambda row, about: another_track(row, command("file", "x;touch sprung;.sph")),
    "a room of all tracks": lambda row, about: row.update(
        type="MixedCut", tracks=[], transforms=room(command("command", "touch sprung"))
    ),
    "channels": lambda row, about: row.update(type="MultiCut", channel=[0, 1]),
    "features": lambda row, about: row.update(features={"num_features": 1, **array("kaldiio")}),
    "an array": lambda row, about: row.update(custom={"more": {"array": array("pickle")}}),
    "a recording of its own": lambda row, about: row.update(custom={"more": command("command", "touch sprung")}),
    "an array of a text": lambda row, about: row["supervisions"][0].update(custom={"more": array("pickle")}),
    "a film": lambda row, about: about["sources"][0].update(video={"fps": 1, "num_frames": 1, "height": 1, "width": 1}),
}


@pytest.mark.parametrize("perturb_speed", [False, True])
@pytest.mark.parametrize("name", HOSTILE_ROWS)
def test_a_row_that_asks_for_more_than_its_recording_is_refused_and_nothing_runs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, perturb_speed: bool
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpus, "corpus")
    rewrite(Path("corpus/shards/train"), lambda row, about, sound: HOSTILE_ROWS[name](row, about))
    with pytest.raises(InputError, match=r"cuts\.\d+\.jsonl\.gz, row 1: .*, which is refused"):
        list(loader(tmp_path / "corpus", perturb_speed=perturb_speed))
    assert not Path("sprung").exists()


def test_a_recording_that_is_another_than_its_row_says_is_refused(corpus: Path, tmp_path: Path):
    hours, other = io.BytesIO(), io.BytesIO()
    soundfile.write(hours, np.zeros(16_000 * 3_600), 16_000, format="FLAC")
    soundfile.write(other, np.zeros(16_000), 16_000, format="WAV")
    changes = {
        "hours of silence": lambda row, about, sound: hours.getvalue(),
        "another format": lambda row, about, sound: other.getvalue(),
        "no recording": lambda row, about, sound: b"\0",
        "no number of samples": lambda row, about, sound: about.update(num_samples=None),
        "a million samples": lambda row, about, sound: about.update(num_samples=10**6),
        "another rate": lambda row, about, sound: about.update(sampling_rate=1),
        "times beyond it": lambda row, about, sound: row.update(duration=1e9),
    }
    for name, change in changes.items():
        copy = shutil.copytree(corpus, tmp_path / name)
        rewrite(copy / "shards/train", change)
        with pytest.raises(InputError, match=r"cuts\.\d+\.jsonl\.gz, row 1: .* make the shards again"):
            list(loader(copy))


@pytest.mark.parametrize("source", [command("command", "touch sprung"), command("file", "x;touch sprung;.sph")])
def test_noise_that_is_a_command_is_refused_and_nothing_runs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: dict
):
    monkeypatch.chdir(tmp_path)
    noise = {"id": "n", "type": "MonoCut", "start": 0, "duration": 1.0, "channel": 0, "recording": source}
    Path("noise.jsonl").write_text(json.dumps(noise) + "\n", encoding="utf-8")
    Path("rooms.jsonl").write_text(json.dumps(source) + "\n", encoding="utf-8")
    for more in (
        {"noise_path": "noise.jsonl", "noise_mix_prob": 1.0},
        {"rir_enabled": True, "rir_path": "rooms.jsonl", "rir_prob": 1.0},
    ):
        with pytest.raises(InputError, match="is no file"):
            list(loader(corpus, **more))
    assert not Path("sprung").exists()
    soundfile.write("noise.wav", np.random.default_rng(0).normal(size=16_000), 16_000)
    noise["recording"] = command("file", "noise.wav")
    Path("noise.jsonl").write_text(json.dumps(noise) + "\n", encoding="utf-8")
    mixed = heard(loader(corpus, noise_path="noise.jsonl", noise_mix_prob=1.0))
    assert sum(mixed.values()) == 24 and mixed != heard(loader(corpus))


def test_a_recording_whose_name_is_a_command_comes_into_shards_and_nothing_runs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    rows = manifest.read_manifest(corpus / "train_manifest.json")[:3]
    for number, name in enumerate(("x;touch sprung;.sph", "'$(touch sprung)'.opus", "|touch sprung")):
        shutil.copyfile(rows[number]["audio_filepath"], name)
        rows[number]["audio_filepath"] = name
    Path("train_manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sharding.make(Path("train_manifest.json"), Path("shards/train"), 1, workers=1, progress=False)
    assert sum(heard(loader(tmp_path)).values()) == 3
    assert not Path("sprung").exists()


# --- Which shards when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "each", "processes"), [(6, 4, 2), (8, 8, 1), (7, 6, 3), (5, 1, 1), (9, 8, 8)])
def test_each_shard_is_read_once_in_a_pass(count: int, each: int, processes: int):
    known = [Shard(str(number), 10, 36.0, {}) for number in range(count)]
    plan = shards.Plan(known, each, processes, seed=3)
    epochs = count  # the pseudo-epochs of `each` passes
    heard = [
        [shard for rank in range(processes) for worker in (0, 1) for shard in plan.share(epoch, rank, worker, 2)]
        for epoch in range(epochs)
    ]
    assert {len(one) for one in heard} == {each}
    assert set(Counter(shard.name for one in heard for shard in one).values()) == {each}
    assert plan.share(1, 0) == shards.Plan(known, each, processes, seed=3).share(1, 0)


def test_the_length_of_a_pseudo_epoch_is_stated_in_hours(corpus: Path):
    notes = Shards(corpus / "shards/train")
    whole = notes.seconds / 3600
    for hours, processes, each in ((None, 1, 4), (None, 3, 3), (whole / 2, 1, 2), (whole / 2, 2, 2), (100, 1, 4)):
        planned = shards.plan(notes, OmegaConf.create({"epoch_hours": hours}), 0, processes)
        assert planned.each == each
    assert "an epoch is 4 of 4 shards" in str(shards.plan(notes, OmegaConf.create(), 0, 1))
    assert len(shards.plan(notes, OmegaConf.create(), 0, 1, fraction=0.5).shards) == 2
    with pytest.raises(InputError, match="4 shards can't be shared by 5 processes.*--shards 20"):
        shards.plan(notes, OmegaConf.create(), 0, 5)


def test_buckets_have_about_the_same_duration():
    durations = np.linspace(1, 16, 101)
    bounds = shards.bins_of(durations, 4)
    parts = np.split(durations, np.searchsorted(durations, bounds))
    assert len(parts) == 4
    assert max(map(sum, parts)) < 1.1 * min(map(sum, parts))
    assert shards.bins_of(np.full(101, 2.0), 4) == []
    assert shards.bins_of(durations, 4, least=99) == []


# --- Batches ----------------------------------------------------------------------------------------------------------


def loader(corpus: Path, **more: object) -> shards.ShardLoader:
    from nemo.collections.common.parts.preprocessing.parsers import make_parser

    notes = Shards(corpus / "shards/train")
    config = OmegaConf.create(
        {"model": {"train_ds": {"shar_path": notes.place, "batch_size": 4, "labels": LETTERS} | more}, "trainer": {}}
    )
    shards.complete(config)
    planned = shards.plan(notes, config.model.train_ds, 0, 1)
    return shards.ShardLoader(notes, planned, config.model.train_ds, make_parser(labels=LETTERS, name="en"), 16_000)


def heard(batches) -> Counter[tuple[bytes, str]]:
    """The samples and texts of batches."""
    found = Counter()
    for signals, lengths, tokens, counts in batches:
        for signal, length, row, count in zip(signals, lengths, tokens, counts, strict=True):
            text = "".join(LETTERS[token] for token in row[:count])
            found[signal[:length].numpy().tobytes(), text] += 1
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_the_utterances_and_texts_are_those_of_the_manifest(corpus: Path, workers: int):
    rows = manifest.read_manifest(corpus / "train_manifest.json")
    expected = Counter((audio.load_audio(row["audio_filepath"]).tobytes(), row["text"]) for row in rows)
    batches = loader(corpus, num_workers=workers)
    first = list(batches)
    assert heard(first) == expected
    batches.sampler.set_epoch(1)
    second = list(batches)
    assert heard(second) == expected
    assert [len(batch[0]) for batch in first] != [len(batch[0]) for batch in second] or any(
        not torch.equal(one[1], other[1]) for one, other in zip(first, second, strict=True)
    )


def test_batches_have_a_duration_at_most(corpus: Path):
    batches = loader(corpus, batch_duration=8.0, num_buckets=3)
    found = list(batches)
    assert all(signals.numel() <= 8.0 * 16_000 * 1.05 or len(signals) == 1 for signals, *_ in found)
    assert abs(len(found) - batches.planned) <= 3
    assert sum(heard(found).values()) == 24


def test_our_augmentation_and_lhotses_own_are_applied(corpus: Path):
    from asr_with_nemo.training import augmentation

    augmentation.register()
    plain = heard(loader(corpus))
    ours = loader(corpus, augmentor={"resample": {"prob": 1.0, "min_rate": 0.8, "max_rate": 0.8, "rates": 1}})
    slower = heard(ours)
    assert sorted(text for _, text in slower) == sorted(text for _, text in plain)
    seconds = [sum(len(samples) for samples, _ in one) for one in (plain, slower)]
    assert seconds[1] == pytest.approx(seconds[0] / 0.8, rel=0.01)
    assert sum(heard(loader(corpus, perturb_speed=True)).values()) == 3 * 24  # NeMo adds two copies


def test_a_damaged_shard_is_named_in_the_middle_of_a_training(corpus: Path, tmp_path: Path):
    copy = shutil.copytree(corpus, tmp_path / "copy")
    broken = copy / "shards/train/recording.000001.tar"
    content = bytearray(broken.read_bytes())
    content[:1_024] = bytes([7]) * 1_024
    broken.write_bytes(content)
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"recording.000001.tar: damaged, or changed since it was written"):
            list(loader(copy, num_workers=workers))


def test_a_damaged_row_is_one_to_copy_again(corpus: Path, tmp_path: Path):
    copy = shutil.copytree(corpus, tmp_path / "copy")
    rows = copy / "shards/train/cuts.000001.jsonl.gz"
    rows.write_bytes(gzip.compress(gzip.decompress(rows.read_bytes()).replace(b'"id"', b"'id'", 1)))
    said = (
        r"cuts.000001.jsonl.gz: damaged, .*row 1: no row \(.*\)\); copy it again, or make the shards again: [^;]*; the"
    )
    with pytest.raises(InputError, match=said):
        list(loader(copy))


# --- Trainings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.train_ds.epoch_hours=0", "epoch_hours=0: expected a number above 0"),
        ("model.train_ds.batch_duration=long", "batch_duration=long: expected a number above 0"),
        ("model.train_ds.num_buckets=1.5", "num_buckets=1.5: expected a whole number"),
        ("model.train_ds.bucket_duration_bins=3", r"bucket_duration_bins=3: expected the seconds .*\[2.5,5,10\]"),
        ("model.train_ds.bucket_duration_bins=[4,2]", r"bucket_duration_bins=\[4, 2\]: expected .* each above"),
        ("+trainer.val_check_interval=0.5", "val_check_interval=0.5: .*epoch_hours"),
        ("+model.train_ds.max_duration=0.01", "all 24 utterances are left out .*max_duration=0.01"),
        ("+trainer.limit_train_batches=10", "limit_train_batches=10.*epoch_hours"),
        ("model.train_ds.shar_path=[a,b]", "expected one folder of shards"),
        ("model.train_ds.shar_path=nowhere", "nowhere: expected a folder of shards"),
        ("final=true", "final=true trains on train_all_manifest.json"),
    ],
)
def test_settings_that_cannot_be_are_named(corpus: Path, tmp_path: Path, override: str, said: str):
    with pytest.raises(InputError, match=said):
        trained(settings(corpus, tmp_path, override))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.train_ds.batch_duration=60", "batch_duration=60: for a training from shards.*shar_path"),
        ("model.train_ds.epoch_hours=0.1", "epoch_hours=0.1: for a training from shards"),
        ("model.train_ds.bucket_duration_bins=[2,4]", r"bucket_duration_bins=\[2, 4\]: for a training from shards"),
        ("+model.train_ds.use_lhotse=true", r"use_lhotse=True: .*leave out .*use_lhotse=null.*make_shards.py"),
        (
            "+model.train_ds.max_duration=0.01",
            "train_manifest.json: all 24 utterances are left out .*max_duration=0.01",
        ),
    ],
)
def test_settings_that_a_manifest_does_not_have_are_named(corpus: Path, tmp_path: Path, override: str, said: str):
    with pytest.raises(InputError, match=said):
        trained(settings(corpus, tmp_path, "model.train_ds.shar_path=null", override))


def test_all_settings_of_shards_that_a_manifest_does_not_have_are_named_at_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    harmless = settings(corpus, tmp_path, "model.train_ds.shar_path=null", "model.train_ds.num_buckets=5")
    shards.check_without(load_config(ROOT / "configs", "config", harmless))
    assert capsys.readouterr().out == "not used, since the training is from a manifest: model.train_ds.num_buckets=5\n"
    wrong = [*harmless, "model.train_ds.batch_duration=60", "model.train_ds.epoch_hours=2"]
    with pytest.raises(InputError, match=r"epoch_hours=2 model.train_ds.batch_duration=60: .*epoch_hours=null .*=null"):
        shards.check_without(load_config(ROOT / "configs", "config", wrong))


def test_shards_and_manifests_that_changed_places_are_named(corpus: Path, tmp_path: Path):
    path = corpus / "train_manifest.json"
    with pytest.raises(InputError, match="it is a file; give a manifest as model.train_ds.manifest_filepath"):
        trained(settings(corpus, tmp_path, f"model.train_ds.shar_path={path}"))
    place = corpus / "shards/train"
    for name, said in (("train_ds", "give model.train_ds.shar_path"), ("validation_ds", "the dev set is a manifest")):
        changed = ["model.train_ds.shar_path=null", f"model.{name}.manifest_filepath={place}"]
        with pytest.raises(InputError, match=f"these are shards; {said}"):
            trained(settings(corpus, tmp_path, *changed))


def test_a_dev_set_of_the_training_speakers_is_refused(corpus: Path, tmp_path: Path):
    rows = manifest.read_manifest(corpus / "dev_manifest.json")
    speaker = manifest.read_manifest(corpus / "train_manifest.json")[0]["speaker"]
    manifest.write_manifest(tmp_path / "dev.json", [row | {"speaker": speaker} for row in rows])
    with pytest.raises(InputError, match=rf"shares 1 speaker.*{speaker}"):
        trained(settings(corpus, tmp_path, f"model.validation_ds.manifest_filepath={tmp_path}/dev.json"))


def run_heard(folder: Path, overrides: list[str], *launcher: str, **environment: str) -> tuple[int, str]:
    """Train in processes of their own; return the exit status and what was printed."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *launcher, str(ROOT / "tests/training/heard.py"), str(folder / "heard"), *overrides]
    own = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_DIR": str(folder)}
    kept = {key: value for key, value in os.environ.items() if key != "COURSE_PRELOADED"}
    done = subprocess.run(
        command, cwd=folder, env=kept | own | environment, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout + done.stderr


def notes_of(folder: Path, epoch: int, processes: int = 1) -> list[dict]:
    return [json.loads((folder / f"heard/epoch{epoch}-rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_is_killed_goes_on_as_if_nothing_had_been(corpus: Path, tmp_path: Path):
    hours = Shards(corpus / "shards/train").seconds / 2 / 3600
    more = [f"model.train_ds.epoch_hours={hours}", "model.train_ds.batch_duration=10"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, said = run_heard(whole, settings(corpus, whole / "runs", *more))
    assert code == 0, said
    assert "an epoch is 2 of 4 shards" in said
    passed = [digest for epoch in (1, 2) for digest in notes_of(whole, epoch)[0]["train"]]
    assert len(passed) == len(set(passed)) == 24  # two pseudo-epochs are a pass
    code, said = run_heard(killed, settings(corpus, killed / "runs", *more), HEARD_KILL="0:3")
    assert code == -9, said
    code, said = run_heard(killed, settings(corpus, killed / "runs", *more))
    assert code == 0, said
    assert "resuming from the end of epoch 2" in said
    assert notes_of(killed, 3) == notes_of(whole, 3)
    (model,) = (killed / "runs").rglob("*.nemo")
    assert json.loads((model.parent / "training.json").read_text())["epochs"] == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_hear_each_utterance_once(corpus: Path, tmp_path: Path):
    overrides = settings(corpus, tmp_path / "runs", "trainer.max_epochs=2", "model.train_ds.batch_size=5")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    code, said = run_heard(tmp_path, overrides, *launcher)
    assert code == 0, said
    assert "an epoch is 4 of 4 shards" in said
    for epoch in (1, 2):
        both = notes_of(tmp_path, epoch, processes=2)
        counts = Counter(digest for note in both for digest in note["train"])
        assert len(counts) == 24
        assert set(counts.values()) == {1}
        assert both[0]["weights"] == both[1]["weights"]


@pytest.fixture
def bucket(corpus: Path) -> Iterator[str]:
    """The shards in an object storage: moto's server on loopback."""
    with storage("us-east-1") as client:
        client.create_bucket(Bucket="speech")
        for file in (corpus / "shards/train").iterdir():
            client.upload_file(str(file), "speech", f"train/{file.name}")
        yield "s3://speech/train"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ctc of pieces", "rnnt of letters", "tdt and ctc of pieces"])
def test_each_family_trains_from_a_bucket(family: str, corpus: Path, bucket: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    pieces = ["model.tokenizer.dir=auto"] if "pieces" in family else []
    manifests = [corpus / f"{split}_manifest.json" for split in ("train", "dev")]
    overrides = [*pieces, f"model.train_ds.shar_path={bucket}", "model.train_ds.batch_duration=12"]
    path = train(training_config(tmp_path, family, *manifests, *overrides))
    assert f"24 utterances in {bucket}; an epoch is 4 of 4 shards" in capsys.readouterr().out
    assert load_model(path).cfg.sample_rate == 16_000
    by_manifest = complete_config(training_config(tmp_path, family, *manifests, *pieces))
    if pieces:  # of the same texts, the same tokenizer
        assert by_manifest.model.tokenizer.dir in (path.parent / "config.yaml").read_text()


@pytest.mark.slow
def test_a_model_is_fine_tuned_from_shards(corpus: Path, small_model: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    given = ["trainer.max_epochs=1", f"exp_manager.exp_dir={tmp_path}"]
    source, dev = corpus / "shards/train", corpus / "dev_manifest.json"
    config = finetuning.load_config(source, dev, {"model": str(small_model)}, given, ROOT / "configs")
    assert finetuning.train(config).is_file()
    said = capsys.readouterr().out
    assert "24 utterances in" in said
    assert said.count("before training: dev WER") == 1
