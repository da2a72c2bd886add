"""The course runs with the Python of Debian 12, whose tarfile knows no `filter`."""

import io
import tarfile
from pathlib import Path

import pytest

from asr_with_nemo.base.compat import add_tar_filter


@pytest.fixture
def old_extract(monkeypatch: pytest.MonkeyPatch):
    """`TarFile.extract` as in Python 3.11.2, put right by the course."""
    newer = tarfile.TarFile.extract

    def extract(self, member, path="", set_attrs=True, *, numeric_owner=False):
        return newer(self, member, path, set_attrs, numeric_owner=numeric_owner)

    monkeypatch.setattr(tarfile.TarFile, "extract", extract)
    monkeypatch.delattr(tarfile, "data_filter")
    add_tar_filter()
    yield
    del tarfile.data_filter  # monkeypatch puts its own back


def archive(*members: tuple[str, bytes]) -> tarfile.TarFile:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, 3 if kind == tarfile.REGTYPE else 0, "elsewhere"
            tar.addfile(info, io.BytesIO(b"yes"))
    packed.seek(0)
    return tarfile.open(fileobj=packed)


def test_nemo_unpacks_a_model(old_extract, tmp_path: Path):
    from nemo.utils.tar_utils import safe_extract

    safe_extract(archive(("model_config.yaml", tarfile.REGTYPE)), str(tmp_path))
    assert (tmp_path / "model_config.yaml").read_text() == "yes"


@pytest.mark.parametrize(
    "member",
    [("../up", tarfile.REGTYPE), ("/abs", tarfile.REGTYPE), ("pipe", tarfile.FIFOTYPE), ("link", tarfile.SYMTYPE)],
)
def test_what_is_no_plain_file_below_the_target_is_refused(old_extract, tmp_path: Path, member):
    tar = archive(member)
    with pytest.raises(tarfile.ExtractError, match="pipe|up|abs|link"):
        tar.extract(member[0], tmp_path, filter="data")
    assert not list(tmp_path.iterdir())


def test_a_newer_python_is_left_alone():
    before = tarfile.TarFile.extract
    add_tar_filter()
    assert tarfile.TarFile.extract is before
