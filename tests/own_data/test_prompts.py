"""Corpora whose lists name the recordings, each in its own form, and the folders of LibriTTS and M-AILABS."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.errors import InputError
from tests.own_data.corpora import everything, fates, prepare, record, samples, sentence, texts, with_table

COUNT = 12


def rows_of(source: Path, out: Path) -> dict[str, dict[str, str]]:
    prepared = prepare(source, out, split="utterance")
    assert prepared.fates == {"kept": COUNT}
    return fates(prepared)


def test_a_corpus_of_cmu_sphinx_is_read(tmp_path: Path):
    mine = tmp_path / "mine"
    ids, lines = [], []
    for number in range(COUNT):
        person, name = f"p{number % 3}", f"u{number // 3}"  # names alone occur three times
        record(mine / "wav" / person / f"{name}.wav", 1.2 + number / 100)
        ids.append(f"{person}/{name}")
        lines.append(f"<s> {sentence(number).upper()} </s> ({name})")
    lines[5] = lines[5].replace("<s> ", "<s> ++cough++ HELLO(2) ")
    (mine / "etc").mkdir()
    (mine / "etc" / "mine_train.fileids").write_text("\n".join(ids) + "\n")
    (mine / "etc" / "mine_train.transcription").write_text("\n".join(lines) + "\n")
    rows = rows_of(mine, tmp_path / "out")
    assert {(row["speaker"], row["text"]) for name, row in rows.items() if "p2/u1" not in name} == {
        (f"p{number % 3}", sentence(number)) for number in range(COUNT) if number != 5
    }
    odd = rows["wav/p2/u1.wav"]
    assert odd["text"] == f"cough hello {sentence(5)}" and "annotation ([cough]" in odd["problems"]
    assert rows_of(mine / "etc" / "mine_train.transcription", tmp_path / "alone")


def test_a_voice_of_cmu_arctic_is_read(tmp_path: Path):
    mine = tmp_path / "mine" / "cmu_us_bdl_arctic"
    for number in range(COUNT):
        record(mine / "wav" / f"arctic_a{number:04}.wav", 1.2)
    (mine / "etc").mkdir()
    lines = [f'( arctic_a{number:04} "{sentence(number).capitalize()}." )\n' for number in range(COUNT)]
    (mine / "etc" / "txt.done.data").write_text("".join(lines))
    rows = rows_of(tmp_path / "mine", tmp_path / "out")
    assert {row["speaker"] for row in rows.values()} == {"bdl"}
    assert rows["cmu_us_bdl_arctic/wav/arctic_a0003.wav"]["text"] == sentence(3)
    (mine / "etc" / "txt.done.data").write_text("".join(lines[:-1]) + "( arctic_a0011 \n")
    prepared = prepare(mine, tmp_path / "broken", split="utterance")
    assert prepared.problems["broken row"] == 1


def test_packages_of_voxforge_are_read(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(COUNT):
        package = mine / f"user{number % 2}-2010{number // 6}"
        record(package / "wav" / f"a{number}.wav", 1.2)
        (package / "etc").mkdir(exist_ok=True)
        with open(package / "etc" / "PROMPTS", "a", encoding="utf-8") as file:
            file.write(f"{package.name}/mfc/a{number} {sentence(number).upper()}\n")
        (package / "etc" / "prompts-original").write_text("a0 something else\n")
    rows = rows_of(mine, tmp_path / "out")
    assert rows["user1-20100/wav/a3.wav"]["text"] == sentence(3)
    assert {row["speaker"] for row in rows.values()} == {"user0", "user1"}


@pytest.mark.parametrize("suffix", [".wrd", ".ltr"])
def test_fairseqs_lists_have_their_texts_beside_them(suffix: str, tmp_path: Path):
    mine = tmp_path / "mine"
    texts = []
    for number in range(COUNT):
        record(mine / "audio" / f"{number}.wav", 1.2)
        words = sentence(number).upper()
        texts.append(words if suffix == ".wrd" else " ".join(words.replace(" ", "|")) + " |")
    rows = "".join(f"{number}.wav\t19200\n" for number in range(COUNT))
    (mine / "train.tsv").write_text(f"/another/machine/audio\n{rows}")
    (mine / f"train{suffix}").write_text("\n".join(texts) + "\n")
    assert rows_of(mine, tmp_path / "out")["audio/3.wav"]["text"] == sentence(3)
    (mine / f"train{suffix}").write_text("\n".join(texts[1:]) + "\n")
    with pytest.raises(InputError, match=rf"train\{suffix}: has 11 lines.*12 recordings"):
        prepare(mine, tmp_path / "short")


@pytest.mark.parametrize("has_table", [True, False])
def test_libritts_is_read_with_its_normalised_texts(has_table: bool, tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(COUNT):
        chapter = mine / "train-clean-100" / str(number % 3) / "201"
        name = f"{number % 3}_201_{number:06}_000000"
        record(chapter / f"{name}.wav", 1.2)
        (chapter / f"{name}.normalized.txt").write_text(sentence(number))
        (chapter / f"{name}.original.txt").write_text(f"{number} Mr.")
        if has_table:
            with open(chapter / f"{number % 3}_201.trans.tsv", "a", encoding="utf-8") as file:
                file.write(f"{name}\t{number} Mr.\t{sentence(number)}\n")
    rows = rows_of(mine, tmp_path / "out")
    assert {row["text"] for row in rows.values()} == {sentence(number) for number in range(COUNT)}
    if has_table:
        assert {row["speaker"] for row in rows.values()} == {"0", "1", "2"}


def test_mailabs_has_a_table_for_each_book_far_below(tmp_path: Path):
    mine = tmp_path / "mine"
    for book in range(3):
        folder = mine / "en_US" / "by_book" / "female" / f"ann{book}" / f"book{book}"
        rows = []
        for number in range(4):
            record(folder / "wavs" / f"b{book}_{number}.wav", 1.2)
            rows.append((f"b{book}_{number}", "Written as PRINTED", sentence(10 * book + number)))
        with_table(folder, rows, "metadata.csv", delimiter="|")
    prepared = prepare(mine, tmp_path / "out", split="utterance", pattern="{a}/{b}/{c}/{speaker}/{book}/{d}/*")
    assert prepared.fates == {"kept": COUNT}
    rows = fates(prepared)
    assert {row["speaker"] for row in rows.values()} == {"ann0", "ann1", "ann2"}
    assert {row["text"] for row in rows.values()} == {sentence(10 * b + n) for b in range(3) for n in range(4)}


def test_a_spreadsheet_in_a_folder_is_named(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(3):
        record(mine / f"r{number}.wav", 1.2)
    (mine / "texts.ods").write_bytes(b"PK\3\4")
    (mine / "~$texts.xls").write_bytes(b"open in Excel")
    with pytest.raises(InputError, match=r"texts\.ods is a spreadsheet: save it as \.xlsx or CSV") as error:
        prepare(mine, tmp_path / "out")
    assert not re.search(r"~\$", str(error.value))


def test_a_package_of_voxforge_may_have_its_original_prompts_alone(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(COUNT):
        package = mine / f"user{number % 2}-2010"
        record(package / "wav" / f"a{number}.wav", 1.2)
        (package / "etc").mkdir(exist_ok=True)
        with open(package / "etc" / "prompts-original", "a", encoding="utf-8") as file:
            file.write(f"a{number} {sentence(number).capitalize()}.\n")
    (mine / "user1-2010" / "etc" / "PROMPTS").write_text(
        "".join(f"user1-2010/mfc/a{number} {sentence(number).upper()}\n" for number in range(1, COUNT, 2))
    )
    rows = rows_of(mine, tmp_path / "out")
    assert {row["text"] for row in rows.values()} == {sentence(number) for number in range(COUNT)}
    assert {row["speaker"] for row in rows.values()} == {"user0", "user1"}


@pytest.mark.parametrize("are_sides", [False, True])
def test_the_transcripts_of_switchboard_are_cut_out_of_the_calls(are_sides: bool, tmp_path: Path):
    mine = tmp_path / "mine"
    for call in (2001, 2005):
        voices = np.stack([samples(f"{call}{side}", 12.0) for side in "AB"], axis=1)
        (mine / "audio").mkdir(parents=True, exist_ok=True)
        if are_sides:
            for channel, side in enumerate("AB"):
                soundfile.write(mine / "audio" / f"sw0{call}-{side}.wav", voices[:, channel], 16_000)
        else:
            soundfile.write(mine / "audio" / f"sw0{call}.wav", voices, 16_000)
        folder = mine / "swb_ms98_transcriptions" / str(call)[:2] / str(call)
        folder.mkdir(parents=True)
        for side in "AB":
            said = [sentence(n + call + 50 * (side == "B")) for n in range(4)]
            lines = [f"sw{call}{side}-ms98-a-{n:04} {2 * n} {2 * n + 1.8} {text}" for n, text in enumerate(said)]
            lines += [f"sw{call}{side}-ms98-a-0005 8.000000 9.9 [noise] [laughter-yes] <b_aside> [box/vow] th[at]- a_1"]
            lines += [f"sw{call}{side}-ms98-a-0006 9.9 12.000000 [silence]"]
            (folder / f"sw{call}{side}-ms98-a-trans.text").write_text("\n".join(lines) + "\n")
            (folder / f"sw{call}{side}-ms98-a-word.text").write_text("sw2001A-ms98-a-0001 0.0 0.9 [silence]\n")
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates == {"kept": 20, "left out": 4} and prepared.problems["no speech"] == 4
    assert {sentence(n + call) for n in range(4) for call in (2001, 2005, 2051, 2055)} < texts(prepared)
    assert "yes box th a" in texts(prepared)
    made = {one["text"]: one for one in everything(prepared)}
    heard, _ = soundfile.read(prepared.folder / made[sentence(2052)]["audio_filepath"])
    assert np.corrcoef(heard, samples("2001B", 12.0)[32_000 : 32_000 + len(heard)])[0, 1] > 0.99


@pytest.mark.parametrize("is_fifth", [False, True])
def test_the_sessions_of_chime_are_cut_out_of_each_persons_recording(is_fifth: bool, tmp_path: Path):
    mine = tmp_path / "mine"
    for session, people in (("S03", ("P09", "P10")), ("S04", ("P11", "P12"))):
        rows = []
        for person in people:
            record(mine / "audio" / "train" / f"{session}_{person}.wav", 12.0)
            record(mine / "audio" / "train" / f"{session}_U01.CH1.wav", 12.0)
            for n in range(5):
                start, end = f"0:00:{2 * n:02}.10", f"0:00:{2 * n + 1:02}.90"
                if is_fifth:
                    start, end = ({"original": "0:00:00.00", person: time} for time in (start, end))
                said = {"end_time": end, "start_time": start, "words": sentence(n + int(person[1:]))}
                rows.append(said | {"speaker": person, "session_id": session, "ref": "U01"})
        rows += [rows[0] | {"speaker": "P99"}, rows[0] | {"speaker": "P98", "ref": None}]  # heard from afar; by nobody
        rows += [rows[0] | {"end_time": None}]
        (mine / "transcriptions" / "train").mkdir(parents=True, exist_ok=True)
        (mine / "transcriptions" / "train" / f"{session}.json").write_text(json.dumps(rows, indent=4))
    prepared = prepare(mine, tmp_path / "out", split="speaker")
    assert prepared.problems["no audio"] == 2
    assert prepared.problems["bad times"] == (4 if is_fifth else 2)  # those heard from afar have no time there
    by = {one["text"]: one for one in everything(prepared) if "S04_P11" in one["audio_filepath"]}
    heard, _ = soundfile.read(prepared.folder / by[sentence(12)]["audio_filepath"])
    start = round(2.1 * 16_000)
    assert np.corrcoef(heard, samples("S04_P11.wav", 12.0)[start : start + len(heard)])[0, 1] > 0.99
    missing = next(row for row in fates(prepared).values() if "no audio" in row["problems"])
    assert "S03_P98" in missing["problems"] or "S04_P98" in missing["problems"]


def test_the_lists_of_the_peoples_speech_are_rows(tmp_path: Path):
    mine, lines = tmp_path / "mine", []
    for document in range(3):
        names = [f"doc{document}/doc{document}_0000{n}.flac" for n in range(4)]
        for name in names:
            record(mine / "audio" / name, 1.2)
        said = [sentence(10 * document + n) for n in range(4)]
        data = {"duration_ms": [1_200] * 4, "label": said, "name": names}
        lines.append(json.dumps({"identifier": f"doc{document}", "audio_document_id": "x.mp3", "training_data": data}))
    for name in ("clean.jsonl", "clean.json"):
        (mine / name).write_text("\n".join(lines) + "\n")
        prepared = prepare(mine, tmp_path / f"out of {name}", split="utterance")
        assert prepared.fates == {"kept": COUNT}
        assert texts(prepared) == {sentence(10 * document + n) for document in range(3) for n in range(4)}
        (mine / name).unlink()
