"""The spelling of a model's pieces of words, without their tokenizer: from pieces to text, and from text to pieces.

A SentencePiece tokenizer is a list of pieces, each with a score. They are read from it once (`of`), kept as JSON in an
exported model, and used there without SentencePiece, whose texts these are.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.recognizer import check_has_frames

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel
    from sentencepiece import SentencePieceProcessor

_UNKNOWN = "▁⁇▁"
"""What SentencePiece writes for the piece that stands for unknown letters."""
_KINDS = ("bpe", "unigram")


@dataclass(frozen=True)
class Spelling:
    """The pieces of words that a model writes.

    Attributes:
        pieces: as they are written, in the order of the model's outputs; ▁ is the space before a word, and marks such
            as <s> are empty.
        scores: the tokenizer's score of each piece.
        kind: "bpe", which joins the neighbours whose joint piece has the highest score, or "unigram", which chooses
            the pieces with the highest sum of scores.
        punctuation: the marks before which a space is left out.

    Example:
        >>> spelling = Spelling(("▁", "g", "o", "go", "▁go", "."), (-9, -9, -9, -1, -2, -9), "bpe", ".")
        >>> spelling.columns("go go")
        [4, 4]
        >>> spelling.text([4, 4, 0, 5])
        'go go.'
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kind: str
    punctuation: str

    def text(self, columns: Sequence[int]) -> str:
        """Return the text that pieces spell, by their columns in the model's outputs."""
        return self.tidy("".join(self.pieces[column] for column in columns).replace("▁", " "))

    def tidy(self, text: str) -> str:
        """Remove the space around a text, and before its punctuation marks, as NeMo does."""
        return (self._before_marks.sub(r"\1", text) if self.punctuation else text).strip()

    def columns(self, text: str) -> list[int]:
        """Return the pieces that spell a text, as the tokenizer cuts it, by their columns in the model's outputs.

        Raises:
            InputError: the text has a character that isn't in any piece.
        """
        spelled = "▁" + "▁".join(text.split())
        strange = sorted(set(spelled) - set("".join(self._column)))
        if strange:
            raise InputError(f"{text!r} has {' '.join(map(repr, strange))}, which the model can't write")
        parts = self._joined(spelled) if self.kind == "bpe" else self._likeliest(spelled)
        return [self._column[part] for part in parts]

    def as_json(self) -> str:
        """Return the spelling for the metadata of a file."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @cached_property
    def _before_marks(self) -> re.Pattern:
        return re.compile(rf"\s([{re.escape(self.punctuation)}])")

    @cached_property
    def _column(self) -> dict[str, int]:
        return {piece: column for column, piece in enumerate(self.pieces) if piece not in ("", _UNKNOWN)}

    def _joined(self, text: str) -> list[str]:
        parts = list(text)
        while True:
            pairs = [self._column.get(one + other) for one, other in pairwise(parts)]
            known = [(-self.scores[column], place) for place, column in enumerate(pairs) if column is not None]
            if not known:
                return self._checked(parts, text)
            _, place = min(known)
            parts[place : place + 2] = ["".join(parts[place : place + 2])]

    def _likeliest(self, text: str) -> list[str]:
        longest = max(map(len, self._column))
        best: list[tuple[float, int]] = [(0.0, 0)]  # of each beginning of the text: its score, its last piece's start
        for end in range(1, len(text) + 1):
            ways = [(-math.inf, end - 1)]
            for start in range(max(0, end - longest), end):
                column = self._column.get(text[start:end])
                if column is not None:
                    ways.append((best[start][0] + self.scores[column], start))
            best.append(max(ways))
        parts, end = [], len(text)
        while end:
            parts.append(text[best[end][1] : end])
            end = best[end][1]
        return self._checked(parts[::-1], text)

    def _checked(self, parts: list[str], text: str) -> list[str]:
        if all(part in self._column for part in parts):
            return parts
        raise InputError(f"{text.replace('▁', ' ').strip()!r} can't be spelled with the model's pieces")


def of(model: "ASRModel") -> Spelling | None:
    """Return the spelling of a loaded recogniser; None if it writes letters.

    Raises:
        InputError: its tokenizer spells unknown letters as bytes, or isn't of one of the known kinds.
    """
    from nemo.collections.asr.parts.utils.tokenizer_utils import extract_punctuation_from_vocab
    from sentencepiece import sentencepiece_model_pb2

    if not hasattr(model, "tokenizer"):
        return None
    check_has_frames(model, "pieces of words", "for a language model, take a CTC model or a transducer")
    tokenizer: SentencePieceProcessor = model.tokenizer.tokenizer
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(tokenizer.serialized_model_proto())
    kind = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type).lower()
    size = tokenizer.get_piece_size()
    if kind not in _KINDS or any(map(tokenizer.is_byte, range(size))):
        what = f"of kind {kind}" if kind not in _KINDS else "with bytes as pieces"
        raise InputError(f"the model has a tokenizer {what}; expected SentencePiece's bpe or unigram, without bytes")
    marks = getattr(model.tokenizer, "supported_punctuation", None)
    marks = extract_punctuation_from_vocab(model.tokenizer.vocab) if marks is None else marks
    return Spelling(
        pieces=written(tokenizer),
        scores=tuple(map(tokenizer.get_score, range(size))),
        kind=kind,
        punctuation="".join(sorted(marks)),
    )


@lru_cache(maxsize=4)  # it is asked for each recording
def written(tokenizer: "SentencePieceProcessor") -> tuple[str, ...]:
    """Return a tokenizer's pieces as it writes them: an unknown letter as a word, marks such as <s> not at all."""
    return tuple(
        _UNKNOWN if tokenizer.is_unknown(column) else "" if tokenizer.is_control(column) else piece
        for column, piece in enumerate(map(tokenizer.id_to_piece, range(tokenizer.get_piece_size())))
    )


def parsed(content: str) -> Spelling:
    """Read what `Spelling.as_json` wrote.

    Raises:
        ValueError: it is of another form.
    """
    fields = json.loads(content)
    check: dict[str, Callable[[object], bool]] = {
        "pieces": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
        "scores": lambda value: isinstance(value, list) and all(type(one) in (int, float) for one in value),
        "kind": lambda value: value in _KINDS,
        "punctuation": lambda value: isinstance(value, str),
    }
    wrong = [name for name, holds in check.items() if not isinstance(fields, dict) or not holds(fields.get(name))]
    if wrong or len(fields["pieces"]) != len(fields["scores"]):
        raise ValueError(f"its pieces can't be read ({', '.join(wrong) or 'a score is missing'})")
    return Spelling(tuple(fields["pieces"]), tuple(fields["scores"]), fields["kind"], fields["punctuation"])
