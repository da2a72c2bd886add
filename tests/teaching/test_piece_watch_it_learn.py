"""The interactive piece of 06_training, operated in a browser as a reader does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from asr_with_nemo.teaching import interactive, learning

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def watched(name: str, text: str) -> learning.Watched:
    """A recording whose letters grow out of the blank over three moments."""
    labels = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
    moments = []
    for number, strength in enumerate((0.001, 0.3, 0.98)):
        probabilities = np.full((40, 29), 1e-4)
        probabilities[:, 28] = 1
        for place, letter in enumerate(text):
            probabilities[4 * place + 2, [labels.index(letter), 28]] = strength, 1 - strength
        log_probs = np.log(probabilities / probabilities.sum(axis=1, keepdims=True))
        heard = text if strength > 0.5 else ""
        loss = learning.ctc_loss(log_probs, text, labels)
        wer = (None, 1.0, 0.5)[number]
        moments.append(learning.Moment(10 * number, number, heard, loss, log_probs, wer))
    return learning.Watched(Path("x.wav"), text, name, 0.8, labels, 0.02, moments)


@pytest.fixture(scope="module")
def html() -> str:
    recordings = [learning.packed(watched("G L (train)", "g l")), learning.packed(watched("A B (dev)", "a b"))]
    figure = learning.strip(recordings[0])
    data = {"recordings": recordings, "pause": 30}
    return interactive.piece("watch_it_learn", data, figure, "The maps of three moments.")


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: "playwright.Browser", html: str) -> Iterator["playwright.Page"]:
    page = browser.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("data:") else None)
    page.set_content(html)
    yield page
    assert not said
    page.close()


def test_the_slider_moves_through_the_training_by_keyboard(page: "playwright.Page"):
    assert page.locator(".asr-still").is_hidden()
    text, slider = page.locator("[data-is=text]"), page.get_by_role("slider")
    assert text.inner_text() == "(nothing)"
    slider.focus()
    page.keyboard.press("End")
    assert text.inner_text() == "“g l”"
    assert "50%" in page.locator("[data-is=figures]").inner_text()
    path = page.locator("[data-is=path]").inner_text()
    assert path.replace("–", "") == "g␣l"
    assert len(path) == 40
    page.keyboard.press("ArrowLeft")
    assert text.inner_text() == "(nothing)"
    assert slider.input_value() == "1"


def test_play_runs_to_the_end_and_starts_again(page: "playwright.Page"):
    play = page.get_by_role("button", name="play")
    play.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('input[type=range]').value === '2'")
    page.wait_for_function("[...document.querySelectorAll('button')].some(one => one.textContent.includes('play'))")
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('input[type=range]').value === '2'")


def test_a_small_map_and_another_recording_are_chosen(page: "playwright.Page"):
    page.get_by_role("button", name="epoch 2 (step 20)").click()
    assert page.locator("[data-is=text]").inner_text() == "“g l”"
    page.get_by_role("combobox").select_option("A B (dev)")
    assert page.locator("[data-is=text]").inner_text() == "“a b”"
    colours = page.evaluate(
        "(() => { const map = document.querySelector('canvas[role=img]');"
        " return [...map.getContext('2d').getImageData(2, 0, 1, map.height).data]; })()"
    )
    alphas = colours[3::4]
    assert max(alphas) == alphas[1] > 200  # frame 2 is the letter a, in the row behind the space's


def test_no_script_leaves_the_picture(browser: "playwright.Browser", html: str):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.set_content(html)
    assert page.locator(".asr-still img").get_attribute("alt") == "The maps of three moments."
    assert page.locator(".asr-still").is_visible()
    plt.close("all")
