"""Hostile inputs of every kind: each asks a command to run something, to write elsewhere, or to remove what isn't its.

Each writer gets the path of an input, which it replaces, and that of a trap: a file that must not be there afterwards.
What must not be removed is in the folder `victim` beside the trap.
"""

import gzip
import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

Writer = Callable[[Path, Path], None]
VICTIM = "victim"
PLAYLIST = "x.m3u"


class _Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


# --- Archives and models ----------------------------------------------------------------------------------------------


def _add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    archive.addfile(member, io.BytesIO(content))


def _linked_archive(path: Path, trap: Path) -> None:
    """Write an archive with a link that leads outside, and a file that goes through it."""
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, "an4/up", kind=tarfile.SYMTYPE, link=str(trap.parent))
        _add(archive, f"an4/up/{trap.name}", b"!")


def _archive_above(path: Path, trap: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, f"an4/{'../' * 30}{str(trap).lstrip('/')}", b"!")


def _absolute_archive(path: Path, trap: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, str(trap), b"!")


def _model(path: Path, config: bytes, weights: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        _add(archive, "model_config.yaml", config)
        _add(archive, "model_weights.ckpt", weights)


def _pickled_model(path: Path, trap: Path) -> None:
    """Write a model whose weights are a pickled call."""
    weights = io.BytesIO()
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": _Trap(trap)}))
        archive.writestr("archive/version", "3\n")
    _model(path, b"target: x\n", weights.getvalue())


def _calling_model(path: Path, trap: Path) -> None:
    """Write a model whose config names a command in place of its encoder."""
    config = {
        "target": "nemo.collections.asr.models.EncDecCTCModel",
        "encoder": {"_target_": "os.system", "command": f"touch {trap}"},
    }
    _model(path, json.dumps(config).encode(), b"x" * 600)


def _huge_model(path: Path, trap: Path) -> None:
    """Write a model that would fill the memory with a table of positions."""
    modules = "nemo.collections.asr.modules"
    encoder = {"_target_": f"{modules}.ConformerEncoder", "feat_in": 8, "n_layers": 0, "d_model": 65_536, "n_heads": 1}
    config = {
        "target": "nemo.collections.asr.models.EncDecCTCModel",
        "preprocessor": {"_target_": f"{modules}.AudioToMelSpectrogramPreprocessor", "features": 8},
        "encoder": encoder | {"pos_emb_max_len": 100_000},
        "decoder": {"_target_": f"{modules}.ConvASRDecoder", "feat_in": 65_536, "num_classes": 1, "vocabulary": ["a"]},
    }
    _model(path, json.dumps(config).encode(), b"x" * 600)


def _export(changes: dict[str, str]) -> Writer:
    def write(path: Path, trap: Path) -> None:
        import onnx

        model = onnx.load(path)
        facts = {one.key: one.value for one in model.metadata_props} | changes
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, facts)
        onnx.save(model, path)

    return write


def _export_of_other_files(path: Path, trap: Path) -> None:
    """Write a network whose weights are in a file elsewhere."""
    import onnx

    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../../../../../etc/hostname")
    onnx.save(model, path)


# --- Checkpoints, language models -------------------------------------------------------------------------------------


def _pickled_checkpoint(path: Path, trap: Path) -> None:
    import torch

    state = torch.load(path, weights_only=False)
    torch.save(state | {"more": _Trap(trap)}, path)


def _removing_checkpoint(path: Path, trap: Path) -> None:
    """Write a checkpoint that names somebody's folder as its earlier checkpoint, to be removed after an epoch."""
    import torch

    victim = trap.with_name(VICTIM)
    victim.mkdir(exist_ok=True)
    (victim / "thesis.txt").write_text("x", encoding="utf-8")
    state, name = torch.load(path, weights_only=False), f"local://{victim}"
    for key, kept in state["callbacks"].items():
        if key.startswith("ModelCheckpoint"):
            kept.pop("dirpath")
            kept |= {"last_model_path": name, "kth_best_model_path": name, "best_k_models": {name: torch.tensor(1e9)}}
            kept |= {"kth_value": torch.tensor(1e9)}
    torch.save(state, path)


def _text(content: str) -> Writer:
    return lambda path, trap: path.write_text(content, encoding="utf-8") and None


# --- Recordings, and what names them ----------------------------------------------------------------------------------


def _playlist(path: Path, trap: Path) -> None:
    path.write_text(f"#EXTM3U\nhttp://127.0.0.1:9/$(touch {trap})\n|touch {trap}\n", encoding="utf-8")


def _slow_recording(path: Path, trap: Path) -> None:
    """Write a small file of a sample a second: days of sound."""
    soundfile.write(path, np.zeros(500_000), 1, format="WAV", subtype="PCM_U8")


def _manifest_of(name: str) -> Writer:
    """Return a writer of a manifest with a recording of a name, in which @ is the trap, and a playlist of that name."""

    def write(path: Path, trap: Path) -> None:
        audio = name.replace("@", str(trap))
        if name.endswith(".m3u"):
            _playlist(path.parent / audio, trap)
        row = {"audio_filepath": audio, "duration": 1.0, "text": "yes"}
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")

    return write


def _table_of(*names: str) -> Writer:
    def write(path: Path, trap: Path) -> None:
        rows = []
        for name in names:
            if name.endswith(".m3u"):
                _playlist(path.parent / name, trap)
            rows.append(f'"{name.replace("@", str(trap))}",yes,{len(rows)}\n')
        path.write_text("path,text,speaker\n" + "".join(rows), encoding="utf-8")

    return write


def _shard(change: Callable[[dict, dict, str], None]) -> Writer:
    """Return a writer of a shard: change(row, description, command) changes a row and what describes its recording."""

    def write(path: Path, trap: Path) -> None:
        notes = json.loads((path.parent / "shards.json").read_text(encoding="utf-8"))
        packed = path.with_name(path.name.replace("cuts", "recording").replace("jsonl.gz", "tar"))
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        with tarfile.open(packed) as archive:
            parts = {one.name: archive.extractfile(one).read() for one in archive}
        with tarfile.open(packed, "w") as archive:
            for row in rows:
                about = json.loads(parts[f"{row['id']}.json"])
                change(row, about, f"touch {trap}")
                _add(archive, f"{row['id']}.flac", parts[f"{row['id']}.flac"])
                _add(archive, f"{row['id']}.json", json.dumps(about).encode())
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for shard in notes["shards"]:
            for name, about in shard["files"].items():
                content = (path.parent / name).read_bytes()
                about |= {"size": len(content), "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        (path.parent / "shards.json").write_text(json.dumps(notes), encoding="utf-8")

    return write


def _command(command: str) -> dict:
    sources = [{"type": "command", "channels": [0], "source": command}]
    return {"id": "x", "sources": sources, "sampling_rate": 16_000, "num_samples": 16_000, "duration": 1.0}


def _filtered(row: dict, about: dict, command: str) -> None:
    about["transforms"] = [{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": _command(command)}}]


HOSTILE: dict[str, tuple[Writer, ...]] = {
    "archive": (_linked_archive, _archive_above, _absolute_archive),
    "model": (_pickled_model, _calling_model, _huge_model),
    "export": (
        _pickled_model,
        _export({"sample_rate": "20"}),
        _export({"sample_rate": "1000000000000"}),
        _export({"card": "["}),
        _export_of_other_files,
    ),
    "checkpoint": (_pickled_checkpoint, _removing_checkpoint),
    "language model": (
        _text(f"\\data\\\nngram {'9' * 5_000}=1\n"),
        _text(f"\\data\\\nngram 1=1\n\\{'9' * 5_000}-grams:\n-1\tgo\n\\end\\\n"),
        lambda path, trap: path.write_bytes(b"\\data\\\n" + bytes(10**6)) and None,
    ),
    "recording": (_playlist, _slow_recording),
    "manifest": (_manifest_of("touch @ |"), _manifest_of("|touch @"), _manifest_of(PLAYLIST)),
    "table": (_table_of("touch @ |", "../../../../etc/hostname"), _table_of(PLAYLIST, "|touch @")),
    "shards": (_shard(lambda row, about, command: row["recording"].update(_command(command))), _shard(_filtered)),
}
"""Writers of hostile inputs, by the kind of the input."""
USABLE = {_removing_checkpoint}
"""Those whose input may be used, without what it asks for."""
