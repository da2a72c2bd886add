"""Archives: digests, and safe reading and unpacking of tar files from untrusted sources.

Links are refused: neither AN4 nor a `.nemo` file has any, and a file written through a link can land anywhere.
"""

import bz2
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from isal import igzip_threaded, isal_zlib
from tqdm import tqdm

from asr_with_nemo.errors import InputError

# gzip is decompressed in a thread, twice as fast as by zlib, while the files are written.
_OPENERS = {b"\x1f\x8b": igzip_threaded.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_NOT_TAR = {
    b"<": "an HTML or XML page, perhaps an error page of the server",
    b"PK": "a ZIP archive",
    b"NIST_1A": "a SPHERE recording",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
_READ_SIZE = 1 << 20  # bytes
_HEADERS_PER_FILE = 4096  # bytes of headers and padding that a member may have besides its content, on average
_NEXT = "Delete it and download it again, or give another archive."


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack_tar(
    archive: Path,
    folder: Path,
    *,
    max_bytes: int = 2 * 1024**3,
    max_files: int = 100_000,
    on_file: Callable[[Path], object] | None = None,
    progress: bool = True,
) -> list[Path]:
    """Unpack a tar archive (plain, gzip, bzip2 or xz) into `folder`, which must be new or empty.

    Owners, times and permission bits of the archive are ignored: the files belong to the user, with the permissions of
    new files (0644 and 0755 under the usual umask).

    Args:
        archive: the file.
        folder: destination.
        max_bytes: limit of the unpacked size.
        max_files: limit of the number of members.
        on_file: called with each file as soon as it is written, before the next one.
        progress: show a progress bar if it takes longer than a second.

    Returns:
        The files that were written, in the order of the archive.

    Raises:
        InputError: The archive is missing, damaged, truncated or not a tar; a member would be written outside of
            `folder`, or is a link, a device or a pipe; there are more than `max_files` members or `max_bytes` bytes.
            All unpacked files are removed.
    """
    check_looks(archive)
    written: dict[Path, None] = {}
    with _all_or_nothing(folder), _explained(archive, f"unpack it into {folder}"), archive.open("rb") as packed:
        with _bar(archive, progress) as bar:
            for name, content in _members(archive, packed, max_bytes, max_files):
                path = folder / name
                if content is None:
                    path.mkdir(parents=True, exist_ok=True)
                else:
                    # tarfile's own extract takes as long as everything else; the name was checked.
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        shutil.copyfileobj(content, file, _READ_SIZE)
                    written[path] = None
                    if on_file:
                        on_file(path)
                bar.update(packed.tell() - bar.n)
        if not written:
            raise InputError(f"{archive} is a tar archive with no files in it. {_NEXT}")
    return list(written)


def read_member(archive: Path, name: str, *, largest: int, max_bytes: int, max_files: int) -> bytes | None:
    """Read one file of a tar archive, with the checks of `unpack_tar`; members after it are not read.

    Args:
        archive: the file.
        name: the last part of the member's path.
        largest: limit of its size, in bytes.
        max_bytes: limit of the size of all members up to it.
        max_files: limit of their number.

    Returns:
        its content; None if the archive has no such file.

    Raises:
        InputError: as for `unpack_tar`.
    """
    check_looks(archive)
    with _explained(archive, "read it"), archive.open("rb") as packed:
        for path, content in _members(archive, packed, max_bytes, max_files):
            if content is not None and path.name == name:
                data = content.read(largest + 1)
                if len(data) > largest:
                    raise InputError(f"{archive}: its member {str(path)!r} has over {largest:,} bytes; refused")
                return data
    return None


def check_whole(archive: Path, *, max_bytes: int, max_files: int) -> None:
    """Read a tar archive to its end, with the checks of `unpack_tar`.

    Raises:
        InputError: as for `unpack_tar`.
    """
    check_looks(archive)
    with _explained(archive, "read it"), archive.open("rb") as packed:
        for _ in _members(archive, packed, max_bytes, max_files):
            pass


def is_tar(path: Path) -> bool:
    """Return whether a file starts like a tar archive, compressed or not; only its first header is read.

    Raises:
        OSError: the file can't be read.
    """
    try:
        with path.open("rb") as packed:
            tarfile.TarInfo.frombuf(_decompressed(packed).read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except (tarfile.TarError, EOFError, zlib.error, isal_zlib.error, lzma.LZMAError, ValueError):
        return False
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's exception for damaged data
            return False
        raise
    return True


def _members(
    archive: Path, packed: io.BufferedReader, max_bytes: int, max_files: int
) -> Iterator[tuple[PurePosixPath, IO[bytes] | None]]:
    """Yield each folder (with None) and file (with its content) of an archive, and at the end check that it is whole.

    Raises:
        InputError: a member's name or kind is refused, or there are too many members or bytes.
    """
    stream = _Forward(_decompressed(packed), limit=max_bytes + _HEADERS_PER_FILE * max_files + _READ_SIZE)
    declared = 0
    with tarfile.open(fileobj=stream, mode="r:", copybufsize=_READ_SIZE) as tar:
        for count, member in enumerate(tar, start=1):
            name = _safe_name(archive, member)
            declared += member.size
            if count > max_files or declared > max_bytes or member.size < 0:
                raise _refusal(archive, member, f"exceeds the limit of {max_bytes:,} bytes or {max_files:,} members")
            if member.isdir():
                yield name, None
            else:
                stream.allow(member.size)
                with tar.extractfile(member) as content:
                    yield name, content
            # What was left unread of a member is skipped with the next header.
            stream.allow(member.size)
    stream.finish()


def check_looks(archive: Path) -> None:
    """Raise an InputError if a file is empty, or its first bytes are those of another format, such as a web page."""
    try:
        with archive.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"Cannot read the archive {archive}: {error.strerror}. Check the path.") from error
    if not head:
        raise InputError(f"{archive} is empty (0 bytes), where a tar archive was expected. {_NEXT}")
    for magic, kind in _NOT_TAR.items():
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(magic):
            raise InputError(f"{archive} is not a tar archive: it is {kind}. {_NEXT}")


def _decompressed(packed: io.BufferedReader) -> io.BufferedIOBase:
    head = packed.peek(8)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return opener(packed)
    return packed


class _Forward:
    """The stream that tarfile reads: forward only, at most `limit` bytes, and no oversized headers.

    Between two members a header may have `_READ_SIZE` bytes; a chain of headers would fill the memory otherwise.
    """

    def __init__(self, source: io.BufferedIOBase, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._position = 0
        self._allowed = _READ_SIZE
        self._last = b""

    def allow(self, size: int) -> None:
        """Let the next member's header, and `size` bytes of content before it, be read."""
        self._allowed = self._position + size + _READ_SIZE

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _READ_SIZE:
            raise tarfile.ReadError(f"a header says that it has {size:,} bytes")
        data = self._source.read(size)
        self._position += len(data)
        if self._position > self._limit:
            raise tarfile.ReadError(f"it unpacks to more than {self._limit:,} bytes")
        if self._position > self._allowed:
            raise tarfile.ReadError(f"a member's headers have over {_READ_SIZE:,} bytes")
        self._last = data
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its headers point backwards")
        while self._position < position:
            if not self.read(min(_READ_SIZE, position - self._position)):
                raise EOFError

    def finish(self) -> None:
        """Check the end: tarfile mistakes a broken header for it, and leaves the compressor's checksum unread."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("cut short or damaged: the end-of-archive mark is missing")
        self._allowed = self._limit
        while self.read(_READ_SIZE):
            pass


def _safe_name(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise _refusal(archive, member, "would be written outside of the folder")
    if member.issym() or member.islnk():
        raise _refusal(archive, member, f"is a link, to {member.linkname!r}; links are refused")
    if not (member.isfile() or member.isdir()):
        raise _refusal(archive, member, "is a device, a pipe or of an unknown kind")
    return name


def _refusal(archive: Path, member: tarfile.TarInfo, reason: str) -> InputError:
    return InputError(
        f"{archive}: refused to unpack it, because its member {member.name!r} {reason}. "
        "Nothing was written. Get the archive from a place that you trust."
    )


@contextmanager
def _explained(archive: Path, doing: str) -> Iterator[None]:
    """Raise an InputError in place of the exceptions of tarfile, the decompressors and the file system."""
    try:
        yield
    except EOFError as error:
        raise InputError(f"{archive} is cut short. {_NEXT}") from error
    except (tarfile.TarError, zlib.error, isal_zlib.error, lzma.LZMAError, RecursionError, ValueError) as error:
        raise InputError(f"{archive} is not a whole tar archive ({error}). {_NEXT}") from error
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's exception for damaged data
            raise InputError(f"{archive} is damaged ({error}). {_NEXT}") from error
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(
            f"{archive}: can't {doing} ({where}{error.strerror}). Check the space and the permissions."
        ) from error


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Make `folder` if needed; after an error, restore its former state."""
    was_there = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"The folder to unpack into, {folder}, is not empty. Remove its content, then run again.")
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}. Check the path and its permissions.") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if was_there:
            folder.mkdir()
        raise


def _bar(archive: Path, progress: bool) -> tqdm:
    size = os.path.getsize(archive)
    return tqdm(
        total=size,
        desc=f"Unpacking {archive.name}",
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        delay=1.0,
        disable=not progress,
    )
