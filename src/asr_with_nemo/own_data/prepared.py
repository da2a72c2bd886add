"""The settings of a corpus preparation, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr_with_nemo.data import audio
from asr_with_nemo.own_data.text import Rule

WAVS = "wav"
"""The folder of the WAVs, within that of the corpus."""


@dataclass(frozen=True)
class Settings:
    """The settings of a corpus preparation; the defaults detect as much as possible.

    Attributes:
        format: one of `formats.FORMATS`, or "auto".
        columns: role → column of a table.
        encoding, delimiter, pattern, labels, recipe, tiers, audio_root: as in `sources.Source`.
        rule: how transcripts are normalised.
        alphabet: the characters allowed in transcripts; None for any.
        rate: sampling rate of the WAVs, in Hz.
        longest: maximum duration of a recording, in seconds; longer ones are left out.
        split: how the splits are made (`splits.assign`).
        shares: of the dev and test sets in all utterances.
        drop: leave doubtful rows out.
        fix: repair recordings and transcripts where possible.
        channels: "mix" them, or "split" a recording with a speaker on each.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    pattern: str = ""
    labels: Mapping[str, str] | None = None
    recipe: str = ""
    tiers: Sequence[str] = ()
    rule: Rule = field(default_factory=Rule)
    alphabet: frozenset[str] | None = None
    rate: int = audio.SAMPLE_RATE
    longest: float = 60.0
    split: str = "auto"
    shares: Mapping[str, float] = field(default_factory=lambda: {"dev": 0.1, "test": 0.1})
    drop: bool = False
    fix: bool = False
    channels: str = "mix"
    audio_root: Path | None = None


@dataclass
class Prepared:
    """A prepared corpus.

    Attributes:
        folder: holds the manifests and WAVs.
        format: of the source (`formats.FORMATS`).
        rows: of the source.
        fates: "kept", "left out", "dropped" → rows.
        splits: split → number of utterances, seconds and number of speakers.
        split_by: how the splits were made: "source", "speaker" or "utterance".
        problems: kind → rows.
        fixed: kind → rows that were repaired.
        labels: the characters of the transcripts, sorted.
        notes: further findings, one line each.
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
        """Return the path of a manifest: "train", "dev", "train_all" or "test"."""
        return self.folder / f"{split}_manifest.json"

    @property
    def report(self) -> Path:
        """The path of the HTML report."""
        return self.folder / "report.html"

    @property
    def rows_file(self) -> Path:
        """The path of the table (TSV) with the fate of each row."""
        return self.folder / "rows.tsv"
