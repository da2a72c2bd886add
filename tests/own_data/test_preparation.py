"""Preparation finds the problems of a corpus, records the fate of each row, and keeps the splits stable."""

import base64
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo import cli
from asr_with_nemo.data import manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import preparation, quality, splits
from asr_with_nemo.own_data.recordings import Form, MeasureJob, convert_all
from asr_with_nemo.own_data.store import NAME, CorpusStore
from asr_with_nemo.own_data.text import Rule
from asr_with_nemo.recognition.results import measurement_markdown
from tests.conftest import ROOT, run_script
from tests.own_data.corpora import (
    HEADER,
    everything,
    fates,
    good_rows,
    prepare,
    record,
    samples,
    sentence,
    snapshot,
    utterances,
    with_table,
)
from tests.recognition.in_process import error_of

ENOUGH = 120  # recordings, so that outliers and rare characters are reported


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with one row of each kind of problem; its name is the kind."""
    mine = tmp_path_factory.mktemp("troubled")
    rows = good_rows(mine, ENOUGH, 8)

    def add(name: str, text: str | None = None) -> Path:
        rows.append((name, sentence(1000 + len(rows)) if text is None else text, "speaker1"))
        return mine / name

    def write(path: Path, sound: np.ndarray, rate: int = 16_000) -> None:
        soundfile.write(path, sound, rate)

    add("no audio.wav")
    add("unreadable.wav").write_text("no sound at all")
    add("no sound.wav").write_bytes(b"")
    os.mkfifo(add("special.wav"))
    write(add("no sound either.wav"), samples("x", 0))
    record(add("no text.wav", ""))
    record(add("no text either.wav", "... ?"))
    record(mine / "x" / "several.wav")
    record(mine / "y" / "several.wav")
    add("several.wav")
    soundfile.write(add("too long.flac"), np.zeros(8_000 * 3600, np.int16), 8_000)
    whole = record(mine / "whole.wav", 2).read_bytes()
    (mine / "whole.wav").unlink()
    add("cut short.wav").write_bytes(whole[: len(whole) // 2])
    write(add("silence.wav"), np.zeros(16_000))
    write(add("clipping.wav"), np.clip(20 * samples("clipping"), -1, 1))
    write(add("very short.wav", "a"), samples("very short", 0.05))
    record(add("too much text.wav", sentence(5, 40)), 1.0)
    record(add("fast.wav", sentence(6, 7)), 0.8)
    record(add("slow.wav", "a"), 3.0)
    pause = np.zeros(32_000, np.float32)
    write(add("long pauses.wav"), np.concatenate([pause, samples("pauses"), pause]))
    shutil.copy(mine / rows[3][0], add("same recording.wav", rows[3][1]))
    shutil.copy(mine / rows[4][0], add("other text.wav", "another text for it"))
    record(add("mojibake.wav", "the quick fÃ©x"))
    record(add("annotation.wav", "[noise] the quick fox"))
    record(add("mixed scripts.wav", "the quiсk fox"))
    record(add("symbol.wav", "the quick fox & dog"))
    record(add("digits.wav", "the 7 quick dogs"))
    record(add("rare letter.wav", "the žluťoučký fox"))
    record(add("other rate.wav"), 1.2, 44_100)
    record(mine / "no row.wav")
    return with_table(mine, [HEADER, *rows])


LOST = {"no audio", "unreadable", "no sound", "no text", "several", "too long", "special"}
KEPT_ANYWAY = {"long pauses", "other rate", "no row"}
REPAIRED = {"long pauses", "mojibake", "annotation", "mixed scripts"}


def kind_of(name: str) -> str:
    return Path(name).stem.removesuffix(" either")


def named(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the rows named after a kind of problem."""
    return {name: row for name, row in rows.items() if kind_of(name) in quality.KINDS and "/" not in name}


def test_each_kind_of_problem_is_found_and_doubtful_rows_are_kept(troubled: Path, tmp_path: Path):
    before = snapshot(troubled)
    prepared = prepare(troubled, tmp_path / "out")
    rows = fates(prepared)
    assert set(quality.KINDS) - {kind_of(name) for name in named(rows)} == {
        "past the end",  # tests/own_data/test_odd.py has these five
        "no end",
        "too loud",
        "two talkers",
        "unfinished",
        # Texts with times: tests/own_data/test_aligned.py
        *("bad times", "no speech", "unreadable text", "overlap", "several speakers", "unsorted", "sung"),
        *("not found", "mismatch"),  # of an alignment: tests/recognition/test_alignment.py
        *("clock times", "address"),  # tests/own_data/test_text.py
        # Problems of other layouts and tables; and copies in two splits, which have their own test.
        *("no words", "not text"),  # of workbooks: tests/own_data/test_sheets.py
        "not annotated",  # tests/own_data/test_label_studio.py
        *("broken row", "encoding", "no label", "no match", "unnameable", "outside alphabet", "leak"),
    }
    for name, row in named(rows).items():
        kind = kind_of(name)
        assert kind in row["problems"], f"{name}: {row['problems']}"
        expected = "left out" if kind in LOST or kind == "no row" or "leak" in row["problems"] else "kept"
        assert row["fate"] == expected, f"{name}: {row}"
    good = [row for name, row in rows.items() if name.startswith("audio/")]
    assert sum(bool(row["problems"]) for row in good) == 1, "the one that has another text elsewhere"
    assert len(everything(prepared)) == prepared.fates["kept"]
    assert len(rows) == prepared.rows + 3, "no row.wav and the two several.wav have no row"
    assert snapshot(troubled) == before


def test_drop_leaves_doubtful_rows_out_and_records_it(troubled: Path, tmp_path: Path):
    prepared = prepare(troubled, tmp_path / "out", drop=True)
    for name, row in named(fates(prepared)).items():
        kind = kind_of(name)
        expected = "left out" if kind in LOST or kind == "no row" else "kept" if kind in KEPT_ANYWAY else "dropped"
        assert row["fate"] == expected, f"{name}: {row}"
        assert expected == "kept" or kind == "no row" or f": {expected}" in row["problems"]
    both = [row for row in fates(prepared).values() if "other text" in row["problems"]]
    assert [row["fate"] for row in both] == ["dropped", "dropped"], "either may be right"
    assert "7" not in prepared.labels
    assert prepared.fates["dropped"] > 10
    wavs = {utterance["audio_filepath"] for utterance in everything(prepared)}
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.wav")}
    assert there == wavs, "the WAVs of dropped rows are deleted"


def test_fix_repairs_rows_and_records_it(troubled: Path, tmp_path: Path):
    prepared = prepare(troubled, tmp_path / "out", fix=True)
    rows = fates(prepared)
    assert set(prepared.fixed) == REPAIRED
    for kind in REPAIRED:
        row = rows[f"{kind}.wav"]
        assert (row["fate"], "fixed" in row["problems"]) == ("kept", True), row
    assert rows["mojibake.wav"]["text"] == "the quick féx"
    assert rows["annotation.wav"]["text"] == "the quick fox"
    assert rows["mixed scripts.wav"]["text"] == "the quick fox"
    assert 1.0 <= float(rows["long pauses.wav"]["seconds"]) <= 1.6
    assert "fixed" not in rows["symbol.wav"]["problems"], "how it was spoken is unknown"


def test_texts_that_a_model_cannot_spell(troubled: Path, tmp_path: Path):
    alphabet = frozenset("abcdefghijklmnopqrstuvwxyz' ")
    found = prepare(troubled, tmp_path / "found", alphabet=alphabet)
    assert "outside alphabet (ž ť č ý)" in fates(found)["rare letter.wav"]["problems"]
    assert "ž" in found.labels
    fixed = prepare(troubled, tmp_path / "fixed", alphabet=alphabet, fix=True, drop=True)
    assert fates(fixed)["rare letter.wav"]["text"] == "the zlutoucky fox"
    assert fates(fixed)["digits.wav"]["fate"] == "dropped"
    assert set(fixed.labels) <= alphabet


def test_stereo_that_cancels_out_is_still_heard(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    sound = samples("stereo", 1.2)
    soundfile.write(tmp_path / "mine" / "opposite.wav", np.stack([sound, -sound], 1), 16_000)
    soundfile.write(tmp_path / "mine" / "same.wav", np.stack([sound, 0.5 * sound], 1), 16_000)
    rows += [("opposite.wav", "the fox", "speaker0"), ("same.wav", "the dog", "speaker0")]
    prepared = prepare(with_table(tmp_path / "mine", [HEADER, *rows]), tmp_path / "out")
    made = {one["text"]: soundfile.read(tmp_path / "out" / one["audio_filepath"])[0] for one in everything(prepared)}
    np.testing.assert_allclose(np.abs(made["the fox"]), np.abs(sound), atol=1e-3)
    np.testing.assert_allclose(made["the dog"], 0.75 * sound, atol=1e-3)


def test_telephone_speech_is_resampled_well(tmp_path: Path):
    time_line = np.arange(16_000) / 8_000
    rows = []
    for number in range(12):
        tone = 0.3 * np.sin(2 * np.pi * (300 + 100 * number) * time_line)
        soundfile.write(tmp_path / f"{number}.wav", tone, 8_000, subtype="ULAW")
        rows.append((f"{number}.wav", sentence(number)))
    mine = with_table(tmp_path / "mine", [("file", "text"), *((f"../{name}", text) for name, text in rows)])
    prepared = prepare(mine, tmp_path / "out")
    for utterance in everything(prepared):
        heard, rate = soundfile.read(tmp_path / "out" / utterance["audio_filepath"])
        assert (rate, len(heard)) == (16_000, 32_000)
        spectrum = np.abs(np.fft.rfft(heard[1000:-1000] * np.hanning(30_000)))
        frequencies = np.fft.rfftfreq(30_000, 1 / rate)
        above = spectrum[frequencies > 4_200].max() / spectrum.max()
        assert 20 * np.log10(above) < -60, "no mirror images of the tones"


# --- Splits -----------------------------------------------------------------------------------------------------------


def split_of_each(prepared, field: str) -> dict[str, str]:
    return {row[field]: row["split"] for row in fates(prepared).values() if row["fate"] == "kept"}


@pytest.mark.parametrize("speakers", [3, 4, 6, 40])
def test_speakers_are_held_out_whole(tmp_path: Path, speakers: int):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine", 80, speakers)])
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.split_by == "speaker"
    by_split = {split: {one["speaker"] for one in utterances(prepared, split)} for split in splits.SPLIT_NAMES}
    assert sum(map(len, by_split.values())) == speakers
    assert all(by_split.values())
    for split in ("dev", "test"):
        assert (
            manifest.shared_with(
                manifest.read_manifest(prepared.manifest("train")), manifest.read_manifest(prepared.manifest(split))
            )
            == {}
        )
    together = utterances(prepared, "train") + utterances(prepared, "dev")
    assert sorted(map(str, utterances(prepared, "train_all"))) == sorted(map(str, together))


@pytest.mark.parametrize("speakers", [1, 2])
def test_with_one_speaker_or_two_recordings_are_held_out(tmp_path: Path, speakers: int):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine", 60, speakers)])
    prepared = prepare(mine, tmp_path / "out")
    assert prepared.split_by == "utterance"
    assert all("speaker" not in one for one in everything(prepared)), "scripts/train.py refuses a shared speaker"
    assert any("too few to hold" in note for note in prepared.notes)
    with pytest.raises(InputError, match="--split speaker"):
        prepare(mine, tmp_path / "other", split="speaker")


def test_everyone_stays_in_their_split_when_data_is_added(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine, 200, 40)
    early = [row for row in rows if int(row[2][7:]) < 10]
    before = split_of_each(prepare(with_table(mine, [HEADER, *early]), tmp_path / "out"), "speaker")
    after = split_of_each(prepare(with_table(mine, [HEADER, *rows]), tmp_path / "out"), "speaker")
    assert before.items() <= after.items()
    assert len(after) == 40
    # In a new folder, too, what each name draws is the same.
    anew = split_of_each(prepare(mine, tmp_path / "new"), "speaker")
    more = rows + [(path, text, f"{speaker}b") for path, text, speaker in good_rows(tmp_path / "more", 100, 20)]
    grown = [(f"../more/{path}" if speaker.endswith("b") else path, text, speaker) for path, text, speaker in more]
    wider = split_of_each(
        prepare(
            with_table(
                tmp_path / "wide",
                [HEADER, *[(f"../mine/{p}" if not p.startswith("..") else p, t, s) for p, t, s in grown]],
            ),
            tmp_path / "wider",
        ),
        "speaker",
    )
    same = sum(wider[speaker] == split for speaker, split in anew.items())
    assert same >= 0.9 * len(anew)


def test_recordings_stay_in_their_split_when_others_are_added(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [row[:2] for row in good_rows(mine, 150)]
    few = split_of_each(prepare(with_table(mine, [HEADER[:2], *rows[:12]]), tmp_path / "out"), "recording")
    many = split_of_each(prepare(with_table(mine, [HEADER[:2], *rows]), tmp_path / "out"), "recording")
    assert few.items() <= many.items()
    assert 5 <= sum(split == "test" for split in many.values()) <= 30


def test_what_was_split_by_recordings_stays_so_when_speakers_are_added(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine, 60, 6)
    two = [row for row in rows if row[2] in ("speaker0", "speaker1")]
    first = prepare(with_table(mine, [HEADER, *two]), tmp_path / "out")
    before = split_of_each(first, "recording")
    grown = prepare(with_table(mine, [HEADER, *rows]), tmp_path / "out")
    assert (first.split_by, grown.split_by) == ("utterance", "utterance")
    assert before.items() <= split_of_each(grown, "recording").items()
    assert any("--split speaker" in note for note in grown.notes)
    assert prepare(mine, tmp_path / "out", split="speaker").split_by == "speaker"


def test_two_runs_at_once_do_not_mix(tmp_path: Path):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine")])
    prepare(mine, tmp_path / "out")
    with CorpusStore(tmp_path / "out" / NAME), pytest.raises(InputError, match=r"corpus\.sqlite.*another run"):
        prepare(mine, tmp_path / "out")


def test_the_splits_of_the_source_are_kept_unless_they_share_a_speaker(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [
        (*row, {0: "train", 1: "train", 2: "train", 3: "train", 4: "valid", 5: "test"}[n % 6])
        for n, row in enumerate(good_rows(mine))
    ]
    prepared = prepare(with_table(mine, [(*HEADER, "split"), *rows]), tmp_path / "out")
    assert prepared.split_by == "source"
    assert split_of_each(prepared, "speaker") == {
        f"speaker{n}": "train" if n < 4 else ["dev", "test"][n - 4] for n in range(6)
    }
    shared = [(*row[:3], ["train", "valid", "test"][n % 3]) for n, row in enumerate(rows)]
    with_table(
        mine,
        [(*HEADER, "split"), *[(p, t, "speaker0" if n < 9 else s, split) for n, (p, t, s, split) in enumerate(shared)]],
    )
    prepared = prepare(mine, tmp_path / "shared")
    assert prepared.split_by == "speaker"
    assert any("share" in note for note in prepared.notes)
    kept = prepare(mine, tmp_path / "kept", split="source")
    assert kept.split_by == "source"
    assert all("speaker" not in one for one in everything(kept))


def test_a_source_without_a_dev_set_gets_one_out_of_train(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [(*row, "test" if n % 6 == 5 else "train") for n, row in enumerate(good_rows(mine))]
    prepared = prepare(with_table(mine, [(*HEADER, "split"), *rows]), tmp_path / "out")
    assert {one["speaker"] for one in utterances(prepared, "test")} == {"speaker5"}
    assert len({one["speaker"] for one in utterances(prepared, "dev")}) == 1
    assert any("no dev set" in note for note in prepared.notes)


def test_a_copy_in_another_split_is_left_out(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = good_rows(mine, 40, 4)
    for number in range(4):  # each speaker has the others' first recordings
        for other in range(4):
            shutil.copy(mine / f"audio/r{other}.wav", mine / f"copy{number}{other}.wav")
            rows.append((f"copy{number}{other}.wav", rows[other][1], f"speaker{number}"))
    prepared = prepare(with_table(mine, [HEADER, *rows]), tmp_path / "out")
    assert prepared.problems["leak"] > 0
    heard = {
        split: {
            soundfile.read(tmp_path / "out" / one["audio_filepath"])[0].tobytes() for one in utterances(prepared, split)
        }
        for split in splits.SPLIT_NAMES
    }
    assert not heard["train"] & heard["dev"]
    assert not heard["train"] & heard["test"]
    assert not heard["dev"] & heard["test"]


def test_too_few_rows_for_three_sets(tmp_path: Path):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine", 2)])
    with pytest.raises(InputError, match="2 usable rows"):
        prepare(mine, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with_table(mine, [HEADER, ("a.wav", "text", "x"), ("b.wav", "text", "y")])
    with pytest.raises(InputError, match=r"mine.* 2 rows.*\n.*table\.csv, line 2: no such file"):
        prepare(mine, tmp_path / "out")


# --- Again, and interrupted -------------------------------------------------------------------------------------------


def test_a_second_run_reads_only_what_is_new_and_changes_nothing(tmp_path: Path):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine")])
    prepare(mine, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    prepare(mine, tmp_path / "out")
    after = snapshot(tmp_path / "out")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"corpus.sqlite", "rows.tsv"}, "no WAV, no manifest and no page was written again"
    soundfile.write(mine / "audio" / "r3.wav", samples("new", 1.0), 16_000)
    prepared = prepare(mine, tmp_path / "out")
    written = {
        name for name, what in snapshot(tmp_path / "out").items() if what != after.get(name) and name.endswith(".wav")
    }
    assert len(written) == 1
    assert float(fates(prepared)["audio/r3.wav"]["seconds"]) == 1.0


def test_a_row_that_goes_takes_its_wav_along(tmp_path: Path):
    rows = good_rows(tmp_path / "mine")
    mine = with_table(tmp_path / "mine", [HEADER, *rows])
    prepare(mine, tmp_path / "out")
    prepared = prepare(with_table(mine, [HEADER, *rows[5:]]), tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.wav"))) == len(everything(prepared)) == 25


@pytest.mark.slow
def test_killed_and_run_again_it_ends_in_the_same_files(tmp_path: Path):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine", 600, 20)])
    arguments = [sys.executable, str(ROOT / "scripts/prepare_corpus.py"), str(mine), "--workers", "2", "--out"]
    subprocess.run([*arguments, str(tmp_path / "whole")], check=True, capture_output=True)

    def converted_since(started: float) -> int:
        return sum(path.stat().st_mtime >= started for path in (tmp_path / "killed").rglob("*.wav"))

    killed = 0
    for count in (100, 250, 400):
        started = time.time()
        process = subprocess.Popen(
            [*arguments, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and converted_since(started) < count:
            assert time.time() < started + 120, f"fewer than {count} WAVs"
            time.sleep(0.02)
        killed += process.poll() is None
        process.kill()
        process.wait()
    left = next((tmp_path / "killed").rglob("*.wav"))
    left.with_name(f".{left.name}.elsewhere.1.partial").touch()  # of a worker that was killed while it wrote
    subprocess.run([*arguments, str(tmp_path / "killed")], check=True, capture_output=True)

    def contents(name: str) -> dict[str, bytes]:
        files = (tmp_path / name).rglob("*")
        kept = (
            path
            for path in files
            if path.is_file() and path.name not in ("corpus.sqlite", "corpus.json", "report.html")
        )
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in kept}

    assert killed, "each run ended before it could be killed"
    assert contents("killed") == contents("whole")


def test_ctrl_c_leaves_no_half_written_recording(troubled: Path, tmp_path: Path):
    out, left = tmp_path / "out", []

    class Interrupted:
        """A pool whose workers are killed while they write."""

        def submit(self, *_: object) -> Future:
            (out / "wav/00/.one.wav.elsewhere.1.partial").touch()
            raise KeyboardInterrupt

        def shutdown(self, *, kill_workers: bool) -> None:
            left.extend(out.rglob("*.partial"))

    with pytest.raises(KeyboardInterrupt):
        preparation.prepare(troubled, out, progress=False, start=lambda _: Interrupted())
    assert len(left) == 1, "they end before it is tidied up"
    assert not list(out.rglob("*.partial"))
    prepare(troubled, out)


def test_the_result_does_not_depend_on_the_workers(troubled: Path, tmp_path: Path):
    one = prepare(troubled, tmp_path / "one", workers=1)
    two = prepare(troubled, tmp_path / "two", workers=3)
    for split in (*splits.SPLIT_NAMES, "train_all"):
        assert one.manifest(split).read_bytes() == two.manifest(split).read_bytes()
    assert one.rows_file.read_bytes() == two.rows_file.read_bytes()


class Deadly(Rule):
    """A rule that kills a worker at one text, as a decoder may at one file."""

    def normalise(self, text: str) -> str:
        if text == "die" and os.environ["MAIN_PROCESS"] != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        return text


def test_a_recording_that_crashes_a_worker_is_reported_and_the_others_are_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MAIN_PROCESS", str(os.getpid()))
    (tmp_path / "wav").mkdir()
    files = [record(tmp_path / f"{number}.wav", 0.2) for number in range(12)]
    jobs = [MeasureJob(n, str(file), f"wav/{n}.wav", "die" if n == 7 else "live") for n, file in enumerate(files)]
    form = Form(tmp_path, rule=Deadly())
    outcomes = [one for some in convert_all([jobs[:4], jobs[4:8], jobs[8:]], form, 2) for one in some]
    assert [one.number for one in outcomes] == list(range(12))
    assert {one.number: one.problem for one in outcomes if one.problem} == {7: "unreadable"}
    assert len(list((tmp_path / "wav").glob("*.wav"))) == 11


# --- Where things go --------------------------------------------------------------------------------------------------


def test_unusable_places_are_refused(tmp_path: Path, small_corpus):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine")])
    with pytest.raises(InputError, match=str(tmp_path / "none")):
        prepare(tmp_path / "none", tmp_path / "out")
    for out in (mine, mine / "out"):
        with pytest.raises(InputError, match=f"--out {out}: lies in the source"):
            prepare(mine, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"--out {tmp_path / 'file'}"):
        prepare(mine, tmp_path / "file")
    with pytest.raises(InputError, match=f"--out {small_corpus.folder}: holds another corpus"):
        prepare(mine, small_corpus.folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path / 'empty'}: no recordings"):
        prepare(tmp_path / "empty", tmp_path / "out")


def test_an_object_storage_is_refused_with_how_to_copy_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    sync = "aws s3 sync s3://BUCKET/FOLDER recordings"
    for more in ([], ["--ray", "10.0.0.1:6379"], ["--align", "none"]):  # before a cluster or a model is waited for
        said = error_of("prepare_corpus.py", "s3://speech/calls", "--out", "out", *more)
        assert "s3://speech/calls: is a URL" in said and sync in " ".join(said.split())
    said = error_of("prepare_corpus.py", "mine", "--out", "s3://speech/corpus")
    assert "s3://speech/corpus: is a URL, and the corpus is written into a folder" in " ".join(said.split())
    said = error_of("prepare_corpus.py", "mine", "--out", "out", "--audio-root", "s3://speech/calls")
    assert "s3://speech/calls: is a URL" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("digits.tar.gz", "archive"),
        ("table.xls", r"spreadsheet.*\.xlsx"),
        ("talk.wav", "recording"),
        ("table.csv", "expected CSV"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, name: str, kind: str):
    (tmp_path / name).write_bytes(b"PK\0\1\0\0")
    with pytest.raises(InputError, match=f"{name}: .*{kind}"):
        prepare(tmp_path / name, tmp_path / "out")


# --- The report -------------------------------------------------------------------------------------------------------


def test_the_page_holds_all_that_it_shows(troubled: Path, tmp_path: Path):
    prepared = prepare(troubled, tmp_path / "out")
    page = prepared.report.read_text(encoding="utf-8")
    assert len(page) < 15_000_000
    assert 10 < page.count("<audio") <= 50
    assert not re.search(r"(src|href)=.(https?:|//)", page), "nothing is fetched"
    assert not re.search(r"<script[^>]+src=", page)
    clip = re.search(r'src="data:audio/mpeg;base64,([^"]+)"', page)
    assert base64.b64decode(clip[1])[:3] in (b"ID3", b"\xff\xfb\x14", b"\xff\xf3\x14") or clip
    for kind, count in prepared.problems.items():
        assert quality.KINDS[kind].title.replace("'", "&#39;") in page, (kind, count)
    for name in ("no audio.wav", "clipping.wav", "no row.wav", "other text.wav"):
        assert name in page
    for fate in ("1 left out", "3 not used", "2 kept"):
        assert f">{fate}</div>" in page
    assert "<code class='option'>--drop</code> leaves it out" in page
    assert str(tmp_path) not in page, "no absolute path"


def test_transcripts_cannot_run_as_scripts_in_the_page(tmp_path: Path):
    mine = tmp_path / "mine"
    rows = [
        (path, f"<script>alert({n})</script> {text}", f"<b>{speaker}")
        for n, (path, text, speaker) in enumerate(good_rows(mine))
    ]
    page = prepare(with_table(mine, [HEADER, *rows]), tmp_path / "out").report.read_text()
    assert "<script>alert" not in page
    assert "<b>speaker" not in page


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_its_findings_and_the_next_commands(troubled: Path, tmp_path: Path):
    done = run_script("prepare_corpus.py", troubled, "--out", "data/my corpus", "--drop", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "report: data/my corpus/report.html" in done.stdout
    for words in ("train", "speakers", "clipping", "dropped", "other text"):
        assert words in done.stdout
    train, evaluate = done.stdout.splitlines()[-2:]
    assert "train.py --config-name small_corpus" in train
    assert "evaluate.py" in evaluate
    note = json.loads((tmp_path / "data/my corpus/corpus.json").read_text())
    assert note["name"] == "my corpus"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run scripts/prepare_corpus.py in this process, in `tmp_path`: arguments → (exit status, stdout, stderr)."""
    specification = importlib.util.spec_from_file_location("prepare_corpus", ROOT / "scripts/prepare_corpus.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare_corpus.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.run(script.main)
        return ended.value.code or 0, *capsys.readouterr()

    return run_command


def test_the_help_shows_a_pattern_as_it_is_typed(command):
    status, shown, _ = command("--help")
    assert status == 0
    assert shown.count("{label}_{speaker}_{take}.wav") == 2


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--label-map", "none.json"], r"none\.json"),
        (["--digits", "spell"], "--language"),
        (["--pattern", "{label"], "--pattern"),
        (["--format", "kaldi"], r"wav\.scp"),
        (["--format", "librispeech"], "--format librispeech"),
        (["--text-column", "9"], r"table\.csv.*'9'.*--text-column"),
    ],
)
def test_errors_of_the_command_have_no_traceback(tmp_path: Path, command, arguments: list[str], pattern: str):
    mine = with_table(tmp_path / "mine", [HEADER, *good_rows(tmp_path / "mine", 6)])
    status, _, error = command(mine, "--out", "out", "--workers", "1", *arguments)
    assert status == 1
    assert "error: " in error
    assert re.search(pattern, error)
    assert "Traceback" not in error


@pytest.mark.proof
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path):
    output = tmp_path / "results.json"
    sizes = ["--sizes", "500", "--sizes", "2000", "--seconds", "0.3"]
    done = run_script(
        "benchmarks/corpus.py", *sizes, "--folder", tmp_path, "--workers", "1", "--output", output, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    growth = float(re.search(r"2,000 against 500: ([\d.]+) times", done.stdout)[1])
    assert growth <= 1.2
    assert f"{growth:.2f} times the memory" in measurement_markdown(output)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json"}


@pytest.mark.slow
def test_the_printed_commands_train_and_evaluate_as_they_stand(tmp_path: Path):
    """Three words of tones, in Greek letters, at 8 kHz, in a folder with a space and letters that aren't ASCII."""
    words = {"α": "ναι", "β": "όχι", "γ": "ίσως"}
    draw = random.Random(0)
    for number in range(72):
        label = "αβγ"[number % 3]
        pitch = {"α": (400, 900), "β": (900, 400), "γ": (700, 700)}[label]
        low, high = (one * draw.uniform(0.9, 1.1) for one in pitch)
        sweep = np.cumsum(np.linspace(low, high, 4_000)) / 8_000
        tone = 0.3 * np.sin(2 * np.pi * sweep) * np.hanning(4_000) + 0.01 * samples(number, 0.5, 8_000)
        path = tmp_path / "ήχος" / f"{label}_s{number % 6}_{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, tone, 8_000)
    (tmp_path / "labels.json").write_text(json.dumps(words))
    pattern = ["--pattern", "{label}_{speaker}_{take}.wav", "--label-map", "labels.json"]
    done = run_script("prepare_corpus.py", "ήχος", "--out", "τα δεδομένα", *pattern, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    train, evaluate = (line.strip() for line in done.stdout.splitlines()[-2:])
    kept = ("PATH", "PYTHONPATH", "COURSE_PRELOADED", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(tmp_path), "WANDB_MODE": "disabled"}
    shorter = f"{train} trainer.max_epochs=80 trainer.check_val_every_n_epoch=10"
    for command in (shorter, evaluate):
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    wer = float(re.search(r"WER +([\d.]+)%", done.stdout)[1])
    assert wer < 50, done.stdout
