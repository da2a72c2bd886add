"""What Python 3.11.0 to 3.11.3 (Debian 12 has 3.11.2) lacks for NeMo 3.0: the argument `filter` of tarfile (PEP 706).

NeMo passes it whenever a .nemo file is opened.
"""

import tarfile
from functools import wraps
from pathlib import PurePosixPath


def add_tar_filter() -> None:
    """Let `TarFile.extract` understand `filter`, where it doesn't yet."""
    if hasattr(tarfile, "data_filter"):
        return
    tarfile.TarFile.extract = with_filter(tarfile.TarFile.extract)
    tarfile.data_filter = "data"  # by which it is known that `filter` is understood


def with_filter(extract):
    """A `TarFile.extract` that takes `filter`, and whatever it is, is as strict as "data" at least.

    Only plain files and folders below the target come out; anything else raises `tarfile.ExtractError`.
    """

    @wraps(extract)
    def extract_filtered(self, member, path="", set_attrs=True, *, numeric_owner=False, filter=None):
        info = self.getmember(member) if isinstance(member, str) else member
        if filter is not None:
            name = PurePosixPath(info.name)
            if name.is_absolute() or ".." in name.parts or not (info.isreg() or info.isdir()):
                raise tarfile.ExtractError(f"{info.name}: only plain files and folders below the target are unpacked")
            set_attrs = False
        return extract(self, info, path, set_attrs, numeric_owner=numeric_owner)

    return extract_filtered
