"""Recordings and tables as people really have them: what was read wrongly without a word, and now isn't."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import commands, formats, tables, times
from tests.own_data.corpora import (
    everything,
    fates,
    good_rows,
    prepare,
    read,
    record,
    samples,
    sentence,
    with_table,
)
from tests.own_data.corpora import times as times_of


def texts(prepared) -> list[str]:
    return [row["text"] for row in fates(prepared).values()]


def test_a_small_table_with_tabs_is_not_read_as_a_name_and_a_text(tmp_path: Path):
    mine = tmp_path / "mine"
    for rows in (10, 12, 19):
        shutil.rmtree(mine, ignore_errors=True)
        good = good_rows(mine, rows)
        (mine / good[0][0]).unlink()  # one of them is missing
        with_table(mine, [("path", "sentence", "speaker"), *good], "table.tsv", delimiter="\t")
        table = tables.inspect(mine / "table.tsv", lambda value: value.endswith(".wav"))
        assert (table.delimiter, table.roles["text"], table.roles["speaker"]) == ("\t", "sentence", "speaker")


def test_floats_above_full_scale_are_scaled_and_said(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine, 12)
    loud = samples("loud", 1.2)
    soundfile.write(mine / rows[0][0], 8 * loud / np.abs(loud).max(), 16_000, subtype="FLOAT")
    with_table(mine, [("path", "text", "speaker"), *rows])
    prepared = prepare(mine, tmp_path / "out")
    row = fates(prepared)[rows[0][0]]
    assert "too loud (8.0" in row["problems"] and row["fate"] == "kept"
    wavs = [soundfile.read(path)[0] for path in (tmp_path / "out" / "wav").rglob("*.wav")]
    full = max((np.abs(wav) > 0.999).mean() for wav in wavs)
    assert full < 0.001


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        (("path", "onset", "offset", "text"), "1.0", "2.0"),
        (("path", "start (s)", "end (s)", "text"), "1,0", "2,0"),
        (("path", "start_ms", "end_ms", "text"), "1000", "2000"),
        (("path", "tmin", "tmax", "text"), "1", "2"),
        (("path", "xmin", "xmax", "text"), "1", "2"),
        (("path", "from", "to", "text"), "1", "2"),
        (("path", "begin_time", "end_time", "text"), "00:00:01.000", "00:00:02.000"),
        (("path", "Begin Time - ss.msec", "End Time - ss.msec", "text"), "1.000", "2.000"),
        (("path", "offset", "duration", "text"), "1", "1"),
    ],
)
def test_times_are_understood_by_their_columns_names(tmp_path: Path, header: tuple, start: str, end: str):
    mine = tmp_path / "mine"
    for number in range(12):
        record(mine / f"r{number}.wav", 3.0)
    rows = [(f"r{number}.wav", start, end, sentence(number)) for number in range(12)]
    with_table(mine, [header, *rows], delimiter=";")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates["kept"] == 12
    seconds = {float(row["seconds"]) for row in fates(prepared).values()}
    assert seconds == {1.0}


def test_milliseconds_taken_for_seconds_are_a_problem_and_no_silent_cut(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = []
    for number in range(12):
        record(mine / f"r{number}.wav", 3.0)
        rows.append((f"r{number}.wav", "0", "2000" if number == 3 else "2.4", sentence(number)))
    with_table(mine, [("path", "start", "end", "text"), *rows])
    row = fates(prepare(mine, tmp_path / "out", split="utterance"))["r3.wav"]
    assert row["fate"] != "kept"
    assert "past the end" in row["problems"] and "3.00 s" in row["problems"]


def test_a_column_that_speaks_of_times_and_is_not_understood_is_named(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [(*row, "800") for row in good_rows(mine, 12)]
    with_table(mine, [("path", "text", "speaker", "start_sample"), *rows])
    prepared = prepare(mine, tmp_path / "out")
    assert any("start_sample" in note for note in prepared.notes)


def test_labels_with_times_are_cut_and_their_numbers_are_no_words(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(6):
        record(mine / f"r{number}.wav", 3.0)
        lines = [f"0.0\t1.4\t{sentence(number)}", f"1.5\t2.9\t{sentence(number + 50)}"]  # Audacity's
        (mine / f"r{number}.txt").write_text("\n".join(lines) + "\n")
    for number in range(6, 12):
        record(mine / f"r{number}.wav", 1.0)
        (mine / f"r{number}.txt").write_text(f"0 16000 {sentence(number)}\n")  # TIMIT's
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates["kept"] == 18
    heard = [path.read_text() for path in (tmp_path / "out").glob("*_manifest.json")]
    assert not any(character.isdigit() for text in texts(prepared) for character in text), heard
    assert any("two numbers" in note for note in prepared.notes)


def test_numbers_alone_are_never_guessed_to_be_transcripts(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [(row[0], "16000") for row in good_rows(mine, 12)]
    with_table(mine, [(str(mine), ""), *rows], "train.tsv", delimiter="\t")
    with pytest.raises(Exception, match="train.tsv.*transcripts"):
        prepare(mine, tmp_path / "out")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sph2pipe -f wav -p -c 2 a.sph |", commands.Effect("a.sph", channel=1)),
        ("/opt/sph2pipe -f wav -p -c 1 a.sph | sox -t wav - -r 8000 -t wav - |", commands.Effect("a.sph", channel=0)),
        ("sox a.wav -t wav - remix 2 trim 1.5 2 |", commands.Effect("a.wav", 1.5, 2.0, 1)),
        ("sox a.wav -t wav - trim 10 =12 |", commands.Effect("a.wav", 10.0, 2.0)),
        ("ffmpeg -i a.mp4 -ss 00:00:10 -t 5 -ac 1 -ar 16000 -f wav - |", commands.Effect("a.mp4", 10.0, 5.0)),
        ("flac -c -d -s a.flac |", commands.Effect("a.flac")),
    ],
)
def test_a_command_of_kaldis_is_understood_and_never_run(command: str, expected: commands.Effect):
    assert commands.understand(command) == expected


@pytest.mark.parametrize(
    "command",
    ["sox a.wav -t wav - speed 1.1 |", "sox -v 0.5 a.wav -t wav - |", "rm -rf a.wav |", "sox a.wav - remix 1,2 |"],
)
def test_a_command_that_does_more_is_named(command: str):
    with pytest.raises(commands.NotUnderstood):
        commands.understand(command)


def test_each_talker_of_a_call_has_a_channel(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    left, right = samples("left", 2.0), 0.2 * samples("right", 2.0)
    soundfile.write(mine / "call.wav", np.stack([left, right], axis=1), 16_000)
    rows = [("u-a", f"sox {mine}/call.wav -t wav - remix 1 |"), ("u-b", f"sox {mine}/call.wav -t wav - remix 2 |")]
    for number in range(10):
        record(mine / f"r{number}.wav", 1.5)
        rows.append((f"r{number}", f"{mine}/r{number}.wav"))
    (mine / "wav.scp").write_text("".join(f"{name} {path}\n" for name, path in rows))
    (mine / "text").write_text("".join(f"{name} {sentence(place)}\n" for place, (name, _) in enumerate(rows)))
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates["kept"] == 12
    peaks = sorted(np.abs(soundfile.read(path)[0]).max() for path in (tmp_path / "out" / "wav").rglob("call*.wav"))
    assert peaks[1] == pytest.approx(np.abs(left).max(), abs=0.01)
    assert peaks[0] == pytest.approx(np.abs(right).max(), abs=0.01)


def test_texts_named_as_the_whole_file_are_found(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(12):
        path = record(mine / f"r{number}.wav", 1.2)
        path.with_name(f"{path.name}.txt").write_text(sentence(number))
    assert prepare(mine, tmp_path / "out", split="utterance").fates["kept"] == 12


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
def test_utf_16_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str):
    mine = tmp_path / "mine"
    rows = [("path", "text", "speaker"), *good_rows(mine, 12)]
    (mine / "table.csv").write_bytes("".join(",".join(row) + "\r\n" for row in rows).encode(encoding))
    assert prepare(mine, tmp_path / "out").fates["kept"] == 12
    assert prepare(mine, tmp_path / "again", encoding=encoding).fates["kept"] == 12


def test_excels_first_line_is_no_row(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [("path", "text", "speaker"), *good_rows(mine, 12)]
    (mine / "table.csv").write_text("sep=;\n" + "".join(";".join(row) + "\n" for row in rows))
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.fates == {"kept": 12}


def test_names_as_in_a_url_are_found(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = []
    for number in range(12):
        record(mine / f"my take {number}.wav", 1.2)
        rows.append((f"my%20take%20{number}.wav", sentence(number), f"speaker{number % 4}"))
    with_table(mine, [("audio", "text", "speaker"), *rows])
    assert prepare(mine, tmp_path / "out").fates["kept"] == 12


def test_a_call_whose_talkers_are_mixed_is_named(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine, 12)
    silence, voice = 0.0005 * samples("quiet", 1.0), samples("voice", 1.0)
    call = np.stack([np.concatenate([voice, silence]), np.concatenate([silence, voice])], axis=1)
    soundfile.write(mine / rows[0][0], call, 16_000)
    with_table(mine, [("path", "text", "speaker"), *rows])
    assert "two talkers" in fates(prepare(mine, tmp_path / "out"))[rows[0][0]]["problems"]


def test_two_objects_on_a_line_are_told_so(tmp_path: Path):
    mine = tmp_path / "mine"
    lines = [f'{{"audio_filename": "{path}", "text": "{text}"}}' for path, text, _ in good_rows(mine, 12)]
    (mine / "rows.jsonl").write_text("\n".join([lines[0] + lines[1], *lines[2:]]) + "\n")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates["kept"] == 10
    assert any("one object a line" in row["problems"] for row in fates(prepared).values())


def test_a_time_is_a_number_with_its_unit_or_a_clock():
    assert times.parse_time("1:00:00") == 3600
    with pytest.raises(ValueError, match="noon"):
        times.parse_time("noon")
    assert formats.FORMATS


# --- Calls, with a speaker on each channel ----------------------------------------------------------------------------


def fates_by_place(prepared) -> list[dict[str, str]]:
    with open(prepared.rows_file, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def with_calls(folder: Path, count: int = 12) -> None:
    """Write calls in which one speaks for the first second, on the left, and the other for the second one."""
    folder.mkdir()
    for number in range(count):
        quiet = 0.0005 * samples(f"quiet{number}", 2.0)
        left, right = quiet.copy(), quiet.copy()
        left[:16_000], right[16_000:] = samples(f"l{number}", 1.0), samples(f"r{number}", 1.0)
        soundfile.write(folder / f"call{number}.wav", np.stack([left, right], axis=1), 16_000)


def of_channels(prepared) -> dict[tuple[str, str], float]:
    """Return (speaker, text) → the loudness of the first half of the WAV against its second, in dB."""
    found = {}
    for one in everything(prepared):
        wav, _ = soundfile.read(prepared.folder / one["audio_filepath"])
        halves = [np.square(half).mean() + 1e-9 for half in np.array_split(wav, 2)]
        found[one.get("speaker", ""), one["text"]] = 10 * np.log10(halves[0] / halves[1])
    return found


@pytest.mark.parametrize(("left", "right"), [("_channel1.txt", "_channel2.txt"), (".left.txt", ".right.txt")])
def test_each_channel_has_its_own_text_and_is_a_speaker(tmp_path: Path, left: str, right: str):
    with_calls(tmp_path / "mine")
    for number in range(12):
        (tmp_path / "mine" / f"call{number}{left}").write_text(f"left {sentence(number)}")
        (tmp_path / "mine" / f"call{number}{right}").write_text(f"right {sentence(number)}")
    with pytest.raises(InputError, match="--channels split"):
        prepare(tmp_path / "mine", tmp_path / "mixed")
    prepared = prepare(tmp_path / "mine", tmp_path / "out", channels="split")
    assert prepared.fates == {"kept": 24} and "two talkers" not in prepared.problems
    heard = of_channels(prepared)
    assert len({speaker for speaker, _ in heard}) == 24
    assert all((loud > 20) == text.startswith("left") for (_, text), loud in heard.items())
    assert all(("channel 1" in speaker) == text.startswith("left") for speaker, text in heard)


def test_captions_of_a_call_take_the_channel_that_speaks(tmp_path: Path):
    with_calls(tmp_path / "mine")
    for number in range(12):
        (tmp_path / "mine" / f"call{number}.srt").write_text(
            f"1\n00:00:00,000 --> 00:00:01,000\n{sentence(number)}\n\n"
            f"2\n00:00:01,000 --> 00:00:02,000\n{sentence(50 + number)}\n"
        )
    mixed = prepare(tmp_path / "mine", tmp_path / "out", split="utterance")
    assert any("mix of several channels" in note and "--channels split" in note for note in mixed.notes)
    prepared = prepare(tmp_path / "mine", tmp_path / "out", split="utterance", channels="split")
    assert any("24 rows have one channel" in note for note in prepared.notes)
    speakers = [row["speaker"] for row in fates_by_place(prepared)]
    assert sorted(speakers) == sorted(f"call{n} channel {c}" for n in range(12) for c in (1, 2))


@pytest.mark.parametrize("names", [("1", "2"), ("0", "1"), ("A", "B"), ("left", "right")])
def test_a_tables_column_names_the_channel(tmp_path: Path, names: tuple[str, str]):
    with_calls(tmp_path / "mine")
    rows = [
        (f"call{number}.wav", f"{side} {sentence(number)}", name)
        for number in range(12)
        for side, name in zip(("left", "right"), names, strict=True)
    ]
    with_table(tmp_path / "mine", [("path", "text", "channel"), *rows])
    prepared = prepare(tmp_path / "mine", tmp_path / "out", split="utterance")
    assert all((loud > 20) == text.startswith("left") for (_, text), loud in of_channels(prepared).items())


def test_a_column_of_stations_is_no_column_of_channels(tmp_path: Path):
    rows = [(*row, "BBC") for row in good_rows(tmp_path / "mine", 12)]
    with_table(tmp_path / "mine", [("path", "text", "speaker", "channel"), *rows])
    assert prepare(tmp_path / "mine", tmp_path / "out").fates == {"kept": 12}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_objects_over_several_lines_are_read(tmp_path: Path, name: str):
    rows = [{"audio_filename": path, "text": text} for path, text, _ in good_rows(tmp_path / "mine", 12)]
    (tmp_path / "mine" / name).write_text("\n".join(json.dumps(row, indent=2) for row in rows))
    assert prepare(tmp_path / "mine", tmp_path / "out", split="utterance").fates == {"kept": 12}


def test_times_that_are_no_numbers_cost_one_row_of_kaldis(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(12):
        record(mine / f"r{number}.wav", 1.5)
    names = [f"r{number}" for number in range(12)]
    (mine / "wav.scp").write_text("".join(f"{name} {mine}/{name}.wav\n" for name in names) + f"long {'x' * 5000}\n")
    (mine / "text").write_text("".join(f"{name} {sentence(place)}\n" for place, name in enumerate([*names, "long"])))
    times = ["nan 1", "0 1e999", "inf 2"] + ["0.2 1.2"] * 9
    rows = "".join(f"{name} {name} {time}\n" for name, time in zip(names, times, strict=True)) + "long long 0 1\n"
    (mine / "segments").write_text(rows)
    assert prepare(mine, tmp_path / "out", split="utterance").fates == {"kept": 9, "left out": 4}


def test_a_name_as_long_as_file_systems_allow_is_one_like_others(tmp_path: Path):
    names = ["a", "x" * 251, "é" * 125]
    for name in names:
        record(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(f"the text of {name[0]}")
    found, _ = read(tmp_path)
    assert sorted(one.text for one in found) == ["the text of a", "the text of x", "the text of é"]
    with_table(tmp_path, [("file", "text"), ("x" * 251, "one"), ("y" * 400, "two"), ("é" * 125 + ".wav", "three")])
    found, _ = read(tmp_path)
    assert [(one.text, one.problem) for one in found] == [("one", ""), ("two", "no audio"), ("three", "")]


def test_starts_without_ends_last_until_the_next_one(tmp_path: Path):
    for name in ("a", "b"):
        record(tmp_path / f"{name}.wav", 9.0)
    rows = [("a.wav", "0.5", "one"), ("b.wav", "0", "two"), ("a.wav", "6", "three"), ("a.wav", "2.5", "four")]
    with_table(tmp_path, [("file", "start", "text"), *rows])
    found, said = read(tmp_path)
    parts = {one.text: times_of(one) for one in found}
    assert parts == {"one": (0.5, 2.0), "two": (0, None), "three": (6, None), "four": (2.5, 3.5)}
    assert "each row is read to the next start" in said


def test_a_row_that_lacks_its_end_is_doubtful(tmp_path: Path):
    record(tmp_path / "a.wav", 9.0)
    rows = [("a.wav", "0.5", "2", "one"), ("a.wav", "3", "", "two"), ("a.wav", "6", "8", "three")]
    with_table(tmp_path, [("file", "start", "end", "text"), *rows])
    found, _ = read(tmp_path)
    assert [[kind for kind, _ in one.doubts] for one in found] == [[], ["no end"], []]


@pytest.mark.parametrize("shift", [0, 400])
def test_whispers_tables_are_in_milliseconds_even_of_a_long_recording(tmp_path: Path, shift: int):
    record(tmp_path / "a.wav", 600.0, 8_000)
    lines = [f"{shift + start}\t{shift + start + 2500}\t{sentence(start)}" for start in (0, 3000)]
    (tmp_path / "a.tsv").write_text("\n".join(["start\tend\ttext", *lines[:1]]))
    [one], said = read(tmp_path)
    assert times_of(one) == (shift / 1000, 2.5) and "milliseconds" in said
    (tmp_path / "a.tsv").write_text("start\tend\ttext\n0\t4\tfour seconds\n100\t130\tthirty quick seconds\n")
    found, _ = read(tmp_path)
    assert [times_of(one) for one in found] == [(0, 4), (100, 30)]


@pytest.mark.parametrize("suffix", [".srt", ".txt"])
def test_captions_with_the_timecode_of_a_film_begin_with_the_recording(tmp_path: Path, suffix: str):
    record(tmp_path / "a.wav", 9.0)
    cues = "1\n01:00:00,500 --> 01:00:02,000\none\n\n2\n01:00:03,000 --> 01:00:08,000\ntwo\n"
    (tmp_path / f"a{suffix}").write_text(cues)
    found, said = read(tmp_path)
    assert [times_of(one) for one in found] == [(0.5, 1.5), (3, 5)] and "1:00:00" in said


@pytest.mark.parametrize(
    "names", [("Timestamp In", "Timestamp Out"), ("In", "Out"), ("TC IN", "TC OUT"), ("in_point", "out_point")]
)
def test_in_and_out_are_start_and_end(tmp_path: Path, names: tuple[str, str]):
    record(tmp_path / "a.wav", 9.0)
    with_table(tmp_path, [("File", *names, "Text"), ("a.wav", "00:00:01.5", "00:00:03", sentence(1))])
    [one], _ = read(tmp_path)
    assert times_of(one) == (1.5, 1.5)


def test_an_in_without_an_out_is_no_start(tmp_path: Path):
    record(tmp_path / "a.wav", 9.0)
    with_table(tmp_path, [("file", "time_in", "text"), ("a.wav", "09:05:00", sentence(1))])
    [one], _ = read(tmp_path)
    assert times_of(one) == (0, None)


def said_by_google(words: bool) -> dict:
    result = {"alternatives": [{"transcript": "one two", "confidence": 0.9}], "resultEndTime": "2.5s"}
    if words:
        result["alternatives"][0]["words"] = [
            {"startTime": "0s", "endTime": "1.2s", "word": "one"},
            {"startTime": "1.2s", "endTime": "2.500s", "word": "two"},
        ]
    return {"results": [result], "totalBilledTime": "15s"}


@pytest.mark.parametrize(
    "document",
    [
        said_by_google(words=False),
        {"name": "12", "done": True, "response": {"@type": "type.host/x", **said_by_google(words=True)}},
        {"id": "x", "audio_duration": 9.0, "sentences": [{"text": "one two", "start": 0, "end": 2500, "words": []}]},
        {"id": "x", "audio_duration": 9.0, "paragraphs": [{"text": "one two", "start": 0, "end": 2500, "words": []}]},
    ],
)
def test_further_forms_of_services_are_read(tmp_path: Path, document: dict):
    record(tmp_path / "a.wav", 9.0)
    (tmp_path / "a.json").write_text(json.dumps(document))
    [one], _ = read(tmp_path)
    assert (one.text, times_of(one)) == ("one two", (0, 2.5))


@pytest.mark.parametrize("is_file", [True, False])
def test_a_folder_with_a_file_of_arrow_is_a_data_set(tmp_path: Path, is_file: bool):
    record(tmp_path / "sounds" / "a.wav")
    wav = (tmp_path / "sounds" / "a.wav").read_bytes()
    table = pa.table({"audio": [{"bytes": wav, "path": "a.wav"}], "text": ["one two"]})
    (tmp_path / "mine").mkdir()
    kind = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with kind(str(tmp_path / "mine" / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    for place in (tmp_path / "mine", tmp_path / "mine" / "data.arrow"):
        [one], _ = read(place)
        assert (one.text, one.audio) == ("one two", wav)


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ({"data/train/txt/train.yaml": "- {duration: 1.0, offset: 0.0, wav: a.wav}\n"}, "--recipe must_c"),
        ({"en/de/train/segments.lst": "a 0.0 1.0\n", "en/de/train/segments.en": "one\n"}, "Europarl-ST"),
    ],
)
def test_corpora_of_translations_are_named(tmp_path: Path, there: dict[str, str], reason: str):
    record(tmp_path / "audio" / "a.wav")
    for name, content in there.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=reason):
        read(tmp_path)


def test_an_empty_set_is_explained_with_what_was_noted(tmp_path: Path):
    mine = tmp_path / "mine"
    record(mine / "a.wav", 2.0)
    rows = [("a.wav", f"2024-01-01T10:00:0{number}", sentence(number)) for number in range(8)]
    with_table(mine, [("file", "start", "text"), *rows])
    with pytest.raises(InputError) as refused:
        prepare(mine, tmp_path / "out")
    said = str(refused.value)
    assert "8 usable rows are 1 recording(s)" in said and "not understood: column 'start'" in said


def test_speakers_that_are_left_out_of_the_manifests_are_said(tmp_path: Path):
    mine = tmp_path / "mine"
    with_table(mine, [("path", "text", "speaker"), *good_rows(mine, 12, speakers=2)])
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert not any("speaker" in row for row in everything(prepared))
    assert any(note.startswith("no speakers in the manifests, since 2 are in more") for note in prepared.notes)
