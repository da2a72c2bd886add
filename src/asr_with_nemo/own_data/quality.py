"""Quality checks of a corpus: kinds of problems, their detection, and what `--fix` and `--drop` do about them.

A row whose recording or transcript is unusable is always left out. A doubtful row is kept, unless `--drop` is given.
Source of the outlier rule: B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers", ASQC 1993 (the modified
z-score, from the median and the median absolute deviation).
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr_with_nemo.own_data.recordings import LONG_PAUSE, Measures
from asr_with_nemo.own_data.store import CorpusStore

_SILENT = 0.001  # of full scale: -60 dBFS
_FULL_SCALE = 1.01  # a little more comes from taking out a DC offset
_CLIPPED = 0.01  # share of the samples
_SHORTEST = 0.1  # seconds
_SECONDS_PER_FRAME = 0.02  # of the models of this course
_OUTLIER, _LEAST_FACTOR = 3.5, 2.5  # modified z-score; and at least so many times faster or slower than the median
_RARE = 3  # transcripts; a character in fewer can't be learned
_RARE_FROM = 100  # transcripts; in a smaller corpus, no character is reported as rare
_SMALL_ALPHABET = 200  # characters; in a larger alphabet, most are rare
_FEW_DIGITS = 0.05  # share of all characters


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        title: the problem.
        advice: the next step for the user.
        lost: whether such a row is always left out.
        drop: whether `--drop` leaves such a row out.
        fix: the effect of `--fix`; "" for none.
    """

    title: str
    advice: str
    lost: bool = False
    drop: bool = True
    fix: str = ""


KINDS = {
    "no audio": Kind("the recording isn't found", "put it where the row says, or remove the row", lost=True),
    "several": Kind("several recordings have that name", "name it with its folder in the table", lost=True),
    "unreadable": Kind("the recording can't be read", "get the file again, or convert it to WAV", lost=True),
    "no sound": Kind("the recording is empty", "record it again, or remove the row", lost=True),
    "past the end": Kind(
        "the part ends after the recording does", "check its times: are they in milliseconds?", lost=True
    ),
    "too long": Kind(
        "the recording is too long for an utterance", "--align MODEL divides it; or raise --longest", lost=True
    ),
    "not found": Kind("the text isn't in the recording", "listen to it: is the text another one's?", lost=True),
    "mismatch": Kind(
        "text and sound don't match", "listen, and correct the text; a lower --align-drop keeps it", lost=True
    ),
    "no text": Kind("the transcript is empty", "write it, or remove the row", lost=True),
    "not annotated": Kind(
        "nobody has annotated it, or it was skipped", "annotate it in Label Studio, or leave it out", lost=True
    ),
    "no words": Kind(
        "Excel has made something else of the transcript",
        "format the column as text in Excel, and write the transcript again",
        lost=True,
    ),
    "no label": Kind("the label isn't in the label map", "add it to the label map", lost=True),
    "no match": Kind("the name doesn't match the pattern", "rename the file, or change --pattern", lost=True),
    "broken row": Kind("the row is damaged", "repair its columns or quotes in the table", lost=True),
    "bad times": Kind("its times can't be right", "correct its start and end in the file", lost=True),
    "no speech": Kind("it holds a remark or a sound, but no speech", "nothing: it can't be trained on", lost=True),
    "unreadable text": Kind(
        "the file with its texts can't be read", "save it again in the form of its suffix", lost=True
    ),
    "leak": Kind("the same recording is in another split", "keep one of the two", lost=True),
    "unnameable": Kind("the file's name isn't Unicode", "rename it (convmv renames a whole folder)", lost=True),
    "special": Kind("a pipe, socket or device, not a file", "remove it, or put the file there", lost=True),
    "cut short": Kind("the file is cut short or damaged", "get it again: a part of the utterance may be missing"),
    "unfinished": Kind("the file's header was never completed", "nothing: it was read to its end", drop=False),
    "too loud": Kind("samples above full scale", "nothing: they were scaled", drop=False),
    "two talkers": Kind(
        "each channel holds another person, and they were mixed",
        "--channels split takes the one that speaks; give each its own transcript",
    ),
    "no end": Kind(
        "it has a start and no end, so all that follows in the recording was taken", "write its end, or its duration"
    ),
    "overlap": Kind("another text is spoken at the same time", "correct the times, or drop both"),
    "several speakers": Kind("several people speak in it", "divide it where they change"),
    "unsorted": Kind("it starts before the text above it", "check its times", drop=False),
    "sung": Kind("it is marked as sung, with notes", "drop it, unless songs are to be learned"),
    "silence": Kind("the recording is silent", "record it again, or drop it"),
    "clipping": Kind("the recording is clipped", "record it again with less gain, or drop it"),
    "very short": Kind(f"shorter than {_SHORTEST} seconds", "listen to it: it can't hold the utterance"),
    "too much text": Kind(
        "the transcript is too long for the recording, so CTC can't align it", "check that they belong together"
    ),
    "fast": Kind("spoken much faster than the others", "check that transcript and recording belong together"),
    "slow": Kind(
        "spoken much slower than the others", "check that the transcript is complete and belongs to the recording"
    ),
    "long pauses": Kind(
        f"more than {LONG_PAUSE:g} seconds without speech before or after it",
        "cut them off: they only cost time",
        drop=False,
        fix="cut off",
    ),
    "same recording": Kind("a copy of an earlier row: same recording, same transcript", "keep one of them"),
    "other text": Kind("the same recording has another transcript elsewhere", "find out which is right"),
    "mojibake": Kind("characters were decoded with the wrong encoding", "save the table as UTF-8", fix="decoded again"),
    "annotation": Kind("a remark in brackets, which isn't spoken", "remove it from the transcript", fix="removed"),
    "mixed scripts": Kind("a word mixes letters of two scripts", "write it in one", fix="corrected"),
    "symbol": Kind("a symbol that is spoken as a word", "write the word"),
    "clock times": Kind(
        "clock times among the words, which nobody says",
        "take them out, or write each line as START END TEXT, in seconds",
    ),
    "address": Kind("a web address, whose words aren't known", "write it as it is said, or remove it"),
    "digits": Kind("digits, while other transcripts spell numbers out", "--digits spell --language CODE"),
    "rare letter": Kind(
        f"a character in fewer than {_RARE} transcripts can't be learned", "replace it, or drop the row"
    ),
    "outside alphabet": Kind(
        "characters outside the given vocabulary",
        "replace them, or give the model another vocabulary",
        fix="replaced",
    ),
    "not text": Kind(
        "the cell of the transcript isn't text",
        "compare it with the recording: was it written so? Format the column as text in Excel",
    ),
    "encoding": Kind(
        "the line isn't UTF-8 and was decoded as Windows-1252",
        "check its characters; --encoding names another",
        drop=False,
    ),
    "other rate": Kind("another sampling rate than most", "nothing: it was resampled", drop=False),
    "no row": Kind("a recording without a row", "add a row for it, if it belongs to the corpus", drop=False),
}
"""Name → kind of problem."""
Found = tuple[str, str, str]
"""A problem of a row: its kind, details, and the action taken."""


def problems_of(text: str, measures: Measures) -> Iterator[Found]:
    """Yield the problems that one row has by itself.

    Args:
        text: the normalised transcript.
        measures: the measurements of its recording.
    """
    pauses = max(measures.first, measures.seconds - measures.last)
    if not text:
        yield "no text", "", ""
    if measures.cut:
        yield "cut short", measures.coding, ""
    if measures.unfinished:
        yield "unfinished", measures.coding, ""
    if measures.peak > _FULL_SCALE:
        yield "too loud", f"{measures.peak:,.1f} times full scale", ""
    if measures.talkers:
        yield "two talkers", "", ""
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
        yield "too much text", f"needs {needed} frames, has {frames}", ""


def frames_needed(text: Sequence[object]) -> int:
    """Return the minimum number of frames for a CTC alignment: one per symbol, and a blank between equal neighbours.

    Example:
        >>> frames_needed("abc"), frames_needed("aabb")
        (3, 6)
    """
    return len(text) + sum(one == other for one, other in pairwise(text))


def pace(text: str, measures: Measures) -> float | None:
    """Return the log of the speaking rate, in characters per second without spaces; None without text or speech."""
    letters = len(text.replace(" ", ""))
    seconds = measures.last - measures.first
    return math.log(letters / seconds) if letters and seconds > 0 and measures.peak >= _SILENT else None


def find_in_corpus(store: CorpusStore) -> None:
    """Store the problems that show only by comparison: outliers, copies, rare characters, digits, sampling rates."""
    store.db.execute("CREATE INDEX rows_by_digest ON rows (digest)")
    _find_outliers(store)
    _find_copies(store)
    _find_letters(store)
    _find_rates(store)


def find_unnamed(store: CorpusStore, only_beside: bool) -> None:
    """Store the recordings of the source that no row names, under negative numbers.

    Args:
        store: holds the files and the rows.
        only_beside: skip folders of which no recording is named.
    """
    # A recording in two formats, as AN4's SPHERE files and their WAVs, needs only one row.
    store.db.create_function("stem", 1, lambda path: os.path.splitext(path)[0], deterministic=True)
    unnamed = "kind IN ('audio', 'unnameable', 'special') AND stem(path) NOT IN (SELECT stem(audio) FROM rows)"
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
    at_median = f"LIMIT 1 OFFSET {count // 2}"
    store.db.create_function("speaking_rate", 1, math.exp, deterministic=True)
    median = store.value(f"SELECT pace {usable} ORDER BY pace {at_median}")
    deviation = store.value(f"SELECT abs(pace - ?) AS off {usable} ORDER BY off {at_median}", (median,))
    limit = max(math.log(_LEAST_FACTOR), _OUTLIER * 1.4826 * deviation)
    for kind, sign in (("fast", 1), ("slow", -1)):
        query = f"""
            INSERT OR IGNORE INTO problems
            SELECT number, '{kind}',
            printf('%.1f characters per second (median %.1f)', speaking_rate(pace), speaking_rate(?)), ''
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
                detail = f"as in {place}" if number != first else "see below"
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
    """Count, for each character, the transcripts that contain it and its occurrences, over rows by an SQL condition."""
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
    """Set each row's fate, "kept", "left out" or "dropped", also on the problems that decide it."""

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
