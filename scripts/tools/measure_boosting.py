#!/usr/bin/env python3
"""Measure word boosting on AN4: words that the language model lacks, found again by boosts, and what that costs."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from asr_with_nemo.cli import changed, run
from asr_with_nemo.recognition.wer import align, rate_interval

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

    from asr_with_nemo.recognition.boosting import Phrases

DIGITS = frozenset(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
"""The weights that are tried on dev."""
Texts = Callable[["Phrases"], list[str]]
"""Transcribes a set with boosts, which may be none."""


def main(
    dev_model: Annotated[
        str,
        typer.Option(
            help="A model of the same recipe, trained on train alone, with which the weights are chosen on dev.",
            metavar="MODEL",
        ),
    ],
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared AN4.")] = Path("data/an4"),
    model: Annotated[str, typer.Option(help="A CTC model of letters, trained on train and dev: for test.")] = "an4",
    transducer: Annotated[
        str, typer.Option(help="A transducer of letters, trained on train alone; empty for none.", metavar="MODEL")
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="How many words are taken out.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure how many of 20 words a recogniser finds with and without boosts, and the WER of all other words.

    AN4's people spell their names, so that no name is a word. In their place are the 20 words that train has most
    often, without letters and digits: commands and larger numbers. They are taken out of the language model's
    lexicon, and the utterances that have one out of its texts. One weight for all of them is chosen on dev, by the
    fewest errors in all words; then test is read once, without boosts and with that weight.

    Example:

        python scripts/tools/measure_boosting.py --dev-model TRAIN_ONLY.nemo --output results/boosting.json
    """
    from asr_with_nemo.recognition.results import save_measurement

    words = names(data_dir / "train_manifest.json", count)
    typer.echo(f"{len(words)} words: {' '.join(words)}")
    sets = {split: Split.read(data_dir, split) for split in ("dev", "test")}
    lines = []
    dev = ctc_ways(dev_model, sets["dev"], data_dir / "train_manifest.json", words)
    test = ctc_ways(model, sets["test"], data_dir / "train_all_manifest.json", words)
    for name, way in dev.items():
        lines += measure(name, sets, {"dev": way, "test": test[name]}, words)
    if transducer:
        ways = {split: transducer_ways(transducer, one) for split, one in sets.items()}
        for name in ways["dev"]:
            lines += measure(name, sets, {split: found[name] for split, found in ways.items()}, words)
    if output:
        command = f"python scripts/tools/measure_boosting.py --dev-model {Path(dev_model).name}"
        command += f" --transducer {Path(transducer).name}" if transducer else ""
        command += changed(main, data_dir=data_dir, model=model, count=count)
        save_measurement(output, "Word boosting", about(words, bool(transducer)), lines, command)
        typer.echo(f"results: {output}")


def about(words: Sequence[str], has_transducer: bool) -> str:
    """Return what the table of the results says above it."""
    transducers = " The transducer was trained on train alone, both for dev and for test." if has_transducer else ""
    return (
        f"AN4's test set. {len(words)} words are taken out of the lexicon, and the utterances that have one out of the "
        f"texts of the language model: {', '.join(words)}. They are the most frequent ones of train that are neither "
        "letters nor digits (AN4 has no names: they are spelled), so the acoustic model knows their sound. One weight "
        "for all of them is chosen on dev, with a model that was trained on train alone. Found: how many of these "
        "words are written where they were said. Not said: how often one of them is written where it wasn't. Other "
        f"words: their errors, insertions included; 95% intervals by a bootstrap over utterances.{transducers}"
    )


# --- The words and the sets -------------------------------------------------------------------------------------------


def names(train: Path, count: int) -> list[str]:
    """Return the words that stand for names: the most frequent ones that are neither letters nor digits."""
    from asr_with_nemo.data import manifest

    found = Counter(word for row in manifest.read_manifest(train) for word in row["text"].split())
    ranked = sorted(found, key=lambda word: (-found[word], word))
    return [word for word in ranked if len(word) > 1 and word not in DIGITS][:count]


@dataclass(frozen=True)
class Split:
    """The recordings of dev or test, and their texts."""

    files: list[str]
    texts: list[str]

    @classmethod
    def read(cls, data_dir: Path, name: str) -> "Split":
        """Read a set."""
        from asr_with_nemo.data import manifest

        rows = manifest.read_manifest(data_dir / f"{name}_manifest.json")
        return cls([row["audio_filepath"] for row in rows], [row["text"] for row in rows])


# --- Ways to recognise ------------------------------------------------------------------------------------------------


def ctc_ways(name: str, split: Split, train: Path, words: Sequence[str]) -> dict[str, Texts]:
    """Return the ways to recognise a set with a CTC model of letters, by their names."""
    from asr_with_nemo.data import manifest
    from asr_with_nemo.models.loading import alphabet, load_model
    from asr_with_nemo.models.names import ASSETS
    from asr_with_nemo.recognition import decoding, language_model, ngrams
    from asr_with_nemo.recognition.beam import BeamSearch
    from asr_with_nemo.recognition.token_beam import TokenSearch

    model = load_model(name)
    labels, outputs = alphabet(model), decoding.log_probs(model, split.files, progress=False)
    weights = language_model.tuned_weights(ASSETS / "an4.arpa")
    texts = [row["text"].split() for row in manifest.read_manifest(train)]
    lexicon = {*ngrams.read_arpa(ASSETS / "an4.arpa").vocabulary}
    whole = ngrams.build_ngrams(texts, ngrams.WORD_ORDER, lexicon)
    without = [text for text in texts if not {*text} & {*words}]
    without = ngrams.build_ngrams(without, ngrams.WORD_ORDER, lexicon - {*words})

    def with_words(lm: ngrams.LanguageModel) -> Texts:
        search = BeamSearch(labels, lm, weights.alpha, weights.beta, weights.width)
        return lambda boosts: search.with_boosts(boosts).texts(outputs)

    return {
        "words, none taken out": with_words(whole),
        "words, 20 taken out": with_words(without),
        "letters, beam": lambda boosts: TokenSearch(labels, boosts=boosts).texts(outputs),
        "letters, NeMo's greedy_batch": lambda boosts: _nemos_greedy(model, outputs, boosts),
    }


def _nemos_greedy(model: "ASRModel", outputs: Sequence[np.ndarray], boosts: "Phrases") -> list[str]:
    """Decode log-probabilities, (T, V) each, with NeMo's greedy search and boosting tree."""
    import torch
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding
    from omegaconf import OmegaConf

    from asr_with_nemo.models.loading import alphabet
    from asr_with_nemo.recognition.transducer_beam import boosting_tree

    decoding = CTCDecoding(OmegaConf.create({"strategy": "greedy_batch", "greedy": {}}), alphabet(model))
    if boosts:
        decoding.decoding.fusion_models = [boosting_tree(model, boosts)]
        decoding.decoding.fusion_models_alpha = [1.0]
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in outputs], batch_first=True)
    lengths = torch.tensor([len(one) for one in outputs])
    return [found.text for found in decoding.ctc_decoder_predictions_tensor(padded, decoder_lengths=lengths)]


def transducer_ways(name: str, split: Split) -> dict[str, Texts]:
    """Return the ways to recognise a set with a transducer: NeMo's beam, and the greedy search of its export."""
    from asr_with_nemo.deployment.export import export
    from asr_with_nemo.deployment.runtime import Recognizer
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import decoding

    model = load_model(name)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.onnx")
        export(model, path)
        exported = Recognizer(path)

    def texts(boosts: "Phrases") -> list[str]:
        search = decoding.load_search(model, boosts=boosts or {"rubout": 0.0})  # the same search without boosts
        heard = decoding.transcribe(model, split.files, progress=False, search=search)
        return [transcript.text for transcript in heard]

    def greedy(boosts: "Phrases") -> list[str]:
        search = exported.load_search(boosts=boosts) if boosts else None
        return [transcript.text for transcript in exported.transcribe(split.files, search=search)]

    return {f"{Path(name).stem}, NeMo's malsd_batch": texts, f"{Path(name).stem}, exported, greedy": greedy}


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What was found of the words, by utterance.

    Attributes:
        said, found: how often one of the words was said, and written where it was said.
        false: how often one was written where it wasn't said.
        others, errors: the other words that were said, and the errors in them, insertions included.
    """

    said: list[int]
    found: list[int]
    false: list[int]
    others: list[int]
    errors: list[int]

    @property
    def wrong(self) -> int:
        """The errors in all words."""
        return sum(self.errors) + sum(self.said) - sum(self.found)

    def row(self) -> dict[str, str]:
        """Return the figures for a row of the table."""
        missed = [said - found for said, found in zip(self.said, self.found, strict=True)]
        low, high = (1 - rate for rate in reversed(rate_interval(missed, self.said)))
        recall = (
            f"{sum(self.found) / sum(self.said):.1%} ({sum(self.found)} of {sum(self.said)}; {low:.1%} to {high:.1%})"
        )
        low, high = rate_interval(self.errors, self.others)
        count = f"{sum(self.errors)} of {sum(self.others)}; {low:.1%} to {high:.1%}"
        others = f"{sum(self.errors) / sum(self.others):.1%} ({count})"
        return {"found": recall, "not said": str(sum(self.false)), "other words": others}


def score(references: Sequence[str], hypotheses: Sequence[str], words: Collection[str]) -> Found:
    """Count what was found of some words.

    Example:
        >>> score(["enter one two"], ["one enter one too"], {"enter"})
        Found(said=[1], found=[1], false=[0], others=[2], errors=[2])
    """
    columns: list[list[int]] = [[], [], [], [], []]
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        pairs = align(reference, hypothesis)
        counts = (
            sum(said in words for said, _ in pairs),
            sum(said in words and said == heard for said, heard in pairs),
            sum(heard in words and said != heard for said, heard in pairs),
            sum(bool(said) and said not in words for said, _ in pairs),
            sum(said not in words and said != heard for said, heard in pairs),
        )
        for column, value in zip(columns, counts, strict=True):
            column.append(value)
    return Found(*columns)


def measure(name: str, sets: dict[str, Split], ways: dict[str, Texts], words: Sequence[str]) -> list[dict[str, str]]:
    """Choose a weight on dev, and return the rows of a way to recognise."""

    def found(split: str, weight: float) -> Found:
        texts = ways[split](dict.fromkeys(words, weight) if weight else {})
        return score(sets[split].texts, texts, {*words})

    tried = {weight: found("dev", weight) for weight in (0.0, *WEIGHTS)}
    for weight, one in tried.items():
        typer.echo(f"{name}, dev, weight {weight:g}: {one.row()}, {one.wrong} errors")
    chosen = min(tried, key=lambda weight: (tried[weight].wrong, weight))
    rows = []
    for weight in dict.fromkeys((0.0, chosen)):
        started = time.perf_counter()
        one = found("test", weight)
        seconds = f"{time.perf_counter() - started:.1f}"
        on_dev = f"{tried[weight].wrong}"
        rows.append({"": name, "weight": f"{weight:g}" if weight else "–", **one.row()})
        rows[-1] |= {"errors in all words": f"{one.wrong}", "on dev": on_dev, "seconds": seconds}
        typer.echo(f"{name}, test, weight {weight:g}: {rows[-1]}")
    return rows


if __name__ == "__main__":
    run(main)
