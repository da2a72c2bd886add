"""Rows of Excel's workbooks (.xlsx). Excel turns what is typed into numbers, dates and truth values; they are named."""

import datetime
import zipfile
from collections.abc import Iterator
from pathlib import Path

from asr_with_nemo.errors import InputError

SUFFIXES = (".xlsx", ".xlsm")
"""Suffixes of the workbooks that are read."""
OTHERS = (".xls", ".ods", ".numbers", ".xlsb")
"""Suffixes of spreadsheets that are not."""
_MOST_BYTES = 1 << 30  # of a workbook, unpacked


class Formula(str):
    """The result of a formula, as the file holds it; "" if it doesn't."""


def names_of(path: Path) -> list[str]:
    """Return the names of a workbook's sheets with cells, the visible ones first.

    Raises:
        InputError: it can't be read.
    """
    with _Workbook(path) as (values, _):
        sheets = sorted(values.worksheets, key=lambda sheet: sheet.sheet_state != "visible")
        return [sheet.title for sheet in sheets]


def rows_of(path: Path, sheet: str) -> Iterator[tuple[int, list[object]]]:
    """Yield the number, from 1, and the values of each row that isn't empty: text, numbers, dates, `Formula`.

    Raises:
        InputError: the workbook can't be read.
    """
    with _Workbook(path) as (values, formulas):
        pairs = zip(values[sheet].iter_rows(), formulas[sheet].iter_rows(), strict=False)
        for number, (row, written) in enumerate(pairs, 1):
            cells = [_value(one, two) for one, two in zip(row, written, strict=False)]
            while cells and cells[-1] == "":
                cells.pop()
            if cells:
                yield number, cells


def _value(cell: object, written: object) -> object:
    value = cell.value
    if written.data_type == "f":
        return Formula("" if value is None else value)
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "" if value is None else value


def what_it_is(value: object) -> str:
    """Return what a cell is that isn't text, in words; "" for text and for nothing.

    Example:
        >>> what_it_is("seven"), what_it_is(7), what_it_is(datetime.date(2026, 4, 3)), what_it_is(True)
        ('', 'a number', 'a date or a time', 'a truth value')
    """
    if isinstance(value, Formula):
        return "a formula" if value else "a formula whose result the file doesn't hold; open it in Excel and save it"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return "a date or a time"
    return ""


class _Workbook:
    """A workbook, opened twice: for the values of its cells, and for their formulas."""

    def __init__(self, path: Path):
        self._path = path
        self._opened: list = []

    def __enter__(self) -> tuple:
        import openpyxl

        path = self._path
        try:
            with zipfile.ZipFile(path) as packed:
                size = sum(part.file_size for part in packed.infolist())
            if size > _MOST_BYTES:
                raise InputError(f"{path}: {size / 1e9:.1f} GB when unpacked; save it as CSV in UTF-8")
            for data_only in (True, False):
                self._opened.append(openpyxl.load_workbook(path, read_only=True, data_only=data_only))
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
        except InputError:
            raise
        except Exception as error:  # openpyxl raises exceptions of many types for damaged files
            raise InputError(
                f"{path}: can't be read as a workbook of Excel ({error or type(error).__name__}): damaged, or with a "
                "password? Save it again as .xlsx, or as CSV in UTF-8"
            ) from error
        return tuple(self._opened)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        for workbook in self._opened:
            workbook.close()
        # Damage may show only where a row is read.
        if isinstance(error, Exception) and not isinstance(error, InputError | GeneratorExit):
            raise InputError(
                f"{self._path}: damaged ({error or type(error).__name__}); save it again as .xlsx, or as CSV in UTF-8"
            ) from error
