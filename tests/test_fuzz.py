"""Readers of files that others made: whatever the bytes, the answer is a result or an error that names the file.

Hypothesis takes a whole file of each kind and damages it: bytes are replaced, cut out, or swapped for what such formats
trip over. `make proofs` tries thirty times as many; an input that once failed is kept in `FOUND`.
"""

import contextlib
import functools
import gzip
import io
import json
import shutil
import subprocess
import tarfile
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_with_nemo.data import archives, audio, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import model_file

TOKENS = [b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xd8\x00", b"\n", b"\r", b"\t", b'"', b"{", b"[" * 600]
TOKENS += [b"-1", b"9" * 5000, b"1e999", b"NaN", b"null", b"&a [*a]", b"%s%n", b"\\end\\", b"../../x"]
TOKENS += [b"-->", b"<", b"99:99:99,999", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"1e308"]
_ADDRESS = b"http://127.0.0.1:9/$(touch x)"
TOKENS += [b"#EXTM3U\n|touch x", _ADDRESS, b'"type": "command"', b"file:///etc/hostname"]
TOKENS += [b"!!python/object/apply:os.system [id]", b"${oc.env:HOME}"]

SERVICE = json.dumps(
    {
        "results": {
            "transcripts": [{"transcript": "yes no"}],
            "items": [
                {
                    "type": "pronunciation",
                    "start_time": f"0.0{n}",
                    "end_time": f"0.0{n + 1}",
                    "alternatives": [{"content": "yes"}],
                    "speaker_label": "spk_0",
                }
                for n in range(3)
            ],
        }
    }
).encode()
CLOCKS = b"A day\n\nAnn (0:00): yes\nno\n[00:00:00.01 --> 00:00:00.02] yes\n00:01 no\nBob 0:01\nyes\n"
CUTS = b"".join(
    b'{"id": "c%d", "start": 0.0, "duration": 0.1, "channel": 0, "type": "MonoCut", "supervisions": [{"id": "s", '
    b'"recording_id": "a", "start": 0.0, "duration": 0.1, "text": "yes", "speaker": "x"}], "recording": {"id": "a", '
    b'"sources": [{"type": "file", "channels": [0], "source": "a.wav"}]}}\n' % n
    for n in range(3)
)


def sphere() -> bytes:
    fields = "NIST_1A\n   1024\nsample_rate -i 16000\nsample_count -i 8\nsample_n_bytes -i 2\n"
    return f"{fields}sample_checksum -i 36\nend_head\n".encode().ljust(1024) + np.arange(1, 9, dtype="<i2").tobytes()


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(np.arange(400, dtype="<i2").tobytes())
    return file.getvalue()


def nemo() -> bytes:
    config = {"model": {"decoder": {"vocabulary": ["a", "b", "${model.x}"]}, "x": " "}}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (
            ("./model_config.yaml", yaml.safe_dump(config).encode()),
            ("./model_weights.ckpt", b"x" * 600),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


ARPA = b"""\\data\\
ngram 1=3
ngram 2=1

\\1-grams:
-1.0 <s> -0.3
-0.5 yes -0.2
-0.7 </s>

\\2-grams:
-0.4 <s> yes

\\end\\
"""
MANIFEST = b'{"audio_filepath": "a.wav", "duration": 1.5, "text": "yes", "speaker": "x"}\n' * 2
SWEEP = b"""
method: random
metric: {name: val_wer, goal: minimize}
parameters:
  lr: {min: 0.1, max: 1.0}
  n: {values: [1, 2]}
"""
TABLE = b'file\ttext\tspeaker\na.wav\tyes please\tann\nb.wav\t"no\tbob\n'
SRT = b"1\n00:00:00,000 --> 00:00:00,020\n>> ANN: yes\n\n2\n00:00:00,020 --> 00:00:00,025\n- <i>no</i> [door]\n"
VTT = b"WEBVTT\n\n00:00.000 --> 00:00.010\n<v Ann>a\n\n00:00.010 --> 00:00.015\na\n b<00:00.012><c> c</c>\n"
TEXTGRID = b"""File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.025
tiers? <exists>
size = 1
item [1]:
    class = "IntervalTier"
    name = "words"
    xmin = 0
    xmax = 0.025
    intervals: size = 1
    intervals [1]:
        xmin = 0
        xmax = 0.02
        text = "yes"
"""
EAF = b"""<?xml version="1.0"?>
<ANNOTATION_DOCUMENT><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="b"
TIME_VALUE="20"/></TIME_ORDER><TIER TIER_ID="Ann"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="c"
TIME_SLOT_REF1="a" TIME_SLOT_REF2="b"><ANNOTATION_VALUE>yes</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER></ANNOTATION_DOCUMENT>
"""
WHISPER = b'{"text": "yes", "segments": [{"start": 0.0, "end": 0.02, "text": " yes", "words": [{"word": " yes"}]}]}'
TIMED_TABLE = b"start\tend\ttext\n0\t20\tyes\n20\t25\tno\n"
LABELS = b"0.000000\t0.020000\tyes\n0.020000\t0.025000\tno\n"
STM = b";; made by hand\na 1 ann 0.0 0.02 <o,f0,female> yes\n"
CTM = b"a 1 0.0 0.01 yes 0.9\na 1 0.01 0.01 no 0.9\n"


LIST = b"a.wav\n\nb c.wav\n"
PARTS = (
    b'{"audio_filepath": "a.wav", "offset": 0.005, "duration": 0.01}\n{"audio_filepath": "a.wav", "duration": null}\n'
)
CHANNELS = b"path,text,channel,start,end\na.wav,yes,1,0,20 ms\na.wav,no,2,0:00.02,0.025\n"
OBJECTS = b'{\n "audio": "a.wav",\n "text": "yes"\n}\n{\n "audio": "a.wav",\n "text": "no"\n}\n'
SEGMENTS = b"u1 a 0.0 0.02\nu2 a 0.02 -1\n"
SCP = b"a sox a.wav -t wav - remix 1 trim 0 0.02 |\nb a.wav\nc sph2pipe -f wav -c 2 a.wav |\n"
SPHINX = b"<s> yes ++um++ </s> (a)\n<s> no(2) </s> (b)\n"
FESTIVAL = b'( a "Yes, please." )\n( b "No." )\n'
PROMPTS = b"mfc/a YES\nb NO\n"
SWITCHBOARD = b"sw2001A-ms98-a-0001 0.0 0.01 [laughter-yes]\nsw2001A-ms98-a-0002 0.01 0.02 [silence] n[o]-\n"
CHIME = b"""[{"end_time": "0:00:00.02", "start_time": "0:00:00.00", "words": "yes", "speaker": "P09",
"session_id": "S03"}, {"end_time": {"P09": "0:00:00.02"}, "start_time": {"original": "0:00:00.01"}, "words": "no",
"speaker": "P09", "session_id": "S03"}]"""
COLUMNS = b'{"id": 7, "data": {"name": ["a.wav", "b.wav"], "label": ["yes", "no"], "duration_ms": [20, 20]}}\n'
FAIRSEQ = b"/somewhere\na.wav\t400\na.wav\t400\n"
LABEL_STUDIO = b"""[{"id": 1, "annotations": [{"completed_by": 1, "ground_truth": false, "was_cancelled": false,
"result":
[{"id": "r", "from_name": "t", "to_name": "audio", "type": "labels",
"value": {"start": 0, "end": 0.02, "channel": 0, "labels": ["Ann"]}},
{"id": "r", "from_name": "text", "to_name": "audio", "type": "textarea",
"value": {"start": 0, "end": 0.02, "channel": 0, "text": ["yes"]}}]}],
"data": {"audio": "/data/local-files/?d=a.wav"}}]
"""
JSON_MIN = b"""[{"audio": "/data/upload/1/0000000a-a.wav", "id": 1,
"labels": [{"start": 0, "end": 0.02, "labels": ["b"]}],
"transcription": "yes", "annotator": 1, "annotation_id": 2, "updated_at": "2026", "lead_time": 3.5}]
"""
NESTED = b'{"version": 1, "rows": [{"sound": {"file": "a.wav"}, "result": {"text": ["yes"]}}, {"sound": 1}]}'
LABEL_MAP = b'{"0": "zero", "1": "one"}'
RESULTS = b"""file\tspeaker\twords\tsubstitutions\tdeletions\tinsertions\twer\tcer\treference\thypothesis
a.wav\tann\t1\t0\t0\t0\t0.0\t0.0\tyes\tyes
"""
NOTES = b"""{"settings": {}}
{"key": "k", "heard": {"text": "yes", "words": [{"word": "yes", "start": 0, "end": 1, "confidence": 1}], "duration": 1}}
"""


def workbook() -> bytes:
    made, file = openpyxl.Workbook(), io.BytesIO()
    for row in (["file", "text", "start"], ["a.wav", "yes", 0.0], ["a.wav", 7, "=1/0"]):
        made.active.append(row)
    made.save(file)
    return file.getvalue()


@functools.cache
def data_set(kind: str) -> bytes:
    """As Hugging Face writes it, with the recordings inside."""
    rows = [{"audio": {"bytes": wav(), "path": "a.wav"}, "text": text, "speaker": "x"} for text in ("yes", "no")]
    about = {"info": {"features": {"audio": {"_type": "Audio"}, "text": {"_type": "Value"}}}}
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(about)})
    file = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, file)
    else:
        with (pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream)(file, table.schema) as stream:
            stream.write_table(table)
    return file.getvalue()


def read_data_set(path: Path) -> object:
    folder = path.parent / "data"
    folder.mkdir()
    path.rename(folder / path.name)
    return read_entries(folder)


def read_arpa(path: Path) -> object:
    from asr_with_nemo.recognition import ngrams

    return ngrams.read_arpa(path)


def read_sweep(path: Path) -> object:
    from asr_with_nemo.sweeps.space import load_sweep

    return load_sweep(path)


def read_table(path: Path) -> object:
    from asr_with_nemo.own_data.preparation import prepare

    return prepare(path, path.parent / "out", workers=1, progress=False)


def read_beside(path: Path) -> object:
    (path.parent / "a.wav").write_bytes(wav())
    return read_table(path)


def read_cues(path: Path) -> object:
    from asr_with_nemo.own_data import annotations, captions, cues, segments

    readers = {".srt": captions.read, ".vtt": captions.read, ".TextGrid": annotations.read_textgrid}
    readers |= {".eaf": annotations.read_elan, ".json": segments.read_json, ".tsv": segments.read_table}
    readers |= {".stm": segments.read_stm, ".ctm": segments.read_ctm}
    reading = readers[path.suffix](path)
    return reading and list(cues.checked(reading.cues))


def in_stereo(path: Path) -> None:
    soundfile.write(path, np.stack([np.linspace(0, 0.5, 400), np.zeros(400)], axis=1), 16_000)


def read_entries(path: Path, split_channels: bool = False) -> object:
    """As `prepare`, without what follows from the rows: splits, manifests, and the report."""
    from asr_with_nemo.own_data import formats, recordings, sources, store

    out = path.parent / "out" if path.is_file() else path.with_name("out")
    out.mkdir()
    with store.CorpusStore(out / "c.sqlite") as opened:
        source = sources.Source(path, opened, split_channels=split_channels, scratch=out)
        opened.list_files(source.root, out.resolve())
        form, results = recordings.Form(out, split_channels=split_channels), []
        for number, one in enumerate(formats.read(source, formats.detect(source))):
            sound = "" if one.problem else one.audio
            job = recordings.MeasureJob(number, sound, f"{number}.wav", one.text, one.start, one.seconds, one.channel)
            results += recordings.work([job], form)
        return results


def read_channels(path: Path) -> object:
    in_stereo(path.parent / "a.wav")
    return read_entries(path, split_channels=True)


def read_rows(path: Path) -> object:
    (path.parent / "a.wav").write_bytes(wav())
    return read_entries(path)


def read_kaldi(path: Path) -> object:
    folder = path.parent / "data"
    folder.mkdir()
    in_stereo(folder / "a.wav")
    (folder / "wav.scp").write_text("a a.wav\n")
    (folder / "text").write_text("".join(f"{name} yes no\n" for name in ("u1", "u2", "a", "b", "c")))
    path.rename(folder / path.name)
    return read_entries(folder)


def read_list(path: Path) -> object:
    """As transcribe.py does, which goes on to read the sound of each."""
    from asr_with_nemo.recognition import recordings

    (path.parent / "a.wav").write_bytes(wav())
    found = recordings.split_channels(recordings.find([str(path)]))
    survey = recordings.Survey()
    for one in found:
        with contextlib.suppress(InputError):  # of one recording: the others are read
            audio.load_audio(survey.watched(one.sound))
    return list(survey.lines()), list(recordings.outputs(found, path.parent, ".txt"))


def read_prompts(path: Path) -> object:
    if path.suffix == ".tsv":
        path.with_suffix(".wrd").write_text("yes\nno\n")
    if path.suffix == ".transcription":
        path.with_suffix(".fileids").write_text("a\nb\n")
    if path.stem in ("sw2001A-ms98-a-trans", "S03"):
        (path.parent / ("S03_P09.wav" if path.stem == "S03" else "sw2001A.wav")).write_bytes(wav())
    return read_rows(path)


def read_notes(path: Path) -> object:
    """What an interrupted transcribe.py has left: whatever it is, the command goes on."""
    from asr_with_nemo.recognition import destinations, formats, recordings

    one = recordings.Recording("a", "a.wav", Path("a"))
    path.rename(path.parent / ".out.txt.progress")
    place = destinations.OneFile(formats.FORMATS["text"], [one], path.parent / "out.txt", {})
    place.finish()
    return (path.parent / "out.txt").read_text()


def read_labels(path: Path) -> object:
    from asr_with_nemo.own_data import formats

    return formats.read_labels(path)


def read_results(path: Path) -> object:
    from asr_with_nemo.recognition import evaluation

    return [row.words for row in evaluation.read_rows(path)]


def unpack(path: Path) -> object:
    return archives.unpack_tar(path, path.parent / "unpacked", max_bytes=100_000, max_files=20, progress=False)


def shard_notes() -> bytes:
    from asr_with_nemo.data import shards

    files = {"cuts.0.jsonl.gz": {"size": 9, "md5": "00" * 16}, "recording.0.tar": {"size": 9, "md5": "00" * 16}}
    notes = {
        "format": shards.FORMAT,
        "digest": "0",
        "manifest": "0",
        "source": "../train_manifest.json",
        "sample_rate": 16_000,
        "rows": 2,
        "seconds": 3.5,
        "words": 3,
        "characters": 9,
        "speakers": 1,
        "durations": [1.75] * shards.QUANTILES,
        "letters": {"a": {"count": 2, "text": "a b"}},
        "tables": {shards.ROWS: {"size": 9}},
        "shards": [{"name": "0", "rows": 2, "seconds": 3.5, "files": files}],
    }
    return json.dumps(notes).encode()


def read_shards(path: Path) -> object:
    from asr_with_nemo.data import shards

    notes = shards.Shards(path.parent)
    notes.check_files()
    notes.check("ab ", 16_000)
    return notes.letters


@functools.cache
def encoded(name: str, codec: str, rate: int) -> bytes:
    """A fifth of a second as phones and browsers record it."""
    file = io.BytesIO()
    with av.open(file, "w", format=name) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        tone = (0.5 * np.sin(np.arange(rate // 5) / 9)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None, :], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 0)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


@functools.cache
def by_sox(kind: str) -> bytes:
    command = ["sox", "-n", "-r", "16000", "-b", "16", "-t", kind, "-", "synth", "0.1", "sine", "440"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@functools.cache
def export() -> bytes:
    """A network that gives zeros, with the metadata of an export."""
    kind = onnx.TensorProto
    inputs = [("sound", kind.FLOAT, ["B", "T"]), ("lengths", kind.INT64, ["B"])]
    outputs = [("log_probs", kind.FLOAT, ["B", "T", 1]), ("frames", kind.INT64, ["B"])]
    axis = onnx.helper.make_tensor("axis", kind.INT64, [1], [2])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Unsqueeze", ["sound", "axis"], ["log_probs"]), onnx.helper.make_node(
            "Identity", ["lengths"], ["frames"])],
        "small",
        *([onnx.helper.make_tensor_value_info(*one) for one in some] for some in (inputs, outputs)),
        [axis],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    facts = {"format": "1", "labels": "[]", "sample_rate": "16000", "seconds_per_frame": "0.02", "card": "{}"}
    onnx.helper.set_model_props(model, facts)
    return model.SerializeToString()


def read_export(path: Path) -> object:
    from asr_with_nemo.deployment import runtime

    recognizer = runtime.Recognizer(path, threads=1)
    return recognizer.sample_rate, recognizer.card, recognizer.labels


@functools.cache
def checkpoint() -> bytes:
    import torch
    from omegaconf import OmegaConf

    file = io.BytesIO()
    kept = {"dirpath": "x", "best_k_models": {"x": torch.tensor(1.0)}, "last_model_path": "x"}
    state = {
        "epoch": 1,
        "state_dict": {"weight": torch.zeros(3)},
        "loops": {"fit_loop": {"epoch_loop.batch_progress": {"is_last_batch": True}}},
        "hyper_parameters": {"cfg": OmegaConf.create({"optim": {"name": "adamw"}})},
        "callbacks": {"ModelCheckpoint{}": kept},
    }
    torch.save(state, file)
    return file.getvalue()


def read_checkpoint(path: Path) -> object:
    from asr_with_nemo.training import checkpoints

    state = checkpoints.with_own_paths(checkpoints.read_state(path), path.parent)
    return checkpoints.epoch_after(state), checkpoints.setting(state["hyper_parameters"]["cfg"], "optim.name")


SHARD_ROW = json.dumps(
    {
        "id": "1",
        "start": 0,
        "duration": 0.025,
        "channel": 0,
        "supervisions": [
            {"id": "1", "recording_id": "1", "start": 0.0, "duration": 0.025, "channel": 0, "text": "yes"}
        ],
        "type": "MonoCut",
    }
).encode()


@functools.cache
def recordings_of_a_shard() -> bytes:
    sound, packed = io.BytesIO(), io.BytesIO()
    soundfile.write(sound, np.arange(400, dtype=np.int16), 16_000, format="FLAC")
    about = {"id": "1", "sources": [{"type": "shar", "channels": [0], "source": ""}], "sampling_rate": 16_000}
    about |= {"num_samples": 400, "duration": 0.025, "channel_ids": [0]}
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (("1.flac", sound.getvalue()), ("1.json", json.dumps(about).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def read_shard(path: Path) -> object:
    """As a training does, which names the file of an error by its digest."""
    from asr_with_nemo.training import shard_rows, shards

    cuts, recordings = path.parent / "cuts.0.jsonl.gz", path.parent / "recording.0.tar"
    cuts.write_bytes(gzip.compress(path.read_bytes() if path.suffix == ".jsonl" else SHARD_ROW, 1))
    if path != recordings:
        recordings.write_bytes(recordings_of_a_shard())
    with contextlib.suppress(*shards.BROKEN):
        return [shards._samples(cut) for cut in shard_rows.read(str(cuts), str(recordings))]


READERS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object], str]] = {
    "SPHERE": (sphere, audio.read_sphere, "a.sph"),
    "WAV": (wav, audio.load_audio, "a.wav"),
    "manifest": (lambda: MANIFEST, lambda path: manifest.read_manifest(path, check_audio=True), "m.json"),
    "ARPA": (lambda: ARPA, read_arpa, "a.arpa"),
    "sweep": (lambda: SWEEP, read_sweep, "s.yaml"),
    "table": (lambda: TABLE, read_table, "t.tsv"),
    "SubRip": (lambda: SRT, read_cues, "a.srt"),
    "WebVTT": (lambda: VTT, read_cues, "a.vtt"),
    "TextGrid": (lambda: TEXTGRID, read_cues, "a.TextGrid"),
    "ELAN": (lambda: EAF, read_cues, "a.eaf"),
    "Whisper": (lambda: WHISPER, read_cues, "a.json"),
    "timed table": (lambda: TIMED_TABLE, read_cues, "a.tsv"),
    "labels": (lambda: LABELS, read_beside, "a.txt"),
    "STM": (lambda: STM, read_cues, "a.stm"),
    "CTM": (lambda: CTM, read_cues, "a.ctm"),
    "list": (lambda: LIST, read_list, "l.txt"),
    "parts": (lambda: PARTS, read_list, "m.jsonl"),
    "channels": (lambda: CHANNELS, read_channels, "t.csv"),
    "objects": (lambda: OBJECTS, read_rows, "t.jsonl"),
    "Kaldi's segments": (lambda: SEGMENTS, read_kaldi, "segments"),
    "Kaldi's wav.scp": (lambda: SCP, read_kaldi, "wav.scp"),
    "Sphinx": (lambda: SPHINX, read_prompts, "t.transcription"),
    "Festival": (lambda: FESTIVAL, read_prompts, "txt.done.data"),
    "prompts": (lambda: PROMPTS, read_prompts, "PROMPTS"),
    "fairseq": (lambda: FAIRSEQ, read_prompts, "train.tsv"),
    "Switchboard": (lambda: SWITCHBOARD, read_prompts, "sw2001A-ms98-a-trans.text"),
    "CHiME": (lambda: CHIME, read_prompts, "S03.json"),
    "columns": (lambda: COLUMNS, read_rows, "t.jsonl"),
    "Label Studio": (lambda: LABEL_STUDIO, read_rows, "e.json"),
    "JSON-MIN": (lambda: JSON_MIN, read_rows, "e.json"),
    "nested JSON": (lambda: NESTED, read_rows, "e.json"),
    "service": (lambda: SERVICE, read_rows, "a.json"),
    "clock times": (lambda: CLOCKS, read_rows, "a.txt"),
    "cuts": (lambda: CUTS, read_rows, "cuts.jsonl"),
    "workbook": (workbook, read_rows, "t.xlsx"),
    "label map": (lambda: LABEL_MAP, read_labels, "l.json"),
    "results": (lambda: RESULTS, read_results, "r.tsv"),
    "notes of shards": (shard_notes, read_shards, "shards.json"),
    "progress": (lambda: NOTES, read_notes, "notes"),
    "tar": (nemo, unpack, "a.tar"),
    "nemo": (nemo, model_file.read_alphabet, "a.nemo"),
    "Parquet": (lambda: data_set("parquet"), read_data_set, "train.parquet"),
    "Arrow": (lambda: data_set("arrow"), read_data_set, "data-00000-of-00001.arrow"),
    "Arrow's file format": (lambda: data_set("arrow file"), read_data_set, "data.arrow"),
    "M4A": (lambda: encoded("ipod", "aac", 16_000), audio.load_audio, "a.m4a"),
    "AAC": (lambda: encoded("adts", "aac", 16_000), audio.load_audio, "a.aac"),
    "WebM": (lambda: encoded("webm", "libopus", 48_000), audio.load_audio, "a.webm"),
    "SoX's own": (lambda: by_sox("sox"), audio.load_audio, "a.sox"),
    "WavPack": (lambda: by_sox("wv"), audio.load_audio, "a.wv"),
    "ONNX": (export, read_export, "a.onnx"),
    "checkpoint": (checkpoint, read_checkpoint, "a.ckpt"),
    "rows of a shard": (lambda: SHARD_ROW, read_shard, "cuts.0.jsonl"),
    "recordings of a shard": (recordings_of_a_shard, read_shard, "recording.0.tar"),
    "ARPA, compressed": (lambda: gzip.compress(ARPA), read_arpa, "a.arpa.gz"),
}
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))),
    min_size=1,
    max_size=4,
)
FOUND: list[tuple[str, list[tuple[float, int, bytes]]]] = [
    ("sweep", [(1.0, 0, b"[" * 600)]),
    ("Kaldi's wav.scp", [(0.7, 0, b"[" * 600)]),
    ("Kaldi's segments", [(0.2, 3, b"NaN")]),
    ("parts", [(0.2, 0, b"[" * 600)]),
    ("M4A", [(0.8330535523608678, 40, b"\\end\\")]),
    ("Kaldi's segments", [(0.20902866760847438, 13, b"1e308")]),
    ("label map", [(0.0, 0, b"[" * 100_000)]),
    (
        "channels",
        [
            (0.4992425894117788, 37, b"\r"),
            (0.777453782318208, 35, b""),
            (0.8296469562821148, 18, _ADDRESS),
            (0.6062450134598395, 37, b"[" * 600),
        ],
    ),
    (
        "fairseq",
        [
            (0.6958670864506903, 40, _ADDRESS),
            (0.9011379188733472, 7, b"\xa2:"),
            (0.6985736893811069, 38, b"<!DOCTYPE a [<!ENTITY b 'c'>]>"),
        ],
    ),
]


def damaged(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Replace, at a share of the length, a number of bytes with others."""
    for share, count, new in edits:
        at = int(share * len(content))
        content = content[:at] + new + content[at + count :]
    return content


def check(kind: str, edits: list[tuple[float, int, bytes]], folder: Path) -> None:
    make, read, name = READERS[kind]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / name
    path.write_bytes(damaged(make(), edits))
    try:
        read(path)
    except InputError as error:
        assert str(folder) in str(error), "the error names the file"
    assert not (folder.parent / "x").exists()


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_refused(kind: str, tmp_path: Path):
    @settings(max_examples=60, **COMMON)
    @given(EDITS)
    def each(edits: list[tuple[float, int, bytes]]) -> None:
        check(kind, edits, tmp_path / "case")

    each()


@pytest.mark.proof
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_refused_for_longer(kind: str, tmp_path: Path):
    @settings(max_examples=2_000, **COMMON | {"derandomize": False})
    @given(EDITS)
    def each(edits: list[tuple[float, int, bytes]]) -> None:
        check(kind, edits, tmp_path / "case")

    each()


@pytest.mark.parametrize(("kind", "edits"), FOUND)
def test_what_was_found_stays_mended(kind: str, edits: list[tuple[float, int, bytes]], tmp_path: Path):
    check(kind, edits, tmp_path / "case")


@settings(max_examples=500, **COMMON)
@given(st.text(alphabet="sox ph2pie-cr|t12:.='\"\\ remxhimaf\x00é", max_size=60))
def test_a_command_of_a_wav_scp_is_understood_or_not(command: str):
    from asr_with_nemo.own_data import commands

    with contextlib.suppress(commands.NotUnderstood):
        commands.understand(command)


@settings(max_examples=500, **COMMON)
@given(st.one_of(st.text(max_size=20), st.text(alphabet="0123456789:.,eE+- msh²", max_size=12)))
def test_a_time_or_a_channel_is_one_or_not(written: str):
    from asr_with_nemo.own_data import channels, times

    with contextlib.suppress(ValueError):
        assert 0 <= abs(times.parse_time(written)) < float("inf")
    assert channels.number_of(written) is None or channels.number_of(written) >= 0
