"""The HTML report of a prepared corpus: its content, its problems, and what to do about them, before any training.

The page is self-contained: it can be archived, sent, and opened offline. `rows.tsv` has the fate of each row.
"""

import csv
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import soundfile
from markupsafe import Markup

from asr_with_nemo.base.files import replacing, write_if_changed
from asr_with_nemo.base.html import ENVIRONMENT, STYLE, html_bars, html_table
from asr_with_nemo.own_data import quality
from asr_with_nemo.own_data.prepared import Prepared
from asr_with_nemo.own_data.store import CorpusStore
from asr_with_nemo.own_data.text import Rule, script_of

_PLAYERS = 50
_CLIP = 10.0  # seconds of a recording in the page
_PER_KIND = 3  # players for each kind of problem
_LOWEST = 10  # players for the lowest scores of an alignment
_ROWS = 2_000  # of the table in the page
_LISTED = 100  # speakers, characters; the rest is only counted
_EXAMPLES = 12  # of transcripts before and after
COLUMNS = ("number", "place", "recording", "seconds", "speaker", "split", "fate", "problems", "written", "text")
ALIGNED_COLUMNS = ("start", "score", "moved")
"""Further columns if the texts were aligned: the start in seconds, the score, and the seconds that the start moved."""


# --- The fate of each row ---------------------------------------------------------------------------------------------


def write_rows(store: CorpusStore, path: Path) -> None:
    """Write the fate of each row as TSV, in the order of the source; recordings without a row come last."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS + (ALIGNED_COLUMNS if is_aligned(store) else ()))
        writer.writerows(_rows(store, "ORDER BY number < 0, abs(number)"))


def is_aligned(store: CorpusStore) -> bool:
    """Return whether texts were aligned with their recordings."""
    return bool(store.value("SELECT 1 FROM rows WHERE score IS NOT NULL"))


def _rows(store: CorpusStore, order: str) -> Iterator[tuple]:
    """Yield the rows with the columns of `COLUMNS`, and those of `ALIGNED_COLUMNS` if there are any."""
    more = ", start, score, moved" if is_aligned(store) else ""
    query = (
        "SELECT number, place, audio, round(rows.seconds, 3), speaker, coalesce(split, ''), fate, "
        "(SELECT group_concat(kind || iif(detail = '', '', ' (' || detail || ')') || iif(done = '', '', ': ' || done), "
        f"'; ') FROM problems WHERE problems.number = rows.number), raw, text{more} FROM rows {order}"
    )
    for number, *cells in store.select(query):
        yield (number if number > 0 else "", *("" if cell is None else cell for cell in cells))


# --- The page ---------------------------------------------------------------------------------------------------------


def write_page(store: CorpusStore, prepared: Prepared, rule: Rule) -> None:
    """Write `report.html`, unless it has the same content already.

    Args:
        store: holds rows and problems.
        prepared: the counts to show; the WAVs lie in its folder.
        rule: by which the transcripts were normalised.
    """
    with tempfile.TemporaryDirectory() as folder:
        clips = _clips(store, prepared.folder, Path(folder))
        listen = Markup(html_table(clips, page=10)) if clips else None
        page = ENVIRONMENT.get_template("corpus_report.html").render(
            style=STYLE,
            name=prepared.folder.name,
            prepared=prepared,
            tiles=_tiles(prepared),
            bar=_split_bar(prepared),
            kinds=[_kind(store, kind, count, prepared) for kind, count in prepared.problems.items()],
            durations=_histogram(store, "seconds", "seconds", "recordings by duration"),
            paces=_paces(store),
            scores=_scores(store),
            rates=_rates(store),
            listen=listen,
            clip=f"{_CLIP:g}",
            rule=rule,
            examples=_examples(store),
            letters=_letters(store),
            repeated=_repeated(store),
            speakers=_speakers(store),
            rows=Markup(html_table(_shown_rows(store), page=12)),
            shown=min(_ROWS, store.value("SELECT count(*) FROM rows")),
            all=store.value("SELECT count(*) FROM rows"),
        )
    write_if_changed(prepared.report, page)


def _tiles(prepared: Prepared) -> list[tuple[str, str]]:
    """Return the headline figures of the corpus as (value, label) pairs."""
    hours = sum(part["seconds"] for part in prepared.splits.values()) / 3600
    speakers = sum(int(part["speakers"]) for part in prepared.splits.values())
    tiles = [(f"{prepared.fates.get('kept', 0):,}", f"of {prepared.rows:,} rows are kept")]
    tiles.append((f"{hours:.1f} h", "of speech") if hours >= 2 else (f"{60 * hours:.0f} min", "of speech"))
    if speakers and prepared.split_by != "utterance":
        tiles.append((f"{speakers:,}", "speaker" if speakers == 1 else "speakers"))
    tiles.append((f"{len(prepared.labels) - 1:,}", "characters"))
    tiles.append((f"{len(prepared.problems)}", f"kind{'' if len(prepared.problems) == 1 else 's'} of problems"))
    return tiles


def _split_bar(prepared: Prepared) -> list[tuple[str, float]]:
    """Return each split's share of the speech, in percent."""
    total = sum(part["seconds"] for part in prepared.splits.values()) or 1
    return [(split, round(100 * part["seconds"] / total, 1)) for split, part in prepared.splits.items()]


def _parts(text: str) -> list[tuple[str, bool]]:
    """Split a text into (part, whether it is a command line option)."""
    return [(part, part.startswith("--")) for part in re.split(r"(--[a-z][a-z-]*)", text) if part]


def _kind(store: CorpusStore, kind: str, count: int, prepared: Prepared) -> dict[str, object]:
    """Return the page's row for a kind of problem."""
    done = dict(store.select("SELECT done, count(*) FROM problems WHERE kind = ? GROUP BY 1", (kind,)))
    fates = {
        "left out": done.get("left out", 0),
        "dropped": done.get("dropped", 0),
        "fixed": prepared.fixed.get(kind, 0),
    }
    fates["not used" if kind == "no row" else "kept"] = count - sum(fates.values())
    known = quality.KINDS[kind]
    advice = known.advice
    if fates.get("kept") and known.fix:
        advice += f"; --fix: {known.fix}"
    if fates.get("kept") and known.drop:
        advice += "; --drop leaves it out"
    examples = store.select(
        "SELECT audio, place, detail FROM problems JOIN rows USING (number) WHERE kind = ? "
        "ORDER BY abs(number) LIMIT 3",
        (kind,),
    )
    return {
        "title": known.title,
        "count": count,
        "fates": [(fate, number) for fate, number in fates.items() if number],
        "advice": _parts(advice),
        "examples": [f"{audio or place}{f' ({detail})' if detail else ''}" for audio, place, detail in examples],
    }


def _clips(store: CorpusStore, folder: Path, scratch: Path) -> list[dict]:
    """Return rows with a player: those with the lowest scores, some of each audible kind of problem, then others."""
    audible = "digest IS NOT NULL"
    query = f"SELECT number FROM rows WHERE score IS NOT NULL AND {audible} ORDER BY score LIMIT {_LOWEST}"
    chosen = dict.fromkeys(number for (number,) in store.select(query))
    for kind in quality.KINDS:
        query = f"SELECT number FROM problems JOIN rows USING (number) WHERE kind = ? AND {audible} LIMIT {_PER_KIND}"
        chosen |= dict.fromkeys(number for (number,) in store.select(query, (kind,)))
    query = f"SELECT number FROM rows WHERE {audible} ORDER BY digest LIMIT {_PLAYERS}"  # pseudo-random
    chosen |= dict.fromkeys(number for (number,) in store.select(query))
    clips, aligned = [], is_aligned(store)
    for number in list(chosen)[:_PLAYERS]:
        name, text, seconds, speaker, split, fate, wav, start, score = store.db.execute(
            "SELECT audio, text, rows.seconds, speaker, split, fate, wav, start, score FROM rows "
            "JOIN recordings ON recordings.id = recording WHERE number = ?",
            (number,),
        ).fetchone()
        alignment = {"Score": score, "Cut": f"{start:.2f} to {start + seconds:.2f} s"} if aligned else {}
        kinds = [kind for (kind,) in store.select("SELECT kind FROM problems WHERE number = ?", (number,))]
        samples, rate = soundfile.read(folder / wav, frames=int(_CLIP * soundfile.info(folder / wav).samplerate))
        clip = scratch / f"{number}.mp3"
        soundfile.write(clip, samples, rate)
        clips.append(
            {
                "Recording": os.path.basename(name),
                "Listen": clip,
                "Text": text,
                **alignment,
                "Seconds": round(seconds, 2),
                "Speaker": speaker,
                "Split": split or fate,
                "Problems": ", ".join(kinds),
            }
        )
    return clips


def _histogram(store: CorpusStore, column: str, axis: str, title: str) -> Markup:
    """Return a histogram of a column over the kept rows, up to its 99th percentile."""
    kept = f"FROM rows WHERE fate = 'kept' AND {column} IS NOT NULL"
    count = store.value(f"SELECT count(*) {kept}")
    if not count:
        return Markup("")
    most = store.value(f"SELECT {column} {kept} ORDER BY {column} LIMIT 1 OFFSET {int(0.99 * (count - 1))}")
    rough = most / 25
    unit = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    last = int(most / step)
    by_bar = dict(
        store.select(f"SELECT min(CAST({column} / ? AS INTEGER), ?), count(*) {kept} GROUP BY 1", (step, last))
    )
    counts = [by_bar.get(place, 0) for place in range(last + 1)]
    labels = [f"{place * step:g}" for place in range(last + 1)]
    return html_bars(counts, labels, f"{title}: 99% up to {most:.3g} {axis}", axis)


def _paces(store: CorpusStore) -> Markup:
    store.db.create_function(
        "speaking_rate", 1, lambda value: None if value is None else math.exp(value), deterministic=True
    )
    return _histogram(store, "speaking_rate(pace)", "characters per second of speech", "recordings by speaking rate")


def _scores(store: CorpusStore) -> dict[str, object]:
    """Return what the page says of an alignment; nothing without one."""
    if not is_aligned(store):
        return {}
    counts = dict(
        store.select(
            "SELECT min(9, CAST(10 * score AS INTEGER)), count(*) FROM rows WHERE score IS NOT NULL GROUP BY 1"
        )
    )
    labels = [f"{place / 10:g}" for place in range(10)]
    chart = html_bars([counts.get(place, 0) for place in range(10)], labels, "texts by score", "score")
    moved = "FROM rows WHERE moved IS NOT NULL AND fate = 'kept'"
    count = store.value(f"SELECT count(*) {moved}")
    median = store.value(f"SELECT abs(moved) AS by {moved} ORDER BY by LIMIT 1 OFFSET {count // 2}")
    return {"chart": chart, "moved": count, "median": median, "most": store.value(f"SELECT max(abs(moved)) {moved}")}


def _rates(store: CorpusStore) -> list[tuple]:
    return list(
        store.select(
            "SELECT rate, channels, coding, count(*), sum(rows.seconds) / 60 FROM rows "
            "JOIN recordings ON recordings.id = recording WHERE rows.digest IS NOT NULL "
            "GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 20"
        )
    )


def _examples(store: CorpusStore) -> list[tuple[str, str]]:
    """Return transcripts as written and normalised, with the largest changes first."""
    changed = (
        "SELECT DISTINCT raw, text FROM rows WHERE raw <> text AND text <> '' AND number > 0 AND length(raw) < 200"
    )
    store.db.create_function("change", 2, _change, deterministic=True)
    return list(store.select(f"{changed} ORDER BY change(raw, text) DESC, raw LIMIT {_EXAMPLES}"))


def _change(raw: str, text: str) -> int:
    return len(set(raw.lower()) - set(text.lower()))


def _letters(store: CorpusStore) -> dict[str, object]:
    texts, characters = quality.count_letters(store, "fate = 'kept'")
    in_train = quality.count_letters(store, "fate = 'kept' AND split = 'train'")[1]
    shown = characters.most_common(_LISTED)
    rows = [
        {
            "letter": letter if letter != " " else "space",
            "code": f"U+{ord(letter):04X}",
            "script": script_of(letter).capitalize(),
            "count": count,
            "texts": texts[letter],
            "note": "" if in_train[letter] else "not in train, so it can't be learned",
        }
        for letter, count in shown
    ]
    chart = html_bars(
        [row["count"] for row in rows],
        [row["letter"] if len(row["letter"]) == 1 else "␣" for row in rows],
        "frequency of each character",
        "",
    )
    return {"rows": rows, "chart": chart, "more": len(characters) - len(shown)}


def _repeated(store: CorpusStore) -> dict[str, object]:
    kept = "FROM rows WHERE fate = 'kept'"
    total = store.value(f"SELECT count(DISTINCT text) {kept}")
    most = f"SELECT text, count(*), count(DISTINCT split) {kept} GROUP BY text HAVING count(*) > 1 ORDER BY 2 DESC, 1"
    known = f"SELECT count(*) {kept} AND split = 'test' AND text IN (SELECT text {kept} AND split = 'train')"
    return {"different": total, "most": list(store.select(f"{most} LIMIT 10")), "test_in_train": store.value(known)}


def _speakers(store: CorpusStore) -> dict[str, object]:
    named = "FROM rows WHERE fate = 'kept' AND speaker <> '' GROUP BY speaker"
    rows = store.select(
        f"SELECT speaker, count(*), sum(seconds) / 60, group_concat(DISTINCT split) {named} "
        f"ORDER BY 2 DESC, 1 LIMIT {_LISTED}"
    )
    return {"rows": list(rows), "count": store.value(f"SELECT count(*) FROM (SELECT 1 {named})")}


def _shown_rows(store: CorpusStore) -> list[dict]:
    names = ("Row", "Place", "Recording", "Seconds", "Speaker", "Split", "Fate", "Problems", "Written", "Text")
    names += ("Start", "Score", "Moved") if is_aligned(store) else ()
    order = (
        "ORDER BY (fate = 'kept') + (number NOT IN (SELECT number FROM problems)), number < 0, abs(number) "
        f"LIMIT {_ROWS}"
    )
    return [
        {name: str(cell)[:300] if isinstance(cell, str) else cell for name, cell in zip(names, cells, strict=True)}
        for cells in _rows(store, order)
    ]
