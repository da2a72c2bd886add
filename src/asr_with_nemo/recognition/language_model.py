"""n-gram language models of words or of characters: made of transcripts, written as ARPA files, and scored.

An ARPA file is a table of n-grams with their log10 probability and back-off weight, which KenLM and NeMo read too. What
it was made of stands in a JSON file beside it, under the same name, with the weights that a beam search was tuned to.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_with_nemo.base.files import read_text, write_if_changed
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
"""The letters of the course's models, in the order of their outputs (`model.labels` of configs/config.yaml)."""
TOKEN_OFFSET = 100
"""NeMo's `beam_batch` reads the letter that is output number i as chr(i + 100)."""


# --- What it was made of ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """How much a language model counts in a beam search.

    Attributes:
        alpha: the weight of its log-probability; 0 for none, which leaves the lexicon.
        beta: what each word (of a character model: each character) adds to the log-probability.
        width: hypotheses that are kept at a time.
    """

    alpha: float
    beta: float
    width: int


def notes_path(arpa: str | os.PathLike) -> Path:
    """Where the notes of an ARPA file lie: beside it, .json for .arpa."""
    return Path(arpa).with_suffix(".json")


def read_notes(arpa: str | os.PathLike) -> dict:
    """What an ARPA file was made of and its tuned weights; empty for a file that came without.

    Raises:
        InputError: the notes are there, but can't be read.
    """
    path = notes_path(arpa)
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        if not notes.keys() & {"unit", "tuning"}:
            raise ValueError("something else, by its keys")
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


def write_notes(arpa: str | os.PathLike, notes: Mapping) -> None:
    """Write what an ARPA file was made of beside it.

    Raises:
        InputError: they can't be written there.
    """
    path = notes_path(arpa)
    try:
        write_if_changed(path, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def tuned_weights(arpa: str | os.PathLike) -> Weights | None:
    """The weights that were tuned for an ARPA file; None where nobody has.

    Raises:
        InputError: the notes beside it can't be read.
    """
    weights = read_notes(arpa).get("weights")
    return Weights(**weights) if weights else None


def note_weights(arpa: str | os.PathLike, weights: Weights, **how: object) -> None:
    """Write tuned weights into the notes of an ARPA file, and how they were found.

    Raises:
        InputError: the notes can't be read or written.
    """
    write_notes(arpa, read_notes(arpa) | {"weights": asdict(weights), "tuning": how})


def read_texts(path: str | os.PathLike, final: bool = False) -> tuple[list[str], bool]:
    """The utterances of a manifest, or of a text file with one a line, that a language model may be made of.

    Args:
        path: the file.
        final: allow the dev set, for a model that goes with one trained on train and dev.

    Returns:
        the texts, and whether some are of the dev set.

    Raises:
        InputError: it can't be read, has no word, or is of a held-out set: a model that knows the answers is no test.
    """
    missing = "no such text; expected a manifest, or a text file of one utterance a line"
    lines = read_text(path, "text", missing).splitlines()
    held = set()
    if next(filter(str.strip, lines), "").lstrip().startswith("{"):
        # Here, since decoding with a language model, as the server does, needs none of an4's packages.
        from asr_with_nemo.data.an4 import splits_of

        held = splits_of(path)
        if "test" in held:
            raise InputError(
                f"{path}: has recordings or speakers of the test set; a language model is made of training texts only"
            )
        if "dev" in held and not final:
            raise InputError(
                f"{path}: has recordings or speakers of the dev set, which weights are tuned on; take the train "
                "manifest, or say --final for the model that goes with one trained on train and dev"
            )
        lines = [row["text"] for row in manifest.read_manifest(path, check_audio=False)]
    elif any(re.search(r"\([\w-]+\)\s*$", line) for line in lines):
        raise InputError(
            f"{path}: its lines end with an id in brackets; take the manifest, which tells the training texts from "
            "those held out"
        )
    texts = [text for text in (" ".join(line.split()) for line in lines) if text]
    if not texts:
        raise InputError(f"{path}: has no words to make a language model of")
    return texts, "dev" in held


def read_lexicon(path: str | os.PathLike) -> list[str]:
    """The words of a pronouncing dictionary as CMU writes them (`WORD(2)  PH ON ES`), or of a list of one word a line.

    Returns:
        the words in lower case, each once, sorted.

    Raises:
        InputError: the file can't be read or holds no word.
    """
    path = Path(path)
    missing = "no such dictionary; AN4's own is etc/an4.dic in its folder"
    lines = read_text(path, "a dictionary", missing).splitlines()
    words = {re.sub(r"\(\d+\)$", "", line.split()[0]).lower() for line in lines if line.strip()}
    words = {word for word in words if not word.startswith((";;;", "<"))}
    if not words:
        raise InputError(f"{path}: holds no words; expected one at the start of each line")
    return sorted(words)


def to_tokens(text: str, labels: Sequence[str]) -> list[str]:
    """A text as the characters that NeMo's `beam_batch` looks up in a character model.

    Raises:
        InputError: the text has a letter that isn't among the labels.
    """
    strange = sorted(set(text) - set(labels))
    if strange:
        raise InputError(f"the text {text!r} has {' '.join(map(repr, strange))}, which the model can't spell")
    return [chr(labels.index(letter) + TOKEN_OFFSET) for letter in text]


def is_of_characters(model: LanguageModel) -> bool:
    """Whether a model is of NeMo's character tokens and not of words.

    They are single characters from chr(100) on; the course's alphabet reaches beyond the z, where no word is.
    """
    tokens = model.vocabulary
    return all(len(token) == 1 and ord(token) >= TOKEN_OFFSET for token in tokens) and not all(map(str.isalpha, tokens))


def make(
    text: str | os.PathLike,
    arpa: str | os.PathLike,
    order: int | None = None,
    lexicon: str | os.PathLike | None = None,
    characters: bool = False,
    final: bool = False,
    weights_of: str | os.PathLike | None = None,
) -> LanguageModel:
    """Make a language model of a file's utterances: an ARPA file, and the notes beside it.

    Args:
        text: a manifest, or a text file with an utterance a line.
        arpa: where it goes; ends in .arpa.
        order: tokens of the longest n-gram; by default 3 words or 6 characters.
        lexicon: a dictionary whose words the model shall know too.
        characters: of characters for NeMo's `beam_batch`, not of words.
        final: allow the dev set among the texts.
        weights_of: another ARPA file, whose tuned weights this one takes over: weights can't be tuned on a dev set that
            the model was made of.

    Raises:
        InputError: as `read_texts`, `read_lexicon`, `build` and `write_arpa`; a character model with a lexicon or of
            order 1; no tuned weights to take over, or those of a model of another kind.
    """
    if Path(arpa).suffix != ".arpa":
        raise InputError(f"{arpa}: a language model's name ends in .arpa; its notes go beside it, in a .json")
    if characters and lexicon:
        raise InputError("a model of characters has no lexicon; leave out --lexicon or --characters")
    order = order if order is not None else (CHARACTER_ORDER if characters else WORD_ORDER)
    if characters and order < 2:
        raise InputError(f"order {order}: NeMo's beam_batch needs a model of 2 or more characters")
    texts, holds_dev = read_texts(text, final)
    if characters:
        utterances = [to_tokens(line, LABELS) for line in texts]
        known = [chr(number + TOKEN_OFFSET) for number in range(len(LABELS))]
    else:
        utterances = [line.split() for line in texts]
        known = read_lexicon(lexicon) if lexicon else []
    model = build_ngrams(utterances, order, known)
    notes = {
        "unit": "character" if characters else "word",
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
        notes["labels"] = list(LABELS)
    if lexicon:
        notes["lexicon"] = {
            "file": Path(lexicon).name,
            "sha256": archives.sha256_of(Path(lexicon)),
            "words": len(known),
        }
    if weights_of:
        notes |= _taken_over(weights_of, notes)
    if read_notes(arpa):  # of an earlier file of this name; its weights were tuned for that one
        notes_path(arpa).unlink()
    write_arpa(model, arpa)
    write_notes(arpa, notes)
    return model


def _taken_over(arpa: str | os.PathLike, notes: Mapping) -> dict:
    theirs = read_notes(arpa)
    if "weights" not in theirs:
        raise InputError(f"{arpa}: has no tuned weights to take over; scripts/evaluate.py --tune finds them")
    for key in ("unit", "order"):
        if theirs.get(key, notes[key]) != notes[key]:
            raise InputError(
                f"{arpa}: its weights are of a model whose {key} is {theirs[key]}, where this one's is {notes[key]}"
            )
    return {"weights": theirs["weights"], "tuning": theirs["tuning"] | {"tuned_with": Path(arpa).name}}


def check_tuning_data(arpa: str | os.PathLike, manifest_path: str | os.PathLike) -> None:
    """Make sure that a language model's weights may be tuned on a manifest.

    Raises:
        InputError: it has utterances of the test set, or the language model was made of it or of the dev set too.
    """
    from asr_with_nemo.data.an4 import splits_of  # as above

    held = splits_of(manifest_path)
    if read_notes(arpa).get("text", {}).get("sha256") == archives.sha256_of(Path(manifest_path)):
        raise InputError(
            f"{arpa}: was made of {manifest_path}, so its weights can't be tuned there; take a dev manifest"
        )
    if "test" in held:
        raise InputError(f"{manifest_path}: holds some of the test set; tune on a dev manifest, and read test once")
    if "dev" in held and read_notes(arpa).get("holds_dev"):
        raise InputError(
            f"{arpa}: was made of the dev set too, so its weights can't be tuned there; tune those of a model of the "
            "train manifest, and take them over with scripts/build_lm.py --weights-of"
        )
