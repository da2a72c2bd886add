"""Readers of files that others made: whatever the bytes, the answer is a result or an error that names the file.

Hypothesis takes a whole file of each kind and damages it: bytes are replaced, cut out, or swapped for what such formats
trip over. `make proofs` tries thirty times as many; an input that once failed is kept in `FOUND`.
"""

import io
import shutil
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_with_nemo.data import archives, audio, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import model_file

TOKENS = [b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xd8\x00", b"\n", b"\r", b"\t", b'"', b"{", b"[" * 600]
TOKENS += [b"-1", b"9" * 5000, b"1e999", b"NaN", b"null", b"&a [*a]", b"%s%n", b"\\end\\", b"../../x"]
TOKENS += [b"!!python/object/apply:os.system [id]", b"${oc.env:HOME}"]


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


def read_arpa(path: Path) -> object:
    from asr_with_nemo.recognition import ngrams

    return ngrams.read_arpa(path)


def read_sweep(path: Path) -> object:
    from asr_with_nemo.sweeps.space import load_sweep

    return load_sweep(path)


def read_table(path: Path) -> object:
    from asr_with_nemo.own_data.preparation import prepare

    return prepare(path, path.parent / "out", workers=1, progress=False)


def unpack(path: Path) -> object:
    return archives.unpack_tar(path, path.parent / "unpacked", max_bytes=100_000, max_files=20, progress=False)


READERS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object], str]] = {
    "SPHERE": (sphere, audio.read_sphere, "a.sph"),
    "WAV": (wav, audio.load_audio, "a.wav"),
    "manifest": (lambda: MANIFEST, lambda path: manifest.read_manifest(path, check_audio=True), "m.json"),
    "ARPA": (lambda: ARPA, read_arpa, "a.arpa"),
    "sweep": (lambda: SWEEP, read_sweep, "s.yaml"),
    "table": (lambda: TABLE, read_table, "t.tsv"),
    "tar": (nemo, unpack, "a.tar"),
    "nemo": (nemo, model_file.read_alphabet, "a.nemo"),
}
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))),
    min_size=1,
    max_size=4,
)
FOUND: list[tuple[str, list[tuple[float, int, bytes]]]] = [("sweep", [(1.0, 0, b"[" * 600)])]


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
