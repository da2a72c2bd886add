"""A prepared corpus: its settings, what was made, and where it lies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asr_with_nemo.data import audio
from asr_with_nemo.own_data.text import Rule

WAVS = "wav"


@dataclass(frozen=True)
class Settings:
    """What the user wants of a preparation; the defaults find out all they can.

    Attributes:
        format: one of `corpora.FORMATS`, or "auto".
        columns: role → column of a table.
        encoding, delimiter, pattern, labels, recipe: as in `entries.Source`.
        rule: by which transcripts are normalised.
        alphabet: that transcripts have to keep to; None for any.
        rate: samples per second of the WAVs.
        longest: seconds; a longer recording is left out.
        split: how (`splits.assign`).
        shares: of the dev and test sets.
        drop: leave out what is doubtful.
        fix: repair what can be.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    pattern: str = ""
    labels: Mapping[str, str] | None = None
    recipe: str = ""
    rule: Rule = field(default_factory=Rule)
    alphabet: frozenset[str] | None = None
    rate: int = audio.SAMPLE_RATE
    longest: float = 60.0
    split: str = "auto"
    shares: Mapping[str, float] = field(default_factory=lambda: {"dev": 0.1, "test": 0.1})
    drop: bool = False
    fix: bool = False


@dataclass
class Prepared:
    """A prepared corpus.

    Attributes:
        folder: with the manifests.
        format: which the source had.
        rows: how many the source has.
        fates: "kept", "left out", "dropped" → rows.
        splits: split → utterances, seconds and speakers.
        split_by: how the splits were made.
        problems: kind → rows.
        fixed: kind → rows that were repaired.
        labels: the letters of the transcripts.
        notes: what else was found out.
    """

    folder: Path
    format: str = ""
    rows: int = 0
    fates: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, float]] = field(default_factory=dict)
    split_by: str = ""
    problems: dict[str, int] = field(default_factory=dict)
    fixed: dict[str, int] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def manifest(self, split: str) -> Path:
        """The path of a manifest: "train", "dev", "train_all" or "test"."""
        return self.folder / f"{split}_manifest.json"

    @property
    def report(self) -> Path:
        """The page that shows the corpus and its problems."""
        return self.folder / "report.html"

    @property
    def rows_file(self) -> Path:
        """The fate of each row, as a table."""
        return self.folder / "rows.tsv"
