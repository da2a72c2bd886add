"""The stages of the course, as `faults.py` runs them: their commands, inputs and results."""

from typing import NamedTuple


class Stage(NamedTuple):
    """A command, and how to tell that it did its work.

    Attributes:
        name: in the table.
        command: script and arguments, relative to a folder with `in/`, a copy of the inputs, and `out/`.
        main: the input that is damaged, below `in/`.
        hostile: the kind of that input, a key of `hostile_inputs.HOSTILE`.
        same: patterns of the files below `out/` that are the same to the last bit however often it was interrupted.
        quick: whether it takes a second or two, so that `make test` has the time.
        reports: whether it talks to Weights & Biases.
        by_rows: whether it does what it can with an input that is cut short, since each of its rows counts by itself.
        only: the faults that it is tried under; by default all.
    """

    name: str
    command: tuple[str, ...]
    main: str
    hostile: str
    same: tuple[str, ...]
    quick: bool = False
    reports: bool = False
    by_rows: bool = False
    only: tuple[str, ...] = ()


_INPUT = ("truncated", "corrupt", "empty", "hostile")
_SMALL = ("data_dir=in/corpus", "trainer.max_epochs=2", "exp_manager.exp_dir=out", "seed=0")
_CLIPS = tuple(f"in/recordings/clips/{number}.wav" for number in range(4))
_DEV = ("--dev", "in/corpus/dev_manifest.json")
STAGES = (
    Stage(
        "prepare AN4",
        ("prepare_an4.py", "--source", "an4", "--archive", "in/an4.tar.gz", "--data-dir", "out"),
        "an4.tar.gz",
        "archive",
        ("*_manifest.json", "*.wav"),
        quick=True,
    ),
    Stage(
        "prepare a corpus",
        ("prepare_corpus.py", "in/recordings", "--out", "out/corpus", "--workers", "2", "--language", "en"),
        "recordings/table.csv",
        "table",
        ("*_manifest.json", "*.wav"),
        quick=True,
        by_rows=True,
    ),
    Stage(
        "language model",
        ("build_lm.py", "in/corpus/train_manifest.json", "out/lm.arpa"),
        "corpus/train_manifest.json",
        "manifest",
        ("lm.arpa",),
        quick=True,
    ),
    Stage(
        "transcribe, ONNX",
        ("transcribe.py", "in/an4.onnx", *_CLIPS, "--output", "out/texts.tsv"),
        "an4.onnx",
        "export",
        ("texts.tsv",),
        quick=True,
    ),
    Stage(
        "transcribe, NeMo",
        ("transcribe.py", "in/an4.nemo", *_CLIPS, "--output", "out/texts.tsv"),
        "an4.nemo",
        "model",
        ("texts.tsv",),
    ),
    Stage(
        "evaluate",
        ("evaluate.py", "in/an4.nemo", "in/corpus/test_manifest.json", "--output", "out/results.json"),
        "corpus/test_manifest.json",
        "manifest",
        ("results.tsv",),
    ),
    Stage("export", ("export.py", "in/an4.nemo", "out/model.onnx"), "an4.nemo", "model", ("model.onnx",)),
    Stage("train", ("train.py", *_SMALL), "corpus/train_manifest.json", "manifest", ("*.nemo",), reports=True),
    Stage(
        "fine-tune",
        ("finetune.py", "in/an4.nemo", "--manifest", "in/corpus/train_manifest.json", *_DEV, *_SMALL[1:]),
        "an4.nemo",
        "model",
        ("*.nemo",),
    ),
    Stage(
        "log the data",
        ("log_dataset.py", "in/corpus/dev_manifest.json", "--pictures", "out/pictures"),
        "corpus/dev_manifest.json",
        "manifest",
        ("*.png",),
        reports=True,
    ),
    Stage(
        "transcribe, ARPA",
        ("transcribe.py", "in/an4.onnx", *_CLIPS, "--lm", "in/an4.arpa", "--output", "out/texts.tsv"),
        "an4.arpa",
        "language model",
        ("texts.tsv",),
        quick=True,
        only=_INPUT,
    ),
    Stage(
        "transcribe, recordings",
        ("transcribe.py", "in/an4.onnx", *_CLIPS, "--output", "out/texts.tsv"),
        "recordings/clips/0.wav",
        "recording",
        ("texts.tsv",),
        quick=True,
        by_rows=True,
        only=_INPUT,
    ),
    Stage(
        "train from shards",
        ("train.py", *_SMALL, "model.train_ds.shar_path=in/corpus/shards/train"),
        "corpus/shards/train/cuts.000000.jsonl.gz",
        "shards",
        ("*.nemo",),
        only=_INPUT,
    ),
    Stage(
        "resume",
        ("train.py", *_SMALL, "exp_manager.resume_from_checkpoint=in/start.ckpt"),
        "start.ckpt",
        "checkpoint",
        ("*.nemo",),
        only=_INPUT,
    ),
)
