"""N-gram language models: modified Kneser-Ney smoothing, and reading and writing of ARPA files."""

import io
import math
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from asr_with_nemo.base.files import open_gzip, read_text, write_if_changed
from asr_with_nemo.errors import InputError

Ngram = tuple[str, ...]
START, END, UNKNOWN = "<s>", "</s>", "<unk>"
SMOOTHING = "interpolated modified Kneser-Ney"
# Longer n-grams lower the perplexity of AN4's dev set (with characters, hardly), but make no fewer word errors than 3
# words.
WORD_ORDER, CHARACTER_ORDER = 3, 6
_LN10 = math.log(10)


class LanguageModel:
    """N-gram model with back-off: the probability of each token given the n-1 tokens before it.

    If the model hasn't seen a token after a history, the history's back-off weight applies, and the history loses its
    first token (S. Katz, IEEE Trans. ASSP 35(3), 1987).

    Attributes:
        log_probs: n-gram → natural log of its last token's probability given the others.
        backoffs: n-gram → natural log of its back-off weight; 0 if missing.
        order: number of tokens of the longest n-gram.
    """

    def __init__(self, log_probs: Mapping[Ngram, float], backoffs: Mapping[Ngram, float]):
        self.log_probs = log_probs
        self.backoffs = backoffs
        self.order = max(map(len, log_probs))

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words (or characters) that the model knows, sorted; for a beam search, the lexicon."""
        return sorted(ngram[0] for ngram in self.log_probs if len(ngram) == 1 and ngram[0] not in _MARKS)

    @property
    def start(self) -> Ngram:
        """History at the start of an utterance."""
        return self._shortened((START,))

    def score(self, token: str, history: Ngram) -> tuple[float, Ngram]:
        """Score a token.

        Args:
            token: a word or character, or `</s>` for the end of the utterance.
            history: `start`, or the history returned for the previous token.

        Returns:
            the natural log of the token's probability (-inf if unknown), and the history for the next token, shortened
            so that histories with the same continuations are equal.
        """
        if (token,) not in self.log_probs:
            token = UNKNOWN
        cost, context = 0.0, history
        while (*context, token) not in self.log_probs:
            if not context:  # unknown, in a model without <unk>
                return -math.inf, ()
            cost += self.backoffs.get(context, 0.0)
            context = context[1:]
        return cost + self.log_probs[(*context, token)], self._shortened((*context, token))

    def knows(self, token: str) -> bool:
        """Return whether a token is in the vocabulary."""
        return (token,) in self.log_probs and token not in _MARKS

    def score_unknown(self, token: str, history: Ngram) -> tuple[float, Ngram]:
        """Score a token that isn't in the vocabulary, as `score` does, as if it were a rare one.

        Its probability is that of `<unk>`, or of the least likely token if that is more, or if the model has no
        `<unk>`; so the probabilities of all tokens sum to a little more than 1.
        """
        log_prob, after = self.score(UNKNOWN, history)
        backoff = sum(self.backoffs.get(history[first:], 0.0) for first in range(len(history)))
        return max((log_prob, after), (backoff + self._least, ()))

    @cached_property
    def _least(self) -> float:
        return min(self.log_probs[word,] for word in self.vocabulary)

    def _shortened(self, history: Ngram) -> Ngram:
        """Return the longest suffix of a history that some n-gram continues."""
        history = history[len(history) - self.order + 1 :] if len(history) >= self.order else history
        while history and history not in self.log_probs:
            history = history[1:]
        return history

    def log_prob(self, tokens: Iterable[str]) -> float:
        """Return the natural log of an utterance's probability, including its end."""
        total, history = 0.0, self.start
        for token in (*tokens, END):
            log_prob, history = self.score(token, history)
            total += log_prob
        return total

    def perplexity(self, texts: Iterable[Sequence[str]]) -> float:
        """Compute exp of the mean -log probability per token, including ends; inf if a token is unknown.

        Args:
            texts: utterances as lists of tokens.

        Example:
            >>> round(build_ngrams([["go"], ["stop"]], order=1).perplexity([["go"]]), 2)
            2.87
        """
        texts = list(texts)
        tokens = sum(len(text) + 1 for text in texts)
        return math.exp(-sum(map(self.log_prob, texts)) / tokens) if tokens else math.nan


_MARKS = {START, END, UNKNOWN}
_MARKS_IN_CAPITALS = {mark.upper(): mark for mark in _MARKS}
_MOST = 1e3  # of a logarithm; programs write -99 for none, and back-off weights of up to 2
_GROWTH = 20  # how many times its size a compressed file may unpack to; language models: four times
_GZIP, _KENLM = b"\x1f\x8b", b"mmap lm http://kheafield.com/code"


def build_ngrams(texts: Iterable[Sequence[str]], order: int, lexicon: Iterable[str] = ()) -> LanguageModel:
    """Estimate an n-gram model with interpolated modified Kneser-Ney smoothing.

    Source: S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer
    Speech and Language 13(4), 1999. Each order has three discounts from the counts of counts; 0.5, 1 and 1.5 if a text
    is too small or too regular to estimate them. Unigrams back off to the uniform distribution over all words and the
    end, so that a word of the lexicon that is missing in the texts has some probability too.

    Args:
        texts: utterances as lists of tokens, without <s> and </s>.
        order: tokens of the longest n-gram, 1 or more.
        lexicon: further tokens of the vocabulary.

    Raises:
        InputError: the order is below 1, there are no tokens, or a token is a mark such as <s>.
    """
    if order < 1:
        raise InputError(f"order {order}: expected 1 or more tokens per n-gram")
    counts = _count(texts, order)
    vocabulary = {END, *lexicon}.union(*counts[0])
    if not vocabulary - {END} or (vocabulary - {END}) & _MARKS:
        raise InputError("a language model's texts must have words, none of which may be <s>, </s> or <unk>")

    probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    for size, table in enumerate(counts, 1):
        discounts = _discounts(table.values())
        after: dict[Ngram, list[Ngram]] = defaultdict(list)
        for ngram in table:
            after[ngram[:-1]].append(ngram)
        if size == 1:
            after[()] += [(token,) for token in sorted(vocabulary) if (token,) not in table]
        for context, ngrams in after.items():
            taken = [discounts[min(table[ngram], 3)] for ngram in ngrams]
            total = sum(table[ngram] for ngram in ngrams)
            backoff = sum(taken) / total if total else 1.0
            for ngram, discount in zip(ngrams, taken, strict=True):
                lower = probs[ngram[1:]] if size > 1 else 1 / len(ngrams)
                probs[ngram] = (table[ngram] - discount) / max(total, 1) + backoff * lower
            if size > 1:
                backoffs[context] = math.log(backoff)
    log_probs = {ngram: math.log(prob) for ngram, prob in probs.items()}
    return LanguageModel(log_probs | {(START,): -99 * _LN10}, backoffs)  # <s> is given, never predicted


def _count(texts: Iterable[Sequence[str]], order: int) -> list[Counter[Ngram]]:
    """Count n-grams of each order from 1: occurrences, and below the highest order the distinct tokens before them."""
    seen = [Counter() for _ in range(order)]
    for text in texts:
        tokens = (START, *text, END)
        for size, table in enumerate(seen, 1):
            table.update(tokens[first : first + size] for first in range(len(tokens) - size + 1))
    del seen[0][(START,)]
    counts = seen[order - 1 :]
    for size in range(order - 1, 0, -1):
        # An n-gram that begins with <s> has no token before it: it keeps its own count.
        table = Counter({ngram: count for ngram, count in seen[size - 1].items() if ngram[0] == START})
        table.update(longer[1:] for longer in seen[size])
        counts.insert(0, table)
    return counts


def _discounts(counts: Iterable[int]) -> tuple[float, float, float, float]:
    """Compute the discounts of n-grams with counts 0, 1, 2, and 3 or more (Chen and Goodman's equation 26)."""
    n = Counter(counts)
    if all(n[count] for count in (1, 2, 3, 4)):
        y = n[1] / (n[1] + 2 * n[2])
        discounts = tuple(count - (count + 1) * y * n[count + 1] / n[count] for count in (1, 2, 3))
        if all(0 < discount < count for count, discount in enumerate(discounts, 1)):
            return 0.0, *discounts
    return 0.0, 0.5, 1.0, 1.5


def write_arpa(model: LanguageModel, path: str | os.PathLike) -> None:
    """Write a model as an ARPA file; the same model gives the same bytes.

    Raises:
        InputError: the path can't be written.
    """
    path = Path(path)
    sizes: dict[int, list[Ngram]] = defaultdict(list)
    for ngram in sorted(model.log_probs):
        sizes[len(ngram)].append(ngram)
    lines = ["\\data\\", *(f"ngram {size}={len(sizes[size])}" for size in sorted(sizes))]
    for size in sorted(sizes):
        lines += ["", f"\\{size}-grams:"]
        for ngram in sizes[size]:
            line = f"{model.log_probs[ngram] / _LN10:.6f}\t{' '.join(ngram)}"
            # The longest n-grams are never a history, so they have no back-off weight.
            lines.append(line if size == model.order else f"{line}\t{model.backoffs.get(ngram, 0.0) / _LN10:.6f}")
    lines += ["", "\\end\\", ""]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(path, "\n".join(lines))
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def read_arpa(path: str | os.PathLike) -> LanguageModel:
    """Read an ARPA file of any program, compressed with gzip or not.

    Of an n-gram that is there twice, as some programs write </s>, the likelier counts.

    Raises:
        InputError: the file doesn't exist, or isn't a complete ARPA file; the error says what a binary file is.
    """
    path = Path(path)
    lines = _text_of(path).split("\n")
    log_probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    promised: dict[int, int] = {}
    found: Counter[int] = Counter()
    size, ended = None, False  # of the n-grams that follow; 0 in the header, None before it
    for number, line in enumerate(lines, 1):
        line = line.strip("\r ")
        if line.lower() == "\\data\\":
            size = 0
        elif size is None or not line:
            continue
        elif line.lower() == "\\end\\":
            ended = True
            break
        elif section := re.fullmatch(r"(?ai)\\(\d{1,3})-grams:", line):
            size = int(section[1])
        elif header := re.fullmatch(r"(?ai)ngram\s+(\d{1,3})\s*=\s*(\d{1,15})", line) if size == 0 else None:
            promised[int(header[1])] = int(header[2])
        else:
            try:
                ngram, log_prob, backoff = _parse(line, size)
            except ValueError:
                expected = f"an n-gram of {size} tokens" if size else "ngram SIZE=COUNT, as in a header"
                raise InputError(f"{path}, line {number}: expected {expected}, got {line[:200]!r}") from None
            found[size] += 1
            if log_prob * _LN10 <= log_probs.get(ngram, -math.inf):
                continue
            log_probs[ngram] = log_prob * _LN10
            if backoff:
                backoffs[ngram] = backoff * _LN10
    if not ended or not found or found != {size: count for size, count in promised.items() if count}:
        raise InputError(f"{path}: not an ARPA file, or cut short; make it again with scripts/build_lm.py")
    if (END,) not in log_probs:
        raise InputError(f"{path}: lacks {END}, the end of an utterance; make it again with scripts/build_lm.py")
    return LanguageModel(log_probs, backoffs)


def _text_of(path: Path) -> str:
    """Read an ARPA file's text."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(_KENLM))
        if start.startswith(_GZIP):
            with io.TextIOWrapper(open_gzip(path, _GROWTH), encoding="utf-8-sig", newline="\n") as file:
                start, text = b"", file.read()
                if not text.startswith(_KENLM.decode()):
                    return text
                start = _KENLM
    except FileNotFoundError:
        raise InputError(f"{path}: no such language model; make one with scripts/build_lm.py") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as an ARPA file ({error})") from error
    if start == _KENLM:
        raise InputError(
            f"{path}: a binary file of KenLM, which only KenLM reads; name the .arpa file that it was made from"
        )
    return read_text(path, "an ARPA file", "no such language model; make one with scripts/build_lm.py")


def is_language_model(path: str | os.PathLike) -> bool:
    """Return whether a file begins as an ARPA file, or as a binary one of KenLM does."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        with open_gzip(path, _GROWTH) if start == _GZIP else open(path, "rb") as file:
            head = file.read(4096)
    except (OSError, EOFError, zlib.error):
        return False
    return head.startswith(_KENLM) or bool(re.search(rb"(?im)^(\xef\xbb\xbf)?\\data\\\s*$", head))


def lowered(model: LanguageModel) -> LanguageModel:
    """Return a model with its words in lower case."""

    def lower(table: Mapping[Ngram, float]) -> dict[Ngram, float]:
        return {tuple(token.lower() for token in ngram): value for ngram, value in table.items()}

    return LanguageModel(lower(model.log_probs), lower(model.backoffs))


def _parse(line: str, size: int) -> tuple[Ngram, float, float]:
    # Tabs separate fields and spaces separate tokens; some programs write only spaces. A token of NeMo's may be a
    # character that Python takes for white space, which a plain split would lose.
    log_prob, *fields = re.split("[\t ]+", line)
    ngram, backoff = tuple(_MARKS_IN_CAPITALS.get(token, token) for token in fields[:size]), fields[size:]
    if not size or len(ngram) < size or len(backoff) > 1:
        raise ValueError
    values = float(log_prob), float(backoff[0]) if backoff else 0.0
    if any(value != value or value > _MOST for value in values):  # NaN, or more than any program writes
        raise ValueError
    return ngram, *values
