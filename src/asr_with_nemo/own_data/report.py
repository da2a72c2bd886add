"""A corpus on one page before an hour of training is lost to it: what is in it, what is wrong, and what to do about it.

The page holds all that it shows, so that it can be kept, sent, and opened anywhere. `rows.tsv` beside it has the fate
of each row.
"""

import csv
import math
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile
from markupsafe import Markup, escape

from asr_with_nemo.base.files import replacing, write_if_changed
from asr_with_nemo.base.html import ENVIRONMENT, STYLE, html_bars, html_table
from asr_with_nemo.own_data import quality
from asr_with_nemo.own_data.store import CorpusStore
from asr_with_nemo.own_data.text import Rule, script_of

if TYPE_CHECKING:
    from asr_with_nemo.own_data.prepared import Prepared

PLAYERS = 50
CLIP = 10.0  # seconds of a recording that the page carries
PER_KIND = 3  # players for each kind of problem
ROWS = 2_000  # of the table in the page
LISTED = 100  # speakers, letters; the rest is counted
EXAMPLES = 12  # of transcripts before and after
COLUMNS = ("number", "place", "recording", "seconds", "speaker", "split", "fate", "problems", "written", "text")


# --- The fate of each row ---------------------------------------------------------------------------------------------


def write_rows(store: CorpusStore, path: Path) -> None:
    """Write each row's fate as a table, in the order of the source; recordings that no row names come last."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_rows(store, "ORDER BY number < 0, abs(number)"))


def _rows(store: CorpusStore, order: str):
    """The rows as `COLUMNS` says."""
    query = (
        "SELECT number, place, audio, round(rows.seconds, 3), speaker, coalesce(split, ''), fate, "
        "(SELECT group_concat(kind || iif(detail = '', '', ' (' || detail || ')') || iif(done = '', '', ': ' || done), "
        f"'; ') FROM problems WHERE problems.number = rows.number), raw, text FROM rows {order}"
    )
    for number, *cells in store.select(query):
        yield (number if number > 0 else "", *("" if cell is None else cell for cell in cells))


# --- The page ---------------------------------------------------------------------------------------------------------


def write_page(store: CorpusStore, prepared: "Prepared", rule: Rule) -> None:
    """Write `report.html`."""
    with tempfile.TemporaryDirectory() as folder:
        clips = _clips(store, prepared.folder, Path(folder))
        listen = Markup(html_table(clips, page=10)) if clips else None
        page = ENVIRONMENT.from_string(_PAGE).render(
            style=STYLE,
            name=prepared.folder.name,
            prepared=prepared,
            tiles=_tiles(prepared),
            bar=_split_bar(prepared),
            kinds=[_kind(store, kind, count, prepared) for kind, count in prepared.problems.items()],
            durations=_histogram(store, "seconds", "seconds", "recordings by their length"),
            paces=_paces(store),
            rates=_rates(store),
            listen=listen,
            rule=rule,
            examples=_examples(store),
            letters=_letters(store),
            repeated=_repeated(store),
            speakers=_speakers(store),
            rows=Markup(html_table(_shown_rows(store), page=12)),
            shown=min(ROWS, store.value("SELECT count(*) FROM rows")),
            all=store.value("SELECT count(*) FROM rows"),
        )
    write_if_changed(prepared.report, page)


def _tiles(prepared: "Prepared") -> list[tuple[str, str]]:
    """What the corpus comes to, each as a number and what it counts."""
    hours = sum(part["seconds"] for part in prepared.splits.values()) / 3600
    speakers = sum(int(part["speakers"]) for part in prepared.splits.values())
    tiles = [(f"{prepared.fates.get('kept', 0):,}", f"of {prepared.rows:,} rows are kept")]
    tiles.append((f"{hours:.1f} h", "of speech") if hours >= 2 else (f"{60 * hours:.0f} min", "of speech"))
    if speakers and prepared.split_by != "utterance":
        tiles.append((f"{speakers:,}", "speaker" if speakers == 1 else "speakers"))
    tiles.append((f"{len(prepared.labels) - 1:,}", "letters"))
    tiles.append((f"{len(prepared.problems)}", f"kind{'' if len(prepared.problems) == 1 else 's'} of problems"))
    return tiles


def _split_bar(prepared: "Prepared") -> list[tuple[str, float]]:
    """Each split's share of the speech, in percent."""
    total = sum(part["seconds"] for part in prepared.splits.values()) or 1
    return [(split, round(100 * part["seconds"] / total, 1)) for split, part in prepared.splits.items()]


def _with_options(text: str) -> Markup:
    """A text whose command line options stand as such, and aren't broken at their hyphens."""
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r"<code class='option'>\1</code>", str(escape(text))))


def _kind(store: CorpusStore, kind: str, count: int, prepared: "Prepared") -> dict[str, object]:
    """What the page says of a kind of problem."""
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
        "advice": _with_options(advice),
        "examples": [f"{audio or place}{f' ({detail})' if detail else ''}" for audio, place, detail in examples],
    }


def _clips(store: CorpusStore, folder: Path, scratch: Path) -> list[dict]:
    """Rows with a player: some of each kind of problem that can be heard, then any others."""
    chosen: dict[int, None] = {}
    audible = "digest IS NOT NULL"
    for kind in quality.KINDS:
        query = f"SELECT number FROM problems JOIN rows USING (number) WHERE kind = ? AND {audible} LIMIT {PER_KIND}"
        chosen |= dict.fromkeys(number for (number,) in store.select(query, (kind,)))
    query = f"SELECT number FROM rows WHERE {audible} ORDER BY digest LIMIT {PLAYERS}"  # as good as at random
    chosen |= dict.fromkeys(number for (number,) in store.select(query))
    clips = []
    for number in list(chosen)[:PLAYERS]:
        name, text, seconds, speaker, split, fate, wav = store.db.execute(
            "SELECT audio, text, rows.seconds, speaker, split, fate, wav FROM rows "
            "JOIN recordings ON recordings.id = recording WHERE number = ?",
            (number,),
        ).fetchone()
        kinds = [kind for (kind,) in store.select("SELECT kind FROM problems WHERE number = ?", (number,))]
        samples, rate = soundfile.read(folder / wav, frames=int(CLIP * soundfile.info(folder / wav).samplerate))
        clip = scratch / f"{number}.mp3"
        soundfile.write(clip, samples, rate)
        clips.append(
            {
                "Recording": os.path.basename(name),
                "Listen": clip,
                "Text": text,
                "Seconds": round(seconds, 2),
                "Speaker": speaker,
                "Split": split or fate,
                "Problems": ", ".join(kinds),
            }
        )
    return clips


def _histogram(store: CorpusStore, column: str, axis: str, title: str) -> Markup:
    """A histogram of a column over the rows that are kept, up to its 99th percentile."""
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
    return html_bars(counts, labels, f"{title}: most below {most:.3g} {axis}", axis)


def _paces(store: CorpusStore) -> Markup:
    store.db.create_function("letters", 1, lambda value: None if value is None else math.exp(value), deterministic=True)
    return _histogram(store, "letters(pace)", "letters a second of speech", "recordings by how fast is spoken")


def _rates(store: CorpusStore) -> list[tuple]:
    return list(
        store.select(
            "SELECT rate, channels, coding, count(*), sum(rows.seconds) / 60 FROM rows "
            "JOIN recordings ON recordings.id = recording WHERE rows.digest IS NOT NULL "
            "GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 20"
        )
    )


def _examples(store: CorpusStore) -> list[tuple[str, str]]:
    """Transcripts before and after, those first that changed most."""
    changed = (
        "SELECT DISTINCT raw, text FROM rows WHERE raw <> text AND text <> '' AND number > 0 AND length(raw) < 200"
    )
    store.db.create_function("change", 2, _change, deterministic=True)
    return list(store.select(f"{changed} ORDER BY change(raw, text) DESC, raw LIMIT {EXAMPLES}"))


def _change(raw: str, text: str) -> int:
    return len(set(raw.lower()) - set(text.lower()))


def _letters(store: CorpusStore) -> dict[str, object]:
    texts, characters = quality.count_letters(store, "fate = 'kept'")
    in_train = quality.count_letters(store, "fate = 'kept' AND split = 'train'")[1]
    shown = characters.most_common(LISTED)
    rows = [
        {
            "letter": letter if letter != " " else "space",
            "code": f"U+{ord(letter):04X}",
            "script": script_of(letter).capitalize(),
            "count": count,
            "texts": texts[letter],
            "note": "" if in_train[letter] else "not in train: can't be learned",
        }
        for letter, count in shown
    ]
    chart = html_bars(
        [row["count"] for row in rows],
        [row["letter"] if len(row["letter"]) == 1 else "␣" for row in rows],
        "how often each letter stands",
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
        f"ORDER BY 2 DESC, 1 LIMIT {LISTED}"
    )
    return {"rows": list(rows), "count": store.value(f"SELECT count(*) FROM (SELECT 1 {named})")}


def _shown_rows(store: CorpusStore) -> list[dict]:
    names = ("Row", "Place", "Recording", "Seconds", "Speaker", "Split", "Fate", "Problems", "Written", "Text")
    order = (
        "ORDER BY (fate = 'kept') + (number NOT IN (SELECT number FROM problems)), number < 0, abs(number) "
        f"LIMIT {ROWS}"
    )
    return [
        {name: str(cell)[:300] if isinstance(cell, str) else cell for name, cell in zip(names, cells, strict=True)}
        for cells in _rows(store, order)
    ]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: a corpus, and what is wrong with it</title>
<style>
{{ style }}
.plain { border-collapse: collapse }
.plain td, .plain th { padding: 3px 20px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #8884 }
.plain td:last-child, .plain th:last-child { padding-right: 0 }
.plain .number { text-align: right }
.plain th, .fate, .option { white-space: nowrap }
.wide { overflow-x: auto }
.problems { min-width: 44rem }
.tiles { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); padding: 0 }
.tiles li { list-style: none; padding: 0.6rem 0.9rem; border: 1px solid #8884; border-radius: 8px; color: var(--faint) }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.3; color: var(--ink) }
.shares { display: flex; max-width: 34rem; height: 1.4rem; margin: 0.75rem 0; gap: 2px; font-size: 0.8rem }
.shares span { padding: 0 0.4rem; overflow: hidden; white-space: nowrap; line-height: 1.4rem; border-radius: 4px;
  background: var(--bar); color: var(--page) }
.shares .dev, .shares .test { color: var(--ink); background: color-mix(in srgb, var(--bar) 45%, transparent) }
.shares .test { background: color-mix(in srgb, var(--bar) 25%, transparent) }
.fate::before { content: "●"; margin-right: 0.3rem; color: var(--faint) }
.fate.lost::before { color: #d1495b }
.fate.dropped::before { color: #d98b2b }
.fate.fixed::before { color: #3a9d6e }
.side { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<ul class="tiles">
{% for number, what in tiles %}
<li><b>{{ number }}</b> {{ what }}</li>
{% endfor %}
</ul>
{% if prepared.notes %}
<ul>
{% for note in prepared.notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}

<h2>Splits</h2>
<p>{% if prepared.split_by == "speaker" %}By speakers: no voice is in two of them.
{% elif prepared.split_by == "source" %}As the source has them.
{% else %}By recordings: a voice may be in more than one of them.{% endif %}
What has been put into a split stays there when recordings are added and the corpus is prepared again.</p>
<div class="shares" role="img" aria-label="shares of the speech">
{% for split, share in bar %}
<span class="{{ split }}" style="flex: {{ share }} 0 0" title="{{ split }}: {{ share }}%">{{ split }}</span>
{% endfor %}
</div>
<div class="wide"><table class="plain">
<tr><th>split</th><th class="number">utterances</th><th class="number">minutes</th><th class="number">speakers</th></tr>
{% for split, part in prepared.splits.items() %}
<tr><td>{{ split }}</td><td class="number">{{ "{:,}".format(part.utterances) }}</td>
<td class="number">{{ "{:,.1f}".format(part.seconds / 60) }}</td>
<td class="number">{{ part.speakers or "not known" }}</td></tr>
{% endfor %}
</table></div>

<h2>Problems</h2>
{% if kinds %}
<p>A row that can't be used is left out. One that is only doubtful is kept, unless <code>--drop</code> leaves it out or
<code>--fix</code> repairs it.</p>
<div class="wide"><table class="plain problems">
<tr><th>what</th><th class="number">rows</th><th>their fate</th><th>what to do</th><th>for example</th></tr>
{% for kind in kinds %}
<tr><td>{{ kind.title }}</td><td class="number">{{ "{:,}".format(kind.count) }}</td><td>
{% for fate, number in kind.fates %}
<div class="fate {{ "lost" if fate == "left out" else fate }}">{{ "{:,}".format(number) }} {{ fate }}</div>
{% endfor %}</td>
<td>{{ kind.advice }}</td><td>{% for one in kind.examples %}<code>{{ one }}</code><br>{% endfor %}</td></tr>
{% endfor %}
</table></div>
{% else %}
<p>None was found.</p>
{% endif %}

{% if listen %}
<h2>Listen</h2>
<p>Some of each kind of problem that can be heard, and others at random; of each its first seconds, as the model hears
them.</p>
{{ listen }}
{% endif %}

<h2>Recordings</h2>
<div class="side"><div>{{ durations }}</div><div>{{ paces }}</div></div>
<p>What is spoken much faster or slower than all else often has the text of another recording. CTC needs a frame of its
own for each letter: a text that is too long for its recording can't be aligned.</p>
<div class="wide"><table class="plain">
<tr><th class="number">Hz</th><th class="number">channels</th><th>coding</th><th class="number">recordings</th>
<th class="number">minutes</th></tr>
{% for rate, channels, coding, count, minutes in rates %}
<tr><td class="number">{{ "{:,}".format(rate) }}</td><td class="number">{{ channels }}</td><td>{{ coding }}</td>
<td class="number">{{ "{:,}".format(count) }}</td><td class="number">{{ "{:,.1f}".format(minutes) }}</td></tr>
{% endfor %}
</table></div>

<h2>Texts</h2>
<p>The rule: {{ rule }}.</p>
{% if examples %}
<div class="wide"><table class="plain">
<tr><th>as written</th><th>as the model learns it</th></tr>
{% for before, after in examples %}
<tr><td>{{ before }}</td><td>{{ after }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
<p>{{ "{:,}".format(repeated.different) }} different texts. Of the test set,
{{ "{:,}".format(repeated.test_in_train) }} of {{ "{:,}".format(prepared.splits.test.utterances) }} utterances have a
text that stands in the train set too.{% if repeated.most %} The most frequent:
{% for text, count, in_splits in repeated.most %}{{ text[:80] }} ({{ "{:,}".format(count) }}){{ ", " if not loop.last }}
{%- endfor %}.{% endif %}</p>

<h2>Letters</h2>
{{ letters.chart }}
<details>
<summary>
{{ letters.rows|length }} characters{% if letters.more %}, and {{ letters.more }} rarer ones{% endif %}
</summary>
<table class="plain">
<tr><th>letter</th><th>code</th><th>script</th><th class="number">times</th><th class="number">in texts</th><th></th>
</tr>
{% for row in letters.rows %}
<tr><td>{{ row.letter }}</td><td>{{ row.code }}</td><td>{{ row.script }}</td>
<td class="number">{{ "{:,}".format(row.count) }}</td><td class="number">{{ "{:,}".format(row.texts) }}</td>
<td>{{ row.note }}</td></tr>
{% endfor %}
</table></details>

{% if speakers.rows %}
<h2>Speakers</h2>
<details><summary>{{ "{:,}".format(speakers.count) }} speakers
{%- if speakers.count > speakers.rows|length %}; those with the most recordings{% endif %}</summary>
<table class="plain">
<tr><th>speaker</th><th class="number">utterances</th><th class="number">minutes</th><th>split</th></tr>
{% for speaker, count, minutes, in_splits in speakers.rows %}
<tr><td>{{ speaker }}</td><td class="number">{{ "{:,}".format(count) }}</td>
<td class="number">{{ "{:,.1f}".format(minutes) }}</td><td>{{ in_splits }}</td></tr>
{% endfor %}
</table></details>
{% endif %}

<h2>The fate of each row</h2>
<p>{% if shown < all %}{{ "{:,}".format(shown) }} of {{ "{:,}".format(all) }} rows, those with problems first; all of
them are in <a href="rows.tsv">rows.tsv</a>.{% else %}All rows, those with problems first;
<a href="rows.tsv">rows.tsv</a> has the same as a table.{% endif %}</p>
{{ rows }}
</body>
</html>
"""
