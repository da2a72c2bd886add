"""The program SoX, which decodes open files of the kinds that it is told."""

import shutil
import struct
import subprocess
import tempfile
from typing import BinaryIO

import numpy as np

from asr_with_nemo.errors import InputError

_MOST = 1 << 29  # bytes that a file may have once it is decoded
_MOST_SAID = 4096  # bytes of SoX's messages that are read


def sox_is_here() -> bool:
    """Return whether the program SoX is installed."""
    return shutil.which("sox") is not None


def decode(file: BinaryIO, kind: str, name: str) -> tuple[np.ndarray, int]:
    """Decode an open file.

    SoX never sees a name: it would run one that begins with `|`, and hand the addresses in a playlist to a shell. It
    gets the open file, and is told the kind, so that it can't take it for another.

    Args:
        file: open, at its start.
        kind: SoX's name of its format.
        name: of the file, for messages.

    Returns:
        int16 samples, (T,) or (T, channels), and the sample rate in Hz.

    Raises:
        InputError: SoX isn't installed, or it can't read the file.
    """
    if not sox_is_here():
        raise InputError(
            f"{name}: libsndfile can't read this format, and SoX, which may, isn't installed; "
            "install it (Debian: apt install sox libsox-fmt-all; macOS: brew install sox) and run again"
        )
    command = ["sox", "-V1", "-D", "-t", kind, "-", "-t", "au", "-b", "16", "-e", "signed", "-"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=said)
        try:
            decoded = process.stdout.read(_MOST + 1)
            if len(decoded) > _MOST:
                raise InputError(f"{name}: longer than what SoX is asked for here ({_MOST >> 20} MiB); cut it")
            status = process.wait()
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        said.seek(0)
        reason = (said.read(_MOST_SAID).decode(errors="replace").strip().splitlines() or ["no samples"])[-1]
    if status or len(decoded) < 24:
        raise InputError(f"{name}: neither libsndfile nor SoX can read it ({reason})")
    _, offset, _, _, rate, channels = struct.unpack(">4sIIIII", decoded[:24])  # an AU file's header
    usable = (len(decoded) - offset) // (2 * channels) * 2 * channels
    if usable <= 0:
        raise InputError(f"{name}: neither libsndfile nor SoX finds sound in it; get the file again")
    samples = np.frombuffer(decoded[offset : offset + usable], ">i2").astype(np.int16)
    return samples if channels == 1 else samples.reshape(-1, channels), rate
