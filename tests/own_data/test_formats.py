"""Corpora in every supported format become manifests, each recording with its transcript."""

import gzip
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import formats
from tests.own_data.corpora import (
    HEADER,
    everything,
    fates,
    good_rows,
    prepare,
    read,
    record,
    samples,
    sentence,
    snapshot,
    texts,
    utterances,
    with_table,
)


def text_of(prepared, name: str) -> str:
    return fates(prepared)[name]["text"]


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_a_table_of_paths_texts_and_speakers(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    source = with_table(tmp_path / "mine", [HEADER, *rows])
    before = snapshot(source)
    prepared = prepare(source, tmp_path / "out")
    assert prepared.format == "csv"
    assert texts(prepared) == {text for _, text, _ in rows}
    for utterance in everything(prepared):
        made = soundfile.info(tmp_path / "out" / utterance["audio_filepath"])
        assert (made.samplerate, made.channels, made.subtype) == (16_000, 1, "PCM_16")
        assert made.frames / 16_000 == utterance["duration"]
    assert snapshot(source) == before, "nothing in the source is changed"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
def test_any_delimiter_with_a_header_or_without(tmp_path: Path, delimiter: str, header: bool):
    rows = good_rows(tmp_path / "mine")
    named = [("Datei", "Was gesagt wird", "Wer")] if header else []  # names without a known role
    source = with_table(tmp_path / "mine", [*named, *rows], delimiter=delimiter)
    prepared = prepare(source, tmp_path / "out")
    assert prepared.rows == len(rows)
    assert texts(prepared) == {text for _, text, _ in rows}


def test_columns_that_the_user_names(tmp_path: Path):
    rows = [(text, f"x{text}", speaker, path) for path, text, speaker in good_rows(tmp_path / "mine")]
    source = with_table(tmp_path / "mine", [("a", "b", "c", "d"), *rows])
    prepared = prepare(source, tmp_path / "out", columns={"audio": "d", "text": "1", "speaker": "c"})
    assert texts(prepared) == {row[0] for row in rows}
    assert prepared.split_by == "speaker"
    with pytest.raises(InputError, match="table.csv.*'e'.*--text-column.*'a', 'b', 'c', 'd'"):
        prepare(source, tmp_path / "other", columns={"text": "e"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_tables_in_any_encoding(tmp_path: Path, encoding: str):
    rows = [(path, f"{text} été à noël", speaker) for path, text, speaker in good_rows(tmp_path / "mine")]
    text = "".join(",".join(row) + "\n" for row in [HEADER, *rows])
    (tmp_path / "mine" / "table.csv").write_bytes(text.encode(encoding))
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert texts(prepared) == {text for _, text, _ in rows}
    assert prepared.problems.get("encoding", 0) == (len(rows) if encoding == "latin-1" else 0)


def test_one_line_in_another_encoding_is_read_and_named(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    lines = [",".join(row).encode() for row in [HEADER, *rows]]
    lines[5] = f"{rows[4][0]},à tout à l’heure,speaker0".encode("cp1252")
    lines[6] = f"{rows[5][0]},à tout à l’heure,speaker0".encode()
    (tmp_path / "mine" / "table.csv").write_bytes(b"\n".join(lines))
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert text_of(prepared, rows[4][0]) == text_of(prepared, rows[5][0]) == "à tout à l'heure"
    assert "encoding" in fates(prepared)[rows[4][0]]["problems"]
    assert "encoding" not in fates(prepared)[rows[5][0]]["problems"]


def test_a_named_encoding(tmp_path: Path):
    rows = [(path, "привет мир", speaker) for path, _, speaker in good_rows(tmp_path / "mine")]
    text = "".join(",".join(row) + "\n" for row in [HEADER, *rows])
    (tmp_path / "mine" / "table.csv").write_bytes(text.encode("cp1251"))
    prepared = prepare(tmp_path / "mine", tmp_path / "out", encoding="cp1251")
    assert texts(prepared) == {"привет мир"}
    with pytest.raises(InputError, match="--encoding klingon"):
        prepare(tmp_path / "mine", tmp_path / "other", encoding="klingon")


def test_quotes_hold_newlines_and_delimiters(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    rows[3] = (rows[3][0], "first line\nsecond, line", "speaker1")
    source = with_table(tmp_path / "mine", [HEADER, *rows])
    prepared = prepare(source, tmp_path / "out")
    assert text_of(prepared, rows[3][0]) == "first line second line"
    assert fates(prepared)[rows[4][0]]["place"] == "table.csv, line 7", "the line in the file, not the row"


def test_a_comma_in_a_text_without_quotes_and_a_row_that_is_none(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    lines = ["path,text", *(f"{path},{text}" for path, text, _ in rows)]
    lines[2] += ", and more, of it"
    lines[4] = "this is no row"
    (tmp_path / "mine" / "table.csv").write_text("\n".join(lines) + "\n\n")
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert text_of(prepared, rows[1][0]) == f"{rows[1][1]} and more of it"
    assert prepared.problems["broken row"] == 1
    assert prepared.fates == {"kept": len(rows) - 1, "left out": 1}


def test_paths_of_every_kind(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine)

    def add(path: Path, written: str) -> None:
        record(path)
        rows.append((written, sentence(len(rows)), "speaker0"))

    add(mine / "a b" / "Größe 1.wav", "a b/Größe 1.wav")
    add(mine / "nfd" / unicodedata.normalize("NFD", "café.wav"), "nfd/café.wav")
    add(mine / "absolute.wav", str(mine / "absolute.wav"))
    add(mine / "outside" / ".." / ".." / "elsewhere" / "out.wav", "../elsewhere/out.wav")
    add(mine / "win" / "dows.wav", "win\\dows.wav")
    add(mine / "UPPER.WAV", "upper.wav")
    add(mine / "deep" / "down" / "only.flac", "only")
    add(mine / "moved" / "here" / "old.wav", "/home/someone/moved/here/old.wav")
    add(mine / "url.wav", f"file://{mine}/url.wav")
    target = record(tmp_path / "targets" / "target.wav")
    os.symlink(target, mine / "link.wav")
    rows.append(("link.wav", "box over box", "speaker0"))
    os.symlink(mine, mine / "loop")
    os.symlink(tmp_path / "gone.wav", mine / "broken.wav")
    rows.append(("broken.wav", "vow over vow", "speaker0"))
    prepared = prepare(with_table(mine, [HEADER, *rows]), tmp_path / "out")
    assert prepared.problems == {"no audio": 1}
    assert "broken link" in fates(prepared)["broken.wav"]["problems"]
    assert texts(prepared) == {text for _, text, _ in rows} - {"vow over vow"}


def test_two_files_of_one_name(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine)
    soundfile.write(record(mine / "x" / "same.wav"), samples("x"), 16_000)
    soundfile.write(record(mine / "y" / "same.wav"), samples("y"), 16_000)
    rows += [("same.wav", "which one", "speaker1"), ("y/same.wav", "that one", "speaker1")]
    prepared = prepare(with_table(mine, [HEADER, *rows]), tmp_path / "out")
    assert prepared.problems == {"several": 1, "no row": 1}
    assert "x/same.wav, y/same.wav" in fates(prepared)["same.wav"]["problems"]
    made = next(utterance for utterance in everything(prepared) if utterance["text"] == "that one")
    heard, _ = soundfile.read(tmp_path / "out" / made["audio_filepath"], dtype="float32")
    np.testing.assert_allclose(heard, samples("y"), atol=1e-4)


def test_parts_of_longer_recordings(tmp_path: Path):
    mine = tmp_path / "mine"
    record(mine / "long.wav", 40)
    rows = [("long.wav", sentence(number), str(2 * number), str(2 * number + 2)) for number in range(20)]
    rows.append(("long.wav", "after the end", "50", "52"))
    prepared = prepare(with_table(mine, [("file", "text", "start", "end"), *rows]), tmp_path / "out")
    assert prepared.fates == {"kept": 20, "left out": 1}
    whole = samples("long.wav", 40)
    part = next(one for one in everything(prepared) if one["text"] == sentence(7))
    heard, _ = soundfile.read(tmp_path / "out" / part["audio_filepath"], dtype="float32")
    np.testing.assert_allclose(heard, whole[14 * 16_000 : 16 * 16_000], atol=1e-4)


@pytest.mark.parametrize("kind", ["lines", "list", "object"])
def test_json_of_every_kind(tmp_path: Path, kind: str):
    rows = good_rows(tmp_path / "mine")
    objects = [{"audio": path, "sentence": text, "speaker_id": speaker} for path, text, speaker in rows]
    content = {
        "lines": "\n".join(map(json.dumps, objects)),
        "list": json.dumps(objects, indent=1),
        "object": json.dumps({path: text for path, text, _ in rows}, indent=1),
    }[kind]
    (tmp_path / "mine" / ("data.jsonl" if kind == "lines" else "data.json")).write_text(content)
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert texts(prepared) == {text for _, text, _ in rows}
    assert prepared.split_by == ("utterance" if kind == "object" else "speaker")


def test_a_list_of_names_and_texts(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    lines = [f"{Path(path).stem} {text}, she said" for path, text, _ in rows]
    (tmp_path / "mine" / "transcripts.txt").write_text("\n".join(lines))
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert texts(prepared) == {f"{text} she said" for _, text, _ in rows}


def test_a_list_as_asterisk_has_it(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    lines = ["; Core Sounds in English", "", *(f"{Path(path).stem}: {text}, please." for path, text, _ in rows)]
    (tmp_path / "mine" / "core-sounds-en.txt").write_text("\n".join(lines))
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert texts(prepared) == {f"{text} please" for _, text, _ in rows}


def test_a_remark_above_a_table(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    mine = with_table(tmp_path / "mine", [("# recorded in May",), HEADER, *rows])
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.rows == len(rows)
    assert prepared.split_by == "speaker"
    with pytest.raises(InputError, match="--delimiter ';;'"):
        prepare(mine, tmp_path / "other", delimiter=";;")
    (mine / "table.csv").write_text(",,\n,,\n")
    with pytest.raises(InputError, match="table.csv.*--audio-column"):
        prepare(mine / "table.csv", tmp_path / "other")


def test_a_nemo_manifest_with_offsets(tmp_path: Path):
    mine = tmp_path / "mine"
    record(mine / "long.wav", 40)
    lines = [
        json.dumps({"audio_filepath": "long.wav", "offset": 2.0 * n, "duration": 2.0, "text": sentence(n)})
        for n in range(20)
    ]
    (mine / "train_manifest.json").write_text("\n".join([*lines, "{broken"]))
    prepared = prepare(mine / "train_manifest.json", tmp_path / "out", format="nemo")
    assert prepared.fates == {"kept": 20, "left out": 1}
    assert {utterance["duration"] for utterance in everything(prepared)} == {2.0}


def test_a_table_without_recordings_or_texts_is_refused(tmp_path: Path):
    source = with_table(tmp_path / "mine", [("a", "b"), ("1", "2"), ("3", "4")])
    record(source / "x.wav")
    with pytest.raises(InputError, match=r"table.csv.*1 \('a'\), 2 \('b'\).*--audio-column"):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (source / "table.csv").write_text("")
    with pytest.raises(InputError, match=r"table\.csv.*empty"):
        prepare(source / "table.csv", tmp_path / "out")


# --- Public layouts ---------------------------------------------------------------------------------------------------


def test_ljspeech_as_it_is(tmp_path: Path):
    lines = []
    for number in range(30):
        record(tmp_path / "LJ" / "wavs" / f"LJ001-{number:04}.wav", 1.5, 22_050)
        text = sentence(number)
        # Quotes are just signs there, and some rows have none where another begins with one.
        lines.append(
            f'LJ001-{number:04}|"{text}, in {number}|"{text}, in a year'
            if number % 4
            else f"LJ001-{number:04}|{text}|{text}"
        )
    (tmp_path / "LJ" / "metadata.csv").write_text("\n".join(lines) + "\n")
    prepared = prepare(tmp_path / "LJ", tmp_path / "out")
    assert prepared.fates == {"kept": 30}
    assert texts(prepared) == {sentence(n) + (" in a year" if n % 4 else "") for n in range(30)}
    assert prepared.split_by == "utterance"


def test_common_voice_as_it_is(tmp_path: Path):
    folder = tmp_path / "cv-corpus" / "el"
    header = ["client_id", "path", "sentence_id", "sentence", "up_votes", "locale"]
    rows = []
    for number in range(40):
        record(folder / "clips" / f"common_voice_el_{number}.mp3", 1.0, 48_000)
        said = ["Καλημέρα", "κόσμε", "νησί", "θάλασσα", "ήλιος"][number % 5]
        quote = '"' if number % 7 == 0 else ""  # never closed
        rows.append([f"client{number % 10}", f"common_voice_el_{number}.mp3", "x", f"{quote}{said}; ναι.", "2", "el"])

    def write(name: str, some: list[list[str]]) -> None:
        (folder / name).write_text("".join("\t".join(row) + "\n" for row in [header, *some]), encoding="utf-8")

    write("validated.tsv", rows)
    write("other.tsv", rows[:4])
    (folder / "reported.tsv").write_text("sentence\tsentence_id\tlocale\treason\na\tb\tel\tc\n")
    for name, clients in {"train.tsv": range(6), "dev.tsv": (6, 7), "test.tsv": (8, 9)}.items():
        write(name, [row for row in rows if int(row[0][6:]) in clients])
    prepared = prepare(tmp_path / "cv-corpus", tmp_path / "out")
    assert prepared.split_by == "source"
    assert prepared.rows == 40, "validated.tsv has the same rows as the three parts"
    assert {row["speaker"] for row in utterances(prepared, "dev")} == {"client6", "client7"}
    assert "καλημέρα ναι" in texts(prepared)
    assert prepared.labels == sorted({*"καλημέρα ναι κόσμε νησί θάλασσα ήλιος"})
    alone = prepare(folder / "validated.tsv", tmp_path / "alone")
    assert alone.split_by == "speaker"
    assert alone.rows == 40


def test_librispeech_as_it_is(tmp_path: Path):
    root = tmp_path / "LibriSpeech"
    parts = {"train-clean-5": (1, 2, 3, 4), "dev-clean-2": (5,), "test-clean": (6,)}
    for part, speakers in parts.items():
        for speaker in speakers:
            chapter = root / part / str(speaker) / "10"
            names = [f"{speaker}-10-{number:04}" for number in range(4)]
            for name in names:
                record(chapter / f"{name}.flac", 1.5)
            lines = [f"{name} {sentence(int(name.replace('-', ''))).upper()}" for name in names]
            (chapter / f"{speaker}-10.trans.txt").write_text("\n".join(lines) + "\n")
    prepared = prepare(tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert (prepared.format, prepared.split_by) == ("librispeech", "source")
    assert {row["speaker"] for row in utterances(prepared, "train")} == {"1", "2", "3", "4"}
    assert all(row["text"] == row["text"].lower() for row in everything(prepared))
    part = prepare(root / "train-clean-5", tmp_path.parent / f"{tmp_path.name}-part")
    assert part.split_by == "speaker"


def test_kaldi_as_it_is_and_no_command_of_it_is_run(tmp_path: Path):
    mine, ran = tmp_path / "mine", tmp_path / "ran"
    for number in range(3):
        record(mine / "sounds" / f"rec{number}.wav", 20, 8_000)
    data = mine / "data" / "train"
    data.mkdir(parents=True)
    (data / "wav.scp").write_text(
        f"rec0 {mine}/sounds/rec0.wav\n"
        "rec1 sox sounds/rec1.wav -t wav - |\n"
        f"rec2 ../../sounds/rec2.wav\nrec3 touch {ran} |\nrec4 raw.ark:17\n"
    )
    parts = [(f"u{record}-{part}", f"rec{record}", 2 * part) for record in range(3) for part in range(10)]
    segments = [f"{name} {of} {start}.0 {start + 2}.0" for name, of, start in parts]
    (data / "segments").write_text("\n".join([*segments, "u3 rec3 0 1", "u4 rec4 0 1"]))
    (data / "text").write_text(
        "\n".join([*(f"{name} {sentence(n)}" for n, (name, *_) in enumerate(parts)), "u3 a", "u4 b", "u5 c"])
    )
    (data / "utt2spk").write_text("\n".join(f"{name} spk{n % 5}" for n, (name, *_) in enumerate(parts)))
    prepared = prepare(mine, tmp_path / "out")
    assert (prepared.format, prepared.split_by) == ("kaldi", "speaker")
    assert prepared.fates == {"kept": 30, "left out": 3}
    assert not ran.exists()
    details = " ".join(row["problems"] for row in fates(prepared).values())
    assert "a command, which isn't run" in details
    assert "raw.ark:17 is a Kaldi archive" in details


def test_a_corpus_of_sound_and_video_is_read_from_its_sound(tmp_path: Path):
    """As GRID: the same talk as sound and as a film, by bare names in a table, or with texts beside them."""
    mine = tmp_path / "mine"
    for number in range(12):
        record(mine / "s1" / "sound" / f"talk{number}.wav")
        for film in (mine / "s1" / "sound" / f"talk{number}.mpg", mine / "s1" / "video" / f"talk{number}.mov"):
            film.parent.mkdir(exist_ok=True)
            film.write_bytes(b"a film")
    with_table(mine, [HEADER, *((f"talk{number}", sentence(number), "s1") for number in range(12))])
    entries, _ = read(mine)
    assert [Path(entry.audio).name for entry in entries] == [f"talk{number}.wav" for number in range(12)]
    (mine / "table.csv").unlink()
    for number in range(12):
        (mine / "s1" / "sound" / f"talk{number}.txt").write_text(sentence(number))
    entries, _ = read(mine)
    assert sorted((Path(entry.audio).name, entry.text) for entry in entries) == sorted(
        (f"talk{number}.wav", sentence(number)) for number in range(12)
    )


def test_texts_beside_recordings(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(20):
        path = record(mine / f"speaker{number % 4}" / f"take {number} é.wav")
        path.with_suffix(".txt").write_text(f"{sentence(number)}\n", encoding="utf-8-sig" if number % 2 else "utf-8")
    (mine / "README.txt").write_text("how this was recorded")
    record(mine / "speaker0" / "orphan.wav")
    (mine / "speaker1" / "lonely.txt").write_text("there is no recording of this")
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.format == "txt"
    assert texts(prepared) == {sentence(number) for number in range(20)}
    assert prepared.problems == {"no audio": 1, "no row": 1}
    named = prepare(mine, tmp_path / "named", pattern="{speaker}/*")
    assert named.split_by == "speaker"


def test_vctk_as_it_is(tmp_path: Path):
    mine = tmp_path / "VCTK-Corpus-0.92"
    for number in range(24):
        speaker = f"p{225 + number % 4}"
        name = f"{speaker}_{number:03}"
        for microphone in (1, 2):
            record(mine / "wav48_silence_trimmed" / speaker / f"{name}_mic{microphone}.flac")
        text = mine / "txt" / speaker / f"{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"{sentence(number)}.\n")
    (mine / "txt" / "p225" / "p225_999.txt").write_text("lost")
    (mine / "speaker-info.txt").write_text("ID  AGE  GENDER\np225  23  F\n")
    prepared = prepare(mine, tmp_path / "out")
    assert (prepared.format, prepared.split_by) == ("txt", "speaker")
    assert {row["speaker"] for row in everything(prepared)} == {"p225", "p226", "p227", "p228"}
    assert prepared.fates == {"kept": 48, "left out": 1}, "two microphones each; speaker-info.txt is no transcript"


def test_speech_commands_as_it_is(tmp_path: Path):
    mine = tmp_path / "speech_commands"
    names = [f"{['bed', 'cat', 'six'][n % 3]}/{n % 10:08x}_nohash_{n}.wav" for n in range(60)]
    for name in names:
        record(mine / name, 0.5)
    record(mine / "_background_noise_" / "pink_noise.wav", 2)
    held_out = {"validation": {name for name in names if "/00000008" in name}}
    held_out["testing"] = {name for name in names if "/00000009" in name}
    for split, some in held_out.items():
        (mine / f"{split}_list.txt").write_text("\n".join(sorted(some)) + "\n")
    prepared = prepare(mine, tmp_path / "out", pattern="{label}/{speaker}_nohash_{take}.wav")
    assert prepared.split_by == "source"
    splits = {name: row["split"] for name, row in fates(prepared).items() if row["fate"] == "kept"}
    assert {name for name in splits if splits[name] == "test"} == held_out["testing"]
    assert {name for name in splits if splits[name] == "dev"} == held_out["validation"]
    assert len(splits) == 60
    assert prepared.problems == {"no match": 1}


def test_labels_of_several_words(tmp_path: Path):
    for number in range(20):  # as in YesNo
        record(tmp_path / "mine" / ("_".join(f"{number:08b}") + ".wav"), 2, 8_000)
    record(tmp_path / "mine" / "1_2_1.wav")
    prepared = prepare(tmp_path / "mine", tmp_path / "out", pattern="{label}.wav", labels={"0": "no", "1": "yes"})
    assert fates(prepared)["0_0_0_1_0_0_1_1.wav"]["text"] == "no no no yes no no yes yes"
    assert "'2'" in fates(prepared)["1_2_1.wav"]["problems"]


def test_recordings_without_texts_are_refused_with_the_next_step(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(9):
        record(mine / "recordings" / f"{number}_george_0.wav", 0.3)
    (mine / "pip_requirements.txt").write_text("numpy\nscipy\n")
    with pytest.raises(InputError, match=r"9 recordings.*--pattern.*0_george_0\.wav"):
        prepare(mine, tmp_path / "out")
    with pytest.raises(InputError, match=r"--pattern '\{digit\}_\{speaker\}_\*'.*\{label\}"):
        prepare(mine, tmp_path / "out", pattern="{digit}_{speaker}_*")


@pytest.mark.parametrize("layout", ["txt", "librispeech", "kaldi"])
def test_a_text_in_another_encoding_is_named_in_every_layout(tmp_path: Path, layout: str):
    mine = tmp_path / "mine" / "1" / "2"
    lines = [f"1-2-{number:04} été {sentence(number)}" for number in range(12)]
    for line in lines:
        record(mine / f"{line[:8]}.wav")
    encoded = [line.encode("latin-1" if number == 5 else "utf-8") for number, line in enumerate(lines)]
    if layout == "txt":
        for line in encoded:
            (mine / f"{line[:8].decode()}.txt").write_bytes(line[9:])
    else:
        (mine / ("1-2.trans.txt" if layout == "librispeech" else "text")).write_bytes(b"\n".join(encoded))
    if layout == "kaldi":
        (mine / "wav.scp").write_text("".join(f"{line[:8]} {line[:8]}.wav\n" for line in lines))
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert prepared.format == layout
    assert all(text.startswith("été ") for text in texts(prepared))
    assert prepared.problems == {"encoding": 1}


def test_texts_in_names_with_a_label_map(tmp_path: Path):
    mine, labels = tmp_path / "mine", {"0": "zero", "1": "one", "2": "two"}
    for number in range(24):
        record(mine / f"{number % 4}_speaker{number % 6}_{number}.wav", 0.4, 8_000)
    record(mine / "something else.wav")
    prepared = prepare(mine, tmp_path / "out", pattern="{label}_{speaker}_{take}.wav", labels=labels)
    assert prepared.format == "filename"
    assert texts(prepared) == set(labels.values())
    assert prepared.problems["no label"] == 6
    assert prepared.problems["no match"] == 1
    assert "'3'" in fates(prepared)["3_speaker3_3.wav"]["problems"]
    plain = prepare(mine, tmp_path / "plain", pattern="{label}_{speaker}_{take}")
    assert texts(plain) == {"0", "1", "2", "3"}, "a label is a text, too"


def test_texts_in_names_of_folders(tmp_path: Path):
    for number in range(30):
        record(tmp_path / "mine" / ["yes", "no", "up"][number % 3] / f"{number % 8:08x}_nohash_{number}.wav")
    prepared = prepare(tmp_path / "mine", tmp_path / "out", pattern="{label}/{speaker}_nohash_{take}.wav")
    assert texts(prepared) == {"yes", "no", "up"}
    assert prepared.split_by == "speaker"
    with pytest.raises(InputError, match="--pattern.*nohash"):
        prepare(tmp_path / "mine", tmp_path / "other")


@pytest.mark.parametrize("pattern", ["plain", "{label}_{label}.wav", "{label", "{}.wav"])
def test_an_invalid_pattern_is_refused(pattern: str):
    with pytest.raises(InputError, match="--pattern"):
        formats.compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        (
            "{label}_{speaker}_{take}.wav",
            "a/b/yes_please_bob_3.WAV",
            {"label": "yes_please", "speaker": "bob", "take": "3"},
        ),
        ("{speaker}/*", "x/bob/take 1.flac", {"speaker": "bob"}),
        ("{label}", "seven.mp3", {"label": "seven"}),
        ("{label}.{take}.wav", "z.9.wav", {"label": "z", "take": "9"}),
        ("{label}_{take}.wav", "nothing.wav", None),
    ],
)
def test_the_fields_of_a_pattern(pattern: str, path: str, fields: dict | None):
    assert formats.match_name(formats.compile_pattern(pattern), path) == fields


@pytest.mark.parametrize("content", ["[]", "{}", '{"0": 1}', "nonsense"])
def test_an_invalid_label_map_is_refused(tmp_path: Path, content: str):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(InputError, match=r"labels\.json"):
        formats.read_labels(tmp_path / "labels.json")


@pytest.mark.parametrize("kind", ["bytes", "parts", "parquet", "paths", "classes", "arrays"])
def test_a_data_set_of_hugging_face_saved_to_disk(tmp_path: Path, kind: str):
    import datasets

    files = [record(tmp_path / "sounds" / f"{number}.wav", 1.2, 22_050) for number in range(24)]
    rows = {
        "audio": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "sentence": [sentence(number) for number in range(24)],
        "speaker_id": [number // 4 for number in range(24)],
    }
    if kind == "paths":
        rows["audio"] = list(map(str, files))
    if kind == "classes":
        rows["sentence"] = [number % 3 for number in range(24)]
    if kind == "arrays":
        rows["audio"] = [{"array": samples(n, 0.5).tolist(), "sampling_rate": 16_000} for n in range(24)]
    data = datasets.Dataset.from_dict(rows)
    if kind == "classes":
        data = data.rename_column("sentence", "label").cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))
    if kind in ("bytes", "parts", "parquet"):
        data = data.cast_column("audio", datasets.Audio(decode=False))
    mine = tmp_path / "mine"
    if kind == "parquet":
        data.to_parquet(mine / "data" / "train-00000-of-00001.parquet")
    elif kind == "parts":
        parts = {"train": range(16), "validation": range(16, 20), "test": range(20, 24)}
        datasets.DatasetDict({name: data.select(part) for name, part in parts.items()}).save_to_disk(mine)
    else:
        data.save_to_disk(mine)
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.format == "hf"
    assert prepared.fates == {"kept": 24}
    assert prepared.split_by == ("source" if kind == "parts" else "speaker")
    assert texts(prepared) == ({"a", "b", "c"} if kind == "classes" else set(rows["sentence"]))


@pytest.mark.slow
def test_a_lhotse_recipe(tmp_path: Path):
    mine = tmp_path / "waves_yesno"
    for number in range(60):  # their names are the texts: eight words, no (0) or yes (1)
        record(mine / ("_".join(f"{number * 7 % 256:08b}") + ".wav"), 2, 8_000)
    prepared = prepare(mine, tmp_path / "out", recipe="yesno")
    assert prepared.format == "lhotse"
    assert all(set(text.split()) <= {"yes", "no"} for text in texts(prepared))
    with pytest.raises(InputError, match="--recipe klingon.*yesno"):
        prepare(mine, tmp_path / "other", recipe="klingon")
    with pytest.raises(InputError, match="--recipe broadcast_news.*names of the corpus's files to a shell"):
        prepare(mine, tmp_path / "other", recipe="broadcast_news")
    next(mine.glob("*.wav")).unlink()
    with pytest.raises(InputError, match="waves_yesno.*recipe yesno.*assert len"):
        prepare(mine, tmp_path / "other", recipe="yesno")


def test_manifests_of_lhotse(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    recordings, supervisions = [], []
    for number in range(20):
        path = record(tmp_path / "sounds" / f"{number}.wav", 3)
        recordings.append({"id": f"r{number}", "sources": [{"type": "file", "channels": [0], "source": str(path)}]})
        part = {"id": f"s{number}", "recording_id": f"r{number}", "start": 1.0, "duration": 1.5, "channel": 0}
        supervisions.append(part | {"text": sentence(number), "speaker": f"speaker{number % 5}"})
    for name, items in (("recordings", recordings), ("supervisions", supervisions)):
        with gzip.open(mine / f"mine_{name}_all.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.fates == {"kept": 20}
    assert {utterance["duration"] for utterance in everything(prepared)} == {1.5}
