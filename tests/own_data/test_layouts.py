"""Kaldi's data folders, Lhotse's manifests and cuts, and Hugging Face's data sets: parts, channels, what isn't read."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from asr_with_nemo.base import files
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import commands, layouts
from asr_with_nemo.own_data.sources import Finder, Source
from asr_with_nemo.own_data.store import CorpusStore
from tests.own_data.corpora import read, record, sentence, times


@pytest.mark.parametrize(
    "command",
    [
        "flac -c -d -s --skip=0:01.0 talk.flac |",
        "flac --decode --until=0:02 talk.flac |",
        "mpg123 -q -k 100 -w - talk.mp3 |",
        "ffmpeg -sseof -5 -i talk.wav -f wav - |",
        "ffmpeg -i talk.wav -af 'pan=mono|c0=c1' -f wav - |",
        "lame --decode talk.mp3 - |",
    ],
)
def test_commands_that_do_more_are_not_understood(command):
    with pytest.raises(commands.NotUnderstood) as caught:
        commands.understand(command)
    assert "quotation" not in str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        "flac -cds talk.flac |",
        "flac -c -d -F talk.flac |",
        "opusdec --rate 16000 --force-wav talk.opus - |",
        "wvunpack -q talk.wv -o - |",
        "wv talk.wv |",
        "ffmpeg -stats -i talk.wav -q:a 0 -f wav - |",
    ],
)
def test_commands_that_convert(command):
    effect = commands.understand(command)
    assert effect == commands.Effect(next(word for word in command.split() if word.startswith("talk.")))


def kaldi(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_kaldi_segments_with_a_channel(tmp_path):
    record(tmp_path / "c1.wav", 9.0)
    segments = "u1 c1 0.5 4.5 0\nu2 c1 5.0 -1 1\nu3 c1 1 2\n"
    kaldi(tmp_path / "data", {"wav.scp": "c1 c1.wav\n", "segments": segments, "text": "u1 a\nu2 b\nu3 c\n"})
    found, _ = read(tmp_path)
    assert [(times(entry), entry.channel) for entry in found] == [((0.5, 4.0), 0), ((5, None), 1), ((1, 1.0), None)]


def test_folder_of_espnet(tmp_path):
    record(tmp_path / "r1.wav")
    kaldi(tmp_path / "dump" / "raw" / "org" / "train", {"wav.scp": "u1 r1.wav\n", "text": "u1 yes\n"})
    assert [entry.text for entry in read(tmp_path)[0]] == ["yes"]


def lhotse_recording(path: str) -> dict:
    return {"id": "a", "sources": [{"type": "file", "channels": [0, 1], "source": path}], "sampling_rate": 16_000}


SAID = [{"id": "u1", "recording_id": "a", "start": 0.5, "duration": 1.0, "channel": 0, "text": "yes", "speaker": "s"}]


def test_lhotse_cuts(tmp_path):
    record(tmp_path / "a.wav", 4.0)
    cut = {"id": "c", "start": 1.0, "duration": 3.0, "channel": 0, "supervisions": SAID, "type": "MonoCut"}
    mixed = {"id": "m", "tracks": [], "type": "MixedCut"}
    lines = [json.dumps(cut | {"recording": lhotse_recording("a.wav")}), json.dumps(mixed)]
    (tmp_path / "cuts_train.jsonl").write_text("\n".join(lines))
    for source in (tmp_path, tmp_path / "cuts_train.jsonl"):
        found, said = read(source)
        assert (found[0].text, times(found[0]), found[0].channel, found[0].split) == ("yes", (1.5, 1.0), 0, "train")
        assert found[1].problem == "broken row" and "MixedCut" in found[1].detail and "cuts of Lhotse" in said


def test_a_supervision_that_two_cuts_share_is_read_once_and_whole(tmp_path):
    record(tmp_path / "a.wav", 10.0)
    cut = {"id": "c", "duration": 5.0, "channel": 0, "type": "MonoCut", "recording": lhotse_recording("a.wav")}
    said = [SAID[0] | {"start": start, "duration": 4.0} for start in (3.0, -2.0)]
    cuts = [cut | {"start": start, "supervisions": [one]} for start, one in zip((0.0, 5.0), said, strict=True)]
    for order in (cuts, cuts[1:]):
        (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, order)))
        assert [times(entry) for entry in read(tmp_path)[0]] == [(3.0, 4.0)]


def test_the_recordings_of_all_cuts_have_one_finder(tmp_path, monkeypatch):
    record(tmp_path / "a.wav", 4.0)
    cut = {"start": 1.0, "supervisions": [], "type": "MonoCut", "recording": lhotse_recording("a.wav")}
    (tmp_path / "cuts.jsonl").write_text("\n".join([json.dumps(cut)] * 5))
    made = []
    monkeypatch.setattr(layouts, "Finder", lambda source: made.append(Finder(source)) or made[-1])
    read(tmp_path)
    assert len(made) == 1


def test_a_named_file_of_supervisions_is_refused_with_the_next_step(tmp_path):
    (tmp_path / "supervisions.jsonl").write_text(json.dumps(SAID[0]))
    with CorpusStore(tmp_path / "corpus.sqlite") as store:
        source = Source(tmp_path / "supervisions.jsonl", store)
        with pytest.raises(InputError, match=r"supervisions\.jsonl: expected Lhotse's cuts; name the folder"):
            list(layouts.read_lhotse(source))
    record(tmp_path / "a.wav", 4.0)
    cut = {"start": 1.0, "supervisions": SAID, "type": "MonoCut", "recording": lhotse_recording("a.wav")}
    (tmp_path / "cuts.jsonl").write_text(f'{json.dumps(cut)}\n{{"id": 1}}')
    assert [entry.detail for entry in read(tmp_path / "cuts.jsonl")[0]] == ["", "not a cut"]


def test_a_recipe_for_a_file_reads_what_it_writes(tmp_path, monkeypatch):
    record(tmp_path / "a.wav", 4.0)
    (tmp_path / "corpus.xml").write_text("<corpus/>")

    def written(source):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "x_recordings.jsonl").write_text(json.dumps(lhotse_recording(str(tmp_path / "a.wav"))))
        (tmp_path / "made" / "x_supervisions.jsonl").write_text(json.dumps(SAID[0]))
        return tmp_path / "made"

    monkeypatch.setattr(layouts, "_run_recipe", written)
    assert [entry.text for entry in read(tmp_path / "corpus.xml", recipe="x")[0]] == ["yes"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"channel": [0, 1]}, [((0, None), 0), ((0, None), 1)]),
        ({"from": ["ann", "bob"]}, 2 * [((0, None), None)]),
        ({"start_time": ["2024-01-02", "2024-01-03"]}, 2 * [((0, None), None)]),
    ],
)
def test_columns_of_a_data_set_are_checked_as_those_of_a_table(tmp_path, columns, expected):
    record(tmp_path / "a.wav", 4.0)
    columns = {"path": ["a.wav", "a.wav"], "text": [sentence(1), sentence(2)]} | columns
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    found, _ = read(tmp_path)
    assert [(times(one), one.channel) for one in found] == expected and not any(one.problem for one in found)


def test_cuts_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SLACK", 100_000)
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress(b'{"id": "' + bytes(10**7)))
    with pytest.raises(InputError, match=r"cuts\.jsonl\.gz: refused, because it unpacks"):
        list(layouts._json_lines(tmp_path / "cuts.jsonl.gz"))


def test_lhotse_manifests_as_json(tmp_path):
    record(tmp_path / "a.wav", 4.0)
    (tmp_path / "recordings.json").write_text(json.dumps([lhotse_recording("a.wav")]))
    (tmp_path / "supervisions.json").write_text(json.dumps(SAID))
    found, _ = read(tmp_path)
    assert [(entry.text, times(entry), entry.channel) for entry in found] == [("yes", (0.5, 1.0), 0)]


def test_data_set_of_parts_of_recordings(tmp_path):
    columns = {"path": ["a.wav", "a.wav"], "text": [sentence(1), sentence(2)], "offset": [0.5, 2.0], "room": ["x", "y"]}
    columns |= {"duration": [1.0, 1.5], "channel": [1, 2], "split": ["train", "dev"]}
    record(tmp_path / "a.wav", 4.0)
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    found, said = read(tmp_path)
    assert [(times(one), one.channel, one.split) for one in found] == [((0.5, 1.0), 0, "train"), ((2, 1.5), 1, "dev")]
    assert "start: offset" in said and "not read: room" in said


def test_data_set_with_its_sounds_inside_is_not_cut_again(tmp_path):
    inside = record(tmp_path / "a.wav").read_bytes()
    for name in ("de", "en"):
        (tmp_path / name).mkdir()
        columns = {"audio": [inside], "text": [name], "begin_time": [30.0], "end_time": [31.0]}
        pq.write_table(pa.table(columns), tmp_path / name / "train-00000-of-00001.parquet")
    (tmp_path / "a.wav").unlink()
    found, said = read(tmp_path)
    assert [(entry.audio, times(entry)) for entry in found] == 2 * [(inside, (0, None))]
    assert "several folders, read as one: de, en" in said


@pytest.mark.parametrize("rate", [16_000, 16_000.0, "16000"])
def test_arrays_of_unsigned_bytes_and_their_rate(tmp_path, rate):
    values = (128 + 100 * np.sin(np.arange(16_000) / 9)).astype(int).tolist()
    pq.write_table(
        pa.table({"audio": [{"array": values, "sampling_rate": rate}], "text": ["yes"]}), tmp_path / "a.parquet"
    )
    [entry], _ = read(tmp_path)
    samples, found = soundfile.read(io.BytesIO(entry.audio))
    assert found == 16_000 and abs(samples.mean()) < 0.01 and 0.7 < np.abs(samples).max() < 0.8


def test_sound_in_a_form_that_is_unknown_is_named(tmp_path):
    pq.write_table(pa.table({"audio": [{"waveform": [0.1], "sr": 16_000}], "text": ["yes"]}), tmp_path / "a.parquet")
    [entry], _ = read(tmp_path)
    assert entry.problem == "unreadable" and "waveform, sr" in entry.detail
