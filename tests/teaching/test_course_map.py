"""The map of the course: every notebook has its question, and the minutes are about right."""

import nbformat

from asr_with_nemo.teaching import course_map, frame
from tests.conftest import ROOT

COURSE = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_each_notebook_has_its_question_and_about_its_minutes():
    assert {name.removesuffix(".ipynb") for name in COURSE} <= set(course_map.questions())
    for stem, about in course_map.questions().items():
        assert about["question"].endswith("?")
        path = ROOT / "notebooks" / f"{stem}.ipynb"
        notebook = nbformat.read(path, as_version=4) if path.is_file() else nbformat.v4.new_notebook()
        measured = notebook.metadata.get("asr_with_nemo", {}).get("minutes", about["minutes"])
        assert abs(measured - about["minutes"]) <= 3, f"{stem} takes {measured} minutes: correct teaching/course.yaml"


def test_the_map_lists_what_is_there():
    cells = [
        nbformat.v4.new_markdown_cell("# 0 · Start"),
        nbformat.v4.new_markdown_cell("", metadata={"tags": ["map"]}),
    ]
    notebook = frame.with_frame(
        nbformat.v4.new_notebook(cells=cells),
        "00_start.ipynb",
        ["00_start.ipynb", "01_data.ipynb"],
        "https://a.example",
    )
    (table,) = (cell.source for cell in notebook.cells if frame.MAP in cell.metadata.get("tags", []))
    assert "[01_data](01_data.ipynb)" in table
    assert "02_features" not in table


def test_the_picture_names_the_notebooks_that_are_there():
    figure = course_map.picture(["00_start.ipynb", "02_features.ipynb", "10_augmentation.ipynb"])
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert {"02", "10", "augmentation"} <= shown
    assert "tuning" not in shown
