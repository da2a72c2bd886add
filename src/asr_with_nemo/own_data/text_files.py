"""Lines of text files in any encoding, decoded one by one."""

import codecs
from collections.abc import Iterator
from pathlib import Path


def encoding_of(path: Path) -> str:
    """Return a file's encoding by its byte order mark, or UTF-16 by its zeros; else UTF-8."""
    with open(path, "rb") as file:
        start = file.read(4096)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the former begins as UTF-16's does
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Without a mark: nearly every second byte of European text is zero.
    zeros = [start[place::2].count(0) for place in (0, 1)]
    if len(start) >= 64 and max(zeros) > 0.4 * len(start) / 2 and min(zeros) < 0.05 * len(start) / 2:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "utf-8"


def is_wide(encoding: str) -> bool:
    """Return whether a character takes two bytes or more, so that a line can't be found among the bytes."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


class Lines:
    """The lines of a text file, decoded one by one, each with a line feed at its end.

    Attributes:
        number: of the latest line, from 1.
    """

    def __init__(self, path: Path, encoding: str):
        self.path, self.encoding = path, encoding
        self.number = 0
        self._foreign = False

    def doubt(self) -> str:
        """Return "encoding" if a line since the last call was decoded as Windows-1252 instead, else ""."""
        doubt, self._foreign = "encoding" if self._foreign else "", False
        return doubt

    def __iter__(self) -> Iterator[str]:
        if is_wide(self.encoding):
            with open(self.path, encoding=self.encoding, errors="replace", newline="\n") as file:
                for line in file:
                    yield from self._ended(line)
            return
        with open(self.path, "rb") as file:
            if self.encoding == "utf-8-sig":
                file.read(len(codecs.BOM_UTF8))
            for raw in file:
                yield from self._ended(self._decoded(raw))

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8" if self.encoding == "utf-8-sig" else self.encoding)
        except UnicodeDecodeError:
            self._foreign = True
        try:
            return raw.decode("cp1252")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def _ended(self, line: str) -> Iterator[str]:
        # A carriage return alone ends a line too, as in files of old Macs and in tables with doubled line ends.
        for part in line.rstrip("\r\n").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            self.number += 1
            yield part.replace("\0", "") + "\n"
