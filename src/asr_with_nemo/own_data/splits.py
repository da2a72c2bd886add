"""Which recordings are for training, which for the dev and which for the test set: whole speakers where they are known.

Each speaker (or recording) has a number that is drawn from its name (or samples) by a hash, and keeps the split that an
earlier preparation gave it. So a corpus can grow, and nothing that was trained on becomes a test.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.store import CorpusStore

SPLIT_NAMES = ("train", "dev", "test")
_MANY = 30  # speakers or recordings, from which on each one's number alone decides
_LEAST, _MOST = 0.7, 1.5  # times its share may a set have, if whole speakers allow
_KNOWN = 0.9  # of the rows have to name a speaker, if speakers shall count


def draw(unit: str) -> float:
    """A number from 0 to 1 that depends on nothing but a name."""
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=6).digest()) / 2**48


def assign(store: CorpusStore, how: str, shares: Mapping[str, float], notes: list[str], before: str = "") -> str:
    """Give each row that is kept a split.

    Args:
        store: whose table `earlier` has what an earlier preparation decided.
        how: "source", as the source says; "speaker", whole speakers; "utterance"; "auto", the first of these that can
            be.
        shares: of "dev" and "test" in all utterances.
        notes: what was found out is added there.
        before: how an earlier preparation did it, which "auto" stays with.

    Returns:
        how it was done.

    Raises:
        InputError: it can't be done so, or a split would be empty.
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
            notes.append(f"the source has no {' and no '.join(missing)} set: taken out of its train set")
        _divide(store, unit, missing, "split = 'train'")
    else:
        # Who isn't known may be anybody, and so can't be held out.
        known = "speaker <> ''" if chosen == "speaker" else "1"
        store.db.execute("UPDATE rows SET split = 'train' WHERE fate = 'kept'")
        _divide(store, unit, shares, known)
    _part_copies(store)
    for split in SPLIT_NAMES:
        if not _size(store, f"split = '{split}'"):
            raise InputError(
                f"the {split} set would be empty: {_size(store, '1')} usable rows, split by {chosen}; three sets "
                "need at least three rows, and with --split speaker as many speakers"
            )
    return chosen


def _size(store: CorpusStore, condition: str) -> int:
    return store.value(f"SELECT count(*) FROM rows WHERE fate = 'kept' AND ({condition})")


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
        raise InputError("--split source: the source doesn't say which rows are for training and which for testing")
    if how == "speaker" and not by_speaker:
        raise InputError(f"--split speaker: {named} of {rows} rows name a speaker, {speakers} speakers; needed are 3")
    if how != "auto":
        return how
    if before == "utterance" and by_speaker:
        notes.append("split by recordings, as before, though speakers are known now: --split speaker splits anew")
    if before == "utterance" or (before == "speaker" and by_speaker):
        return before
    if by_source and not shared:
        return "source"
    if by_source:
        notes.append(
            f"the source's splits share {shared} speaker(s), so that a test would be easier than it looks: split anew "
            "(--split source keeps them)"
        )
    if by_speaker:
        return "speaker"
    if not named:
        notes.append(
            "no speakers are named, so a voice of the test set may be in the train set too: expect a higher WER "
            "on new voices. Name them with --speaker-column or --pattern '{speaker}/*'"
        )
    elif named < _KNOWN * rows:
        notes.append(f"only {named} of {rows} rows name a speaker: split by utterance")
    else:
        notes.append(f"{speakers} speaker(s): too few to hold any out; the WER will be that of known voices")
    return "utterance"


def _divide(store: CorpusStore, unit: str, shares: Mapping[str, float], condition: str) -> None:
    """Take the dev and test sets, whole units each, out of the rows of a condition, which are all in train."""
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
    """Leave out a recording that stands in another split before."""
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
    """Return units that were drawn into a split to train, while it has more than `most` rows."""
    earlier = "unit NOT IN (SELECT unit FROM earlier)"
    while _filled(store, split) > most:
        query = f"SELECT unit FROM units WHERE split = ? AND {earlier} ORDER BY draw DESC LIMIT 1"
        unit = store.value(query, (split,))
        if unit is None:
            return
        store.db.execute("UPDATE units SET split = NULL WHERE unit = ?", (unit,))


def _fill(store: CorpusStore, split: str, target: float) -> None:
    """Add units to a split that has too little, in the order of their numbers, while some are left to train on."""
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
    """Note the splits of the manifests that an earlier preparation has left in a folder."""
    for split in SPLIT_NAMES:
        for utterance in _lines(folder / f"{split}_manifest.json"):
            units = [f"speaker {utterance['speaker']}"] if utterance.get("speaker") else []
            wav = utterance.get("audio_filepath")
            digest = store.value("SELECT lower(hex(digest)) FROM recordings WHERE wav = ?", (wav,))
            units += [f"recording {digest}"] if digest else []
            store.insert("earlier", [(unit, split) for unit in units])


def _lines(path: Path):
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                utterance = json.loads(line)
            except ValueError:
                continue  # it was changed by hand, and is written anew
            if isinstance(utterance, dict):
                yield utterance
