"""The training data as a table: pictures that are right and made once, a W&B table with media, a table without W&B."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tqdm import tqdm

from asr_with_nemo.data import audio, manifest, synthetic
from asr_with_nemo.data.an4 import Corpus
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.wer import ScoredUtterance
from asr_with_nemo.tracking import corpus_artifacts, explore
from asr_with_nemo.tracking import pictures as tracking_pictures
from asr_with_nemo.tracking.corpus_artifacts import manifests_artifact, recordings_artifact
from asr_with_nemo.tracking.kept_runs import read_records
from asr_with_nemo.tracking.pictures import (
    BLACK,
    COLUMN,
    HEIGHT,
    LEFT,
    LEVELS,
    RIGHT,
    TICKS,
    TOP,
    WHITE,
    WIDEST,
    Pictured,
    PictureSettings,
    draw,
    encode,
    levels,
    log_rows,
    make_pictures,
    palette,
    row_of,
)
from tests.conftest import run_script
from tests.tracking.conftest import Script

SETTINGS = PictureSettings()


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE).astype("f4")


def shown(picture: np.ndarray) -> np.ndarray:
    """The part of a picture that shows sound: indices of colours, (HEIGHT, width)."""
    return picture[TOP : TOP + HEIGHT, LEFT:-RIGHT]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def rows(small_corpus: Corpus, pictures: Path) -> list[explore.Row]:
    return explore.dataset_rows([small_corpus.manifest("train_all")], pictures, progress=False)


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [150, 500, 1000, 3000, 6000])
@pytest.mark.parametrize("kind", ["spectrogram", "mel"])
def test_a_tone_lies_where_the_axis_says(kind: str, frequency: float):
    picture = draw(tone(frequency))[kind]
    middle = shown(picture)[:, 100]
    brightest = np.flatnonzero(middle == middle.max())
    assert middle.max() == LEVELS - 1
    expected = row_of(frequency, kind) - TOP
    # A frequency bin is 31 Hz wide, many rows at the bottom of a log axis; a mel band has three rows.
    bin_rows = row_of(frequency - 16, kind) - row_of(frequency + 16, kind)
    assert brightest.min() - 3 - bin_rows <= expected <= brightest.max() + 3 + bin_rows


@pytest.mark.parametrize("frequency", range(100, 7900, 321))
def test_no_tone_falls_between_two_rows(frequency: float):
    power = tracking_pictures.power(tone(frequency), SETTINGS)
    assert log_rows(power, SETTINGS.lowest).max() == power.max()


def test_the_axis_goes_from_the_lowest_frequency_to_half_the_sample_rate():
    top, bottom = TOP, TOP + HEIGHT
    assert row_of(SETTINGS.lowest, "spectrogram") == pytest.approx(bottom)
    assert row_of(8000, "spectrogram") == pytest.approx(top)
    octaves = [row_of(125 * 2**octave, "spectrogram") for octave in range(7)]
    assert np.diff(octaves) == pytest.approx(np.full(6, -HEIGHT / 7))
    # The centres of the mel bands, as librosa has them, in the middle of their rows.
    import librosa

    for band, centre in enumerate(librosa.mel_frequencies(SETTINGS.bands + 2, fmin=0, fmax=8000)[1:-1]):
        assert row_of(centre, "mel") == pytest.approx(bottom - 3 * (band + 0.5), abs=0.01)


def test_time_runs_to_the_right_by_the_second():
    samples = np.concatenate([np.zeros(audio.SAMPLE_RATE, "f4"), tone(1000)])
    loud = shown(draw(samples)["spectrogram"]).max(axis=0) > LEVELS // 2
    columns_a_second = COLUMN / SETTINGS.hop
    assert len(loud) == pytest.approx(2 * columns_a_second, abs=4)
    assert np.flatnonzero(loud)[0] == pytest.approx(columns_a_second, abs=4)


def test_colours_follow_the_decibels():
    power = np.array([[1e-12, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]], "f4")
    assert levels(power, 80).tolist() == [[0, 0, 60, 120, 179, 239]]  # a level is a third of a decibel
    red, green, blue = np.frombuffer(palette("magma"), np.uint8).reshape(256, 3).T.astype(float)
    brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    for part in (brightness[:LEVELS], brightness[LEVELS:]):
        assert (np.diff(part) > -0.5).all()
    assert (red[BLACK], red[WHITE]) == (0, 255)


def test_a_picture_has_ticks_and_a_colour_scale():
    picture = draw(tone(1000))["spectrogram"]
    scale = picture[TOP : TOP + HEIGHT, -RIGHT + 12]
    assert scale[0] == LEVELS - 1
    assert scale[-1] == 0
    assert (np.diff(scale.astype(int)) <= 0).all()
    tick = picture[:, LEFT - 3]
    marked = np.flatnonzero(tick == BLACK)
    assert marked == pytest.approx([row_of(hertz, "spectrogram") for hertz in reversed(TICKS)], abs=1)
    below = picture[TOP + HEIGHT + 3, LEFT:]
    assert np.flatnonzero(below == BLACK).tolist() == [0, 100, 200]  # each half a second


def test_silence_is_dark_and_a_long_recording_stays_a_picture():
    assert shown(draw(np.zeros(8000, "f4"))["mel"]).max() == 0
    picture = draw(tone(1000, 61))["spectrogram"]
    assert picture.shape[1] < LEFT + RIGHT + COLUMN * WIDEST
    assert (shown(picture).max(axis=0)[:-2] > 200).all()


def test_what_is_written_is_a_png_that_others_read():
    picture = draw(tone(440, 0.31))["mel"]
    read = Image.open(io.BytesIO(encode(picture, palette("viridis"))))
    assert read.mode == "P"
    assert np.array_equal(np.asarray(read), picture)
    assert bytes(read.getpalette()) == palette("viridis")


def test_pictures_are_made_once_and_follow_the_sound_and_the_settings(tmp_path: Path):
    kept, recording = tmp_path / "kept", tmp_path / "one.wav"
    audio.write_wav(recording, (tone(440) * 9000).astype(np.int16))

    def made(**settings) -> Pictured:
        (pictured,) = make_pictures([recording], kept, PictureSettings(**settings), progress=False)
        return pictured

    first = made()
    assert first.audio == recording
    stamps = {path: path.stat().st_mtime_ns for path in kept.rglob("*.png")}
    assert set(stamps) == {first.spectrogram, first.mel}
    recording.touch()
    assert made() == first
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.png")} == stamps

    assert made(bands=80).mel != first.mel
    audio.write_wav(recording, (tone(880) * 9000).astype(np.int16))
    second = made()
    assert second.mel.read_bytes() != first.mel.read_bytes()
    assert not [path for path in kept.rglob("*") if path.is_file() and path.suffix != ".png"]


def test_what_a_browser_can_not_play_gets_a_wav_of_16_khz(tmp_path: Path):
    samples = np.stack([tone(440, 2.0), tone(440, 2.0)], axis=1)
    soundfile.write(tmp_path / "stereo.au", samples, 44_100)
    soundfile.write(tmp_path / "narrow.wav", samples[:, 0], 8_000)
    synthetic.write_sphere(tmp_path / "sphere.wav", (9_000 * samples[:, 0]).astype(np.int16), 16_000)
    for pictured in make_pictures(tmp_path.glob("*.*"), tmp_path / "kept", progress=False):
        info = soundfile.info(pictured.audio)
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "WAV")
        assert pictured.audio.is_relative_to(tmp_path / "kept")


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_a_row_has_all_that_the_table_shows(rows: list[explore.Row], small_corpus: Corpus):
    utterances = manifest.read_manifest(small_corpus.manifest("train_all"))
    assert len(rows) == len(utterances)
    assert list(rows[0]) == [
        *("Filename", "Audio File", "Duration", "Transcript", "Spectrogram", "Mel-Spectrogram", "Speaker", "Split")
    ]
    for row, utterance in zip(rows, utterances, strict=True):
        assert small_corpus.folder / row["Filename"] == Path(utterance["audio_filepath"])
        assert str(row["Audio File"]) == utterance["audio_filepath"]
        assert (row["Transcript"], row["Speaker"]) == (utterance["text"], utterance["speaker"])
        assert row["Spectrogram"].is_file()
        assert row["Mel-Spectrogram"].is_file()
    counts = {split: small_corpus.utterances[f"{split}_manifest.json"] for split in ("train", "dev")}
    assert Counter(row["Split"] for row in rows) == counts


def test_of_a_large_corpus_some_utterances_are_drawn(rows: list[explore.Row], small_corpus: Corpus, pictures: Path):
    manifests = [small_corpus.manifest(split) for split in ("train", "dev")]
    drawn = [explore.dataset_rows(manifests, pictures, progress=False, most=5) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 5
    assert all(row in rows for row in drawn[0])
    assert sorted(drawn[0], key=rows.index) != rows[:5], "the first ones are all of one speaker"
    everything = explore.dataset_rows(manifests, pictures, progress=False, most=len(rows))
    assert sorted(row["Filename"] for row in everything) == sorted(row["Filename"] for row in rows)


def test_the_command_says_that_it_drew_some(small_corpus: Corpus, pictures: Path, tmp_path: Path):
    command = ["log_dataset.py", small_corpus.manifest("train"), "--pictures", pictures, "--rows", 3, "--no-artifacts"]
    done = run_script(*command, cwd=tmp_path, WANDB_MODE="disabled", COURSE_PRELOADED="")
    count = small_corpus.utterances["train_manifest.json"]
    assert f"the table has 3 of {count} utterances" in done.stdout, done.stderr


def test_predictions_with_the_worst_first(small_corpus: Corpus):
    (utterance, other, *_) = manifest.read_manifest(small_corpus.manifest("dev"))
    said = [
        ScoredUtterance(str(Path(one["audio_filepath"]).relative_to(small_corpus.folder)), one["speaker"], *texts)
        for one, texts in ((utterance, ("one two", "one two")), (other, ("three four", "tree four")))
    ]
    table = explore.prediction_rows([*said, ScoredUtterance(said[0].file, "", "", "a")], small_corpus.folder)
    assert [row["WER"] for row in table] == [0, 0.5, None]
    assert list(table[0]) == ["FileName", "Audio", "Prediction", "Ground Truth", "WER"]
    shown = explore.browse(table, sort="WER", descending=True).data
    assert shown.index("tree four") < shown.index(">one two<") < shown.rindex("<td>a</td>")
    with pytest.raises(InputError, match="gone.wav"):
        explore.prediction_rows([ScoredUtterance("gone.wav", "", "a", "b")], small_corpus.folder)


# --- The table in the notebook ----------------------------------------------------------------------------------------


def test_the_table_in_the_notebook_links_to_files(small_corpus: Corpus, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_corpus.folder, tmp_path / "data/a #1")
    rows = explore.dataset_rows([tmp_path / "data/a #1/dev_manifest.json"], progress=False)
    text = explore.browse(rows, page=2, sort="Duration").data
    assert "base64," not in text
    assert text.count("<tr>") == 1 + 2, "the head, and a page of two rows"
    assert text.count("<tr hidden>") == len(rows) - 2
    links = re.findall(r'src="(.*?)"', text)
    assert len(links) == 3 * len(rows)
    from urllib.parse import unquote

    for link in links:
        assert "#" not in link
        assert (tmp_path / "notebooks" / unquote(link)).resolve().is_file()
    assert text.count('preload="none"') == len(rows)
    assert text.count('loading="lazy"') == 2 * len(rows)


def test_files_from_elsewhere_are_carried_along_up_to_a_limit(rows: list[explore.Row], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = explore.browse(rows[:3]).data
    carried = [base64.b64decode(data) for data in re.findall(r'src="data:[^;]*;base64,(.*?)"', text)]
    assert carried[:3] == [rows[0][column].read_bytes() for column in ("Audio File", "Spectrogram", "Mel-Spectrogram")]
    monkeypatch.setattr(explore, "EMBEDDED", 10_000)
    text = explore.browse(rows[:3]).data
    assert "too large" in text
    assert len(text) < 20_000


def test_files_behind_a_symbolic_link_are_carried_along(rows: list[explore.Row], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").symlink_to(Path(rows[0]["Audio File"]).parent)
    linked = [{"Audio File": tmp_path / "elsewhere" / Path(rows[0]["Audio File"]).name}]
    assert "base64," in explore.browse(linked).data, "Jupyter wouldn't serve it"


def test_a_text_is_shown_and_not_obeyed(small_corpus: Corpus):
    text = explore.browse([{"Transcript": "<script>alert(1)</script>", "n": 1}]).data
    assert "&lt;script&gt;alert(1)" in text
    with pytest.raises(InputError, match="'Length'.* Transcript"):
        explore.browse([{"Transcript": "a"}], sort="Length")
    with pytest.raises(InputError, match="rows"):
        explore.browse([])


# --- W&B --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The folder where the script ran, with no key and no network, and the records that W&B kept."""
    folder = tmp_path_factory.mktemp("logged")
    manifests = [small_corpus.manifest(split) for split in ("train", "dev")]
    environment = {"NETRC": "/dev/null", "COURSE_PRELOADED": ""}  # it needs no NeMo
    done = run_script("log_dataset.py", *manifests, "--pictures", folder / "pictures", cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    assert "W&B: offline" in done.stdout
    place = folder / done.stdout.splitlines()[-1].split(": ")[-1]
    (file,) = place.glob("*.wandb")
    records, damage = read_records(file)
    assert damage is None
    return folder, records


def artifacts(records: list[dict]) -> dict[str, dict]:
    """Name → artifact; a run's table is named for the run."""
    found = [record["artifact"] for record in records if record["type"] == "artifact"]
    return {re.sub(r"^run-\w+-", "run-", artifact["name"]): artifact for artifact in found}


def test_one_command_logs_the_whole_table_with_its_media(logged, rows: list[explore.Row]):
    _, records = logged
    contents = {entry["path"]: entry for entry in artifacts(records)["run-dataset"]["manifest"]["contents"]}
    table = json.loads(Path(contents["dataset.table.json"]["local_path"]).read_text(encoding="utf-8"))
    assert table["columns"] == list(rows[0])
    logged_rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert len(logged_rows) == len(rows)
    kinds = {"Audio File": "audio-file", "Spectrogram": "image-file", "Mel-Spectrogram": "image-file"}
    for row in rows:
        there = logged_rows[row["Filename"]]
        for column in ("Duration", "Transcript", "Speaker", "Split"):
            assert there[column] == row[column]
        for column, kind in kinds.items():
            assert there[column]["_type"] == kind
            # The very files, not encoded again.
            staged = Path(contents[there[column]["path"]]["local_path"]).read_bytes()
            assert staged == row[column].read_bytes()
            assert there[column]["sha256"] == hashlib.sha256(staged).hexdigest()


def test_the_corpus_is_two_artifacts_with_digests_and_their_lineage(logged, small_corpus: Corpus):
    _, records = logged
    found = artifacts(records)
    raw, manifests = found["synthetic-recordings"], found["synthetic-manifests"]
    assert raw["use_after_commit"], "what the manifests were made of is an input of the run"
    assert not manifests.get("use_after_commit")
    assert raw["type"] == manifests["type"] == "dataset"
    for artifact, suffix in ((raw, ".sph"), (manifests, ".wav")):
        entries = [entry for entry in artifact["manifest"]["contents"] if entry["path"].endswith(suffix)]
        # All of the corpus, whatever was shown of it: what a training uses is this very artifact.
        assert len(entries) == sum(small_corpus.utterances[f"{split}_manifest.json"] for split in ("train_all", "test"))
        for entry in entries:
            path = small_corpus.folder / entry["path"]
            assert entry["ref"] == path.as_uri()
            assert base64.b64decode(entry["digest"]) == hashlib.md5(path.read_bytes()).digest()
    names = {entry["path"] for entry in manifests["manifest"]["contents"]}
    assert {"train_manifest.json", "dev_manifest.json", "corpus.json"} < names


def test_a_second_run_uses_the_pictures_that_are_there_and_all_lies_in_one_folder(logged, small_corpus: Corpus):
    folder, _ = logged
    assert {path.name for path in folder.iterdir()} == {"pictures", "wandb"}
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "pictures").rglob("*.png")}
    explore.dataset_rows([small_corpus.manifest("train_all")], folder / "pictures", progress=False)
    assert {path: path.stat().st_mtime_ns for path in (folder / "pictures").rglob("*.png")} == stamps


def test_recordings_of_one_name_in_two_folders_stay_apart(tmp_path: Path):
    (tmp_path / "lists").mkdir()
    wavs = [tmp_path / folder / "1.wav" for folder in ("ann", "bob")]
    for number, wav in enumerate(wavs, 1):
        wav.parent.mkdir()
        audio.write_wav(wav, (tone(300 * number) * 9000).astype(np.int16))
    path = tmp_path / "lists/all.json"
    manifest.write_manifest(path, [{"audio_filepath": str(wav), "duration": 1.0, "text": "a"} for wav in wavs])
    entries = recordings_artifact([path]).manifest.entries
    assert sorted(entry.ref for entry in entries.values()) == [wav.as_uri() for wav in wavs]
    assert len({entry.digest for entry in entries.values()}) == 2
    assert "all.json" in manifests_artifact([path]).manifest.entries


def test_digests_of_many_recordings_show_their_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = []
    for number in range(5):
        audio.write_wav(tmp_path / f"{number}.wav", (tone(300) * 9000).astype(np.int16))
        rows.append({"audio_filepath": str(tmp_path / f"{number}.wav"), "duration": 1.0, "text": "a"})
    path = tmp_path / "all.json"
    manifest.write_manifest(path, rows)
    at_once = {"delay": 0, "mininterval": 0}
    monkeypatch.setattr(corpus_artifacts, "tqdm", lambda **options: tqdm(**(options | at_once)))
    recordings_artifact([path], progress=True)
    assert "digests: 100%" in (said := capsys.readouterr().err) and "5/5" in said
    recordings_artifact([path])
    assert "digests" not in capsys.readouterr().err


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_recording_that_is_missing_damaged_or_empty_is_named(tmp_path: Path):
    path = tmp_path / "mine_manifest.json"
    wavs = [tmp_path / f"{name}.wav" for name in ("good", "bad")]
    audio.write_wav(wavs[0], (tone(440) * 9000).astype(np.int16))
    manifest.write_manifest(path, [{"audio_filepath": str(wav), "duration": 1.0, "text": "a"} for wav in wavs])
    with pytest.raises(InputError, match=r"mine_manifest.json, line 2: .*bad\.wav"):
        explore.dataset_rows([path], progress=False)
    for content in (b"RIFF no sound", b""):
        wavs[1].write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.wav"):
            explore.dataset_rows([path], progress=False)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_can_not_be_written_is_named(small_corpus: Corpus, tmp_path: Path, script: Script):
    (tmp_path / "file").touch()
    done = script(
        "log_dataset.py", small_corpus.manifest("dev"), "--pictures", tmp_path / "file/pictures", cwd=tmp_path
    )
    assert done.returncode == 1
    assert re.search(r"error: .*file/pictures\S*: .*Not a directory", done.stderr)


def test_utterances_within_longer_files_are_shown_as_parts(small_corpus: Corpus, tmp_path: Path):
    row = manifest.read_manifest(small_corpus.manifest("dev"))[0]
    parts = [row | {"offset": 0.5, "duration": 0.25}, row | {"duration": 0.5}, row]
    manifest.write_manifest(tmp_path / "cut_manifest.json", parts)
    rows = explore.dataset_rows([tmp_path / "cut_manifest.json"], tmp_path / "pictures", progress=False)
    seconds = [soundfile.info(made["Audio File"]).duration for made in rows]
    assert seconds == pytest.approx([0.25, 0.5, row["duration"]], abs=1e-3)


# --- The benchmark ----------------------------------------------------------------------------------------------------


@pytest.mark.proof
def test_the_benchmark_compares_the_two_ways_to_draw_in_one_run(small_archive: Path, tmp_path: Path):
    options = ["--part", "pictures", "--figures", "2", "--repeats", "1"]
    done = run_script("benchmarks/data.py", "--archive", small_archive, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"(\d+) times faster", done.stdout)[1]) > 1
