"""What a command is to transcribe, and where the text of each recording is written."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import label_studio, recordings
from asr_with_nemo.recognition.destinations import OneFile, Terminal
from asr_with_nemo.recognition.formats import FORMATS
from asr_with_nemo.recognition.recordings import find, outputs, split_channels
from asr_with_nemo.recognition.transcripts import Transcript, Word


def test_one_name_in_two_formats_has_two_outputs(tmp_path: Path):
    for name in ("a.m4a", "a.webm", "b.wav", "sub/a.m4a"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"sound")
    found = find([str(tmp_path / "in")])
    for some in (found, list(split_channels(found))):
        assert [str(path) for path in outputs(some, Path("out"), ".txt")] == [
            "out/a.m4a.txt",
            "out/a.webm.txt",
            "out/b.txt",
            "out/sub/a.txt",
        ]
    twice = find([str(tmp_path / "in" / "b.wav")] * 2)
    with pytest.raises(InputError, match="b.wav twice; name it once"):
        list(outputs(twice, Path("out"), ".txt"))


def test_a_name_that_no_file_can_have_costs_only_itself(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"sound")
    names = [str(tmp_path / "a.wav"), "x" * 5_000, f"{'y' * 5_000}.txt"]
    assert [one.name for one in find(names)] == names


def test_a_name_that_is_not_unicode_has_an_address(tmp_path: Path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/in/b\xe4d.wav")
    one = recordings.Recording(name, name, Path("b"))
    root, [address] = label_studio.addresses([one], None, "u:")
    assert root == tmp_path and address == "u:in/b%E4d.wav"


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_what_is_wrong_with_a_file_shows_while_it_is_read(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48_000)
    whole, short, both = (tmp_path / f"{name}.{suffix}" for name in ("whole", "short", "both"))
    soundfile.write(whole, noise, 16_000)
    soundfile.write(both, np.stack([noise, noise], axis=1), 16_000)
    short.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    monkeypatch.setattr(recordings, "open_sound", lambda path: pytest.fail(f"{path} is opened again"))
    monkeypatch.setattr(recordings, "_has_two_talkers", lambda path: False)
    survey = recordings.Survey()
    seen = [whole, short, both, short, audio.Clip(str(both), channel=1), audio.Clip(str(short), 0.0, 0.5)]
    for sound in seen:
        audio.load_audio(survey.watched(sound if isinstance(sound, audio.Clip) else str(sound)))
    damaged, mixed = survey.lines()
    assert damaged == f"warning: {short}: is cut short or damaged; what is there was read"
    assert mixed.startswith(f"{both}: several channels were mixed into one;")


@pytest.mark.parametrize("where", ["terminal", "file"])
def test_a_recording_that_is_listed_twice_has_two_names_in_a_ctm(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"sound")
    heard = Transcript("go", [Word("go", 0.1, 0.3, 0.9)], 0.5)
    listed = find([str(tmp_path / name) for name in ("a.wav", "b.wav", "a.wav")])
    out = tmp_path / "out.ctm"
    place = Terminal(FORMATS["ctm"], listed) if where == "terminal" else OneFile(FORMATS["ctm"], listed, out, {})
    for recording in place.pending:
        place.add(recording, heard)
    place.finish()
    written = capsys.readouterr().out if where == "terminal" else out.read_text()
    names = [line.split()[0] for line in written.splitlines()]
    assert names == [str(tmp_path / "a.wav"), "b", f"{tmp_path / 'a.wav'}_2"]


def test_the_output_of_a_long_name_has_its_start_and_a_digest(tmp_path: Path):
    several = [recordings.Recording(name, name, Path(name)) for name in ("a", "é" * 125 + "a", "é" * 125 + "b")]
    paths = list(recordings.outputs(several, tmp_path, ".textgrid"))
    for path in paths:
        path.write_text("")
    assert paths[0].name == "a.textgrid" and paths[1].name.startswith("é" * 100) and len(set(paths)) == 3
