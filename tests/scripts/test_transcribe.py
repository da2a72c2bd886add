"""A day with scripts/transcribe.py: folders, lists, manifests, subtitles, an interruption."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from asr_with_nemo.base.files import alone_in
from asr_with_nemo.data import an4, audio, manifest
from tests.conftest import ROOT, run_script
from tests.recognition.in_process import error_of


@pytest.fixture
def folder(small_corpus: an4.Corpus, tmp_path: Path) -> Path:
    """Three recordings, one in a folder of its own, and what a Mac leaves beside them."""
    rows = manifest.read_manifest(small_corpus.manifest("test"))
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, row in zip(("a.wav", "b.wav", "sub/a.wav"), rows, strict=False):
        shutil.copy(row["audio_filepath"], tmp_path / "in" / name)
    (tmp_path / "in" / "._a.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / "in" / "notes.md").write_text("not sound")
    return tmp_path


def transcribe(folder: Path, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "transcribe.py"), "an4", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=300)


def test_a_folder_a_list_a_manifest_and_standard_input_give_the_same_texts(folder: Path):
    lines = transcribe(folder, "in").stdout.splitlines()
    names, texts = zip(*(line.split("\t") for line in lines), strict=True)
    assert names == ("in/a.wav", "in/b.wav", "in/sub/a.wav")
    assert all(text == text.strip() for text in texts)
    (folder / "in" / "list.txt").write_text("a.wav\nb.wav\n\nsub/a.wav\n")
    rows = [{"audio_filepath": name} for name in ("a.wav", "b.wav", "sub/a.wav")]
    (folder / "in" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for done in (
        transcribe(folder, "in/list.txt"),
        transcribe(folder, "in/rows.jsonl"),
        transcribe(folder, "-", stdin="\n".join(names)),
    ):
        assert (done.returncode, done.stdout.splitlines()) == (0, lines), done.stderr


def test_offset_and_duration_of_a_manifest_are_honoured(folder: Path):
    parts = [audio.load_audio(folder / "in" / name) for name in ("a.wav", "b.wav")]
    soundfile.write(folder / "long.wav", np.concatenate(parts), audio.SAMPLE_RATE)
    first, second = (len(part) / audio.SAMPLE_RATE for part in parts)
    rows = [{"audio_filepath": "long.wav", "duration": first}, {"audio_filepath": "long.wav", "offset": first}]
    rows += [{"audio_filepath": "long.wav", "offset": 1000 * first, "duration": 1000 * second}]
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = transcribe(folder, "rows.json", "--json")
    assert done.returncode == 1
    assert "long.wav" in done.stderr and "milliseconds" in done.stderr and "rows.json: 1 recordings" in done.stderr
    heard = [json.loads(line) for line in done.stdout.splitlines()]
    apart = [json.loads(line) for line in transcribe(folder, "in/a.wav", "in/b.wav", "--json").stdout.splitlines()]
    assert [row["duration"] for row in heard] == pytest.approx([first, second], abs=1e-3)
    assert [row["text"] for row in heard] == [row["text"] for row in apart]


def test_subtitles_into_a_folder_are_brought_up_to_date(folder: Path):
    done = transcribe(folder, "in", "--format", "srt", "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    made = sorted(str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.srt"))
    assert made == ["a.srt", "b.srt", "sub/a.srt"]
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:\d\d,\d{3}\n\w", (folder / "out" / "a.srt").read_text())
    dates = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.srt")}
    (folder / "out" / "b.srt").unlink()
    again = transcribe(folder, "in", "--format", "srt", "--output-dir", "out")
    assert "2 of 3 were done before" in again.stderr
    assert (folder / "out" / "b.srt").is_file()
    assert all(path.stat().st_mtime_ns == date for path, date in dates.items() if path.name != "b.srt")


def test_what_was_interrupted_goes_on(folder: Path):
    clip = audio.load_audio(folder / "in" / "a.wav")
    (folder / "many").mkdir()
    for number in range(300):
        soundfile.write(folder / "many" / f"{number:03}.wav", clip, audio.SAMPLE_RATE)
    command = [sys.executable, str(ROOT / "scripts" / "transcribe.py"), "an4", "many", "--output", "out.tsv"]
    notes = folder / ".out.tsv.progress"
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (notes.is_file() and notes.read_bytes().count(b"\n") > 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "out.tsv").exists()
    with open(notes, "ab") as file:
        file.write(b'{"key": "half a li')
    done = transcribe(folder, "many", "--output", "out.tsv")
    assert done.returncode == 0 and re.search(r"^\d+ of 300 were done before", done.stderr), done.stderr
    lines = (folder / "out.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"many/{number:03}.wav" for number in range(300)]
    assert not notes.exists()


@pytest.mark.parametrize("place", [("--output", "texts.tsv"), ("--output-dir", "out")])
def test_two_at_once_take_turns(folder: Path, place: tuple[str, str]):
    command = [sys.executable, str(ROOT / "scripts" / "transcribe.py"), "an4", "in", *place]
    (folder / "out").mkdir()
    waiting = folder / "out" if place[0] == "--output-dir" else folder
    with alone_in(waiting, "is transcribing", name="" if place[0] == "--output-dir" else "texts.tsv"):
        two = [subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [one.stderr.readline() for one in two]
    assert all(f"{place[1]}: process {os.getpid()} on " in line and "waiting" in line for line in said), said
    for one in two:
        one.communicate(timeout=300)
        assert one.returncode == 0
    lines = transcribe(folder, "in").stdout.splitlines()
    if place[0] == "--output":
        assert (folder / "texts.tsv").read_text().splitlines() == lines
    else:
        assert [path.read_text().strip() for path in sorted((folder / "out").rglob("*.txt"))] == [
            line.split("\t")[1] for line in lines
        ]
    assert not [path.name for path in folder.rglob("*lock*")]


def test_what_is_read_is_never_written_over(folder: Path):
    row = json.dumps({"audio_filepath": "in/a.wav", "duration": 1.0, "text": "yes"}) + "\n"
    (folder / "rows.json").write_text(row)
    (folder / "list.txt").write_text("in/a.wav\n")
    for inputs, output in (
        (["in/a.wav"], "in/a.wav"),
        (["in"], "in/sub/../b.wav"),
        (["rows.json"], "rows.json"),
        (["list.txt"], "list.txt"),
        (["list.txt"], "in/a.wav"),
    ):
        before = (folder / output).read_bytes()
        done = transcribe(folder, *inputs, "--output", output)
        assert done.returncode == 1 and f"{output}: is read by this command" in done.stderr
        assert (folder / output).read_bytes() == before
    (folder / "rows.html").write_text(row)
    for option, name in (("--output", "rows.json"), ("--report", "rows.html")):
        done = run_script("evaluate.py", "an4", name, option, name, cwd=folder)
        assert done.returncode == 1 and f"{name}: is read by this command" in done.stderr
        assert (folder / name).read_text() == row


def test_one_that_cant_be_read_is_named_and_the_others_are_done(folder: Path):
    (folder / "in" / "bad.wav").write_text("dear friend")
    done = transcribe(folder, "in", "--output", "out.jsonl")
    assert done.returncode == 1 and "error: in/bad.wav: " in done.stderr and "1 of 4 files" in done.stderr
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["in/a.wav", "in/b.wav", "in/sub/a.wav"]


def test_each_channel_of_a_call_is_read_by_itself_if_asked_for(folder: Path):
    one, other = (audio.load_audio(folder / "in" / name) for name in ("a.wav", "b.wav"))
    quiet = np.zeros(len(one) + len(other), np.float32)
    left, right = quiet.copy(), quiet
    left[: len(one)], right[len(one) :] = one, other
    soundfile.write(folder / "call.wav", np.stack([left, right], axis=1), audio.SAMPLE_RATE)
    mixed = transcribe(folder, "call.wav")
    assert "each channel is another person" in mixed.stderr and "--channels split" in mixed.stderr
    texts = [line.split("\t")[1] for line in transcribe(folder, "in/a.wav", "in/b.wav").stdout.splitlines()]
    done = transcribe(folder, "call.wav", "--channels", "split")
    assert done.stdout.splitlines() == [f"call.wav channel {n}\t{text}" for n, text in enumerate(texts, 1)]
    assert "mixed" not in done.stderr
    done = transcribe(folder, "call.wav", "in/a.wav", "--channels", "split", "--output-dir", "out")
    assert {path.name for path in (folder / "out").glob("*.txt")} == {"call_channel1.txt", "call_channel2.txt", "a.txt"}


def test_what_the_model_is_least_sure_of_is_the_next_to_label(folder: Path):
    clean = audio.load_audio(folder / "in" / "b.wav")
    noise = np.random.default_rng(0).normal(0, np.abs(clean).std(), len(clean))
    soundfile.write(folder / "in" / "noisy.wav", clean + noise, audio.SAMPLE_RATE)
    soundfile.write(folder / "in" / "silent.wav", np.zeros(audio.SAMPLE_RATE), audio.SAMPLE_RATE)
    (folder / "out").mkdir()
    done = transcribe(folder, "in", "--uncertain", "2", "--output", "out/next.json")
    assert done.returncode == 0, done.stderr
    assert "the 2 of 5 recordings" in done.stderr and "1 without a word" in done.stderr
    rows = manifest.read_manifest(folder / "out" / "next.json")
    assert Path(rows[0]["audio_filepath"]).name == "noisy.wav"
    assert rows[0]["confidence"] <= rows[1]["confidence"] < 1 and all(row["text"] for row in rows)
    assert not list((folder / "out").glob(".*"))
    again = transcribe(folder, "out/next.json")
    assert [line.split("\t")[1] for line in again.stdout.splitlines()] == [row["text"] for row in rows]


def test_texts_are_corrected_in_label_studio_and_become_a_corpus(folder: Path):
    sounds = [audio.load_audio(path) for path in sorted((folder / "in").rglob("[ab].wav"))]
    gap = np.zeros(2 * audio.SAMPLE_RATE)
    parts = [part for _ in range(5) for sound in sounds for part in (sound, gap)]
    soundfile.write(folder / "in" / "long talk.wav", np.concatenate(parts), audio.SAMPLE_RATE)
    done = transcribe(folder, "in", "--format", "label-studio", "--output", "tasks.json")
    assert done.returncode == 0, done.stderr
    assert "4 tasks" in done.stderr and f"DOCUMENT_ROOT={folder} " in done.stderr
    tasks = {Path(task["data"]["audio"]).name: task for task in json.loads((folder / "tasks.json").read_text())}
    assert tasks["a.wav"]["data"]["audio"].startswith("/data/local-files/?d=in/")
    long = tasks["long%20talk.wav"]["predictions"][0]
    assert 0 < long["score"] <= 1 and long["model_version"] == "an4.onnx"
    config = ElementTree.parse(folder / "tasks.xml").getroot()  # the tags that the predictions name are there
    named = {
        (result["from_name"], result["to_name"])
        for task in tasks.values()
        for one in task["predictions"]
        for result in one["result"]
    }
    assert named == {(tag.get("name"), tag.get("toName")) for tag in config if tag.get("toName")}
    for number, task in enumerate(tasks.values()):  # a person's corrections
        results = task.pop("predictions")[0]["result"]
        for at, result in enumerate(result for result in results if result["type"] == "textarea"):
            result["value"]["text"] = [f"{'right ' * (at + 1)}text of {task['data']['audio'][-12:-4]}"]
        task |= {"id": number, "annotations": [{"completed_by": 1, "result": results, "was_cancelled": False}]}
    (folder / "export.json").write_text(json.dumps([*tasks.values()]))
    done = run_script("prepare_corpus.py", "export.json", "--audio-root", ".", "--out", "made", cwd=folder)
    assert done.returncode == 0 and "(labelstudio)" in done.stdout, done.stdout + done.stderr
    rows = manifest.read_manifest(folder / "made" / "train_all_manifest.json")
    rows += manifest.read_manifest(folder / "made" / "test_manifest.json")
    assert len(rows) >= 8 and all(row["text"].startswith("right") for row in rows)
    assert (
        "2 of 4 recordings"
        in transcribe(folder, "in", "--format", "label-studio", "--output", "next.json", "--uncertain", "2").stderr
    )


def test_a_part_of_a_recording_becomes_regions_with_its_times_and_channel(folder: Path):
    sound = audio.load_audio(folder / "in" / "a.wav")
    soundfile.write(folder / "call.wav", np.stack([np.zeros(2 * len(sound)), np.tile(sound, 2)], 1), audio.SAMPLE_RATE)
    seconds = len(sound) / audio.SAMPLE_RATE
    (folder / "rows.json").write_text(json.dumps({"audio_filepath": "call.wav", "offset": seconds}))
    url = ("--audio-root", ".", "--audio-url", "https://host/sound/")
    done = transcribe(
        folder, "rows.json", "--format", "label-studio", "--output", "t.json", "--channels", "split", *url
    )
    assert done.returncode == 0, done.stderr
    tasks = json.loads((folder / "t.json").read_text())
    assert {task["data"]["audio"] for task in tasks} == {"https://host/sound/call.wav"}
    values = [result["value"] for task in tasks for one in task["predictions"] for result in one["result"]]
    assert values and all(value["channel"] == 1 and value["start"] >= seconds - 0.01 for value in values)


def test_a_file_that_is_cut_short_is_named(folder: Path):
    os.truncate(folder / "in" / "a.wav", 20_000)
    done = transcribe(folder, "in/a.wav")
    assert done.returncode == 0 and "in/a.wav: is cut short or damaged" in done.stderr


def test_a_language_model_is_never_taken_for_a_recording(folder: Path):
    done = run_script("transcribe.py", "an4", "--lm", "in/a.wav", cwd=folder)
    assert done.returncode == 0, done.stderr
    os.rename(shutil.copy(ROOT / "src/asr_with_nemo/assets/an4.arpa", folder), folder / "mine.model")
    done = transcribe(folder, "--lm", "mine.model", "in/a.wav")
    assert (done.returncode, done.stdout) == (1, "") and "--lm=mine.model" in done.stderr
    assert transcribe(folder, "--lm=mine.model", "in/a.wav").returncode == 0


def test_words_that_are_expected_or_held_back(folder: Path):
    plain = transcribe(folder, "in/a.wav").stdout.split()
    (folder / "words.txt").write_text(f"# what isn't said\n{plain[0]}:-60\n", encoding="utf-8")
    for boost in ([f"{plain[0]}:-60"], ["words.txt", "--boost", "new york:2"]):
        done = transcribe(folder, "in/a.wav", "--boost", *boost)
        assert (done.returncode, done.stderr) == (0, "")
        assert plain[0] not in done.stdout.split() and plain[-1] in done.stdout.split()
    # With other words, a file is made anew.
    for boost in ([], ["--boost", "words.txt"]):
        assert transcribe(folder, "in", "--output", "out.tsv", *boost).returncode == 0
    written = (folder / "out.tsv").read_text().split("\n")[0].split("\t")[1]
    assert plain[0] not in written.split()
    # With the language model, a word that it doesn't know.
    done = transcribe(folder, "--lm", "in/a.wav", "--boost", "quux:90")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.wav", "--boost", "names.txt"], "names.txt: no such list of phrases"),
        (["a.wav", "--boost", "go:loud"], "--boost: 'go:loud'"),
        (["empty"], "empty: has no recordings"),
        (["list.txt"], "list.txt: empty"),
        (["bad.json"], "bad.json, line 2: lacks 'audio_filepath'"),
        (["x/a.wav", "y/a.wav", "--output-dir", "out"], "x/a.wav and y/a.wav"),
        (["a.wav", "b.wav", "--format", "srt"], "--output-dir"),
        (["a.wav", "--output", "a.txt", "--output-dir", "out"], "--output"),
        (["a.wav", "--output-dir", "."], "a.txt: there is such a file, and not from this command"),
        (["a.wav", "--uncertain", "2"], "--output FILE.json"),
        (["a.wav", "--uncertain", "2", "--output", "bad.json"], "bad.json: there is such a file"),
        (["a.wav", "--format", "label-studio"], "--output FILE.json"),
        (["a.wav", "--format", "label-studio", "--output", "bad.json"], "bad.json: there is such a file"),
        (["a.wav", "--format", "label-studio", "--output", "t.json", "--audio-root", "x"], "lies outside --audio-root"),
        (["a.wav", "--audio-root", "x"], "--format label-studio"),
        (["table.csv"], "table.csv: a table, not a recording"),
        (["rows.json"], "rows.json, line 1: a JSON list"),
        (["spoken.txt"], "spoken.txt: a line is no path of a recording: go on"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("\n")
    (tmp_path / "a.txt").write_text("what a person wrote\n")
    (tmp_path / "spoken.txt").write_text("go on " * 100)
    (tmp_path / "bad.json").write_text('{"audio_filepath": "a.wav"}\n{"text": "go"}\n')
    (tmp_path / "table.csv").write_text("path,text\na.wav,go\n")
    (tmp_path / "rows.json").write_text('[{"audio_filepath": "a.wav"}]')
    monkeypatch.chdir(tmp_path)
    assert reason in error_of("transcribe.py", "an4", *arguments)
