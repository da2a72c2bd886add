"""Train, dev and test splits that are stable as a corpus grows, by whole speakers where they are known.

A hash of its name gives each speaker (a hash of its samples, each recording) a number from 0 to 1, which decides its
split; the split of an earlier preparation is kept. So no training data becomes test data when recordings are added.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.store import CorpusStore

SPLIT_NAMES = ("train", "dev", "test")
_MANY = 30  # speakers or recordings; with so many, each one's number alone decides
_LEAST, _MOST = 0.7, 1.5  # times its share: the range of a split's size, if whole speakers allow it
_KNOWN = 0.9  # share of the rows that must name a speaker for a split by speakers


def draw(unit: str) -> float:
    """Return a number from 0 (included) to 1 (excluded) that depends on the name alone, by a BLAKE2b hash.

    Example:
        >>> round(draw("speaker anna"), 3)
        0.013
    """
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=6).digest()) / 2**48


def assign(store: CorpusStore, how: str, shares: Mapping[str, float], notes: list[str], before: str = "") -> str:
    """Assign each kept row to a split.

    Args:
        store: its table `earlier` has the splits of an earlier preparation.
        how: "source", the splits of the source; "speaker", by whole speakers; "utterance", by recordings; "auto", the
            first of these that is possible.
        shares: of "dev" and "test" in all utterances.
        notes: findings are appended.
        before: the method of an earlier preparation, which "auto" keeps.

    Returns:
        the method used.

    Raises:
        InputError: the method isn't possible, or a split would be empty.
    """
    store.db.create_function("draw", 1, draw, deterministic=True)
    chosen = _choose(store, how, notes, before)
    unit = "'speaker ' || speaker" if chosen != "utterance" else "'recording ' || lower(hex(digest))"
    if chosen == "source":
        store.db.execute("UPDATE rows SET split = iif(given = '', 'train', given) WHERE fate = 'kept'")
        missing = {split: share for split, share in shares.items() if not _size(store, f"split = '{split}'")}
        if missing and not _size(store, "speaker <> ''"):
            unit = "'recording ' || lower(hex(digest))"
        if missing:
            notes.append(f"the source has no {' and no '.join(missing)} set: taken from its train set")
        _divide(store, unit, missing, "split = 'train'")
    else:
        # Utterances without a speaker stay in train: held out, they might share a speaker with it.
        known = "speaker <> ''" if chosen == "speaker" else "1"
        store.db.execute("UPDATE rows SET split = 'train' WHERE fate = 'kept'")
        _divide(store, unit, shares, known)
    _part_copies(store)
    for split in SPLIT_NAMES:
        if not _size(store, f"split = '{split}'"):
            raise InputError(f"the {split} set would be empty: {_why_empty(store, unit, chosen)}")
    return chosen


def _size(store: CorpusStore, condition: str) -> int:
    return store.value(f"SELECT count(*) FROM rows WHERE fate = 'kept' AND ({condition})")


def _why_empty(store: CorpusStore, unit: str, chosen: str) -> str:
    """Return why one of the sets is empty, and what to do."""
    rows = _size(store, "1")
    units = store.value(f"SELECT count(DISTINCT {unit}) FROM rows WHERE fate = 'kept'")
    if unit.startswith("'recording"):
        what = f"{rows} usable rows are {units} recording(s) that differ; rows of the same sound stay in one set"
        again = " Do the rows have times that aren't read, or name the same file?" if units < rows else ""
        return f"{what}, and three sets need three, so add recordings.{again}"
    advice = "add some, or use --split utterance" if chosen == "speaker" else "add some, or use another --split"
    return f"{rows} usable rows of {units} speaker(s); a speaker stays in one set, and three sets need three: {advice}"


def _choose(store: CorpusStore, how: str, notes: list[str], before: str) -> str:
    rows = _size(store, "1")
    given = {split for (split,) in store.select("SELECT DISTINCT given FROM rows WHERE fate = 'kept'")} - {""}
    named = _size(store, "speaker <> ''")
    speakers = store.value("SELECT count(DISTINCT speaker) FROM rows WHERE fate = 'kept' AND speaker <> ''")
    by_source = "train" in given and len(given) > 1 and _size(store, "given = ''") <= 0.01 * rows
    shared = store.value(
        "SELECT count(*) FROM (SELECT speaker FROM rows WHERE fate = 'kept' AND speaker <> '' AND given <> '' "
        "GROUP BY speaker HAVING count(DISTINCT given) > 1)"
    )
    by_speaker = speakers >= 3 and named >= _KNOWN * rows
    if how == "source" and not by_source:
        raise InputError("--split source: the source doesn't name train and test splits; use --split auto")
    if how == "speaker" and not by_speaker:
        raise InputError(
            f"--split speaker: needs 3 speakers, named in {_KNOWN:.0%} of the rows; found {speakers}, in {named} of "
            f"{rows}. Name them with --speaker-column or --pattern, or use --split utterance"
        )
    if how != "auto":
        return how
    if before == "utterance" and by_speaker:
        notes.append("split by recordings, as before, although speakers are known now; --split speaker splits again")
    if before == "utterance" or (before == "speaker" and by_speaker):
        return before
    if by_source and not shared:
        return "source"
    if by_source:
        notes.append(
            f"the source's splits share {shared} speaker(s), which would make the WER on test too optimistic: split "
            "again (--split source keeps them)"
        )
    if by_speaker:
        return "speaker"
    if not named:
        notes.append(
            "no speakers are named, so the train and test sets may share speakers: expect a higher WER on new "
            "speakers. Name them with --speaker-column or --pattern '{speaker}/*'"
        )
    elif named < _KNOWN * rows:
        notes.append(f"only {named} of {rows} rows name a speaker: split by utterance")
    else:
        notes.append(f"{speakers} speaker(s): too few to hold any out; the WER will be that of known speakers")
    return "utterance"


def _divide(store: CorpusStore, unit: str, shares: Mapping[str, float], condition: str) -> None:
    """Move whole units (speakers or recordings) from train to dev and test, among the rows that meet a condition."""
    database = store.db
    database.execute("DROP TABLE IF EXISTS temp.units")
    database.execute(
        f"CREATE TEMP TABLE units AS SELECT unit, count(*) AS size, draw(unit) AS draw, "
        f"(SELECT split FROM earlier WHERE earlier.unit = grouped.unit) AS split "
        f"FROM (SELECT {unit} AS unit FROM rows WHERE fate = 'kept' AND {condition}) AS grouped GROUP BY unit"
    )
    total = store.value("SELECT coalesce(sum(size), 0) FROM units")
    targets = {split: share * total for split, share in shares.items()}
    if store.value("SELECT count(*) FROM units") >= _MANY:
        low = 0.0
        for split in sorted(shares, reverse=True):  # test, then dev
            values = (split, low, low + shares[split], max(1.0, targets[split]))
            database.execute(
                "UPDATE units SET split = ? WHERE split IS NULL AND draw >= ? AND draw < ? AND size <= ?", values
            )
            low += shares[split]
            _give_back(store, split, _MOST * targets[split])
    for split in sorted(shares, reverse=True):
        _fill(store, split, targets[split])
    for split in shares:
        database.execute(
            f"UPDATE rows SET split = ? WHERE fate = 'kept' AND {condition} AND "
            f"{unit} IN (SELECT unit FROM units WHERE split = ?)",
            (split, split),
        )


def _part_copies(store: CorpusStore) -> None:
    """Leave out each recording whose copy is in another split, in an earlier row."""
    firsts = "SELECT digest, min(number) AS number FROM rows WHERE fate = 'kept' GROUP BY digest HAVING count(*) > 1"
    twice = (
        f"SELECT later.number FROM ({firsts}) AS copied JOIN rows AS first ON first.number = copied.number "
        "JOIN rows AS later ON later.digest = copied.digest WHERE later.fate = 'kept' AND later.split <> first.split"
    )
    store.db.execute(f"INSERT OR IGNORE INTO problems SELECT number, 'leak', '', 'left out' FROM ({twice})")
    store.db.execute(
        "UPDATE rows SET fate = 'left out', split = NULL "
        "WHERE number IN (SELECT number FROM problems WHERE kind = 'leak')"
    )


def _filled(store: CorpusStore, split: str) -> int:
    return store.value("SELECT coalesce(sum(size), 0) FROM units WHERE split = ?", (split,))


def _give_back(store: CorpusStore, split: str, most: float) -> None:
    """Move newly drawn units back to train while the split has more than `most` rows."""
    earlier = "unit NOT IN (SELECT unit FROM earlier)"
    while _filled(store, split) > most:
        query = f"SELECT unit FROM units WHERE split = ? AND {earlier} ORDER BY draw DESC LIMIT 1"
        unit = store.value(query, (split,))
        if unit is None:
            return
        store.db.execute("UPDATE units SET split = NULL WHERE unit = ?", (unit,))


def _fill(store: CorpusStore, split: str, target: float) -> None:
    """Add units to a split that is too small, in the order of their numbers, as long as train keeps some."""
    free = "FROM units WHERE split IS NULL"
    while (filled := _filled(store, split)) < _LEAST * target or not filled:
        if store.value("SELECT count(*) FROM units WHERE split IS NULL OR split = 'train'") < 2:
            return
        fitting = f"SELECT unit {free} AND size <= ? ORDER BY draw LIMIT 1"
        unit = store.value(fitting, (_MOST * target - filled,))
        if unit is None:
            if filled:
                return
            unit = store.value(f"SELECT unit {free} ORDER BY size, draw LIMIT 1")
            if unit is None:
                return
        store.db.execute("UPDATE units SET split = ? WHERE unit = ?", (split, unit))


def remember(store: CorpusStore, folder: Path) -> None:
    """Store the splits of an earlier preparation, read from the manifests in its folder."""
    for split in SPLIT_NAMES:
        for utterance in _lines(folder / f"{split}_manifest.json"):
            units = [f"speaker {utterance['speaker']}"] if utterance.get("speaker") else []
            wav = utterance.get("audio_filepath")
            digest = store.value("SELECT lower(hex(digest)) FROM recordings WHERE wav = ?", (wav,))
            units += [f"recording {digest}"] if digest else []
            store.insert("earlier", [(unit, split) for unit in units])


def _lines(path: Path) -> Iterator[dict]:
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                utterance = json.loads(line)
            except (ValueError, RecursionError):
                continue  # edited by hand; the manifest is written again
            if isinstance(utterance, dict):
                yield utterance
