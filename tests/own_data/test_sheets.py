"""Transcripts in Excel's workbooks: which sheet was read, and what Excel has made of the texts."""

import datetime
import re
import zipfile
from pathlib import Path

import openpyxl
import pytest

from asr_with_nemo.errors import InputError
from tests.own_data.corpora import HEADER, everything, fates, good_rows, prepare, record, sentence, texts


def workbook(path: Path, sheets: dict[str, list]) -> Path:
    made = openpyxl.Workbook()
    made.remove(made.active)
    for name, rows in sheets.items():
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
    made.save(path)
    return path


@pytest.mark.parametrize("header", [True, False])
def test_the_sheet_with_the_recordings_is_read_and_said(tmp_path: Path, header: bool):
    rows = good_rows(tmp_path / "mine")
    notes = [["who", "when"], ["Ann", datetime.date(2026, 4, 3)]]
    workbook(tmp_path / "mine" / "t.xlsx", {"Notes": notes, "Texte": [*([HEADER] if header else []), *rows], "x": []})
    (tmp_path / "mine" / "~$t.xlsx").write_bytes(b"open in Excel")
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    assert texts(prepared) == {text for _, text, _ in rows}
    assert any("t.xlsx (sheet 'Texte' of several, not read: 'Notes', 'x'" in note for note in prepared.notes)
    assert any("speaker" in row for row in everything(prepared)) == header


def test_what_excel_makes_of_texts_is_a_problem(tmp_path: Path):
    rows = [list(row) for row in good_rows(tmp_path / "mine", 20)]
    rows[0][1], rows[1][1], rows[2][1] = 7, datetime.datetime(2026, 4, 3), True
    rows[3][1], rows[4][1] = '=CONCATENATE("yes", " please")', None
    rows[5][1] = "=NONE("
    workbook(tmp_path / "mine" / "t.xlsx", {"t": [HEADER, *rows]})
    prepared = prepare(tmp_path / "mine", tmp_path / "out")
    found = [fates(prepared)[f"audio/r{number}.wav"] for number in range(7)]
    assert found[0]["fate"] == "kept" and found[0]["text"] == "7" and "a number" in found[0]["problems"]
    assert [row["fate"] for row in found] == ["kept", *["left out"] * 5, "kept"]
    for number, reason in enumerate(("a date", "a truth value", "result the file doesn't hold", "no text"), 1):
        assert reason in found[number]["problems"]
    assert prepared.problems["no words"] == 4


def test_times_columns_and_names_are_as_in_other_tables(tmp_path: Path):
    record(tmp_path / "mine" / "long.wav", 30.0)
    rows = [["Datei", "Start (s)", "Ende", "Text"]]
    rows += [["long.wav", 2 * n, datetime.time(0, 0, 2 * n + 1, 500_000), sentence(n)] for n in range(12)]
    path = workbook(tmp_path / "mine" / "t.xlsx", {"t": [["Interviews of March"], *rows]})
    columns = {"audio": "Datei", "text": "4"}
    with pytest.raises(InputError, match="no column"):
        prepare(path, tmp_path / "out", columns={"audio": "File"})
    rows[0][2] = "end"
    path = workbook(tmp_path / "mine" / "t.xlsx", {"t": [["Interviews of March"], *rows]})
    prepared = prepare(path, tmp_path / "out", columns=columns)
    assert texts(prepared) == {sentence(n) for n in range(12)}
    assert {row["duration"] for row in everything(prepared)} == {1.5}


@pytest.mark.parametrize("suffix", [".xls", ".ods"])
def test_other_spreadsheets_are_to_be_saved_again(tmp_path: Path, suffix: str):
    good_rows(tmp_path / "mine", 3)
    path = tmp_path / "mine" / f"t{suffix}"
    path.write_bytes(b"\xd0\xcf\x11\xe0")
    for source in (path, tmp_path / "mine"):
        with pytest.raises(InputError, match=rf"t\{suffix}.* save it as \.xlsx"):
            prepare(source, tmp_path / "out")


def test_a_damaged_workbook_is_named(tmp_path: Path):
    rows = good_rows(tmp_path / "mine", 12)
    path = workbook(tmp_path / "mine" / "t.xlsx", {"t": [HEADER, *rows]})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    sheet = next(name for name in parts if name.startswith("xl/worksheets/"))
    for damage in (b"", whole[: len(whole) // 2], b"\xd0\xcf\x11\xe0" * 20, None, "cut", "entities"):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            with zipfile.ZipFile(path, "w") as packed:
                for name, content in parts.items():
                    if name == sheet and damage is None:
                        continue
                    if name == sheet and damage == "cut":
                        content = content[: len(content) // 2]
                    if name == sheet and damage == "entities":
                        bomb = b'<!DOCTYPE a [<!ENTITY b "c">]>'
                        content = re.sub(rb"(<\?xml[^>]*>)?", rb"\1" + bomb, content, count=1)
                    packed.writestr(name, content)
        with pytest.raises(InputError, match=r"t\.xlsx"):
            prepare(path, tmp_path / "out")
