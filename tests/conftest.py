"""Real sound and real models for the tests: a small corpus of the built-in voices, and a model trained on it."""

import atexit
import functools
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest

from asr_with_nemo import an4, manifest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("WANDB_MODE", "offline")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes that each compute on all cores wait for one another most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


NEEDS_NEMO = ("train.py", "evaluate.py", "transcribe.py")
"""Commands that fork from a process which has imported NeMo already; see tests/preloaded.py."""


def run_script(name: str, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the course's commands as a user would, in `cwd`, with neither AN4_ARCHIVE nor a setting of W&B's."""
    # What tests in this process have set for W&B must not reach it either.
    kept = {key: value for key, value in os.environ.items() if key != "AN4_ARCHIVE" and not key.startswith("WANDB_")}
    command = [str(ROOT / "scripts" / name), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        said = {stream: Path(folder, stream) for stream in ("stdout", "stderr")}
        for file in said.values():
            file.touch()
        if name in NEEDS_NEMO:
            files = {stream: str(file) for stream, file in said.items()}
            status = fork({"command": command, "cwd": str(cwd), "environment": kept | environment, **files})
        else:
            with said["stdout"].open("w") as stdout, said["stderr"].open("w") as stderr:
                status = subprocess.run(
                    [sys.executable, *command],
                    cwd=cwd,
                    env=kept | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    timeout=900,
                ).returncode
        return subprocess.CompletedProcess(command, status, *(file.read_text() for file in said.values()))


def fork(request: dict) -> int:
    """Let the process that has imported NeMo run a command, and return its exit status."""
    with forking:
        process = preloaded()
        too_long = threading.Timer(900, process.kill)
        too_long.start()
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        too_long.cancel()
    assert answer, f"no end after 900 s: {request['command']}"
    return int(answer)


forking = threading.Lock()


@functools.cache
def preloaded() -> subprocess.Popen:
    """The process, one for all tests of this one."""
    command = [sys.executable, str(ROOT / "tests" / "preloaded.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> an4.Corpus:
    """60 utterances of the built-in corpus, prepared; tests must not change it."""
    folder = tmp_path_factory.mktemp("small_corpus")
    return an4.prepare(folder, source="synthetic", utterances=60, progress=False)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, small_corpus: an4.Corpus) -> Path:
    """AN4's archive where `AN4_ARCHIVE` names it, else one of the same layout, made of the built-in corpus."""
    if os.environ.get("AN4_ARCHIVE"):
        return Path(os.environ["AN4_ARCHIVE"])
    return pack(small_corpus.folder, tmp_path_factory.mktemp("archive") / an4.ARCHIVE_NAME)


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory, small_corpus: an4.Corpus) -> Path:
    """An archive in AN4's layout with the 60 utterances of `small_corpus`."""
    return pack(small_corpus.folder, tmp_path_factory.mktemp("small_archive") / an4.ARCHIVE_NAME)


def put(path: Path, content: str | bytes | None) -> Path:
    """Write a file, text as UTF-8; None for a file that isn't there."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def stand_in(folder: Path, name: str, script: str) -> Path:
    """Put a program of this name, a shell script, into a folder for PATH, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / name, f"#!/bin/sh\n{script}\n").chmod(0o755)
    return folder


def pack(tree: Path, archive: Path) -> Path:
    """Pack the transcriptions and SPHERE files of a corpus as CMU does, below `an4/`."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted([*tree.glob("etc/*"), *tree.rglob("*.sph")]):
            tar.add(path, f"an4/{path.relative_to(tree)}")
    return archive


def pack_nemo(path: Path, members: dict[str, bytes], mode: str = "w:") -> Path:
    """Write a `.nemo` file: a tar, compressed (`w:gz`) as NeMo 1.0's were or plain as today's."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, small_corpus: an4.Corpus) -> Path:
    """A `.nemo` file: the course's model after two epochs on `small_corpus`, made by scripts/train.py."""
    folder = tmp_path_factory.mktemp("small_model")
    done = run_script("train.py", f"data_dir={small_corpus.folder}", "trainer.max_epochs=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1].removeprefix("model: ")


@pytest.fixture(scope="session")
def model_of_pieces(tmp_path_factory: pytest.TempPathFactory, small_corpus: an4.Corpus) -> Path:
    """A small Conformer that writes pieces of words, as NeMo saves one, with random weights."""
    import sentencepiece
    import torch
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("pieces")
    texts = [utterance["text"] for utterance in manifest.read_manifest(small_corpus.manifest("train"))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), vocab_size=60, model_type="unigram"
    )
    pieces = [line.split("\t")[0] for line in (folder / "tokenizer.vocab").read_text().splitlines()]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    modules = "nemo.collections.asr.modules"
    config = {
        "sample_rate": 16_000,
        "preprocessor": {"_target_": f"{modules}.AudioToMelSpectrogramPreprocessor", "features": 80},
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "n_layers": 1,
            "d_model": 16,
            "n_heads": 2,
        },
        "decoder": {"_target_": f"{modules}.ConvASRDecoder", "feat_in": 16, "num_classes": -1, "vocabulary": []},
        "tokenizer": {"dir": str(folder), "type": "bpe"},
    }
    torch.manual_seed(0)
    EncDecCTCModelBPE(cfg=OmegaConf.create(config)).save_to(str(folder / "pieces.nemo"))
    return folder / "pieces.nemo"
