"""Long recordings with captions, tiers, segments or labels beside them: each of their texts becomes an utterance."""

import json
import re
import shutil
from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import annotations, captions, cues, segments
from tests.own_data.corpora import everything, fates, prepare, record, sentence, with_table

PARTS = 12
SECONDS = 2.0 * PARTS


def part(number: int) -> tuple[float, float, str]:
    """Return start, end and text of an utterance, between pauses of half a second."""
    return 2.0 * number, 2.0 * number + 1.5, sentence(number)


def clock(seconds: float, point: str = ".") -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{point}{whole % 1000:03}"


def srt() -> str:
    cues_of = (part(number) for number in range(PARTS))
    blocks = (f"{n}\n{clock(s, ',')} --> {clock(e, ',')}\n{text}\n" for n, (s, e, text) in enumerate(cues_of, 1))
    return "\n".join(blocks)


def vtt() -> str:
    head = "WEBVTT - made by hand\nLanguage: en\n\nSTYLE\n::cue { color: red }\n\nNOTE not --> a cue\n\n"
    blocks = []
    for number in range(PARTS):
        start, end, text = part(number)
        first, *rest = text.split()
        voice = f"<v.loud Ann{number % 2}>"
        blocks.append(
            f"id-{number}\n{clock(start)} --> {clock(end)} align:start position:0%\n"
            f"{voice}<i>{first}</i> <c.yellow>{' '.join(rest)}</c></v>\n"
        )
    return head + "\n".join(blocks)


def textgrid(is_short: bool = False, tiers: tuple[str, ...] = ("utterances",)) -> str:
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]

    def add(name: str, value: object) -> None:
        written = f'"{value}"' if isinstance(value, str) else str(value)
        lines.append(written if is_short else f"{name} = {written} ")

    add("xmin", 0), add("xmax", SECONDS)
    lines.append("<exists>" if is_short else "tiers? <exists> ")
    add("size", len(tiers))
    for place, name in enumerate(tiers, 1):
        if not is_short:
            lines.append(f"    item [{place}]:")
        add("class", "IntervalTier"), add("name", name), add("xmin", 0), add("xmax", SECONDS)
        add("intervals: size", 2 * PARTS)
        for number in range(PARTS):
            start, end, text = part(number)
            for at, (left, right, label) in enumerate(((start, end, text), (end, start + 2.0, "")), 1):
                if not is_short:
                    lines.append(f"        intervals [{2 * number + at}]:")
                add("xmin", left), add("xmax", right), add("text", label.replace('"', '""'))
    return "\n".join(lines) + "\n"


def eaf(tiers: tuple[str, ...] = ("Ann", "Ben"), head: str = "", media: str = "") -> str:
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="{side}{number}" TIME_VALUE="{round(1000 * part(number)[side == "b"])}"/>\n'
        for number in range(PARTS)
        for side in "ab"
    )
    body = ""
    for place, tier in enumerate(tiers):
        body += f'<TIER TIER_ID="{tier}" LINGUISTIC_TYPE_REF="default-lt">\n'
        for number in range(place, PARTS, len(tiers)):
            body += (
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="n{number}" TIME_SLOT_REF1="a{number}" '
                f'TIME_SLOT_REF2="b{number}">\n<ANNOTATION_VALUE>{part(number)[2]}</ANNOTATION_VALUE>\n'
                "</ALIGNABLE_ANNOTATION></ANNOTATION>\n"
            )
        body += "</TIER>\n"
    described = f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/old/{media}" MIME_TYPE="audio/x-wav"/>' if media else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<ANNOTATION_DOCUMENT>\n<HEADER TIME_UNITS="milliseconds">'
        f"{described}</HEADER>\n<TIME_ORDER>\n{slots}</TIME_ORDER>\n{body}</ANNOTATION_DOCUMENT>\n"
    )


def whisper(kind: str = "openai") -> str:
    parts = [part(number) for number in range(PARTS)]
    if kind == "whisper.cpp":
        offsets = [{"offsets": {"from": 1000 * s, "to": 1000 * e}, "text": f" {text}"} for s, e, text in parts]
        return json.dumps({"result": {"language": "en"}, "transcription": offsets})
    if kind == "pipeline":
        return json.dumps({"text": "...", "chunks": [{"timestamp": [s, e], "text": text} for s, e, text in parts]})
    rows = [{"id": n, "start": s, "end": e, "text": f" {text}"} for n, (s, e, text) in enumerate(parts)]
    if kind == "faster-whisper":
        return json.dumps(rows)
    if kind == "words":
        spoken = []
        for start, _, text in parts:
            spoken += [
                {"word": w, "start": start + 0.3 * n, "end": start + 0.3 * n + 0.25} for n, w in enumerate(text.split())
            ]
        return json.dumps({"task": "transcribe", "text": "...", "words": spoken})
    return json.dumps({"text": "...", "segments": rows, "language": "en"}, indent=2)


def rows_of(form: str) -> str:
    return "".join(form.format(s=s, e=e, t=text, ms=round(1000 * s), me=round(1000 * e), d=e - s) + "\n"
                   for s, e, text in map(part, range(PARTS)))  # fmt: skip


FILES = {
    "talk.srt": srt(),
    "talk.wav.srt": srt(),
    "talk.en.srt": srt(),
    "talk.vtt": vtt(),
    "talk.TextGrid": textgrid(),
    "talk.textgrid": textgrid(is_short=True),
    "talk.eaf": eaf(),
    "talk.json": whisper(),
    "talk.JSON": whisper("faster-whisper"),
    "talk.wav.json": whisper("whisper.cpp"),
    "sub/talk.json": whisper("pipeline"),
    "words/talk.json": whisper("words"),
    "talk.tsv": "start\tend\ttext\n" + rows_of("{ms}\t{me}\t{t}"),  # Whisper's, in ms
    "talk.csv": "start_ms,end_ms,text\n" + rows_of("{ms},{me},{t}"),
    "a/talk.csv": "start (s);duration (s);text\n" + rows_of("{s};{d};{t}"),
    "talk.txt": rows_of("{s:.6f}\t{e:.6f}\t{t}\n\\\t100.0\t900.0"),  # Audacity's, with frequencies
    "talk.stm": ";; remark\n" + rows_of("talk 1 ann {s:.2f} {e:.2f} <o,f0,female> {t}"),
    "nist/all.stm": rows_of("talk 1 ann {s:.2f} {e:.2f} <o,f0,female> {t}"),
}


def expected() -> list[tuple[float, str]]:
    return [(1.5, sentence(number)) for number in range(PARTS)]


def read_as(path: Path, out: Path, **settings: object) -> list[tuple[float, str]]:
    prepared = prepare(path, out, split="utterance", **settings)
    assert prepared.fates == {"kept": PARTS}
    return [(utterance["duration"], utterance["text"]) for utterance in in_order(prepared)]


def in_order(prepared) -> list[dict]:
    """Return the utterances in the order of the source."""
    places = {row["text"]: int(row["number"]) for row in fates_by_place(prepared).values()}
    return sorted(everything(prepared), key=lambda utterance: places[utterance["text"]])


def fates_by_place(prepared) -> dict[str, dict[str, str]]:
    import csv

    with open(prepared.rows_file, encoding="utf-8", newline="") as file:
        return {row["place"]: row for row in csv.DictReader(file, delimiter="\t")}


def talk(folder: Path, name: str = "talk.wav") -> Path:
    record(folder / name, SECONDS, 8_000)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_each_text_beside_a_recording_becomes_an_utterance(name: str, tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / name).parent.mkdir(exist_ok=True)
    (mine / name).write_text(FILES[name], encoding="utf-8")
    (mine / "._talk.wav").write_bytes(b"\0\5\x16\7")  # what a Mac leaves on other disks
    (mine / f"._{Path(name).name}").write_bytes(b"\0\5\x16\7")
    found = read_as(mine, tmp_path / "out")
    assert sorted(text for _, text in found) == sorted(text for _, text in expected())  # ELAN's order is that of tiers
    if name != "words/talk.json":  # its utterances end with their last word
        assert all(seconds == pytest.approx(1.5, abs=0.01) for seconds, _ in found)
    if "/" not in name and "JSON" not in name:  # the file alone says the same
        assert read_as(mine / name, tmp_path / "alone") == found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize(("name", "content"), [("talk.srt", srt()), ("talk.TextGrid", textgrid())])
def test_encodings_and_ends_of_lines_are_found_out(name: str, content: str, encoding: str, tmp_path: Path):
    mine = talk(tmp_path / "mine")
    content = content.replace(sentence(3), "café über alles").replace("\n", "\r\n")
    (mine / name).write_bytes(content.encode(encoding))
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert "café über alles" in {utterance["text"] for utterance in everything(prepared)}
    assert prepared.fates == {"kept": PARTS}


def test_youtubes_rolling_captions_have_each_word_once(tmp_path: Path):
    lines = [f"{sentence(number)} no no" for number in range(PARTS)]
    blocks, shown = [], " "
    for number, line in enumerate(lines):
        start, end = 2.0 * number, 2.0 * number + 1.99
        first, *rest = line.split()
        timed = first + "".join(f"<{clock(start + 0.2 * n)}><c> {word}</c>" for n, word in enumerate(rest, 1))
        blocks.append(f"{clock(start)} --> {clock(end)} align:start position:0%\n{shown}\n{timed}\n")
        blocks.append(f"{clock(end)} --> {clock(end + 0.01)} align:start position:0%\n{line}\n \n")
        shown = line
    mine = talk(tmp_path / "mine")
    (mine / "talk.en.vtt").write_text("WEBVTT\nKind: captions\nLanguage: en\n\n" + "\n".join(blocks))
    assert [text for _, text in read_as(mine, tmp_path / "out")] == lines
    assert captions.read(mine / "talk.en.vtt").notes

    # The same after a conversion to SubRip: without the words' times.
    plain = re.sub(r"<[^<>]*>", "", "\n".join(blocks).replace(" align:start position:0%", ""))
    (mine / "talk.en.vtt").unlink()
    (mine / "talk.en.srt").write_text(plain)
    assert [text for _, text in read_as(mine, tmp_path / "again")] == lines


def test_captions_that_grow_by_a_word_have_each_word_once(tmp_path: Path):
    words = ["one", "two", "three", "four", "five", "six"]
    blocks = [f"{n}\n{clock(n, ',')} --> {clock(n + 1, ',')}\n{' '.join(words[: n + 1])}\n" for n in range(len(words))]
    (tmp_path / "live.srt").write_text("\n".join(blocks))
    assert [cue.text for cue in captions.read(tmp_path / "live.srt").cues] == words


def test_a_word_that_is_really_repeated_stays(tmp_path: Path):
    blocks = [f"{n}\n{clock(n, ',')} --> {clock(n + 1, ',')}\nyes\n" for n in range(6)]
    (tmp_path / "yes.srt").write_text("\n".join(blocks))
    assert [cue.text for cue in captions.read(tmp_path / "yes.srt").cues] == ["yes"] * 6


def test_captions_shown_until_after_the_next_one_are_cut_there(tmp_path: Path):
    blocks = [f"{n}\n{clock(2 * n, ',')} --> {clock(2 * n + 4, ',')}\n{sentence(n)}\n" for n in range(6)]
    (tmp_path / "x.srt").write_text("\n".join(blocks))
    reading = captions.read(tmp_path / "x.srt")
    assert [(cue.start, cue.end) for cue in reading.cues[:-1]] == [(2.0 * n, 2.0 * n + 2) for n in range(5)]
    assert any("next one starts" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("written", "text", "speaker"),
    [
        ("<v Ann>hello</v>", "hello", "Ann"),
        (">> ANN: hello", "hello", "ANN"),
        ("&gt;&gt; Ann Lee: hello", "hello", "Ann Lee"),
        (">> hello", "hello", ""),
        ("- hello", "hello", ""),
        ("JOHN 2: hello", "hello", "JOHN 2"),
        ("[SPEAKER_01]: hello", "hello", "SPEAKER_01"),
        ('{\\an8}<font color="#fff">hello</font><br>you &amp; me', "hello you & me", ""),
        ("He said: hello", "He said: hello", ""),
        ("[door] hello", "[door] hello", ""),
        ("- hi\n- hello", "hi hello", ""),
    ],
)
def test_markup_is_removed_and_speakers_are_known(written: str, text: str, speaker: str, tmp_path: Path):
    (tmp_path / "x.srt").write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{written}\n")
    (cue,) = captions.read(tmp_path / "x.srt").cues
    assert (cue.text, cue.speaker) == (text, speaker)
    assert bool(cue.doubts) == (written.count("- ") == 2)


def test_captions_that_mark_one_word_after_another_are_joined(tmp_path: Path):
    blocks = []
    for number in range(3):  # as whisper --highlight_words writes them
        words = sentence(number).split()
        for place in range(len(words)):
            marked = " ".join(f"<u>{word}</u>" if at == place else word for at, word in enumerate(words))
            start = 4 * number + place
            blocks.append(f"{clock(start, ',')} --> {clock(start + 1, ',')}\n{marked}\n")
    (tmp_path / "x.srt").write_text("\n".join(blocks))
    found = [(cue.start, cue.end, cue.text) for cue in captions.read(tmp_path / "x.srt").cues]
    assert found == [(4.0 * number, 4.0 * number + 4, sentence(number)) for number in range(3)]


def test_names_that_nearly_all_cues_begin_with_are_speakers(tmp_path: Path):
    mine = talk(tmp_path / "mine", "GMT2026_Recording.wav")
    path = mine / "GMT2026_Recording.transcript.vtt"  # as Zoom writes it
    cues_of = [(*part(number), f"Ann{number % 2} Lee") for number in range(PARTS)]
    path.write_text("WEBVTT\n\n" + "\n".join(f"{clock(s)} --> {clock(e)}\n{n}: {t}\n" for s, e, t, n in cues_of))
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    rows = fates_by_place(prepared).values()
    assert {row["speaker"] for row in rows} == {"Ann0 Lee", "Ann1 Lee"}
    assert {row["text"] for row in rows} == {sentence(number) for number in range(PARTS)}
    assert any("speakers" in note for note in prepared.notes)


def test_captions_in_a_form_that_is_not_read_are_named(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / "talk.ass").write_text("[Script Info]\n")
    with pytest.raises(InputError, match=r"talk\.ass: not read.*\.srt"):
        prepare(mine, tmp_path / "out")


def test_faults_of_captions_are_named_with_their_lines(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    times = [(0, 1.5), (2, 3.5), (4, 4), (8, 7), (10, 11.5), (11, 12.5), (9, 9.8), (13, 14), (13, 14), (15, 16)]
    times += [(17, 18), (18.5, 19.5), (100, 101), (20, 21)]
    texts = [sentence(number) for number in range(len(times))]
    texts[8] = texts[7]  # a copy
    texts[9:12] = ["[Music]", "♪ la la la ♪", "(laughs) and so on"]
    blocks = [f"{clock(s, ',')} --> {clock(e, ',')}\n{t}\n" for (s, e), t in zip(times, texts, strict=True)]
    blocks[13] = "00:00:20,000 --> 00:00:2x,000\nwhat\n"
    (mine / "talk.srt").write_text("\n".join(blocks))
    rows = fates_by_place(prepare(mine, tmp_path / "out", split="utterance"))
    named = {number: rows[f"talk.srt, line {3 * number + 1}"] for number in range(len(times))}
    for number, kind, fate in (
        (2, "bad times", "left out"),
        (3, "bad times", "left out"),
        (4, "overlap (0.50 s with line 16", "kept"),
        (5, "overlap (0.50 s with line 13", "kept"),
        (6, "unsorted", "kept"),
        (8, "same recording (as in talk.srt, line 22", "kept"),
        (9, "no speech ([Music]", "left out"),
        (10, "sung", "kept"),
        (11, "annotation ((laughs)", "kept"),
        (12, "past the end", "left out"),
        (13, "broken row", "left out"),
    ):
        assert kind in named[number]["problems"], (number, named[number])
        assert named[number]["fate"] == fate
    assert not named[0]["problems"]


def test_tiers_with_transcripts_are_chosen_and_said(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / "talk.TextGrid").write_text(textgrid(tiers=("phones", "words", "Sentences")))
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    (note,) = [note for note in prepared.notes if "tier" in note]
    assert "read tier 'Sentences'; not read: tiers 'phones', 'words'" in note
    assert prepared.rows == PARTS
    prepare(mine, tmp_path / "phones", split="utterance", tiers=("PHONES",))
    with pytest.raises(InputError, match="'words', 'Sentences'"):
        prepare(mine / "talk.TextGrid", tmp_path / "none", tiers=("Ann",))
    shutil.rmtree(mine)
    talk(mine)
    (mine / "talk.srt").write_text(srt())
    with pytest.raises(InputError, match="--tier"):
        prepare(mine, tmp_path / "srt", split="utterance", tiers=("Ann",))


def test_tiers_of_talkers_are_speakers(tmp_path: Path):
    path = tmp_path / "x.TextGrid"
    path.write_text(textgrid(tiers=("Ann - words", "Ann - phones", "Ben - words")))
    assert {cue.speaker for cue in annotations.read_textgrid(path).cues} == {"Ann", "Ben"}
    path.write_text(textgrid(tiers=("Ann", "Ben")))
    assert {cue.speaker for cue in annotations.read_textgrid(path).cues} == {"Ann", "Ben"}
    path.write_text(textgrid(tiers=("Mary",)))
    assert {cue.speaker for cue in annotations.read_textgrid(path).cues} == {""}


def test_a_tier_with_a_word_an_interval_is_joined_at_pauses(tmp_path: Path):
    lines = ["ooTextFile", "TextGrid"]
    intervals: list[tuple[float, float, str]] = []
    for number in range(PARTS):
        words = sentence(number).split()
        intervals += [(2 * number + 0.3 * n, 2 * number + 0.3 * (n + 1), word) for n, word in enumerate(words)]
        intervals.append((2 * number + 1.2, 2 * number + 2, "sil"))
    written = [f'"{line}"' for line in lines] + ["0", str(SECONDS), "<exists>", "1", '"IntervalTier"', '"ORT-MAU"']
    written += ["0", str(SECONDS), str(len(intervals))]
    written += [f'{start}\n{end}\n"{text}"' for start, end, text in intervals]
    (tmp_path / "x.TextGrid").write_text("\n".join(written))
    reading = annotations.read_textgrid(tmp_path / "x.TextGrid")
    assert [cue.text for cue in reading.cues] == [sentence(number) for number in range(PARTS)]
    assert any("sil" in note for note in reading.notes)


def test_a_truncated_textgrid_says_so_and_keeps_what_it_has(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / "talk.TextGrid").write_text(textgrid()[:-300])
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.problems["broken row"] == 1 and prepared.fates["kept"] >= PARTS - 3


def test_elans_tiers_are_speakers_and_a_slot_without_a_time_is_named(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    content = eaf().replace(' TIME_VALUE="5500"', "")
    content = content.replace(
        "</ANNOTATION_DOCUMENT>", '<TIER TIER_ID="de@Ann" PARENT_REF="Ann"/></ANNOTATION_DOCUMENT>'
    )
    (mine / "talk.eaf").write_text(content)
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    (bad,) = [row for row in fates_by_place(prepared).values() if row["problems"]]
    assert "bad times" in bad["problems"] and "b2" in bad["problems"] and re.search(r"line \d+", bad["place"])
    assert {row["speaker"] for row in fates_by_place(prepared).values()} == {"Ann", "Ben"}


def test_an_elan_file_names_its_recording(tmp_path: Path):
    mine = talk(tmp_path / "mine", "take 7.wav")
    (mine / "session.eaf").write_text(eaf(media="take%207.wav"))
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates == {"kept": PARTS}
    assert any("take 7.wav" in note for note in prepared.notes)
    assert prepare(mine / "session.eaf", tmp_path / "alone", split="utterance").fates == {"kept": PARTS}


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n',
        '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>\n',
        '<!DOCTYPE x SYSTEM "http://example.com/x.dtd">\n',
    ],
)
def test_hostile_xml_is_refused(head: str, tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / "talk.eaf").write_text(eaf(head=head))
    with pytest.raises(InputError, match="talk.eaf.*refused"):
        prepare(mine / "talk.eaf", tmp_path / "out")
    # In a folder, the other files are read all the same.
    talk(mine, "other.wav")
    (mine / "other.eaf").write_text(eaf())
    prepared = prepare(mine, tmp_path / "folder", split="utterance")
    assert prepared.fates == {"kept": PARTS, "left out": 1}
    assert "refused" in fates(prepared)["talk.wav"]["problems"]


def test_words_of_a_ctm_are_joined_at_pauses(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    lines = [";; remark"]
    for number in range(PARTS):
        words = sentence(number).split()
        lines += [f"talk 1 {2 * number + 0.3 * n:.2f} 0.25 {word} 0.99" for n, word in enumerate(words)]
    lines += ["talk 1 * * <ALT_BEGIN>", "talk 1 23.6 0.1 um", "talk 1 * * <ALT>", "talk 1 23.6 0.1 hm"]
    lines += ["talk 1 * * <ALT_END>", "talk 1 x 0.25 broken"]
    (mine / "hyp.ctm").write_text("\n".join(lines) + "\n")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    written = [row["text"] for row in fates_by_place(prepared).values() if row["fate"] == "kept"]
    assert written == [*(sentence(number) for number in range(PARTS)), "um"]
    assert prepared.problems["broken row"] == 1
    places = list(fates_by_place(prepared))
    assert places[0] == "hyp.ctm, line 2 to 5"


def test_a_long_run_of_words_is_divided_at_its_longest_pause():
    words = [
        cues.Cue(f"line {n}", n * 0.5 + (n > 30) * 0.2, n * 0.5 + 0.5 + (n > 30) * 0.2, f"w{n}") for n in range(60)
    ]
    found = list(cues.utterances_of(words))
    assert [cue.place for cue in found] == ["line 0 to 30", "line 31 to 59"]


def test_recordings_of_an_stm_that_are_missing_are_named(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "talk.stm").write_text(FILES["talk.stm"])
    with pytest.raises(InputError, match=r"talk.stm.*talk.wav"):
        prepare(mine, tmp_path / "out")
    talk(mine)
    lines = "gone 1 ann 0 1 <o,f0,male> hello\ntalk 1 gap 22 23 <o,f0,male> ignore_time_segment_in_scoring\n"
    (mine / "talk.stm").write_text(FILES["talk.stm"] + lines)
    prepared = prepare(mine, tmp_path / "again", split="utterance")
    assert (prepared.problems["no audio"], prepared.problems["no speech"]) == (1, 1)
    assert {row["speaker"] for row in fates_by_place(prepared).values()} == {"ann", "gap"}


def test_of_several_files_beside_a_recording_one_is_read_and_the_others_are_said(tmp_path: Path):
    mine = talk(tmp_path / "mine")  # as Whisper leaves it
    for name in ("talk.srt", "talk.vtt", "talk.json", "talk.tsv"):
        (mine / name).write_text(FILES[name])
    (mine / "talk.txt").write_text("all of it")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.rows == PARTS
    assert any("talk.vtt: beside it, not read: .srt, .json, .tsv, .txt" in note for note in prepared.notes)


def test_the_language_chooses_between_captions(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / "talk.de.srt").write_text(srt().replace(sentence(0), "deutsch"))
    (mine / "talk.en.srt").write_text(srt())
    from asr_with_nemo.own_data.text import Rule

    prepared = prepare(mine, tmp_path / "en", split="utterance", rule=Rule(language="en"))
    assert "deutsch" not in {utterance["text"] for utterance in everything(prepared)}
    prepared = prepare(mine, tmp_path / "any", split="utterance")
    assert "talk.de.srt: read" in prepared.notes
    assert any("talk.de.srt: beside it, not read: .en.srt; --language" in note for note in prepared.notes)


def test_a_recording_without_captions_is_read_with_its_text_file(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    (mine / "talk.srt").write_text(srt())
    record(mine / "short.wav", 1.5)
    (mine / "short.txt").write_text("hello there")
    record(mine / "alone.wav", 1.5)
    (mine / "stray.srt").write_text(srt())
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates["kept"] == PARTS + 1
    assert (prepared.problems["no row"], prepared.problems["no audio"]) == (1, 1)


def test_the_text_of_a_short_recording_is_preferred_to_its_alignment(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(PARTS):
        record(mine / f"r{number}.wav", 2.0)
        (mine / f"r{number}.txt").write_text(sentence(number))
        (mine / f"r{number}.TextGrid").write_text(textgrid())
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates == {"kept": PARTS} and any("TextGrid" in note for note in prepared.notes)


def test_a_video_and_its_sound_are_one_recording(tmp_path: Path):
    mine = talk(tmp_path / "mine")
    record(mine / "talk.flac", SECONDS, 8_000)
    (mine / "talk.srt").write_text(srt())
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.rows == PARTS and any("talk.flac: not read" in note for note in prepared.notes)


def test_captions_in_a_parallel_folder_are_found(tmp_path: Path):
    mine = tmp_path / "mine"
    for name in ("one", "two"):
        talk(mine / "audio", f"{name}.wav")
        (mine / "subtitles").mkdir(exist_ok=True)
        (mine / "subtitles" / f"{name}.srt").write_text(srt())
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates == {"kept": 2 * PARTS}


def test_a_file_without_a_recording_or_without_captions_says_what_to_do(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "talk.srt").write_text(srt())
    for source in (mine, mine / "talk.srt"):
        with pytest.raises(InputError, match=r"talk\.wav"):
            prepare(source, tmp_path / "out")
    talk(mine)
    (mine / "talk.srt").write_text("<html>moved</html>")
    with pytest.raises(InputError, match="talk.srt.*no captions"):
        prepare(mine / "talk.srt", tmp_path / "out")


def test_json_of_another_kind_is_not_whispers(tmp_path: Path):
    (tmp_path / "x.json").write_text('{"segments": [{"start": 0, "end": 1, "text": "a"}, 7, {"text": "b"}]}')
    assert [cue.problem for cue in segments.read_json(tmp_path / "x.json").cues] == ["", "broken row", "bad times"]
    for content in ({"id": "x", "title": "y"}, {"segments": 3}, [{"audio_filepath": "a.wav", "text": "x"}], [], 7):
        (tmp_path / "x.json").write_text(json.dumps(content))
        assert segments.read_json(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_text('{"segments": [{"start": 0')
    with pytest.raises(InputError, match="x.json"):
        segments.read_json(tmp_path / "x.json")


def test_a_table_of_recordings_stays_a_table(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = []
    for number in range(PARTS):
        record(mine / f"r{number}.wav", 2.0)
        rows.append((f"r{number}.wav", "0", "1.5", sentence(number)))
    with_table(mine, [("path", "start", "end", "text"), *rows], "r0.csv")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert (prepared.format, prepared.rows) == ("csv", PARTS)


def test_a_programs_captions_of_one_recording_dont_replace_the_table_of_all(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [(f"r{number}.wav", sentence(number)) for number in range(PARTS)]
    for name, _ in rows:
        record(mine / name, 2.0)
    with_table(mine, [("file", "text"), *rows], "metadata.csv")
    (mine / "r0.srt").write_text("1\n00:00:00,100 --> 00:00:01,500\nwhat a program heard\n")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert (prepared.format, prepared.rows) == ("csv", PARTS)


@pytest.mark.parametrize("name", ["Some_talk", "Some talk [dQw4].v1", "Über cafe\u0301"])
def test_a_programs_description_beside_each_recording_does_not_replace_their_captions(name: str, tmp_path: Path):
    mine = tmp_path / "mine"
    formats_there = [
        {"format_id": "251", "url": "https://host/a.webm"},
        {"format_id": "18", "url": "https://host/b.mp4"},
    ]
    for number in range(2):
        stem = f"{name}{number}"
        talk(mine, f"{stem}.wav")
        (mine / f"{stem}.en.vtt").write_text(vtt(), encoding="utf-8")
        about = {"id": "dQw4", "title": "Some talk", "formats": formats_there, "description": "A talk about things."}
        (mine / f"{stem}.info.json").write_text(json.dumps(about | {"categories": ["Music"]}), encoding="utf-8")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert (prepared.format, prepared.rows) == ("aligned", 2 * PARTS)


def test_digits_in_a_transcript_are_no_label(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(PARTS):
        record(mine / f"r{number}.wav", 2.0)
        (mine / f"r{number}.txt").write_text(f"1 2 {number + 3} 4\n")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert {row["text"] for row in fates(prepared).values()} == {f"1 2 {number + 3} 4" for number in range(PARTS)}
