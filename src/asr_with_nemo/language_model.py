"""n-gram language models of words or of characters: made of transcripts, written as ARPA files, and scored.

An ARPA file is a table of n-grams with their log10 probability and back-off weight, which KenLM and NeMo read too. What
it was made of stands in a JSON file beside it, under the same name, with the weights that a beam search was tuned to.
"""

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from asr_with_nemo import archives, manifest
from asr_with_nemo.errors import InputError

Ngram = tuple[str, ...]

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
SMOOTHING = "interpolated modified Kneser-Ney"

# Longer ones lower the perplexity of AN4's dev set (a model of characters hardly), but make no fewer word errors than 3
# words.
WORD_ORDER, CHARACTER_ORDER = 3, 6

LABELS = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
"""The letters of the course's models, in the order of their outputs (`model.labels` of configs/config.yaml)."""

TOKEN_OFFSET = 100
"""NeMo's `beam_batch` reads the letter that is output number i as chr(i + 100)."""

_LN10 = math.log(10)


class LanguageModel:
    """An n-gram model with back-off: the probability of each token after the n-1 before it.

    A history is looked up as it is; where the model hasn't seen the token after it, the history's back-off weight
    counts, and the history loses its first token (S. Katz, IEEE Trans. ASSP 35(3), 1987).

    Attributes:
        log_probs: n-gram → natural log of its last token's probability after the others.
        backoffs: n-gram → natural log of its back-off weight; where it isn't named, 0.
        order: tokens of the longest n-gram.
    """

    def __init__(self, log_probs: Mapping[Ngram, float], backoffs: Mapping[Ngram, float]):
        self.log_probs = log_probs
        self.backoffs = backoffs
        self.order = max(map(len, log_probs))

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words (or characters) that the model knows, sorted; for a beam search, the lexicon."""
        return sorted(ngram[0] for ngram in self.log_probs if len(ngram) == 1 and ngram[0] not in _MARKS)

    @property
    def start(self) -> Ngram:
        """The history at the start of an utterance."""
        return self._shortened((START,))

    def score(self, token: str, history: Ngram) -> tuple[float, Ngram]:
        """What a token adds.

        Args:
            token: a word or character, or `</s>` for the utterance's end.
            history: `start`, or what the call for the token before returned.

        Returns:
            the natural log of its probability (-inf for one that the model doesn't know), and the history for the next
            token: two histories after which the model can't tell the future apart are the same.
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

    def _shortened(self, history: Ngram) -> Ngram:
        """The longest end of a history that some n-gram goes on from."""
        history = history[len(history) - self.order + 1 :] if len(history) >= self.order else history
        while history and history not in self.log_probs:
            history = history[1:]
        return history

    def log_prob(self, tokens: Iterable[str]) -> float:
        """The natural log of an utterance's probability, its end included."""
        total, history = 0.0, self.start
        for token in (*tokens, END):
            log_prob, history = self.score(token, history)
            total += log_prob
        return total

    def perplexity(self, texts: Iterable[Sequence[str]]) -> float:
        """exp of the mean -log probability of a token, ends included; inf where a token is unknown.

        Args:
            texts: utterances as lists of tokens.
        """
        texts = list(texts)
        tokens = sum(len(text) + 1 for text in texts)
        return math.exp(-sum(map(self.log_prob, texts)) / tokens) if tokens else math.nan


_MARKS = {START, END, UNKNOWN}


# --- Making one -------------------------------------------------------------------------------------------------------


def build(texts: Iterable[Sequence[str]], order: int, lexicon: Iterable[str] = ()) -> LanguageModel:
    """Count n-grams and smooth them: interpolated modified Kneser-Ney.

    Source: S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer
    Speech and Language 13(4), 1999. Three discounts an order, from the counts of counts; 0.5, 1 and 1.5 where a text is
    too small or too regular to tell them. Below the single words is the uniform distribution over all words and the
    end, so that a word of the lexicon that the texts lack has some probability too.

    Args:
        texts: utterances as lists of tokens, without <s> and </s>.
        order: tokens of the longest n-gram, 1 or more.
        lexicon: further tokens that the model shall know.

    Raises:
        InputError: the order is below 1, there is no token at all, or a token is a mark such as <s>.
    """
    if order < 1:
        raise InputError(f"order {order}: expected 1 or more tokens an n-gram")
    counts = _count(texts, order)
    vocabulary = {END, *lexicon}.union(*counts[0])
    if not vocabulary - {END} or (vocabulary - {END}) & _MARKS:
        raise InputError("the texts of a language model must have words, and none of them may be <s>, </s> or <unk>")

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
    """The counts of each order, from 1: how often an n-gram stands there, below the highest order after how many."""
    seen = [Counter() for _ in range(order)]
    for text in texts:
        tokens = (START, *text, END)
        for size, table in enumerate(seen, 1):
            table.update(tokens[first : first + size] for first in range(len(tokens) - size + 1))
    del seen[0][(START,)]
    counts = seen[order - 1 :]
    for size in range(order - 1, 0, -1):
        # What begins with <s> has nothing before it: its own count stays.
        table = Counter({ngram: count for ngram, count in seen[size - 1].items() if ngram[0] == START})
        table.update(longer[1:] for longer in seen[size])
        counts.insert(0, table)
    return counts


def _discounts(counts: Iterable[int]) -> tuple[float, float, float, float]:
    """What is taken off an n-gram that was counted 0, 1, 2, or 3 and more times (Chen and Goodman's equation 26)."""
    n = Counter(counts)
    if all(n[count] for count in (1, 2, 3, 4)):
        y = n[1] / (n[1] + 2 * n[2])
        discounts = tuple(count - (count + 1) * y * n[count + 1] / n[count] for count in (1, 2, 3))
        if all(0 < discount < count for count, discount in enumerate(discounts, 1)):
            return 0.0, *discounts
    return 0.0, 0.5, 1.0, 1.5


# --- ARPA files -------------------------------------------------------------------------------------------------------


def write_arpa(model: LanguageModel, path: str | os.PathLike) -> None:
    """Write a model as an ARPA file; the same model gives the same bytes.

    Raises:
        InputError: it can't be written there.
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
            # The longest n-grams are no history of anything, so they have no back-off weight.
            lines.append(line if size == model.order else f"{line}\t{model.backoffs.get(ngram, 0.0) / _LN10:.6f}")
    lines += ["", "\\end\\", ""]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_if_changed(path, "\n".join(lines))
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def read_arpa(path: str | os.PathLike) -> LanguageModel:
    """Read an ARPA file, whoever made it.

    Raises:
        InputError: it isn't there, or isn't a whole ARPA file.
    """
    path = Path(path)
    missing = "no such language model; make one with scripts/build_lm.py"
    lines = manifest.read_text(path, "an ARPA file", missing, encoding="utf-8").split("\n")
    log_probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    promised: dict[int, int] = {}
    size, ended = None, False  # of the n-grams that follow; 0 in the header, None before it
    for number, line in enumerate(lines, 1):
        line = line.strip("\r ")
        if line == "\\data\\":
            size = 0
        elif size is None or not line:
            continue
        elif line == "\\end\\":
            ended = True
            break
        elif section := re.fullmatch(r"\\(\d+)-grams:", line):
            size = int(section[1])
        elif header := re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line) if size == 0 else None:
            promised[int(header[1])] = int(header[2])
        else:
            try:
                ngram, log_prob, backoff = _parse(line, size)
            except ValueError:
                raise InputError(f"{path}, line {number}: expected an n-gram of {size} tokens, got {line!r}") from None
            log_probs[ngram] = log_prob * _LN10
            if backoff:
                backoffs[ngram] = backoff * _LN10
    found = Counter(map(len, log_probs))
    if not ended or not found or found != {size: count for size, count in promised.items() if count}:
        raise InputError(f"{path}: not an ARPA file, or cut short; make it again with scripts/build_lm.py")
    if (END,) not in log_probs:
        raise InputError(f"{path}: lacks {END}, the end of an utterance; make it again with scripts/build_lm.py")
    return LanguageModel(log_probs, backoffs)


def _parse(line: str, size: int) -> tuple[Ngram, float, float]:
    # Tabs part the fields and spaces the tokens; some programs write spaces only. A token of NeMo's may be a character
    # that Python takes for white space, so that a plain split would lose it.
    log_prob, *fields = re.split("[\t ]+", line)
    ngram, backoff = tuple(fields[:size]), fields[size:]
    if not size or len(ngram) < size or len(backoff) > 1:
        raise ValueError
    return ngram, float(log_prob), float(backoff[0]) if backoff else 0.0


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
        manifest.write_if_changed(path, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
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


def splits_of(path: str | os.PathLike) -> set[str]:
    """Which held-out sets a manifest has recordings or speakers of: "dev", "test", both or neither.

    The held-out sets are the `dev_manifest.json` and `test_manifest.json` beside this manifest and at the root of each
    recording's corpus, and for AN4 the folder of the test recordings.

    Raises:
        InputError: a manifest can't be read.
    """
    from asr_with_nemo import an4  # late: a search needs none of it, nor of the scipy that comes with it

    path = Path(path)
    utterances = manifest.read_manifest(path, check_audio=False)
    folders = {Path(os.path.realpath(path)).parent}
    found = set()
    for parts in {Path(os.path.realpath(row["audio_filepath"])).parts[:-1] for row in utterances}:
        if an4.SPLITS["test"] in parts:
            found.add("test")
        if "wav" in parts:
            folders.add(Path(*parts[: len(parts) - 1 - parts[::-1].index("wav")]))
    for split in {"dev", "test"} - found:
        for held in (folder / f"{split}_manifest.json" for folder in folders):
            if held.is_file() and manifest.shared_with(utterances, manifest.read_manifest(held, check_audio=False)):
                found.add(split)
    return found


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
    lines = manifest.read_text(path, "text", missing).splitlines()
    held = set()
    if next(filter(str.strip, lines), "").lstrip().startswith("{"):
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
    lines = manifest.read_text(path, "a dictionary", missing).splitlines()
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
    model = build(utterances, order, known)
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
