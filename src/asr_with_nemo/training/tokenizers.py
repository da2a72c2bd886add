"""The tokenizer of a model that writes pieces of words: made for the corpus, checked against it, kept with the run.

NeMo's configs for such models have a section `model.tokenizer` with the folder of a SentencePiece tokenizer. With
`dir: auto`, the tokenizer is made of the training texts; `size` sets its number of pieces.
"""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from asr_with_nemo.base.files import replacing
from asr_with_nemo.base.values import is_whole
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.model_file import TOKENIZER

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

AUTO = "auto"
"""The value of `model.tokenizer.dir` with which a tokenizer is made."""
MODEL, VOCABULARY = "tokenizer.model", "vocab.txt"
_FILES = (MODEL, "tokenizer.vocab", VOCABULARY)
SPACE = "▁"
"""What SentencePiece writes for a space."""
_LIKELIER = 0.1  # nats, of a word as one piece
_WORDS_PER_PIECE, _MOST_PIECES = 50, 1024
MOST_NAMED = 5
"""Texts that a message about those of a manifest lists."""


@dataclass(frozen=True)
class Unwritable:
    """The texts of a manifest that a tokenizer can't write.

    Attributes:
        texts: how many of the manifest's texts.
        total: the number of texts.
        letters: the characters that it lacks, with how often the texts have them, the most frequent first.
        examples: a few of the texts, with what the tokenizer makes of them.
    """

    texts: int
    total: int
    letters: dict[str, int]
    examples: list[tuple[str, str]]

    @property
    def summary(self) -> str:
        """How many texts, and the letters."""
        letters = ", ".join(f"{letter!r} ({count:,})" for letter, count in self.letters.items())
        return f"{self.texts:,} of {self.total:,} texts can't be written as they are" + (letters and f": {letters}")

    @property
    def listing(self) -> str:
        """The examples, a line each."""
        return "\n".join(f"  {text!r} becomes {written!r}" for text, written in self.examples)

    def __str__(self) -> str:
        return f"{self.summary}\n{self.listing}"


def fitting_size(texts: Iterable[str]) -> int:
    """Return a number of pieces for a corpus: its letters, and one more for every 50 words, at most 1,024 in all.

    So a small corpus has pieces that are frequent enough to be learnt; 1,024 is what NVIDIA's English models have.

    Example:
        >>> fitting_size(["go on"] * 500)
        27
    """
    letters, words = set(), 0
    for text in texts:
        letters.update(text)
        words += len(text.split())
    return max(len(letters) + 2, min(_MOST_PIECES, len(letters | {SPACE}) + 2 + words // _WORDS_PER_PIECE))


def make(texts: Sequence[str], folder: Path, size: int | None = None) -> int:
    """Make a SentencePiece tokenizer (unigram) of texts, in the files that NeMo wants, and return its pieces' number.

    Args:
        texts: the training transcripts.
        folder: for the files; it appears when they are complete.
        size: pieces, by default `fitting_size`; there may be fewer, if the texts have no more.

    Raises:
        InputError: the texts are empty, have too many letters for the size, or the folder can't be written.
    """
    import sentencepiece

    size = size or fitting_size(texts)
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            vocab_size=size,
            model_type="unigram",
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"model.tokenizer: no tokenizer of {size} pieces can be made of the training texts ({reason}); "
            f"set another size: +model.tokenizer.size={2 * size}"
        ) from error
    return write(written.getvalue(), folder)


def write(proto: bytes, folder: Path) -> int:
    """Write a SentencePiece tokenizer in the files that NeMo wants, and return the number of its pieces.

    Args:
        proto: SentencePiece's model.
        folder: for the files; it appears when they are complete.

    Raises:
        InputError: the folder can't be written.
    """
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)
    rows = [(pieces.id_to_piece(column), pieces.get_score(column)) for column in range(pieces.get_piece_size())]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder, shared=True) as partial:
            partial.mkdir()
            (partial / MODEL).write_bytes(proto)
            (partial / "tokenizer.vocab").write_text("".join(f"{p}\t{s:g}\n" for p, s in rows), encoding="utf-8")
            (partial / VOCABULARY).write_text("".join(f"{piece}\n" for piece, _ in rows), encoding="utf-8")
    except OSError as error:
        if (folder / MODEL).is_file():  # another process of the training has made it at the same moment
            return len(rows)
        raise InputError(f"{folder}: can't be written ({error.strerror}); set exp_manager.exp_dir") from error
    return len(rows)


def place_of(config: DictConfig, content: bytes) -> Path:
    """Return the folder, below that of the trainings, of the tokenizer with a content: its model, or its texts."""
    runs = Path((config.get("exp_manager") or {}).get("exp_dir") or "runs")
    return runs / "tokenizers" / hashlib.sha256(content).hexdigest()[:12]


def extended(proto: bytes, letters: Sequence[str]) -> bytes:
    """Return a tokenizer with more pieces: letters that it lacks, after its own, so that those keep their places.

    They have the score of the rarest piece, and so are only used where nothing else fits.

    Args:
        proto: SentencePiece's model.
        letters: the characters, none of which is a piece.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto.FromString(proto)
    lowest = min(piece.score for piece in model.pieces)
    missing = {SPACE} - {piece.piece for piece in model.pieces}  # without it, no word can begin with a new letter
    for letter in [*missing, *letters]:
        model.pieces.add(piece=letter, score=lowest, type=ModelProto.SentencePiece.NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def with_words(proto: bytes, words: Sequence[str]) -> bytes:
    """Return a tokenizer that writes each of some words as one piece, after its own, so that those keep their places.

    A unigram model takes the likeliest pieces, and a word's is a little likelier than those that it had before. A BPE
    model merges pieces two by two; there the word is one that is taken before. A longer word with the same beginning
    may be written with the new piece, too.

    Args:
        proto: SentencePiece's model, which can write the words.
        words: without spaces; those that are one piece already are passed over.
    """
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

    model, processor = ModelProto.FromString(proto), SentencePieceProcessor(model_proto=proto)
    scores = {piece.piece: piece.score for piece in model.pieces}
    is_bpe = model.trainer_spec.model_type == TrainerSpec.BPE
    kind = ModelProto.SentencePiece.USER_DEFINED if is_bpe else ModelProto.SentencePiece.NORMAL
    for word in words:
        parts = processor.encode(word, out_type=str)
        piece = SPACE + "".join(parts).removeprefix(SPACE)
        if piece not in scores:
            scores[piece] = sum(scores.get(part, 0.0) for part in parts) + _LIKELIER
            model.pieces.add(piece=piece, score=0.0 if is_bpe else scores[piece], type=kind)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def load(folder: Path) -> "SentencePieceProcessor":
    """Load the tokenizer of a folder.

    Raises:
        InputError: the folder has none.
    """
    import sentencepiece

    file = folder / MODEL
    if not file.is_file():
        raise InputError(
            f"{folder}: has no {MODEL}; model.tokenizer.dir is the folder of a SentencePiece tokenizer, or "
            f"{AUTO}, with which one is made of the training texts"
        )
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{file}: not a SentencePiece model, or damaged") from error


def pieces_of(tokenizer: "SentencePieceProcessor") -> list[str]:
    """Return the pieces of a tokenizer, in the order of their numbers."""
    return [tokenizer.id_to_piece(column) for column in range(tokenizer.get_piece_size())]


def unwritable(pieces: "SentencePieceProcessor", texts: Iterable[str]) -> Unwritable:
    """Find the texts that a tokenizer can't write: written and read again, they are others."""
    letters: Counter[str] = Counter()
    found, total, examples, known = 0, 0, [], {}
    for text in texts:
        total += 1
        columns = pieces.encode(text)
        written = pieces.decode(columns)
        if written == " ".join(text.split()) and pieces.unk_id() not in columns:
            continue
        found += 1
        for letter in set(text) - known.keys() - {" "}:
            known[letter] = pieces.unk_id() not in pieces.encode(letter)
        letters.update(letter for letter in text if not known.get(letter, True))
        if len(examples) < MOST_NAMED:
            examples.append((text, written))
    return Unwritable(found, total, dict(letters.most_common()), examples)


def prepare(config: DictConfig, texts: Mapping[str, Sequence[str]]) -> None:
    """Make or find the tokenizer of a config, check it, and say which texts it can't write.

    Args:
        config: a training config with a section `model.tokenizer`; its `dir` is set, and `size` is removed.
        texts: those that the model has to write, by the manifest that they are in; first those of the training, of
            which a tokenizer is made.

    Raises:
        InputError: there is no tokenizer and none can be made, or it is of another kind.
    """
    section = config.model.tokenizer
    if section.get("dir") == AUTO and OmegaConf.is_missing(section, "type"):
        section.type = "bpe"  # the kind that is made
    if section.get("type") == "agg":
        raise InputError(
            "model.tokenizer.type=agg: a tokenizer for each language; expected bpe (SentencePiece), one for all. "
            f"model.tokenizer.type=bpe +model.tokenizer.dir={AUTO} ~model.tokenizer.langs makes it of the training "
            "texts"
        )
    if section.get("type") != "bpe":
        raise InputError(f"model.tokenizer.type={section.get('type')}: expected bpe (SentencePiece)")
    if OmegaConf.is_missing(section, "dir") or not section.get("dir"):
        raise InputError(f"no tokenizer: give model.tokenizer.dir={AUTO} to make one, or the folder of one")
    with open_dict(section):
        size = section.pop("size", None)
    if size is not None and (not is_whole(size) or not 2 <= size <= 65_536):
        raise InputError(f"model.tokenizer.size={size}: expected the number of pieces, a whole number")
    log = rank_zero_only(print)
    if section.dir == AUTO:
        training = list(next(iter(texts.values())))
        place = place_of(config, json.dumps([training, size]).encode())
        if not (place / MODEL).is_file():
            make(training, place, size)
        section.dir = str(place)
    pieces = load(Path(section.dir))
    log(f"tokenizer: {pieces.get_piece_size():,} pieces, in {section.dir}")
    for path, written in texts.items():
        wrong = unwritable(pieces, written)
        if wrong.texts:
            log(f"warning: {path}: {wrong}")


@rank_zero_only
def keep(config: DictConfig, folder: Path) -> None:
    """Copy the tokenizer of a config into the folder of its training, for which its checkpoints need it.

    Raises:
        OSError: it can't be written.
    """
    place = folder / TOKENIZER
    if "tokenizer" in config.model and not (place / MODEL).is_file():
        source = Path(config.model.tokenizer.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            partial.mkdir()
            for name in _FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, partial / name)
