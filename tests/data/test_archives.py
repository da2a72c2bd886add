"""Archives as they come from a server: good, damaged, cut short, and made to do harm."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from asr_with_nemo.data.archives import is_tar, read_member, sha256_of, unpack_tar
from asr_with_nemo.errors import InputError

SOUND = bytes(i * i % 251 for i in range(50_000))
PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


CORPUS = (
    member("./an4", type=tarfile.DIRTYPE, mode=0o700),
    member("./an4/README", b"read me\n"),
    member("./an4/wav/fash/one.sph", SOUND, mode=0o4777, uid=1234, mtime=1),
    member("./an4/empty", b""),
)


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes an archive of these bytes."""

    def write(content: bytes, name: str = "corpus.tar") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made" / "corpus"


def assert_refused(path: Path, folder: Path, match: str, **limits: int) -> None:
    """An InputError that names the archive; nothing inside of the folder, nothing new beside it."""
    top = path.parent
    before = {found: found.lstat().st_mtime_ns for found in top.rglob("*") if found.is_file()}
    with pytest.raises(InputError, match=match) as caught:
        unpack_tar(path, folder, progress=False, **limits)
    assert str(path) in str(caught.value)
    assert not folder.exists()
    assert {found: found.lstat().st_mtime_ns for found in top.rglob("*") if found.is_file()} == before


# Good archives


@pytest.mark.parametrize("ending", PACKERS)
def test_unpacks_whatever_it_was_packed_with(archive: Callable, folder: Path, ending: str) -> None:
    path = archive(PACKERS[ending](tar_of(*CORPUS)), "named_without_a_hint")
    files = unpack_tar(path, folder, progress=False)
    assert files == [folder / "an4/README", folder / "an4/wav/fash/one.sph", folder / "an4/empty"]
    assert [file.read_bytes() for file in files] == [b"read me\n", SOUND, b""]


def test_leaves_owners_and_permissions_of_the_archive_behind(archive: Callable, folder: Path) -> None:
    umask = os.umask(0o022)
    try:
        unpack_tar(archive(tar_of(*CORPUS)), folder, progress=False)
    finally:
        os.umask(umask)
    sound = folder / "an4/wav/fash/one.sph"
    assert stat.S_IMODE(sound.stat().st_mode) == 0o644
    assert stat.S_IMODE(sound.parent.stat().st_mode) == stat.S_IMODE((folder / "an4").stat().st_mode) == 0o755
    assert sound.stat().st_uid == os.getuid()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(archive: Callable, folder: Path, format: int) -> None:
    name = "an4/" + "långt/" * 30 + "наизусть.sph"
    files = unpack_tar(archive(tar_of(member(name, SOUND), format=format)), folder, progress=False)
    assert files == [folder / name]
    assert files[0].read_bytes() == SOUND


def test_an_archive_of_many_small_files(archive: Callable, folder: Path) -> None:
    corpus = [member(f"wav/{i % 10}/{i}.sph", SOUND[:i]) for i in range(200)]
    files = unpack_tar(archive(gzip.compress(tar_of(*corpus))), folder, progress=False)
    assert [file.stat().st_size for file in files] == list(range(200))


def test_is_quiet_when_it_is_quick(archive: Callable, folder: Path, capsys: pytest.CaptureFixture) -> None:
    unpack_tar(archive(tar_of(*CORPUS)), folder)
    assert capsys.readouterr() == ("", "")


def test_unpacks_into_an_empty_folder_but_not_among_other_files(archive: Callable, folder: Path) -> None:
    folder.mkdir(parents=True)
    path = archive(tar_of(*CORPUS))
    unpack_tar(path, folder, progress=False)
    (folder / "an4/README").write_text("mine")
    with pytest.raises(InputError, match=re.escape(str(folder))):
        unpack_tar(path, folder, progress=False)
    assert (folder / "an4/README").read_text() == "mine"


def test_after_an_error_an_empty_folder_that_was_there_is_empty_again(archive: Callable, folder: Path) -> None:
    folder.mkdir(parents=True)
    with pytest.raises(InputError):
        unpack_tar(archive(tar_of(*CORPUS)[:4_000]), folder, progress=False)
    assert list(folder.iterdir()) == []


def test_digest(archive: Callable) -> None:
    assert sha256_of(archive(SOUND)) == hashlib.sha256(SOUND).hexdigest()


# What isn't a whole archive


@pytest.mark.parametrize("ending", PACKERS)
def test_cut_short_anywhere(archive: Callable, folder: Path, ending: str) -> None:
    whole = PACKERS[ending](tar_of(*CORPUS))
    # A plain tar may lack its padding after the two empty blocks, but nothing before them.
    end = len(whole) - 1 if ending else 512 * (4 + 1 + 98) + 511
    cuts = sorted(
        {1, 100, 511, 512, 1024, 1536, 2048, end // 3, end // 2, end - 600, end - 4, end} & set(range(end + 1))
    )
    for cut in cuts:
        assert_refused(archive(whole[:cut]), folder, "cut short|not a whole|damaged")


@pytest.mark.parametrize("ending", PACKERS)
def test_a_damaged_one(archive: Callable, folder: Path, ending: str) -> None:
    whole = PACKERS[ending](tar_of(*CORPUS))
    # A plain tar has checksums over its headers only: one begins at 512, one at 1,536.
    for at in (len(whole) // 2, len(whole) - 6) if ending else (600, 1540):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        assert_refused(archive(bytes(damaged)), folder, "cut short|not a whole|damaged")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"0 bytes"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"\xef\xbb\xbf\n <?xml version='1.0'?><Error/>", "HTML"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"NIST_1A\n   1024\n" + bytes(2000), "SPHERE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (SOUND, "not a whole tar archive"),
        (gzip.compress(SOUND, mtime=0), "not a whole tar archive"),
        (gzip.compress(b"", mtime=0), "not a whole tar archive"),
        (tar_of(), "no files in it"),
        (tar_of(member("an4", type=tarfile.DIRTYPE)), "no files in it"),
    ],
)
def test_says_what_it_is_instead(archive: Callable, folder: Path, content: bytes, match: str) -> None:
    assert_refused(archive(content), folder, match)


def test_a_missing_one(tmp_path: Path, folder: Path) -> None:
    assert_refused(tmp_path / "nowhere.tar", folder, "No such file")
    assert_refused(tmp_path, folder, "Is a directory")


def test_a_folder_that_cannot_be_made(archive: Callable, tmp_path: Path) -> None:
    path = archive(tar_of(*CORPUS))
    with pytest.raises(InputError, match="inside"):
        unpack_tar(path, path / "inside", progress=False)
    assert path.read_bytes() == tar_of(*CORPUS)


# What would do harm


@pytest.mark.parametrize("name", ["../escaped", "an4/../../escaped", "{tmp}/escaped", "//{tmp}/escaped", ".."])
def test_a_path_that_leaves_the_folder(archive: Callable, folder: Path, tmp_path: Path, name: str) -> None:
    name = name.format(tmp=tmp_path)
    assert_refused(archive(tar_of(*CORPUS, member(name, b"harm"))), folder, re.escape(repr(name)))


LINKS = {
    "a symbolic one within": {"an4/latest": ("sym", "wav")},
    "a hard one within": {"an4/same.sph": ("hard", "an4/wav/fash/one.sph")},
    "upwards": {"an4/out": ("sym", "../../victim")},
    "to an absolute path": {"an4/out": ("sym", "{tmp}/victim")},
    "hard, upwards": {"an4/out": ("hard", "../../victim")},
    "hard, to an absolute path": {"an4/out": ("hard", "{tmp}/victim")},
    "to nothing": {"an4/out": ("sym", "nothing-there")},
    "to itself": {"an4/out": ("sym", "out")},
    "one through another": {"an4/up": ("sym", "../../.."), "an4/up/made/victim": ("hard", "an4/README")},
    "to a folder of another": {"up": ("sym", "../.."), "up/victim": ("hard", "an4/README")},
    "in the place of a file": {"an4/README": ("sym", "empty")},
    "in the place of a folder": {"an4/wav": ("sym", "../..")},
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_links_are_refused(archive: Callable, folder: Path, tmp_path: Path, links: dict[str, tuple[str, str]]) -> None:
    (tmp_path / "victim").write_text("outside", encoding="utf-8")
    kinds = {"sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}
    made = [
        member(name, type=kinds[kind], linkname=target.format(tmp=tmp_path)) for name, (kind, target) in links.items()
    ]
    for members in ([*CORPUS, *made], [*made, *CORPUS], [*made, member(f"{next(iter(links))}/x.py", b"harm")]):
        assert_refused(archive(tar_of(*members)), folder, "is a link, to")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_devices_and_pipes(archive: Callable, folder: Path, kind: bytes) -> None:
    made = tar_of(*CORPUS, member("an4/null", type=kind, devmajor=1, devminor=3))
    assert_refused(archive(made), folder, "'an4/null'")


def test_too_much(archive: Callable, folder: Path) -> None:
    path = archive(gzip.compress(tar_of(*CORPUS)))
    assert_refused(path, folder, "50,000 bytes", max_bytes=50_000)
    assert_refused(path, folder, "3 members", max_files=3)
    unpack_tar(path, folder, max_bytes=50_008, max_files=4, progress=False)


def test_bombs(archive: Callable, folder: Path) -> None:
    small = {"max_bytes": 100_000, "max_files": 10}
    zeros = tar_of(member("zeros", bytes(5_000_000)))
    assert_refused(archive(gzip.compress(zeros)), folder, "'zeros'.*100,000 bytes", **small)

    hollow = tar_of(*CORPUS, format=tarfile.PAX_FORMAT) + bytes(5_000_000)
    assert_refused(archive(gzip.compress(hollow)), folder, r"\d bytes", **small)

    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    header = long_name.tobuf(tarfile.GNU_FORMAT)
    assert_refused(archive(gzip.compress(header + bytes(50_000_000))), folder, "50,000,384")

    sparse_map = tarfile.TarInfo("holes")
    sparse_map.type = tarfile.GNUTYPE_SPARSE
    endless = bytearray(sparse_map.tobuf(tarfile.GNU_FORMAT))
    endless[482] = 1  # the map goes on in the next block, and the next
    endless[148:156] = b"%06o\0 " % (sum(endless[:148]) + 8 * 32 + sum(endless[156:]))
    block = bytearray(b"00000000001\0" * 42 + bytes(8))
    block[504] = 1
    assert_refused(archive(gzip.compress(bytes(endless) + bytes(block) * 50_000)), folder, "headers have over")

    long_name.size = 512
    assert_refused(archive((long_name.tobuf(tarfile.GNU_FORMAT) + b"a" * 512) * 3_000), folder, "not a whole")

    sparse = member("holes", b"", pax_headers={"GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,0"})
    assert_refused(archive(tar_of(sparse, format=tarfile.PAX_FORMAT)), folder, "'holes'")


def test_one_member_is_read_without_the_others(archive: Callable) -> None:
    path = archive(gzip.compress(tar_of(*CORPUS)))
    limits = {"max_bytes": 100_000, "max_files": 10}
    assert read_member(path, "README", largest=100, **limits) == b"read me\n"
    assert read_member(path, "missing", largest=100, **limits) is None
    with pytest.raises(InputError, match=f"{path.name}.*one.sph.*over 100 bytes"):
        read_member(path, "one.sph", largest=100, **limits)
    with pytest.raises(InputError, match=f"{path.name}.*README.*limit"):
        read_member(path, "README", largest=100, max_bytes=5, max_files=10)


def test_what_looks_like_a_tar(archive: Callable, tmp_path: Path) -> None:
    tar = tar_of(*CORPUS)
    assert all(is_tar(archive(pack(tar))) for pack in PACKERS.values())
    assert not any(is_tar(archive(content)) for content in (b"", b"x" * 2000, bytes(2000), tar[:300], b"\x1f\x8b" * 9))
