"""Manifests are read with care, written so that they can be moved, and split by speakers."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import manifest
from asr_with_nemo.errors import InputError


def _utterances(count: int, speakers: int) -> list[dict]:
    return [
        {
            "audio_filepath": f"/x/{n}.wav",
            "duration": 1.0,
            "text": "a",
            "speaker": f"{'fm'[n % speakers % 2]}{n % speakers}",
        }
        for n in range(count)
    ]


def test_a_folder_with_its_manifest_can_be_moved(small_corpus, tmp_path: Path):
    moved = tmp_path / "elsewhere" / "my corpus"
    shutil.copytree(small_corpus.folder, moved)
    utterances = manifest.read_manifest(moved / "test_manifest.json")
    assert len(utterances) == small_corpus.utterances["test_manifest.json"]
    assert all(Path(utterance["audio_filepath"]).is_relative_to(moved) for utterance in utterances)


def test_writing_the_same_again_leaves_the_file_untouched(tmp_path: Path):
    path = tmp_path / "manifest.json"
    manifest.write_manifest(path, _utterances(5, 2))
    before = path.stat().st_mtime_ns
    manifest.write_manifest(path, _utterances(5, 2))
    assert path.stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_with_its_accents_stored_otherwise_is_told_from_one_that_is_missing(tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, "zoé.wav") for form in ("NFC", "NFD"))
    (tmp_path / composed).touch()
    row = {"audio_filepath": decomposed, "duration": 1.0, "text": "go"}
    (tmp_path / "manifest.json").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"line 1: .*zoe.\.wav is missing; a file is there whose name looks the same"):
        manifest.read_manifest(tmp_path / "manifest.json")


GOOD = '{"audio_filepath": "a.wav", "duration": 1.5, "text": "go"}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the manifest is empty"),
        ("\n\n", "the manifest is empty"),
        (f"{GOOD}\nnot json", "line 2: not JSON"),
        ('{"audio_filepath": "a.wav", "text": "go"}', "line 1: .*'duration'"),
        ('["a.wav", 1.5, "go"]', "line 1: expected a JSON object"),
        ('{"audio_filepath": "a.wav", "duration": "1.5", "text": "go"}', "line 1: 'duration' is '1.5'"),
        ('{"audio_filepath": "a.wav", "duration": 0, "text": "go"}', "line 1: 'duration' is 0"),
        ('{"audio_filepath": "a.wav", "duration": 1, "text": null}', "line 1: 'text' is None"),
        (GOOD, r"line 1: .*a\.wav"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named_with_its_line(tmp_path: Path, text: str, words: str):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        manifest.read_manifest(path, check_audio=text == GOOD)
    assert str(path) in str(error.value)


def test_a_manifest_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.json"):
        manifest.read_manifest(tmp_path / "none.json")


def test_windows_line_ends_and_a_byte_order_mark_are_no_trouble(tmp_path: Path):
    (tmp_path / "a.wav").touch()
    path = tmp_path / "manifest.json"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert len(manifest.read_manifest(path)) == 2


def test_the_dev_set_is_of_whole_speakers_and_always_the_same():
    utterances = _utterances(948, 74)
    kept, held = manifest.hold_out_speakers(utterances, 100)
    assert abs(len(held) - 100) <= 4
    assert len(kept) + len(held) == 948
    assert not {u["speaker"] for u in kept} & {u["speaker"] for u in held}
    women = sum(u["speaker"][0] == "f" for u in held) / len(held)
    assert 0.4 < women < 0.6
    assert manifest.hold_out_speakers(utterances, 100) == (kept, held)


def test_one_speaker_cannot_be_held_out():
    with pytest.raises(InputError, match="two speakers"):
        manifest.hold_out_speakers(_utterances(20, 1), 5)


def test_two_speakers_leave_one_to_train_on():
    kept, held = manifest.hold_out_speakers(_utterances(20, 2), 1)
    assert len(kept) == len(held) == 10


@pytest.mark.parametrize(
    ("rate", "channels", "samples", "words"),
    [(8_000, 1, 800, "8,000 Hz with 1"), (16_000, 2, 800, "16,000 Hz with 2"), (16_000, 1, 0, "zero samples")],
)
def test_recordings_that_a_model_cannot_be_trained_on_are_named(tmp_path: Path, rate, channels, samples, words: str):
    soundfile.write(tmp_path / "a.wav", np.zeros((samples, channels)), rate)
    utterances = [{"audio_filepath": str(tmp_path / "a.wav"), "duration": 1.0, "text": "go"}]
    with pytest.raises(InputError, match=f"m.json, utterance 1: .*{words}"):
        manifest.check_recordings("m.json", utterances, 16_000)


def test_a_recording_that_is_no_sound_is_named(tmp_path: Path):
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"m\.json, utterance 1: .*a\.wav"):
        manifest.check_recordings("m.json", [{"audio_filepath": str(tmp_path / "a.wav")}], 16_000)


def test_24_bits_are_no_trouble(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16_000, subtype="PCM_24")
    manifest.check_recordings("m.json", [{"audio_filepath": str(tmp_path / "a.wav")}], 16_000)


def test_letters_that_the_model_lacks_are_found(tmp_path: Path):
    rows = [json.loads(GOOD), json.loads(GOOD) | {"text": "façade 7"}]
    manifest.check_alphabet("m.json", rows[:1], "go ")
    with pytest.raises(InputError, match=r"m.json, utterance 2: .*'7'.*'ç'"):
        manifest.check_alphabet("m.json", rows, "abcdefgo ")


@pytest.mark.parametrize(("offset", "duration"), [(500.0, 1.0), (1.9, 2.0), (2.0, 0.1)])
def test_an_utterance_beyond_the_end_of_its_recording_is_named(tmp_path: Path, offset: float, duration: float):
    soundfile.write(tmp_path / "long.wav", np.zeros(2 * 16_000), 16_000)
    rows = [{"audio_filepath": str(tmp_path / "long.wav"), "offset": 0.5, "duration": 1.0, "text": "yes"}]
    manifest.check_recordings("m.json", rows, 16_000)
    rows.append(rows[0] | {"offset": offset, "duration": duration})
    with pytest.raises(InputError, match=r"m.json, utterance 2: .*long.wav has 2.00 s.*milliseconds"):
        manifest.check_recordings("m.json", rows, 16_000)


@pytest.mark.parametrize("offset", ["abc", -1, True, 1e400])
def test_an_offset_that_is_no_time_is_named(tmp_path: Path, offset: object):
    row = {"audio_filepath": "a.wav", "offset": offset, "duration": 1.0, "text": "yes"}
    (tmp_path / "m.json").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="line 1: 'offset' is"):
        manifest.read_manifest(tmp_path / "m.json", check_audio=False)


def test_a_recording_of_another_kind_is_named_and_what_to_do(tmp_path: Path):
    soundfile.write(tmp_path / "x.mp3", np.zeros(16_000), 16_000)
    (tmp_path / "x.ac3").write_bytes(b"no sound at all")
    with pytest.raises(InputError, match=r"m\.json, line 1.*x\.ac3"):
        manifest.header_of(f"m.json, line 1: {tmp_path}/x.ac3", str(tmp_path / "x.ac3"))
    assert manifest.header_of("m.json", str(tmp_path / "x.mp3"))[1] == 16_000
