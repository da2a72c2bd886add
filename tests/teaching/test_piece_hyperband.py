"""The piece of Hyperband stops the trials that the course's own code stops, and can be operated by keyboard."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page

from asr_with_nemo.teaching import interactive, tuning
from tests.teaching.conftest import shown_piece

CURVES = np.random.default_rng(0).uniform(20, 100, (12, 6)).cumsum(1)[:, ::-1].round(1) / 6
DATA = {"names": [f"trial {number}" for number in range(12)], "curves": CURVES.tolist(), "minIter": 2, "eta": 3}


@pytest.fixture(scope="module")
def page(chromium) -> Iterator[Page]:
    figure = tuning.draw_replay(CURVES, tuning.replay(CURVES, 2, 3))
    html = interactive.piece("hyperband", DATA, figure, "Learning curves, of which some are stopped.")
    with shown_piece(chromium, html) as page:
        yield page


@pytest.mark.parametrize("first", [1, 2, 3, 5])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_it_stops_what_the_package_stops(page: Page, first: int, eta: int):
    for label, value in (("min_iter", first), ("eta", eta)):
        page.get_by_role("slider", name=label).fill(str(value))
    got = tuning.replay(CURVES, first, eta)
    said = page.locator(".asr-live p").text_content()
    stopped = sum(number < 6 for number in got)
    assert said.startswith(f"{sum(got)} of 72 epochs trained, {stopped} of 12 trials stopped.")
    assert page.locator(".asr-live svg path").count() == stopped
    winner = int(CURVES.min(1).argmin())
    assert f"The best of all, trial {winner} with" in said
    fate = f"is stopped after epoch {got[winner]}" if got[winner] < 6 else "goes on to the end"
    assert fate in said


def test_arrow_keys_move_the_sliders_and_the_still_picture_is_hidden(page: Page):
    # As JupyterLab does, which has commands of its own on these keys.
    page.evaluate("""() => document.addEventListener("keydown", (event) => {
        if (!event.target.hasAttribute("data-lm-suppress-shortcuts")) event.preventDefault();
    }, true)""")
    slider = page.get_by_role("slider", name="min_iter")
    slider.fill("2")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "3"
    spent = int(re.match(r"\d+", page.locator(".asr-live p").text_content()).group())
    eta = int(page.get_by_role("slider", name="eta").input_value())
    assert spent == sum(tuning.replay(CURVES, 3, eta))
    assert page.locator(".asr-still").is_hidden()
    slider.press("Shift+Enter")  # runs the cell, also from here
    assert slider.get_attribute("data-lm-suppress-shortcuts") is None
