"""The vocabulary of a fine-tuning: the model's own, the same with more letters, another one, or a new one.

A setting names it, `finetuning.vocabulary` or `--vocabulary`:

- null: the model's own, if it can write all texts of the corpus.
- extend: the model's own, and the letters of the training texts that it lacks. What the model has learned stays. A
  model of pieces can also be extended by words, `finetuning.words`, each as a piece of its own.
- new: made of the training texts; letters for a model of letters, a tokenizer for one of pieces. The layers with an
  output or an input for each symbol start at random.
- letters, or a file that has them (`models.vocabulary.read_alphabet`); or the folder of a SentencePiece tokenizer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, writes_letters
from asr_with_nemo.models.vocabulary import read_alphabet
from asr_with_nemo.training import tokenizers
from asr_with_nemo.training.tokenizers import Unwritable

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

EXTEND, NEW = "extend", "new"
"""The words of the setting that stand for a vocabulary which the corpus decides."""
_MOST_LISTED = 60  # symbols in a line


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary for a fine-tuning.

    Attributes:
        letters: for a model of letters; None for one of pieces.
        tokenizer: the section `model.tokenizer` of the config, for a model of pieces; None for one of letters.
        said: what it is, in a line.
    """

    letters: list[str] | None
    tokenizer: dict[str, object] | None
    said: str


def choose(setting: str | None, base: "ASRModel", config: DictConfig, texts: Mapping[str, Sequence[str]]) -> Vocabulary:
    """Return the vocabulary that a setting names for the fine-tuning of a model.

    Args:
        setting: `finetuning.vocabulary`.
        base: the model that the fine-tuning starts from.
        config: of the fine-tuning; a tokenizer is written below its folder of trainings.
        texts: those that the model has to write, by the manifest that they are in; first those of the training.

    Raises:
        InputError: the setting can't be followed, or the vocabulary can't write the texts; the message lists them.
    """
    training = next(iter(texts.values()), ())
    if setting in (EXTEND, NEW) and not training:
        raise InputError(
            f"--vocabulary {setting}: there are no training texts; look at model.train_ds.manifest_filepath="
            f"{config.model.train_ds.get('manifest_filepath')}"
        )
    given = Path(setting or "")
    if setting not in (None, EXTEND, NEW):
        if given.name == tokenizers.MODEL or (given / tokenizers.MODEL).is_file():
            folder = given.parent if given.name == tokenizers.MODEL else given
            found = _of_pieces(folder, f"the tokenizer {folder}")
        else:
            letters = read_alphabet(setting)
            found = Vocabulary(letters, None, f"{len(letters)} letters, as given")
    elif writes_letters(base):
        if (config.get("finetuning") or {}).get("words"):
            raise InputError("--words: this model writes letters, and so every word of them; leave the option out")
        found = _letters(setting, alphabet(base), training)
    else:
        found = _pieces(setting, base, config, training)
    lost = 0
    for path, written in texts.items():
        wrong = unwritable(found, written)
        lost += wrong.texts
        if wrong.letters:
            raise InputError(
                f"{path}: {wrong.summary}; the vocabulary is {found.said}. {_way_out(setting)}\n{wrong.listing}"
            )
    if not texts or lost or _is_to_be_made(found):
        return found
    return replace(found, said=f"{found.said}, which write all texts of the corpus")


def _way_out(setting: str | None) -> str:
    """Return what to do about texts that the vocabulary of a setting can't write."""
    if setting in (EXTEND, NEW):
        return "No training text has these symbols, so that no model could learn them; change the texts"
    new = f"--vocabulary {NEW} makes a vocabulary of the training texts, whose outputs start at random"
    if setting is None:
        return f"--vocabulary {EXTEND} adds what the training texts have; {new}; or change the texts"
    return f"Give --vocabulary LETTERS or FILE with these too; {new}; or change the texts"


def unwritable(vocabulary: Vocabulary, texts: Sequence[str]) -> Unwritable:
    """Find the texts that a vocabulary can't write; one that is still to be made (`tokenizers.AUTO`) writes all."""
    if _is_to_be_made(vocabulary):
        return Unwritable(0, len(texts), {}, [])
    if vocabulary.tokenizer is not None:
        return tokenizers.unwritable(tokenizers.load(Path(str(vocabulary.tokenizer["dir"]))), texts)
    known = set(vocabulary.letters or ())
    wrong = [text for text in texts if not known.issuperset(text)]
    letters = Counter(letter for text in wrong for letter in text if letter not in known)
    examples = [(text, "".join(filter(known.__contains__, text))) for text in wrong[: tokenizers.MOST_NAMED]]
    return Unwritable(len(wrong), len(texts), dict(letters.most_common()), examples)


def _is_to_be_made(vocabulary: Vocabulary) -> bool:
    return vocabulary.tokenizer is not None and vocabulary.tokenizer["dir"] == tokenizers.AUTO


def listed(symbols: Sequence[str]) -> str:
    """Format symbols in quotes; of very many, the first, and how many more.

    Example:
        >>> listed(["a", " "])
        "'a' ' '"
    """
    more = len(symbols) - _MOST_LISTED
    return " ".join(map(repr, symbols[:_MOST_LISTED])) + (f" and {more:,} more" if more > 0 else "")


def _letters(setting: str | None, own: list[str], training: Sequence[str]) -> Vocabulary:
    used = sorted(set().union(*training))
    if setting == NEW:
        return Vocabulary(used, None, f"{len(used)} new letters, those of the training texts")
    added = [letter for letter in used if letter not in own] if setting == EXTEND else []
    said = f"the model's {len(own)} letters"
    return Vocabulary(own + added, None, said + (f" and {len(added)} more: {listed(added)}" if added else ""))


def _pieces(setting: str | None, base: "ASRModel", config: DictConfig, training: Sequence[str]) -> Vocabulary:
    if setting == NEW:
        size = (config.model.get("tokenizer") or {}).get("size")
        section = {"dir": tokenizers.AUTO, "type": "bpe"} | ({} if size is None else {"size": size})
        return Vocabulary(None, section, "new pieces, made of the training texts")
    own = base.tokenizer.tokenizer
    proto, said = own.serialized_model_proto(), f"the model's {own.get_piece_size():,} pieces"
    if setting == EXTEND and (lacks := tokenizers.unwritable(own, training).letters):
        proto = tokenizers.extended(proto, list(lacks))
        said += f" and {len(lacks)} more: {listed(list(lacks))}"
    if words := (config.get("finetuning") or {}).get("words"):
        _check_words(words, training)
        proto = tokenizers.with_words(proto, words)
        said += f" and {len(words)} words as pieces of their own: {listed(words)}"
    folder = tokenizers.place_of(config, proto)
    if not (folder / tokenizers.MODEL).is_file():
        tokenizers.write(proto, folder)
    return _of_pieces(folder, said)


def _check_words(words: Sequence[str], training: Sequence[str]) -> None:
    """Make sure that there are training texts with each of the words that a vocabulary is extended by.

    Raises:
        InputError: there is none with one of them, so that its outputs would stay random.
    """
    known = {word for text in training for word in text.split()}
    if missing := [word for word in words if word not in known]:
        raise InputError(
            f"--words: no training text has {listed(missing)}, so that no model could learn it; leave it out"
        )


def _of_pieces(folder: Path, said: str) -> Vocabulary:
    return Vocabulary(None, {"dir": str(folder), "type": "bpe"}, said)
