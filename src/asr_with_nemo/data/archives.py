"""Archives: digests, and safe unpacking of untrusted files."""

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
_HEADERS_PER_FILE = 4096  # bytes of headers and padding that a member may have besides its content
_NEXT = "Delete it and download it again, or give another archive."
_LINK_RULE = "links must point to a member of the archive"


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
    links: bool = True,
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
        links: allow links, which may only point into the archive.
        on_file: called with each file as soon as it is written, before the next one.
        progress: show a progress bar if it takes longer than a second.

    Returns:
        The files and links that were written, in the order of the archive.

    Raises:
        InputError: The archive is missing, damaged, truncated or not a tar; a member would be written outside of
            `folder`, or is a device, a pipe or a link that points elsewhere or isn't allowed; there are more than
            `max_files` members or `max_bytes` bytes. All unpacked files are removed.
    """
    check_looks(archive)
    with _all_or_nothing(folder), _explained(archive, folder), archive.open("rb") as packed:
        written = _unpack(archive, packed, folder, max_bytes, max_files, links, on_file, progress)
    return written


def _unpack(
    archive: Path,
    packed: io.BufferedReader,
    folder: Path,
    max_bytes: int,
    max_files: int,
    with_links: bool,
    on_file: Callable[[Path], object] | None,
    progress: bool,
) -> list[Path]:
    stream = _Forward(_decompressed(packed), limit=max_bytes + _HEADERS_PER_FILE * max_files + _READ_SIZE)
    written: dict[Path, None] = {}
    links: dict[Path, tarfile.TarInfo] = {}
    declared = 0
    with (
        tarfile.open(fileobj=stream, mode="r:", copybufsize=_READ_SIZE) as tar,
        _bar(archive, progress) as bar,
    ):
        for count, member in enumerate(tar, start=1):
            path = folder / _safe_name(archive, member)
            declared += member.size
            if count > max_files or declared > max_bytes or member.size < 0:
                raise _refusal(archive, member, f"exceeds the limit of {max_bytes:,} bytes or {max_files:,} members")
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.isfile():
                # tarfile's own extract takes as long as everything else; names were checked, and links come last.
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as content, path.open("wb") as file:
                    shutil.copyfileobj(content, file, _READ_SIZE)
                written[path] = None
                if on_file:
                    on_file(path)
            elif with_links:
                links[path] = member
                written[path] = None
            else:
                raise _refusal(archive, member, f"is a link, to {member.linkname}")
            bar.update(packed.tell() - bar.n)
    stream.finish()
    # Links come last, so that no file was ever written through one.
    _make_links(archive, folder, links)
    if not written:
        raise InputError(f"{archive} is a tar archive with no files in it. {_NEXT}")
    return list(written)


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
    """The stream that tarfile reads: forward only, at most `limit` bytes, and no oversized headers."""

    def __init__(self, source: io.BufferedIOBase, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._position = 0
        self._last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _READ_SIZE:
            raise tarfile.ReadError(f"a header says that it has {size:,} bytes")
        data = self._source.read(size)
        self._position += len(data)
        if self._position > self._limit:
            raise tarfile.ReadError(f"it unpacks to more than {self._limit:,} bytes")
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
        while self.read(_READ_SIZE):
            pass


def _safe_name(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise _refusal(archive, member, "would be written outside of the folder")
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise _refusal(archive, member, "is a device, a pipe or of an unknown kind")
    return name


def _make_links(archive: Path, folder: Path, links: dict[Path, tarfile.TarInfo]) -> None:
    """Make all links, then check where each one resolves to: a link can change the path of another."""
    top = folder.resolve()
    for path, link in links.items():
        target = PurePosixPath(link.linkname)
        # A symbolic link's target is relative to its own folder, a hard link's to the top.
        if target.is_absolute() or (link.islnk() and (".." in target.parts or not (folder / target).is_file())):
            raise _refusal(archive, link, f"links to {target}: {_LINK_RULE}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if link.issym():
            path.symlink_to(target)
        else:
            path.hardlink_to(folder / target)
    for path, link in links.items():
        try:
            inside = path.resolve(strict=True).is_relative_to(top)
        except (OSError, RuntimeError):  # a broken link, or a loop
            inside = False
        if not inside:
            raise _refusal(archive, link, f"links to {link.linkname}: {_LINK_RULE}")


def _refusal(archive: Path, member: tarfile.TarInfo, reason: str) -> InputError:
    return InputError(
        f"{archive}: refused to unpack it, because its member {member.name!r} {reason}. "
        "Nothing was written. Get the archive from a place that you trust."
    )


@contextmanager
def _explained(archive: Path, folder: Path) -> Iterator[None]:
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
            f"Cannot unpack {archive} into {folder} ({where}{error.strerror}). Check the space and the permissions."
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
