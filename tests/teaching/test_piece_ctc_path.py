"""The interactive piece on CTC: a typed path collapses; dragged probabilities change paths, lattice and sum."""

import re
import shutil
from collections.abc import Iterator
from itertools import groupby, product

import matplotlib.pyplot as plt
import numpy as np
import pytest

from asr_with_nemo.teaching import interactive

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt install chromium)"),
]
PROBABILITIES = [[0.2, 0.7, 0.1], [0.5, 0.2, 0.3], [0.3, 0.1, 0.6]]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page_of(browser) -> Iterator:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def show(data: dict):
        page.set_content(interactive.piece("ctc_path", data, plt.figure(), "A still picture of the piece."))
        return page

    yield show
    page.close()
    assert not errors


def text_probability(probabilities: np.ndarray, text: str) -> float:
    """Sum over all paths over "–ab" that collapse to the text."""
    total = 0.0
    for path in product(range(3), repeat=len(probabilities)):
        said = "".join("–ab"[symbol] for symbol, _ in groupby(path) if symbol)
        if said == text:
            total += float(np.prod([row[symbol] for row, symbol in zip(probabilities, path, strict=True)]))
    return total


def dragged(page) -> np.ndarray:
    values = [float(value) for value in page.locator("input[type=range]").evaluate_all("all => all.map(i => i.value)")]
    return np.array(values).reshape(3, 3)


def test_a_typed_path_collapses(page_of):
    page = page_of({"view": "collapse", "path": "gg__l_ee_nn_nn"})
    assert page.locator(".result").inner_text() == "glenn"
    assert page.locator(".asr-still").is_hidden()
    box = page.get_by_label("CTC path")
    for path, said in (("gl-eennn", "glen"), ("aa–ab_b", "aabb"), ("", "(nothing)"), ("___", "(nothing)")):
        box.fill(path)
        assert page.locator(".result").inner_text() == said
    page.get_by_role("button", name="_g__l__e_n__n_").focus()
    page.keyboard.press("Enter")
    assert page.locator(".result").inner_text() == "glenn"
    assert "it would be “glen”" in page.locator("p").inner_text()


def test_dragged_probabilities_change_the_sum(page_of):
    page = page_of({"view": "lattice", "symbols": ["–", "a", "b"], "probabilities": PROBABILITIES, "text": "ab"})
    assert page.locator("tr.path").count() == 5
    assert page.locator(".total").inner_text() == page.locator(".sum").inner_text() == "0.507"
    slider = page.get_by_label("frame 2, blank")
    slider.focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    now = dragged(page)
    assert now[1, 0] == pytest.approx(0.57)
    assert now.sum(axis=1) == pytest.approx([1, 1, 1], abs=0.011)  # the sliders show steps of 0.01
    total = float(page.locator(".total").inner_text())
    assert total == pytest.approx(text_probability(now, "ab"), abs=0.01)
    assert page.locator(".sum").inner_text() == page.locator(".total").inner_text()
    last = [float(value) for value in page.locator("text.alpha").all_text_contents()]
    assert last[-1] + last[-2] == pytest.approx(total, abs=0.0011)


def test_each_text_has_its_lattice(page_of):
    page = page_of({"view": "lattice", "symbols": ["–", "a", "b"], "probabilities": PROBABILITIES, "text": "ab"})
    texts = page.locator("select option").evaluate_all("all => all.map(o => o.value)")
    sums = []
    for text in texts:
        page.get_by_label("text", exact=True).select_option(text)
        sums.append(float(page.locator(".total").inner_text()))
        assert sums[-1] == pytest.approx(text_probability(np.array(PROBABILITIES), text), abs=0.001)
    assert sum(sums) == pytest.approx(1, abs=0.01)
    page.get_by_label("text", exact=True).select_option("aa")
    assert page.locator("tr.path td").first.inner_text() == "a–a"


def test_the_likeliest_path_may_say_another_text(page_of):
    page = page_of({"view": "lattice", "symbols": ["–", "a", "b"], "probabilities": PROBABILITIES, "text": "ab"})
    said = page.locator("p[data-differ]")
    assert said.get_attribute("data-differ") == "false"
    page.get_by_role("button", name="greedy is wrong").click()
    assert said.get_attribute("data-differ") == "true"
    assert re.search(r"Likeliest path: ––– .* Likeliest text: “a”", said.inner_text())
    page.get_by_role("button", name="as at the start").click()
    assert page.locator(".total").inner_text() == "0.507"
