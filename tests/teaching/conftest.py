"""A browser for the interactive pieces."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")  # two at a time would be refused by Playwright
def chromium() -> Iterator:
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def shown_piece(chromium, html: str) -> Iterator:
    """Show a piece on a page of its own; an error of its script fails the test."""
    page = chromium.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(error))
    page.set_content(html)
    yield page
    assert not problems
    page.close()
