"""What can be wrong with a corpus: kinds of problems, how they are found, and what `--fix` and `--drop` do about them.

A row whose recording or transcript can't be used at all is always left out. What is only doubtful stays, unless it
shall be dropped. Source of the outlier rule: B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers", ASQC
1993 (the modified z-score, from the median and the median deviation).
"""

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from asr_with_nemo.own_data.recordings import LONG_PAUSE, Measures
from asr_with_nemo.own_data.store import CorpusStore

_SILENT = 0.001  # of the largest possible sample: -60 dB
_CLIPPED = 0.01  # of the samples
_SHORTEST = 0.1  # seconds
_SECONDS_PER_FRAME = 0.02  # of the models of this course
_OUTLIER, _LEAST_FACTOR = 3.5, 2.5  # modified z-score; and times faster or slower than the middle at the least
_RARE = 3  # texts; a letter that stands in fewer can't be learned
_RARE_FROM = 100  # texts, from which on a letter can be rare
_SMALL_ALPHABET = 200  # letters; in a larger one, most are rare
_FEW_DIGITS = 0.05  # of all characters


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        title: what it is.
        advice: what to do about it.
        lost: whether a row with it is always left out.
        drop: whether `--drop` leaves such a row out.
        fix: what `--fix` does about it; "" for nothing.
    """

    title: str
    advice: str
    lost: bool = False
    drop: bool = True
    fix: str = ""


KINDS = {
    "no audio": Kind("the recording isn't there", "put it where the row says, or take the row out", lost=True),
    "several": Kind("several recordings have that name", "name it with its folder in the table", lost=True),
    "unreadable": Kind("the recording can't be read", "get the file again, or convert it to WAV", lost=True),
    "no sound": Kind("the recording holds no sound", "record it again, or take the row out", lost=True),
    "too long": Kind("the recording is too long for an utterance", "cut it, or raise --longest", lost=True),
    "no text": Kind("there is no text", "write what is said, or take the row out", lost=True),
    "no label": Kind("the label map has no such label", "add it to the label map", lost=True),
    "no match": Kind("the name isn't as the pattern", "rename the file, or change --pattern", lost=True),
    "broken row": Kind("the row is damaged", "mend the table there (columns, quotes)", lost=True),
    "leak": Kind("the same recording is in another split", "keep one of the two", lost=True),
    "unnameable": Kind("the file's name isn't Unicode", "rename it (convmv changes the names of a folder)", lost=True),
    "cut short": Kind("the file is shorter than it says", "get it again: the end of what was said may be missing"),
    "silence": Kind("nothing can be heard", "record it again, or drop it"),
    "clipping": Kind("the sound is clipped", "record it again with less gain, or drop it"),
    "very short": Kind(f"shorter than {_SHORTEST} seconds", "listen: what was said can't be in there"),
    "too much text": Kind(
        "the text is too long for the recording, so that CTC can't align it", "check that the text is this recording's"
    ),
    "fast": Kind("spoken much faster than the others", "check that the text is this recording's"),
    "slow": Kind("spoken much slower than the others", "check that the text is whole, and this recording's"),
    "long pauses": Kind(
        f"more than {LONG_PAUSE:g} seconds without speech before or after it",
        "cut them off: they cost time, and no more",
        drop=False,
        fix="cut off",
    ),
    "same recording": Kind("the same recording with the same text stands before", "keep one of them"),
    "other text": Kind("the same recording stands there with another text", "find out which is right"),
    "mojibake": Kind("letters were read in a wrong encoding", "save the table as UTF-8", fix="read again"),
    "annotation": Kind("a remark in brackets that nobody said", "take it out of the text", fix="taken out"),
    "mixed scripts": Kind("a word in letters of two scripts", "write it in one", fix="put right"),
    "symbol": Kind("a sign that is read as a word", "write the word"),
    "digits": Kind("digits in a text of words", "--digits spell --language CODE", fix="spelled, with --language"),
    "rare letter": Kind(
        f"a letter that stands in fewer than {_RARE} texts can't be learned", "write it otherwise, or drop the row"
    ),
    "outside alphabet": Kind(
        "letters that the given alphabet lacks",
        "write them otherwise, or give the model another alphabet",
        fix="replaced",
    ),
    "encoding": Kind(
        "the line isn't UTF-8 and was read as Windows-1252", "look at its letters; --encoding names another", drop=False
    ),
    "other rate": Kind("another rate than most", "none needed: it was resampled", drop=False),
    "no row": Kind("a recording that no row names", "add a row for it, if it belongs to the corpus", drop=False),
}
"""Kind → what it is and what to do about it."""
Found = tuple[str, str, str]
"""A problem of a row: its kind, the detail, and what was done about it."""


def problems_of(text: str, measures: Measures) -> Iterator[Found]:
    """What is wrong with one row by itself.

    Args:
        text: the normalised transcript.
        measures: of its recording.
    """
    pauses = max(measures.first, measures.seconds - measures.last)
    if not text:
        yield "no text", "", ""
    if measures.cut:
        yield "cut short", measures.coding, ""
    if measures.peak < _SILENT:
        yield "silence", f"at most {20 * math.log10(max(measures.peak, 1e-6)):.0f} dB", ""
    elif pauses > LONG_PAUSE or measures.trimmed:
        done = f"fixed: {measures.trimmed:.1f} s cut off" if measures.trimmed else ""
        yield "long pauses", f"{measures.trimmed or pauses:.1f} s", done
    if measures.clipped > _CLIPPED:
        yield "clipping", f"{measures.clipped:.0%} of the samples", ""
    if measures.seconds < _SHORTEST:
        yield "very short", f"{measures.seconds:.2f} s", ""
    needed, frames = frames_needed(text), int(measures.seconds / _SECONDS_PER_FRAME)
    if needed > frames:
        yield "too much text", f"{needed} frames needed, {frames} there", ""


def frames_needed(text: str) -> int:
    """The frames that CTC needs to align a text: one a letter, and a blank between two that are alike."""
    return len(text) + sum(one == other for one, other in pairwise(text))


def pace(text: str, measures: Measures) -> float | None:
    """The log of letters a second of speech; None where there is none."""
    letters = len(text.replace(" ", ""))
    seconds = measures.last - measures.first
    return math.log(letters / seconds) if letters and seconds > 0 and measures.peak >= _SILENT else None


def find_in_corpus(store: CorpusStore) -> None:
    """Note the problems that a row has only among the others: outliers, copies, rare letters, digits, other rates."""
    store.db.execute("CREATE INDEX rows_by_digest ON rows (digest)")
    _find_outliers(store)
    _find_copies(store)
    _find_letters(store)
    _find_rates(store)


def find_unnamed(store: CorpusStore, only_beside: bool) -> None:
    """Note the recordings of the source that no row names; their numbers are below zero, since they are no rows.

    Args:
        store: with the files and the rows.
        only_beside: leave out folders of which no recording is named.
    """
    # A recording that is there in two forms, as AN4's SPHERE files and their WAVs, needs one row.
    store.db.create_function("stem", 1, lambda path: os.path.splitext(path)[0], deterministic=True)
    unnamed = "kind IN ('audio', 'unnameable') AND stem(path) NOT IN (SELECT stem(audio) FROM rows)"
    linked = "SELECT target FROM files WHERE target <> '' AND path IN (SELECT audio FROM rows)"
    unnamed += f" AND path NOT IN ({linked})"
    if only_beside:
        store.db.create_function("folder", 1, os.path.dirname, deterministic=True)
        unnamed += " AND folder(path) IN (SELECT DISTINCT folder(audio) FROM rows)"
    store.db.execute(
        "INSERT INTO rows (number, place, audio, raw, text, speaker, given, fate) "
        f"SELECT -row_number() OVER (ORDER BY path), path, path, '', '', '', '', 'left out' FROM files WHERE {unnamed}"
    )
    store.db.execute(
        "INSERT INTO problems SELECT number, iif(kind = 'audio', 'no row', kind), '', '' "
        "FROM rows JOIN files ON path = audio WHERE number < 0"
    )


def _find_outliers(store: CorpusStore) -> None:
    usable = "FROM rows WHERE pace IS NOT NULL AND text <> '' AND digest IS NOT NULL"
    count = store.value(f"SELECT count(*) {usable}")
    if count < 20:
        return
    middle = f"LIMIT 1 OFFSET {count // 2}"
    store.db.create_function("letters", 1, math.exp, deterministic=True)
    median = store.value(f"SELECT pace {usable} ORDER BY pace {middle}")
    deviation = store.value(f"SELECT abs(pace - ?) AS off {usable} ORDER BY off {middle}", (median,))
    limit = max(math.log(_LEAST_FACTOR), _OUTLIER * 1.4826 * deviation)
    for kind, sign in (("fast", 1), ("slow", -1)):
        query = f"""
            INSERT OR IGNORE INTO problems
            SELECT number, '{kind}', printf('%.1f letters a second, the middle is %.1f', letters(pace), letters(?)), ''
            {usable} AND (pace - ?) * {sign} > ?
            AND number NOT IN (SELECT number FROM problems WHERE kind = 'too much text')
        """
        store.db.execute(query, (median, median, limit))


def _find_copies(store: CorpusStore) -> None:
    silent = "SELECT number FROM problems WHERE kind = 'silence'"
    copies = f"""
        SELECT digest, min(number), count(DISTINCT text) FROM rows
        WHERE digest IS NOT NULL AND text <> '' AND number NOT IN ({silent})
        GROUP BY digest HAVING count(*) > 1
    """
    for digest, first, texts in store.select(copies):
        place = store.value("SELECT place FROM rows WHERE number = ?", (first,))
        for number, other in store.db.execute("SELECT number, place FROM rows WHERE digest = ?", (digest,)).fetchall():
            if texts > 1:
                detail = f"as in {place}" if number != first else "as further below"
                store.insert("problems", [(number, "other text", detail, "")])
            elif number != first and other:
                store.insert("problems", [(number, "same recording", f"as in {place}", "")])


def _find_letters(store: CorpusStore) -> None:
    texts, characters = count_letters(store, "text <> '' AND digest IS NOT NULL")
    total = sum(characters.values())
    digits = sum(count for letter, count in characters.items() if letter.isdecimal())
    if 0 < digits < _FEW_DIGITS * total:
        store.db.execute(
            "INSERT OR IGNORE INTO problems SELECT number, 'digits', '', '' FROM rows "
            "WHERE text GLOB '*[0-9]*' AND digest IS NOT NULL"
        )
    count = store.value("SELECT count(*) FROM rows WHERE text <> '' AND digest IS NOT NULL")
    if count < _RARE_FROM or len(texts) > _SMALL_ALPHABET:
        return
    rare = [letter for letter, times in texts.items() if times < _RARE and not letter.isdecimal()]
    found: dict[int, list[str]] = {}
    for letter in sorted(rare):
        query = "SELECT number FROM rows WHERE instr(text, ?) AND digest IS NOT NULL"
        for (number,) in store.db.execute(query, (letter,)):
            found.setdefault(number, []).append(letter)
    store.insert("problems", [(number, "rare letter", " ".join(letters), "") for number, letters in found.items()])


def count_letters(store: CorpusStore, condition: str) -> tuple[Counter[str], Counter[str]]:
    """How many texts each letter stands in, and how often it stands there, over the rows of an SQL condition."""
    texts: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for (text,) in store.select(f"SELECT text FROM rows WHERE {condition}"):
        characters.update(text)
        texts.update(set(text))
    return texts, characters


def _find_rates(store: CorpusStore) -> None:
    of_rows = "FROM rows JOIN recordings ON recordings.id = rows.recording WHERE rows.digest IS NOT NULL"
    usual = store.value(f"SELECT rate {of_rows} GROUP BY rate ORDER BY count(*) DESC, rate DESC LIMIT 1")
    store.db.execute(
        f"INSERT OR IGNORE INTO problems SELECT number, 'other rate', printf('%,d Hz, most have %,d Hz', rate, ?), '' "
        f"{of_rows} AND rate <> ?",
        (usual, usual),
    )


def decide(store: CorpusStore, drop: bool) -> None:
    """Decide each row's fate, "kept", "left out" or "dropped", and note it with the problems that decide it."""

    def marks(kinds: list[str]) -> str:
        return ", ".join(f"'{kind}'" for kind in kinds)

    lost = marks([name for name, kind in KINDS.items() if kind.lost])
    doubtful = marks([name for name, kind in KINDS.items() if kind.drop and not kind.lost])
    database = store.db
    for fate, kinds, wanted in (("left out", lost, True), ("dropped", doubtful, drop)):
        if wanted:
            database.execute(f"UPDATE problems SET done = '{fate}' WHERE kind IN ({kinds}) AND done = ''")
            database.execute(
                f"UPDATE rows SET fate = '{fate}' WHERE fate IS NULL AND "
                f"number IN (SELECT number FROM problems WHERE done = '{fate}')"
            )
    database.execute("UPDATE rows SET fate = 'kept' WHERE fate IS NULL")
