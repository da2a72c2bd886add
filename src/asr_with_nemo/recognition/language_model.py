"""N-gram language models of words or characters from transcripts, as ARPA files with notes on their source.

An ARPA file is a table of n-grams with their log10 probability and back-off weight, which KenLM and NeMo read too. A
JSON file of the same name next to it, the notes, has its source and the tuned weights of the beam search.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from asr_with_nemo.base.files import read_text, reading, write_if_changed
from asr_with_nemo.base.spool import Spool, mapped
from asr_with_nemo.data import archives, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.ngrams import (
    CHARACTER_ORDER,
    SMOOTHING,
    WORD_ORDER,
    LanguageModel,
    build_ngrams,
    write_arpa,
)

LABELS = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
"""Letters of the course's models, in the order of their outputs (`model.labels` in configs/config.yaml)."""
TOKEN_OFFSET = 100
"""NeMo's `beam_batch` represents the letter of output i as chr(i + 100)."""


# --- Notes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Weights of a beam search with a language model.

    Attributes:
        alpha: weight of the language model's log-probability; 0 uses its lexicon only.
        beta: bonus per word (with a character model: per character), added to the log-probability.
        width: number of hypotheses kept after each frame.
    """

    alpha: float
    beta: float
    width: int


def notes_path(arpa: str | os.PathLike) -> Path:
    """Return the path of an ARPA file's notes: next to it, with .json for .arpa or .arpa.gz.

    Example:
        >>> notes_path("models/words.arpa").name
        'words.json'
    """
    path = Path(arpa)
    return (path.with_suffix("") if path.suffix == ".gz" else path).with_suffix(".json")


def read_notes(arpa: str | os.PathLike) -> dict:
    """Read an ARPA file's notes, its source and tuned weights; empty if the file has none.

    Raises:
        InputError: the notes exist, but can't be read.
    """
    path = notes_path(arpa)
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        if not notes.keys() & {"unit", "tuning"}:
            raise ValueError("it has neither a unit nor a tuning")
        if "weights" in notes:
            Weights(**notes["weights"])
        return notes
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: can't be read as the notes on {Path(arpa).name} ({error}); move it away, or make both again with "
            "scripts/build_lm.py"
        ) from error


def _write_notes(arpa: str | os.PathLike, notes: Mapping) -> None:
    """Write an ARPA file's notes.

    Raises:
        InputError: the path can't be written.
    """
    path = notes_path(arpa)
    try:
        write_if_changed(path, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def tuned_weights(arpa: str | os.PathLike) -> Weights | None:
    """Read an ARPA file's tuned weights; None if it has none.

    Raises:
        InputError: its notes can't be read.
    """
    weights = read_notes(arpa).get("weights")
    return Weights(**weights) if weights else None


def note_weights(arpa: str | os.PathLike, weights: Weights, **how: object) -> None:
    """Add tuned weights, and how they were tuned, to an ARPA file's notes.

    Raises:
        InputError: the notes can't be read or written.
    """
    _write_notes(arpa, read_notes(arpa) | {"weights": asdict(weights), "tuning": how})


def read_texts(path: str | os.PathLike, final: bool = False) -> tuple[Spool[str], bool]:
    """Read the texts for a language model from a manifest, or from a text file with one utterance per line.

    Of very many texts, most are kept in a temporary file.

    Args:
        path: the file.
        final: allow the dev set, for use with an acoustic model trained on train and dev.

    Returns:
        the texts, and whether some are from the dev set.

    Raises:
        InputError: the file can't be read, has no words, or has held-out utterances, which would leak into evaluation.
    """
    held = set()
    if _starts_as_a_manifest(path):
        # Here, since decoding with a language model, as the server does, needs none of an4's packages.
        from asr_with_nemo.data.an4 import splits_of

        held = splits_of(path)
        if "test" in held:
            raise InputError(
                f"{path}: has recordings or speakers of the test set; make a language model from training texts only"
            )
        if "dev" in held and not final:
            raise InputError(
                f"{path}: has recordings or speakers of the dev set, on which weights are tuned; use the train "
                "manifest, or add --final for use with an acoustic model trained on train and dev"
            )
        lines = (row["text"] for row in manifest.each_utterance(path, check_audio=False))
    else:
        lines = _lines(path)
    texts = Spool(text for text in (" ".join(line.split()) for line in lines) if text)
    if not texts:
        raise InputError(f"{path}: has no words for a language model; expected one utterance per line")
    return texts, "dev" in held


def _lines(path: str | os.PathLike) -> Iterator[str]:
    """Yield the lines of a text file."""
    missing = "no such text; expected a manifest, or a text file with one utterance per line"
    with reading(path, "text", missing), open(path, encoding="utf-8-sig") as file:
        for line in file:
            if re.search(r"\([\w-]+\)\s*$", line):
                raise InputError(
                    f"{path}: its lines end with an id in brackets; use the manifest, which separates training texts "
                    "from held-out ones"
                )
            yield from line.splitlines()


def _starts_as_a_manifest(path: str | os.PathLike) -> bool:
    """Return whether the first line of a file that isn't empty begins a JSON object."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return next(filter(str.strip, file), "").lstrip().startswith("{")
    except OSError:
        return False  # reading it says why


def _read_lexicon(path: str | os.PathLike) -> list[str]:
    """Read the words of a pronouncing dictionary in CMU's format (`WORD(2)  PH ON ES`), or a list of one word per line.

    Returns:
        the unique words in lower case, sorted.

    Raises:
        InputError: the file can't be read or has no words.
    """
    path = Path(path)
    missing = "no such dictionary; AN4's own is etc/an4.dic in its folder"
    lines = read_text(path, "a dictionary", missing).splitlines()
    words = {re.sub(r"\(\d+\)$", "", line.split()[0]).lower() for line in lines if line.strip()}
    words = {word for word in words if not word.startswith((";;;", "<"))}
    if not words:
        raise InputError(f"{path}: has no words; expected one at the start of each line")
    return sorted(words)


def token_of(column: int) -> str:
    """Return the token by which NeMo looks up a letter or piece, by its column in the model's outputs."""
    return chr(column + TOKEN_OFFSET)


def to_tokens(text: str, labels: Sequence[str]) -> list[str]:
    """Convert a text to the tokens that NeMo's `beam_batch` looks up in a character model.

    Raises:
        InputError: the text has a character that isn't among the labels.

    Example:
        >>> to_tokens("ab", [" ", "a", "b"])
        ['e', 'f']
    """
    strange = sorted(set(text) - set(labels))
    if strange:
        raise InputError(f"the text {text!r} has {' '.join(map(repr, strange))}, not in the model's alphabet")
    return [token_of(labels.index(letter)) for letter in text]


def is_of_characters(model: LanguageModel) -> bool:
    """Return whether a model's tokens are NeMo's tokens of characters or pieces, not words.

    They are single characters from chr(100) on; those of an alphabet go beyond z, where no word is.
    """
    tokens = model.vocabulary
    return all(len(token) == 1 and ord(token) >= TOKEN_OFFSET for token in tokens) and not all(map(str.isalpha, tokens))


def check_tokens(arpa: str | os.PathLike, model: LanguageModel, labels: Sequence[str]) -> None:
    """Make sure that a model of letters or pieces was made for these.

    Raises:
        InputError: it was made for others, or is a model of words.
    """
    if not is_of_characters(model):
        raise InputError(
            f"{arpa}: a language model of words; expected one of the model's own letters or pieces: "
            "scripts/build_lm.py --model"
        )
    made_for = read_notes(arpa).get("labels", list(labels))
    known = {token_of(column) for column in range(len(labels))}
    if made_for != list(labels) or not known.issuperset(model.vocabulary):
        raise InputError(
            f"{arpa}: a language model of the letters or pieces {' '.join(made_for)[:100]!r}, but the acoustic model "
            f"has {' '.join(labels)[:100]!r}; they are looked up by index, so the two must be the same: make it with "
            "scripts/build_lm.py --model"
        )


def make(
    text: str | os.PathLike,
    arpa: str | os.PathLike,
    order: int | None = None,
    lexicon: str | os.PathLike | None = None,
    characters: bool = False,
    final: bool = False,
    weights_of: str | os.PathLike | None = None,
    labels: Sequence[str] = LABELS,
    columns: Callable[[str], Sequence[int]] | None = None,
) -> LanguageModel:
    """Make a language model from a file's utterances: an ARPA file and its notes.

    Args:
        text: a manifest, or a text file with one utterance per line.
        arpa: output file; ends in .arpa.
        order: tokens of the longest n-gram; by default 3 words, or 6 characters or pieces.
        lexicon: dictionary whose words are added to the vocabulary.
        characters: make a model of characters, or of pieces of words, not of words.
        final: allow the dev set among the texts.
        weights_of: another ARPA file to copy the tuned weights from: a model made from the dev set can't be tuned on
            it.
        labels: the characters or pieces of the acoustic model, in the order of its outputs; by default the course's.
        columns: cuts a text into pieces, by their columns in the outputs (`spelling.Spelling.columns`).

    Raises:
        InputError: a file can't be read, used or written; a text has characters that aren't among the labels; a model
            of characters or pieces has a lexicon or order 1; `weights_of` has no tuned weights, or is a model of
            another unit or order.
    """
    if Path(arpa).suffix != ".arpa":
        raise InputError(f"{arpa}: a language model's name must end in .arpa; its notes go next to it, in a .json")
    if characters and lexicon:
        raise InputError("a character model has no lexicon; leave out --lexicon or --characters")
    order = order if order is not None else (CHARACTER_ORDER if characters else WORD_ORDER)
    if characters and order < 2:
        raise InputError(f"order {order}: NeMo's searches need an --order of 2 or more characters or pieces")
    texts, holds_dev = read_texts(text, final)
    if characters:
        cut = partial(to_tokens, labels=labels)
        if columns:
            cut = lambda line: [token_of(column) for column in columns(line)]  # noqa: E731
        utterances, known = mapped(texts, cut), [token_of(column) for column in range(len(labels))]
    else:
        utterances = mapped(texts, str.split)
        known = _read_lexicon(lexicon) if lexicon else []
    model = build_ngrams(utterances, order, known)
    notes = {
        "unit": ("piece" if columns else "character") if characters else "word",
        "order": order,
        "smoothing": SMOOTHING,
        "text": {
            "file": Path(text).name,
            "sha256": archives.sha256_of(Path(text)),
            "utterances": len(texts),
            "words": sum(len(line.split()) for line in texts),
        },
        "holds_dev": holds_dev,
        "vocabulary": len(model.vocabulary),
    }
    if characters:
        notes["labels"] = list(labels)
    if lexicon:
        notes["lexicon"] = {
            "file": Path(lexicon).name,
            "sha256": archives.sha256_of(Path(lexicon)),
            "words": len(known),
        }
    if weights_of:
        notes |= _taken_over(weights_of, notes)
    if read_notes(arpa):  # notes of an earlier file of this name, with weights tuned for that one
        notes_path(arpa).unlink()
    write_arpa(model, arpa)
    _write_notes(arpa, notes)
    return model


def _taken_over(arpa: str | os.PathLike, notes: Mapping) -> dict:
    theirs = read_notes(arpa)
    if "weights" not in theirs:
        raise InputError(f"{arpa}: has no tuned weights to copy; tune them with scripts/evaluate.py --tune")
    for key in ("unit", "order"):
        if theirs.get(key, notes[key]) != notes[key]:
            raise InputError(
                f"{arpa}: its weights are for a model with {key} {theirs[key]}, but this one has {key} {notes[key]}"
            )
    return {"weights": theirs["weights"], "tuning": theirs["tuning"] | {"tuned_with": Path(arpa).name}}


def check_tuning_data(arpa: str | os.PathLike, manifest_path: str | os.PathLike) -> None:
    """Check that a language model's weights may be tuned on a manifest.

    Raises:
        InputError: the manifest has utterances of the test set, or of those that the language model was made from.
    """
    from asr_with_nemo.data.an4 import splits_of  # as above

    held = splits_of(manifest_path)
    if read_notes(arpa).get("text", {}).get("sha256") == archives.sha256_of(Path(manifest_path)):
        raise InputError(
            f"{arpa}: was made from {manifest_path}, so its weights can't be tuned on it; use a dev manifest"
        )
    if "test" in held:
        raise InputError(
            f"{manifest_path}: has utterances of the test set; tune on a dev manifest, and evaluate on test once"
        )
    if "dev" in held and read_notes(arpa).get("holds_dev"):
        raise InputError(
            f"{arpa}: was made from the dev set too, so its weights can't be tuned on it; tune those of a model of the "
            "train manifest, and copy them with scripts/build_lm.py --weights-of"
        )
