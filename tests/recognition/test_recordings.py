"""What a command is to transcribe, and where the text of each recording is written."""

import os
from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import label_studio, recordings
from asr_with_nemo.recognition.recordings import find, outputs, split_channels


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
