"""Add tarfile's argument `filter` (PEP 706) to Python 3.11.0 to 3.11.3 (Debian 12 has 3.11.2).

NeMo 3.0 passes it whenever it opens a .nemo file.
"""

import tarfile
from functools import wraps
from pathlib import PurePosixPath


def add_tar_filter() -> None:
    """Make `TarFile.extract` accept `filter` where Python's own does not."""
    if hasattr(tarfile, "data_filter"):
        return
    tarfile.TarFile.extract = _with_filter(tarfile.TarFile.extract)
    tarfile.data_filter = "data"  # libraries test for this name


def _with_filter(extract):
    """Return a `TarFile.extract` that takes `filter`; any filter is at least as strict as "data".

    Only plain files and folders below the target are extracted; anything else raises `tarfile.ExtractError`.
    """

    @wraps(extract)
    def extract_filtered(self, member, path="", set_attrs=True, *, numeric_owner=False, filter=None):
        info = self.getmember(member) if isinstance(member, str) else member
        if filter is not None:
            name = PurePosixPath(info.name)
            if name.is_absolute() or ".." in name.parts or not (info.isreg() or info.isdir()):
                raise tarfile.ExtractError(f"{info.name}: only plain files and folders below the target are extracted")
            set_attrs = False
        return extract(self, info, path, set_attrs, numeric_owner=numeric_owner)

    return extract_filtered
