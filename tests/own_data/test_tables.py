"""Columns of tables: times in any unit and language, what isn't read, tables of a corpus read alike, nested JSON."""

import json
from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import formats, tables
from asr_with_nemo.own_data.sources import Source
from tests.own_data.corpora import WORDS, read, record, sentence, times, with_table


def folder_with(folder: Path, count: int = 4, below: str = "") -> Path:
    for number in range(count):
        record(folder / below / f"r{number}.wav", 2.0)
    return folder


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        ("audio startMs endMs text", "500 1500", (0.5, 1.0)),
        ("audioPath startTime endTime transcriptText", "0.5 1.5", (0.5, 1.0)),
        ("fichier début fin texte", "0,5 1,25", (0.5, 0.75)),
        ("Datei Von Bis Satz", "00:00:00,500 00:00:01,500", (0.5, 1.0)),
        ("文件 开始 结束 文本", "0.5 1.5", (0.5, 1.0)),
        ("audio start_us end_us text", "500000 1500000", (0.5, 1.0)),
        ("audio start_min end_min text", "0.01 0.02", (0.6, 0.6)),
        ("audio begin finish text", "0.5 1.5", (0.5, 1.0)),
    ],
)
def test_times_in_other_spellings(tmp_path, columns, cells, expected):
    rows = [[f"r{n}.wav", *cells.split(), sentence(n)] for n in range(4)]
    with_table(folder_with(tmp_path), [columns.split(), *rows], delimiter=";")
    found, _ = read(tmp_path)
    assert [(times(entry), entry.text) for entry in found] == [(expected, sentence(n)) for n in range(4)]


def test_speakers_and_channels_in_another_language(tmp_path):
    rows = [[f"r{n}.wav", "Anna", str(n % 2 + 1), sentence(n)] for n in range(4)]
    with_table(folder_with(tmp_path), [["Datei", "Sprecher", "Kanal", "Satz"], *rows])
    assert {(entry.speaker, entry.channel) for entry in read(tmp_path)[0]} == {("Anna", 0), ("Anna", 1)}


def test_tarred_manifest_says_what_to_unpack(tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "yes", "shard_id": 0}
    (tmp_path / "tarred_audio_manifest.json").write_text(json.dumps(row))
    [entry], _ = read(tmp_path / "tarred_audio_manifest.json")
    assert entry.problem == "no audio" and "unpack its .tar files" in entry.detail


def test_unit_of_times_by_the_duration(tmp_path):
    rows = [[f"u{n}", "0.5", f"r{n}.wav", "8000", "16000", sentence(n)] for n in range(4)]
    with_table(folder_with(tmp_path), [["ID", "duration", "wav", "start", "stop", "wrd"], *rows])
    found, said = read(tmp_path)
    assert {times(entry) for entry in found} == {(0.5, 0.5)} and "1/16000 s" in said


def test_columns_that_are_not_read_are_named(tmp_path):
    rows = [["r0.wav", "clean", f"{n}.5", f"{n}.9", sentence(n)] for n in range(4)]
    with_table(folder_with(tmp_path), [["path", "room", "ab", "cd", "text"], *rows])
    _, said = read(tmp_path)
    assert "not read: room, ab, cd" in said and "columns 'ab' and 'cd' of table.csv, start and end?" in said


def test_start_without_an_end_is_said(tmp_path):
    with_table(folder_with(tmp_path), [["path", "start", "text"], *([f"r{n}.wav", "1", sentence(n)] for n in range(4))])
    assert "no column of ends" in read(tmp_path)[1]


def test_tables_of_a_corpus_are_read_alike(tmp_path):
    """As FLEURS has them: no header, the text as printed, normalised and spelled, and tables of one row."""
    numbers = iter(range(10))
    for split, count in (("train", 4), ("dev", 1), ("test", 1)):
        rows = []
        for number in (next(numbers) for _ in range(count)):
            record(tmp_path / "audio" / split / f"{number}.wav")
            words = sentence(number)
            spelled = " | ".join(" ".join(word) for word in words.split())
            rows.append([str(number), f"{number}.wav", f"{words.capitalize()}.", words, spelled, "32000", "MALE"])
        with_table(tmp_path, rows, f"{split}.tsv", delimiter="\t")
    found, said = read(tmp_path)
    assert {entry.text for entry in found} == {sentence(n) for n in range(6)} and said.count("text: 4") == 3


def test_table_below_a_file_that_is_none_and_names_in_two_folders(tmp_path):
    """As the Multilingual LibriSpeech has them."""
    for split in ("train", "dev"):
        folder_with(tmp_path, 2, f"mls/{split}/audio/1")
        rows = [[f"r{n}", f"{split} {sentence(n)}"] for n in range(2)]
        with_table(tmp_path / "mls" / split, rows, "transcripts.txt", delimiter="\t")
    (tmp_path / "mls" / "metainfo.txt").write_text("SPEAKER | GENDER\n 1 | M\n")
    for source in (tmp_path, tmp_path / "mls"):
        found, _ = read(source)
        assert {(entry.split, entry.text.split()[0]) for entry in found} == {("train", "train"), ("dev", "dev")}


def test_tables_beside_those_of_the_splits_are_named(tmp_path):
    for number, name in enumerate(["train.tsv", "dev.tsv", "test.tsv", "other.tsv"]):
        with_table(
            folder_with(tmp_path), [["path", "sentence"], [f"r{number}.wav", sentence(number)]], name, delimiter="\t"
        )
    found, said = read(tmp_path)
    assert len(found) == 3 and "not read: other.tsv" in said


def test_recordings_beside_a_table_are_not_sorted(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        formats, "sorted", lambda items, **more: seen.extend(made := sorted(items, **more)) or made, False
    )
    with_table(folder_with(tmp_path), [["path", "text"], *([f"r{n}.wav", sentence(n)] for n in range(4))], "t.csv")
    source = Source(tmp_path, None)
    formats._not_read(source, [tables.Table(tmp_path / "t.csv")], [])
    assert seen == [tmp_path / "t.csv"]


def test_segments_within_a_row(tmp_path):
    folder_with(tmp_path, 2)
    segments = [{"sid": "S1", "begin_time": 0.0, "end_time": 0.5, "text_tn": "ONE"}]
    segments += [{"sid": "S2", "begin_time": 0.5, "end_time": 1.5, "text_tn": "TWO <COMMA> THREE"}]
    audios = [{"aid": f"AUD{n}", "path": f"r{n}.wav", "duration": 2.0, "segments": segments} for n in range(2)]
    (tmp_path / "corpus.json").write_text(json.dumps({"dataset": "x", "audios": audios}))
    found, _ = read(tmp_path)
    expected = [("ONE", (0, 0.5)), ("TWO <COMMA> THREE", (0.5, 1.0))]
    assert [(entry.text, times(entry)) for entry in found] == 2 * expected


def test_json_without_a_recording_is_no_table(tmp_path):
    (folder_with(tmp_path) / "info.json").write_text('{"title": "an evening", "place": "town"}')
    with pytest.raises(InputError, match=r"info\.json: JSON that names no recording"):
        read(tmp_path / "info.json")


def test_utf_32_has_right_lines(tmp_path):
    rows = "path,text\n" + "".join(f"r{n}.wav,{sentence(n)}\n" for n in range(4))
    (folder_with(tmp_path) / "t.csv").write_text(rows, "utf-32")
    assert [entry.place for entry in read(tmp_path)[0]] == [f"t.csv, line {n}" for n in range(2, 6)]


def test_names_of_columns_in_camel_case():
    assert [tables.plain(name) for name in ("startMs", "WAVFile", "UttID")] == ["start_ms", "wav_file", "utt_id"]


@pytest.mark.parametrize(
    ("content", "splits"),
    [
        ({"data": {"items": [{"audio": "r0.wav", "text": "yes"}]}}, {""}),
        (
            {"train": [{"audio": "r0.wav", "text": "yes"}], "test": [{"audio": "r1.wav", "text": "yes"}]},
            {"train", "test"},
        ),
        ({"r0.wav": {"text": "yes", "segments": [{"id": 1, "start": 0}]}}, {""}),
    ],
)
def test_where_the_rows_of_json_are(tmp_path, content, splits):
    (folder_with(tmp_path, 2) / "t.json").write_text(json.dumps(content))
    found, _ = read(tmp_path)
    assert {entry.split for entry in found} == splits and {entry.text for entry in found} == {"yes"}
    assert not any(entry.problem for entry in found)


def test_json_lines_with_commas_and_several_objects(tmp_path):
    row = json.dumps({"audio": "r0.wav", "text": "yes"})
    (folder_with(tmp_path, 1) / "t.jsonl").write_text(f"{row},\n{row},\n")
    assert [entry.text for entry in read(tmp_path)[0]] == ["yes", "yes"]
    (tmp_path / "t.jsonl").write_text(f"{row}{row}\n{row}{row}\n")
    with pytest.raises(InputError, match=r"t\.jsonl, line 1: .*one object a line"):
        read(tmp_path / "t.jsonl")


@pytest.mark.parametrize("cells", [("user1", "user2"), ("Ann", "Bob"), ("2024-01-01 10:00", "2024-01-01 11:00")])
def test_columns_that_only_sound_like_times(tmp_path, cells):
    with_table(
        folder_with(tmp_path), [["path", "from", "to", "text"], *([f"r{n}.wav", *cells, "yes"] for n in range(4))]
    )
    found, said = read(tmp_path)
    assert not any(entry.problem for entry in found) and "not understood: column 'from'" in said


@pytest.mark.parametrize("start", [("0.1", "0.2"), ("48.2", "49.1")])
def test_measures_are_not_taken_for_times(tmp_path, start):
    rows = [[f"r{n % 2}.wav", start[n % 2], "60.5", sentence(n)] for n in range(4)]
    rows = [[path, ab, "0.9" if ab < "1" else cd, text] for path, ab, cd, text in rows]
    with_table(folder_with(tmp_path), [["path", "ab", "cd", "text"], *rows])
    assert "start and end?" not in read(tmp_path)[1]


def test_unit_of_times_though_a_duration_is_empty(tmp_path):
    rows = [[f"u{n}", seconds, f"r{n}.wav", "8000", "16000", sentence(n)] for n, seconds in enumerate(["0.5", "", "0"])]
    with_table(folder_with(tmp_path), [["ID", "duration", "wav", "start", "stop", "wrd"], *rows])
    assert {times(entry) for entry in read(tmp_path)[0]} == {(0.5, 0.5)}


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_many_files_beside_the_recordings_hide_no_table(tmp_path, suffix):
    folder_with(tmp_path, 60)
    content = '{"words": ["one"], "phones": ["w"]}' if suffix == ".json" else "time,f0\n0.1,120\n"
    for number in range(60):
        (tmp_path / f"r{number}{suffix}").write_text(content)
    with_table(tmp_path, [["path", "text"], *([f"r{n}.wav", sentence(n)] for n in range(60))], "zz.csv")
    assert [entry.text for entry in read(tmp_path)[0]] == [sentence(n) for n in range(60)]


@pytest.mark.parametrize(
    "row",
    [
        {"transcript": {"text": "hello there"}, "words": [{"word": "hello", "start": 0, "end": 1}]},
        {"phrase": "hello there", "words": [{"word": "hello", "start": 0, "end": 1}]},
        {"phrase": "hello there", "vad": [{"start": 0, "end": 1}, {"start": 1, "end": 2}]},
    ],
)
def test_a_row_with_a_text_is_one_row(tmp_path, row):
    rows = [json.dumps({"audio": f"r{n}.wav"} | row) for n in range(2)]
    (folder_with(tmp_path, 2) / "t.jsonl").write_text("\n".join(rows))
    assert [(entry.text, times(entry)) for entry in read(tmp_path)[0]] == 2 * [("hello there", (0, None))]


def test_segments_behind_a_list_without_texts(tmp_path):
    row = {"audio": "r0.wav", "vad": [{"start": 0, "end": 2}], "segments": [{"start": 0.5, "end": 1, "text": "one"}]}
    (folder_with(tmp_path, 1) / "t.jsonl").write_text(json.dumps(row))
    assert [(entry.text, times(entry)) for entry in read(tmp_path)[0]] == [("one", (0.5, 0.5))]


def test_a_text_that_is_always_the_same(tmp_path):
    rows = [[f"r{n}.wav", "hey computer", name] for n, name in enumerate(["ann", "bob", "eve", "dan"])]
    for header in ([], [["path", "phrase", "city"]]):
        with_table(folder_with(tmp_path), [*header, *rows])
        assert {entry.text for entry in read(tmp_path)[0]} == {"hey computer"}


def test_tables_without_a_header_keep_their_own_columns(tmp_path):
    folder_with(tmp_path, 6)
    with_table(tmp_path, [[f"r{n}.wav", "ann", sentence(n, 6)] for n in range(4)], "x.csv")
    with_table(tmp_path, [[f"r{n}.wav", sentence(n), "bob"] for n in (4, 5)], "y.csv")
    assert [entry.text for entry in read(tmp_path)[0]] == [
        *(sentence(n, 6) for n in range(4)),
        sentence(4),
        sentence(5),
    ]


def test_units_and_channels_are_those_of_the_largest_table(tmp_path):
    header = ["path", "start", "end", "duration", "channel", "text"]
    rows = [["r0.wav", "8000", "16000", "0.5", n % 2, sentence(n)] for n in range(4)]
    with_table(folder_with(tmp_path), [header, *rows], "x.csv")
    with_table(tmp_path, [header, ["r1.wav", "16000", "24000", "", 1, sentence(5)]], "y.csv")
    found, said = read(tmp_path)
    assert (times(found[-1]), found[-1].channel) == ((1, 0.5), 1) and "not understood" not in said


@pytest.mark.parametrize("names", [("r0", "r1"), ("r0",)])
def test_small_json_by_names_without_a_suffix(tmp_path, names):
    content = {name: {"text": f"this is {name}", "words": [{"word": "this", "start": 0, "end": 1}]} for name in names}
    (folder_with(tmp_path, 2) / "t.json").write_text(json.dumps(content))
    assert [entry.text for entry in read(tmp_path / "t.json")[0]] == [f"this is {name}" for name in names]


# --- Which column has the texts ---------------------------------------------------------------------------------------


SAID = [sentence(number) for number in range(6)]
DEVICES = ["microphone", "microphone", "telephone headset", "microphone", "microphone", "microphone"]
DAYS = ["monday 3 june", "tuesday 4 june", "friday 7 june", "monday 10 june", "sunday 16 june", "monday 17 june"]
NAMES = ["Ann Lee", "Bo Sands", "Cy Long", "Di Short", "Ed Hall", "Flo Mann"]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("file said device", [SAID, DEVICES]),
        ("file heard device", [SAID, DEVICES]),
        ("file heard gear", [SAID, DEVICES]),
        ("file gear heard", [DEVICES, SAID]),
        ("file said date gender", [["go", "stop", "left", "right", "up", "down"], DAYS, ["female"] * 6]),
        ("file heard when", [["go", "stop", "left", "right", "up", "down"], DAYS]),
        ("file heard city note", [SAID, ["Rome"] * 6, ["a dog barks behind the speaker"] * 6]),
        ("file heard link", [["go", "stop", "left", "right", "up", "down"], [f"https://x.org/{n}" for n in range(6)]]),
        ("", [DEVICES, SAID]),
        ("", [DAYS, ["go", "stop", "left", "right", "up", "down"]]),
    ],
)
def test_the_longest_words_of_a_table_are_not_its_texts(tmp_path, header, columns):
    rows = [[f"r{n}.wav", *cells] for n, cells in enumerate(zip(*columns, strict=True))]
    with_table(folder_with(tmp_path, 6), [header.split(), *rows] if header else rows)
    found, _ = read(tmp_path)
    texts = next(column for column in columns if column not in (DEVICES, DAYS) and len(set(column)) == 6)
    assert [entry.text for entry in found] == texts


@pytest.mark.parametrize(("header", "columns"), [("file heard who", [SAID, NAMES]), ("", [NAMES, SAID])])
def test_where_two_columns_could_be_the_texts_it_is_asked(tmp_path, header, columns):
    rows = [[f"r{n}.wav", *cells] for n, cells in enumerate(zip(*columns, strict=True))]
    with_table(folder_with(tmp_path, 6), [header.split(), *rows] if header else rows)
    with pytest.raises(InputError, match=r"table\.csv: which column.*Ann Lee.*--text-column") as raised:
        read(tmp_path)
    assert SAID[0] in str(raised.value)
    column = "heard" if header else "3"
    assert [entry.text for entry in read(tmp_path, columns={"text": column})[0]] == SAID


COMMANDS = ["turn on the light", "open the front door"] * 3
FIRST_NAMES = ["Ann", "Bo", "Cy", "Di", "Ed", "Flo"]
YES_NO = ["yes", "no"] * 3
CODES = [f"s00{n}" for n in range(6)]
REMARKS = ["", "a dog barks", "", "", "the end is missing", ""]
THERE = ["the cat sat here", "we came at two", "he left for good", "it rains again", "no one knew why", "go home now"]
PRINTED = [f"Mr. {text.capitalize()}, in 19{n}4." for n, text in enumerate(SAID)]
SPOKEN = [f"mister {text} in nineteen {n} four".replace(str(n), WORDS[n]) for n, text in enumerate(SAID)]
MISHEARD = [text.replace("the", "a").replace("fox", "box") + " uh" for text in SAID]
CHINESE = ["我有3只猫", "他走了5公里", "今天是星期二", "第7课很难", "我们8点见面", "请再说1遍"]


def column_of_texts(tmp_path: Path, header: str, *columns: list[str]) -> str | list[str]:
    """Return the column that is read, or those of which one has to be chosen; recordings needn't exist for it."""
    rows = [[f"r{n}.wav", *cells] for n, cells in enumerate(zip(*columns, strict=True))]
    with_table(tmp_path, [header.split(), *rows] if header else rows)
    table = tables.inspect(tmp_path / "table.csv", lambda name: name.endswith(".wav"))
    return " ".join(table.texts) or table.roles["text"]


@pytest.mark.parametrize(
    ("header", "columns", "expected"),
    [
        # Texts that many people say: prompts, wake words, answers.
        ("file heard participant", [COMMANDS, FIRST_NAMES], "heard"),
        ("", [FIRST_NAMES, COMMANDS], "3"),
        ("file heard participant", [COMMANDS, NAMES], "participant heard"),
        ("file heard who", [["hey computer"] * 6, FIRST_NAMES], "who heard"),
        ("file heard who", [YES_NO, FIRST_NAMES], "who heard"),
        ("file heard gear", [COMMANDS, DEVICES], "heard"),
        ("file heard session", [COMMANDS, CODES], "heard"),
        ("file heard session", [["hey computer"] * 6, CODES], "heard"),
        ("", [["go", "stop", "left", "right", "up", "down"], ["female"] * 6], "2"),
        # The text of a person and of a machine.
        ("audio reference hypothesis", [SAID, MISHEARD], "reference"),
        ("audio ground_truth whisper_output", [SAID, MISHEARD], "ground_truth"),
        ("audio human_transcript asr_output", [SAID, MISHEARD], "human_transcript"),
        ("audio ref hyp", [SAID, MISHEARD], "ref"),
        ("audio corrected auto", [SAID, MISHEARD], "corrected"),
        ("audio one other", [SAID, MISHEARD], "one other"),
        ("audio ref heard", [CODES, SAID], "heard"),
        ("audio spanish portuguese", [SAID, THERE], "spanish portuguese"),
        ("id printed spoken", [PRINTED, SPOKEN], "spoken"),
        ("id spoken printed", [SPOKEN, PRINTED], "spoken"),
        # Sentences with digits, without spaces.
        ("file heard participant", [["lights on", "lights off"] * 3, FIRST_NAMES], "heard participant"),
        ("file heard city", [CHINESE, ["北京"] * 6], "heard"),
        ("file heard when", [CHINESE, [f"2024年3月{n}日" for n in range(1, 7)]], "heard"),
        ("audio source target", [SAID, THERE], "source target"),
        ("file description heard", [THERE, SAID], "description heard"),
        # Remarks.
        ("file heard reviewer_notes", [SAID, REMARKS], "heard"),
        ("file heard extra", [SAID, REMARKS], "heard"),
        ("file heard extra", [FIRST_NAMES, REMARKS], "heard"),
        ("file heard extra", [YES_NO, REMARKS], "extra heard"),
        ("file Transkript QA_remark", [SAID, THERE], "Transkript"),
        ("file transcription_fr remarques", [SAID, THERE], "transcription_fr"),
        ("file transcripción observaciones", [SAID, THERE], "transcripción"),
        ("file 発話 備考", [CHINESE, CHINESE[::-1]], "発話"),
        ("file content extra", [COMMANDS, THERE], "content"),
        ("file label extra", [YES_NO, REMARKS], "label"),
        # Names of something else, where no other column has texts.
        ("file translation speaker", [SAID, FIRST_NAMES], "translation"),
        ("file ipa", [SAID], "ipa"),
        ("file comment", [SAID], "comment"),
        ("path accent", [FIRST_NAMES], "accent"),
    ],
)
def test_which_column_has_the_texts(tmp_path, header, columns, expected):
    """Two names are those between which the user has to choose."""
    assert column_of_texts(tmp_path, header, *columns) == expected


def test_a_column_with_a_name_of_something_else_is_noted(tmp_path):
    with_table(folder_with(tmp_path), [["file", "translation"], *([f"r{n}.wav", SAID[n]] for n in range(4))])
    found, said = read(tmp_path)
    assert [entry.text for entry in found] == SAID[:4] and "taken from column 'translation'" in said
    with pytest.raises(InputError, match="'accent'; .*labels.* --text-column"):
        column_of_texts(tmp_path, "path accent", ["north", "south"] * 3)


def test_a_class_is_not_the_text_where_there_are_sentences(tmp_path):
    rows = [[f"r{n}.wav", ["happy", "sad"][n % 2], text] for n, text in enumerate(SAID)]
    with_table(folder_with(tmp_path, 6), [["file", "label", "heard"], *rows])
    with pytest.raises(InputError, match="'heard'.*'label'.*--text-column"):
        read(tmp_path)
    words = [[f"r{n}.wav", word, f"s{n % 2}"] for n, word in enumerate(["yes", "no"] * 3)]
    with_table(tmp_path, [["file", "label", "person"], *words])
    assert {entry.text for entry in read(tmp_path)[0]} == {"yes", "no"}


def test_markers_of_a_sound_editor(tmp_path):
    """As Adobe Audition saves them beside a recording."""
    record(tmp_path / "talk.wav", 9.0)
    header = ["Name", "Start", "Duration", "Time Format", "Type", "Description"]
    rows = [[f"Marker {n:02}", f"0:0{n}.500", "0:01.000", "decimal", "Cue", sentence(n)] for n in range(1, 6)]
    with_table(tmp_path, [header, *rows], "talk.csv", delimiter="\t")
    found, _ = read(tmp_path)
    assert [(entry.text, times(entry)) for entry in found] == [(sentence(n), (n + 0.5, 1.0)) for n in range(1, 6)]
    for row in rows:
        row[0], row[-1] = row[-1], ""  # who writes into the names
    with_table(tmp_path, [header, *rows], "talk.csv", delimiter="\t")
    assert [entry.text for entry in read(tmp_path)[0]] == [sentence(n) for n in range(1, 6)]


def test_a_table_beside_a_recording_with_two_texts_asks(tmp_path):
    record(tmp_path / "talk.wav", 9.0)
    rows = [[f"{n}", f"{n}.9", SAID[n], NAMES[n]] for n in range(5)]
    with_table(tmp_path, [["start", "end", "a", "b"], *rows], "talk.csv")
    [entry] = read(tmp_path)[0]
    assert entry.problem == "unreadable text" and "--text-column" in entry.detail
    assert [entry.text for entry in read(tmp_path, columns={"text": "a"})[0]] == SAID[:5]
