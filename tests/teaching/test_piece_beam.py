"""The interactive beam search works in a browser: slider, switches, keyboard."""

from collections.abc import Iterator

import pytest

from asr_with_nemo.teaching import beams, interactive
from tests.teaching.conftest import shown_piece
from tests.teaching.test_beams import an_example


@pytest.fixture
def page(chromium) -> Iterator:
    data, output = an_example()
    html = interactive.piece("beam", data, beams.still(data, output), "Beam search over the letters of no.")
    with shown_piece(chromium, html) as page:
        yield page


@pytest.mark.slow
def test_the_search_is_followed_and_switched(page):
    assert page.locator(".asr-still").is_hidden()
    best = page.locator("tbody tr").first
    page.get_by_role("button", name="end").click()
    assert page.locator("output").inner_text() == "the end"
    assert best.locator("td").first.inner_text() == "no"
    model = page.get_by_label("language model")
    model.uncheck()
    assert best.locator("td").first.inner_text() == "go"
    assert best.locator("td").nth(2).inner_text() == "–"
    page.get_by_label("lexicon").uncheck()
    assert model.is_disabled()
    page.get_by_label("lexicon").check()
    model.check()
    assert best.locator("td").first.inner_text() == "no"


@pytest.mark.slow
def test_the_keyboard_moves_the_frame(page):
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("output").inner_text() == "1 (0.02 s)"
    assert "g 50%" in page.locator("p.row").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("output").inner_text() == "2 (0.04 s)"
    page.get_by_role("button", name="change ▶").press("Enter")
    assert page.locator("output").inner_text() != "2 (0.04 s)"
    page.locator("svg").click(position={"x": 60, "y": 20})
    assert page.locator("output").inner_text().startswith("1 ")
