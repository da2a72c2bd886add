"""The rows of shards, read here and not by Lhotse, for which a row is a program.

A row that Lhotse reads may name a command, an address or any file in place of its recording, or in a filter that is
applied to it. Here a row is a text and the times of one recording, FLAC, which is the member of the shard's tar at the
same place. Everything else is refused, before NeMo sees it.
"""

import gzip
import json
import math
import random
import struct
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, NoReturn

from asr_with_nemo.base.values import is_number, is_whole
from asr_with_nemo.data import object_storage
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut, Recording

SOURCE = "course_shards"
"""The name of this reader in the configs of NeMo's sampler."""
_LINE = 1 << 20  # characters of a row
_KEYS = {"id", "type", "start", "duration", "channel", "supervisions", "recording"}
_SAID = {"id", "recording_id", "start", "duration", "channel", "text", "language", "speaker", "gender"}
_HEARD = {"id", "sources", "sampling_rate", "num_samples", "duration", "channel_ids"}
_HOLDER = ("memory", "shar")  # types of a source: the shard itself
MAKE = "make the shards again: python scripts/make_shards.py MANIFEST"


def register() -> None:
    """Make NeMo's sampler know this reader, as a dataset of the type `SOURCE`."""
    from lhotse import CutSet
    from nemo.collections.common.data.lhotse.cutset import data_type_parser

    @data_type_parser(SOURCE)
    def read(config) -> "tuple[CutSet, bool]":
        return CutSet(Rows(list(config.cuts), list(config.recordings), config.shard_seed)), True


class Rows:
    """The cuts of shards, one after the other, in an order of the shards that a seed gives.

    Args:
        cuts, recordings: the paths or URLs of the shards' files.
        seed: of their order.
    """

    def __init__(self, cuts: Sequence[str], recordings: Sequence[str], seed: int):
        self.files = list(zip(cuts, recordings, strict=True))
        self.seed = seed

    def __iter__(self) -> "Iterator[MonoCut]":
        files = self.files.copy()
        random.Random(self.seed).shuffle(files)
        for cuts, recordings in files:
            yield from read(cuts, recordings)


def read(cuts: str, recordings: str) -> "Iterator[MonoCut]":
    """Yield the cuts of a shard.

    Args:
        cuts: the path or URL of its texts, such as `cuts.000000.jsonl.gz`.
        recordings: that of its recordings, such as `recording.000000.tar`.

    Raises:
        InputError: a row is none, or asks for more than its recording and its text.
        OSError, tarfile.TarError, EOFError, ValueError: the files are damaged.
    """
    with (
        _open(cuts) as packed,
        gzip.open(packed) as lines,
        _open(recordings) as file,
        tarfile.open(fileobj=file, mode="r|") as archive,  # not compressed: nothing is larger than the file
    ):
        members = iter(archive)
        for number, line in enumerate(iter(lambda: lines.readline(_LINE + 1), b""), 1):
            where = f"{cuts}, row {number}"
            if len(line) > _LINE:
                raise InputError(f"{where}: longer than {_LINE:,} bytes; {MAKE}")
            yield _cut(where, _object(where, line), *_member(recordings, archive, members))


def _open(path: str) -> IO[bytes]:
    from lhotse.utils import SmartOpen

    return SmartOpen.open(path, "rb", compression="disable") if object_storage.is_remote(path) else open(path, "rb")


def _object(where: str, text: bytes) -> dict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no row ({str(error)[:200]}); {MAKE}") from error
    return found if isinstance(found, dict) else _refuse(where, "a row that is no object")


def _member(where: str, archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> tuple[str, bytes, bytes]:
    """Return the name of the next recording without its suffix, its bytes, and those of its description."""
    pair = []
    for _ in range(2):
        member = next(members, None)
        if member is None:
            raise EOFError(f"{where} has fewer recordings than rows")
        file = archive.extractfile(member)  # None for a folder or device; a link leads nowhere in a stream
        pair.append((member.name, file.read() if file else b""))
    (name, sound), (_, about) = pair
    return name.rpartition(".")[0], sound, about


def _refuse(where: str, what: str) -> NoReturn:
    raise InputError(
        f"{where}: {what}, which is refused, because such a row could run a command or read any file; {MAKE}"
    )


def _cut(where: str, row: dict, name: str, sound: bytes, about: bytes) -> "MonoCut":
    from lhotse import MonoCut, SupervisionSegment

    if row.get("type") != "MonoCut":
        _refuse(where, f"a {str(row.get('type'))[:40]} in place of a MonoCut")
    _check_keys(where, row, _KEYS)
    for one in (row.get("recording"), _object(where, about) if about else None):
        if one is not None:
            _check_recording(where, one)
    if not sound or not about:
        raise InputError(f"{where}: its recording is missing in its shard; {MAKE}")
    if row.get("id") != name:
        raise InputError(f"{where}: the recording in its place is that of another row ({name[:80]}); {MAKE}")
    recording = _recording(where, name, _object(where, about), sound)
    start, seconds = row.get("start"), row.get("duration")
    if not (is_number(start) and is_number(seconds) and start >= 0 and 0 < seconds <= recording.duration + 0.01):
        raise InputError(f"{where}: its times aren't within its recording of {recording.duration:g} s; {MAKE}")
    texts = []
    for one in row.get("supervisions") or []:
        if not isinstance(one, dict):
            _refuse(where, "a text that is no object")
        _check_keys(where, one, _SAID)
        texts.append(
            SupervisionSegment(
                str(one.get("id")),
                name,
                0.0,
                seconds,
                text=str(one.get("text") or ""),
                language=None if one.get("language") is None else str(one["language"]),
                speaker=None if one.get("speaker") is None else str(one["speaker"]),
            )
        )
    if not texts:
        raise InputError(f"{where}: has no text; {MAKE}")
    return MonoCut(name, start, seconds, 0, texts, recording=recording)


def _check_keys(where: str, found: dict, known: set[str]) -> None:
    more = [key for key in found if key not in known and found[key] is not None]
    if more:
        _refuse(where, f"{more[0][:40]!r}, which no row of a shard has")


def _check_recording(where: str, found: object) -> None:
    if not isinstance(found, dict):
        _refuse(where, "a recording that is no object")
    _check_keys(where, found, _HEARD)
    sources = found.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        _refuse(where, "a recording of several sources")
    kind = str(sources[0].get("type"))[:40]
    if kind not in _HOLDER or sources[0].get("source"):
        _refuse(where, f"its recording is to come from elsewhere than its shard ({kind})")
    _check_keys(where, sources[0], {"type", "channels", "source"})


def _recording(where: str, name: str, about: dict, sound: bytes) -> "Recording":
    """Return the recording, once the header of its FLAC says what its description does."""
    from lhotse import Recording
    from lhotse.audio import AudioSource

    rate, samples = about.get("sampling_rate"), about.get("num_samples")
    if not (is_whole(rate) and is_whole(samples) and rate > 0 and samples > 0):
        raise InputError(f"{where}: its recording has no rate and number of samples; {MAKE}")
    # https://www.rfc-editor.org/rfc/rfc9639#name-streaminfo: 20 bits of rate, 3 of channels, 5 of bits, 36 of samples
    said = struct.unpack(">Q", sound[18:26])[0] if sound[:4] == b"fLaC" and len(sound) > 42 else 0
    if (said >> 44, said >> 41 & 7, said & (1 << 36) - 1) != (rate, 0, samples):
        raise InputError(
            f"{where}: its recording isn't FLAC of one channel with {samples:,} samples at {rate:,} Hz, as its "
            f"description says; {MAKE}"
        )
    seconds = samples / rate
    if not math.isclose(about.get("duration") or 0.0, seconds, abs_tol=0.01):
        raise InputError(f"{where}: its recording of {seconds:g} s is described as another; {MAKE}")
    return Recording(name, [AudioSource("memory", [0], sound)], rate, samples, seconds)
