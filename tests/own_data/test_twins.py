"""A film beside its sound, and other copies of a recording: each utterance is read once, the rest is said."""

import shutil
from pathlib import Path

import pytest
import soundfile

from asr_with_nemo.own_data.prepared import Prepared
from tests.data.test_sound import encode
from tests.own_data.corpora import fates, prepare, record, samples, sentence

CAPTIONS = "".join(f"{n + 1}\n00:00:0{2 * n},000 --> 00:00:0{2 * n + 1},800\n{sentence(n)}\n\n" for n in range(3))
NOT_READ = "talk.mp4: not read, since there is a .wav of the same name"
FAR = f"film/{NOT_READ} and length in another folder"


def film(path: Path, seconds: float = 21.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, "mp3" if path.suffix == ".avi" else "aac", samples("talk.wav", seconds), 16_000)


def talk(folder: Path, *names: str, texts: str = CAPTIONS) -> Path:
    """Write the films, recordings and texts of a talk of 21 seconds."""
    for name in names:
        path = folder / name
        if path.suffix in (".mp4", ".m4a", ".avi"):
            film(path)
        elif path.suffix in (".wav", ".mp3"):
            record(path, 21.0)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts)
    return folder


def assert_read(prepared: Prepared, name: str, count: int, *notes: str) -> None:
    assert [row for row, one in fates(prepared).items() if one["text"]] == [name]
    assert prepared.fates == {"kept": count}
    for note in notes:
        assert note in prepared.notes


@pytest.mark.parametrize(
    ("names", "read", "note"),
    [
        (["talk.mp4", "talk.wav", "talk.srt"], "talk.wav", NOT_READ),
        (["talk.mp4", "talk.wav", "talk.mp4.srt"], "talk.wav", NOT_READ),
        (["talk.mp4", "talk.wav", "talk.mp4.srt", "talk.wav.srt"], "talk.wav", "talk.wav.srt: read"),
        (["talk.avi", "talk.m4a", "talk.srt"], "talk.m4a", NOT_READ.replace("mp4", "avi").replace("wav", "m4a")),
        (["film/talk.mp4", "sound/talk.wav", "film/talk.srt"], "sound/talk.wav", FAR),
        (["film/talk.mp4", "sound/talk.wav", "texts/talk.srt"], "sound/talk.wav", FAR),
        (
            ["film/talk.mp4", "sound/talk.wav", "film/talk.srt", "sound/talk.srt"],
            "sound/talk.wav",
            "sound/talk.srt: beside it, not read: film/talk.srt",
        ),
    ],
)
def test_captions_that_a_film_and_its_sound_share_are_read_once(names: list[str], read: str, note: str, tmp_path: Path):
    prepared = prepare(talk(tmp_path / "mine", *names), tmp_path / "out", split="utterance")
    assert_read(prepared, read, 3, note)


def test_a_film_of_another_length_is_another_recording(tmp_path: Path):
    mine = talk(tmp_path / "mine", "a/talk.wav", "a/talk.srt", "b/talk.srt")
    film(mine / "b" / "talk.mp4", 22.0)
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates == {"kept": 6} and set(fates(prepared)) == {"a/talk.wav", "b/talk.mp4"}


def test_a_short_command_of_another_folder_is_another_recording(tmp_path: Path):
    mine = tmp_path / "mine"
    for label in ("yes", "no"):
        film(mine / label / "bob_1.mp4", 1.0)
        record(mine / label / "bob_2.wav", 1.0)
    record(mine / "no" / "ann_1.wav", 1.0)
    film(mine / "yes" / "ann_1.mp4", 1.0)
    prepared = prepare(mine, tmp_path / "out", split="utterance", pattern="{label}/{speaker}_{take}")
    assert prepared.fates == {"kept": 6}


def test_captions_of_each_channel_are_read_once(tmp_path: Path):
    mine = talk(tmp_path / "mine", "talk.mp4", "talk_channel1.srt", "talk_channel2.srt")
    soundfile.write(mine / "talk.wav", samples("two", 42.0).reshape(-1, 2), 16_000)
    prepared = prepare(mine, tmp_path / "out", split="utterance", channels="split")
    assert_read(prepared, "talk.wav", 6, NOT_READ)


def test_a_text_that_a_recording_and_its_copy_share_is_read_once(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(4):
        for suffix in (".mp3", ".wav"):
            record(mine / f"r{number}{suffix}", 1.2)
        (mine / f"r{number}.txt").write_text(sentence(number))
    prepared = prepare(mine, tmp_path / "out", split="utterance")
    assert prepared.fates == {"kept": 4} and set(fates(prepared)) == {f"r{number}.wav" for number in range(4)}
    assert "not read, since there is a .wav of the same name (r0.mp3)" in prepared.notes


def test_names_that_are_the_texts_are_read_once(tmp_path: Path):
    mine = tmp_path / "mine"
    for number in range(4):
        for suffix in (".mp3", ".wav"):
            record(mine / f"go_{number}{suffix}", 1.2)
    shutil.copy(record(mine / "other" / "stop_0.mp3", 1.2), mine / "stop_1.mp3")
    prepared = prepare(mine, tmp_path / "out", split="utterance", pattern="{label}_{take}")
    assert set(fates(prepared)) == {*(f"go_{number}.wav" for number in range(4)), "stop_1.mp3", "other/stop_0.mp3"}
    assert "4 recordings not read, since there is a .wav of the same name" in prepared.notes
