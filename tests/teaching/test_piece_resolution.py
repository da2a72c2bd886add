"""The piece on windows and mel bands, in a browser."""

import shutil

import numpy as np
import pytest

from asr_with_nemo.teaching import interactive, resolution
from asr_with_nemo.teaching.letters import Spelling

RATE = 16_000


@pytest.fixture(scope="module")
def spelling() -> Spelling:
    """Two buzzes of 120 Hz, with a pause between them."""
    time = np.arange(RATE) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * number * time) / number for number in range(1, 30))
    samples = 0.2 * buzz * ((time > 0.1) & (time < 0.4) | (time > 0.6) & (time < 0.9))
    return Spelling("", ["e", "i"], samples, RATE, np.array([[0.1, 0.4], [0.6, 0.9]]))


def page_of(spelling: Spelling, with_sound: bool) -> str:
    what = (spelling.samples, spelling.sample_rate, spelling.spans)
    data = resolution.data(*what, spelling.letters, with_sound=with_sound)
    return interactive.piece("resolution", data, resolution.still(*what), "Windows and mel bands.")


def test_a_long_window_shows_stripes_of_the_pitch_and_a_short_one_its_pulses(spelling: Spelling):
    def contrast(milliseconds: float, axis: int) -> float:
        picture = resolution.through_window(spelling.samples, RATE, milliseconds, 0.15, 0.2)[10:60, 30:150]
        return float(np.abs(np.diff(picture, axis=axis)).mean())

    assert contrast(100, axis=0) > 3 * contrast(5, axis=0)  # along the frequencies
    assert contrast(5, axis=1) > 3 * contrast(100, axis=1)  # along time


def test_more_bands_keep_more_of_the_sound(spelling: Spelling):
    def lost(bands: int) -> float:
        both = (spelling.samples, resolution.resynthesised(spelling.samples, RATE, bands))
        before, after = (np.log(resolution.mel_strength(one, RATE, 64) + 1e-6) for one in both)
        return float(np.abs(before - after).mean())

    assert lost(64) < lost(8)


def test_the_committed_copy_is_small(spelling: Spelling):
    assert len(page_of(spelling, with_sound=False)) < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("with_sound", [False, True])
def test_it_works_by_keyboard(spelling: Spelling, with_sound: bool):
    playwright = pytest.importorskip("playwright.sync_api")
    if not shutil.which("chromium"):
        pytest.skip("no chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(page_of(spelling, with_sound))
        assert not page.locator(".asr-still").is_visible()

        window, bands = page.get_by_label("window", exact=True), page.get_by_label("mel bands", exact=True)
        picture = "canvas => canvas.toDataURL()"
        before = page.locator("canvas").first.evaluate(picture)
        window.focus()
        page.keyboard.press("End")
        assert page.locator("output").first.text_content() == "100 ms"
        assert "20 Hz" in page.locator(".window-says").text_content()
        assert page.locator("canvas").first.evaluate(picture) != before
        bands.focus()
        page.keyboard.press("Home")
        assert page.locator("output").last.text_content() == "8"
        assert page.locator("canvas").last.evaluate("canvas => canvas.height") == 8
        assert page.locator(".no-sound").is_visible() == (not with_sound)
        if with_sound:
            page.locator(".play-kept").press("Enter")
            assert page.locator(".play-kept").text_content() == "▶ from 8 bands"
        assert errors == []
        browser.close()
