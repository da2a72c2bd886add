"""Real sound and real models for the tests: a small corpus of the built-in voices, and a model trained on it."""

import atexit
import contextlib
import io
import os
import select
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.tracking import session

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("WANDB_MODE", "offline")
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Where Python keeps nothing of what it compiles, as in some containers, an import of NeMo takes twice as long.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / "build" / "bytecode"))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes that each compute on all cores wait for one another most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def offer_nemo() -> None:
    """Let programs that need NeMo be forked from a process that has imported it: tests/preload, tests/preloaded.py."""
    folder = tempfile.TemporaryDirectory(prefix="preloaded-")
    atexit.register(folder.cleanup)
    address = str(Path(folder.name, "socket"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    os.environ["COURSE_PRELOADED"] = os.pathsep.join((sys.prefix, address))
    paths = (str(ROOT / "tests" / "preload"), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def start() -> None:
        select.select([listener], [], [])  # the first program of the kind
        try:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "preloaded.py"), str(listener.fileno())],
                stdin=subprocess.PIPE,  # it ends with this process
                pass_fds=[listener.fileno()],
            )
        finally:
            listener.close()  # so that nobody waits for it when it has ended
        atexit.register(process.kill)

    threading.Thread(target=start, daemon=True).start()


if os.environ.get("COURSE_PRELOADED") != "":  # empty, all runs as for a user
    offer_nemo()


def run_script(name: str, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the course's commands as a user would, in `cwd`, with neither AN4_ARCHIVE nor a setting of W&B's."""
    # What tests in this process have set for W&B must not reach it either.
    kept = {key: value for key, value in os.environ.items() if key != "AN4_ARCHIVE" and not key.startswith("WANDB_")}
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    # Files, since what a command leaves running (W&B's service) may hold a pipe open.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
    ):
        done = subprocess.run(
            command,
            cwd=cwd,
            env=kept | environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout=540,  # before the test's own
        )
        for said in (stdout, stderr):
            said.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, stdout.read(), stderr.read())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all of pytest-xdist's processes end at about one time.

    These take half a minute and more, longest first. With --no-loadscope-reorder, pytest-xdist keeps this order; by
    itself it begins with the files that have most tests.
    """
    longest = (
        "notebooks/test_notebooks",
        "training/test_processes",
        "training/test_shards",
        "scripts/test_transcribe",
        "recognition/test_attention",
        "sweeps/test_storage",
        "scripts/test_faults",
        "own_data/test_preparation",
        "training/test_wandb_callbacks",
        "deployment/test_export",
        "training/test_run",
        "notebooks/test_article",
        "recognition/test_evaluation",
        "recognition/test_results",
        "deployment/test_transducer_export",
        "tracking/test_session",
        "scripts/test_learning_curve",
        "recognition/test_bulk",
        "sweeps/test_run",
        "test_fuzz",
        "training/test_baseline",
        "places/test_aws",
        "scripts/test_site",
        "sweeps/test_online",
        "deployment/test_cache_aware",
        "training/test_adapters",
        "training/test_finetuning",
        "sweeps/test_objective",
        "tracking/test_sync",
        "tracking/test_comparison",
        "recognition/test_error_report",
        "data/test_an4",
        "tracking/test_artifacts",
        "tracking/test_openwandb",
        "training/test_overfit",
        "scripts/test_setup",
        "deployment/test_app",
        "models/test_shipped",
        "training/test_checkpoints",
        "deployment/test_page",
    )
    order = {ROOT / "tests" / f"{name}.py": place for place, name in enumerate(longest)}
    assert all(path.is_file() for path in order), "a file of the list is gone"
    for item in items:
        if item.get_closest_marker("proof") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(7200))
    items.sort(key=lambda item: order.get(item.path, len(order)))


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


def first_rows(corpus: an4.Corpus, folder: Path, train: int, dev: int) -> Path:
    """Write manifests of the first utterances of a corpus's training and dev sets into a folder, and return it."""
    for split, count in (("train", train), ("dev", dev)):
        rows = manifest.read_manifest(corpus.manifest(split))[:count]
        manifest.write_manifest(folder / f"{split}_manifest.json", rows)
    return folder


@pytest.fixture(autouse=True, scope="module")
def own_process() -> Iterator[None]:
    """What a file's tests leave in this process ends with the file: W&B's session, Lightning's seed, and `sys.path`.

    A training in this process sets variables of the environment, as a user's does. A file that leaves another working
    folder has an error.
    """
    prefixes = ("WANDB_", "PL_")
    kept = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    folder, path, mode = os.getcwd(), list(sys.path), session._chosen
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        del os.environ[name]
    os.environ.update(kept)
    sys.path[:], session._chosen = path, mode
    try:
        left = os.getcwd()
    except FileNotFoundError:
        left = "one that is gone"
    os.chdir(folder)
    assert left == folder, f"the tests of this file leave another working folder: {left}"


@pytest.fixture(autouse=True)
def own_style() -> Iterator[None]:
    """A test that sets Matplotlib's style, as a notebook does, leaves it as it was."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    with pyplot.rc_context() if pyplot else contextlib.nullcontext():
        yield


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


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
def pieces_of_words(tmp_path_factory: pytest.TempPathFactory, small_corpus: an4.Corpus) -> Path:
    """A folder with a tokenizer of 60 pieces, made of the small corpus' texts, as NeMo wants one."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    texts = [utterance["text"] for utterance in manifest.read_manifest(small_corpus.manifest("train"))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), vocab_size=60, model_type="unigram"
    )
    pieces = [line.split("\t")[0] for line in (folder / "tokenizer.vocab").read_text().splitlines()]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return folder


@pytest.fixture(scope="session")
def recognizers(tmp_path_factory: pytest.TempPathFactory, pieces_of_words: Path) -> dict[str, Path]:
    """A small `.nemo` file of each family of NeMo's recognisers, with random weights: tests/recognizers.py."""
    from tests import recognizers

    return recognizers.save_all(tmp_path_factory.mktemp("recognizers"), pieces_of_words)


@pytest.fixture(scope="session")
def model_of_pieces(recognizers: dict[str, Path]) -> Path:
    """A small Conformer that writes pieces of words by CTC, as NeMo saves one, with random weights."""
    return recognizers["ctc of pieces"]


@pytest.fixture(scope="session")
def canaries(
    tmp_path_factory: pytest.TempPathFactory, pieces_of_words: Path, small_corpus: an4.Corpus
) -> dict[str, Path]:
    """A small attention encoder-decoder for each format of prompt, which knows four utterances of dev by heart."""
    from tests import recognizers

    folder, rows = tmp_path_factory.mktemp("canaries"), manifest.read_manifest(small_corpus.manifest("dev"))[:4]
    files = {prompt: folder / f"{prompt}.nemo" for prompt in recognizers.PROMPTS}
    for prompt, file in files.items():
        model = recognizers.build_canary(prompt, folder, pieces_of_words)
        recognizers.teach_canary(model, rows)
        model.save_to(str(file))
    return files
