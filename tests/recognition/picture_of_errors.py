"""Make the picture of the error browser, of the page that 16_your_own_data has made:

python -m tests.recognition.picture_of_errors data/calls_aligned/errors.html
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.conftest import ROOT
from tests.deployment.test_page import CHROMIUM

PICTURE = ROOT / "notebooks" / "pictures" / "error_browser.png"


def main() -> None:
    """Take a picture of the filters and the first two utterances, those with the lowest SNR first."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 4000}, color_scheme="light")
        page.goto(Path(sys.argv[1]).resolve().as_uri())
        page.locator("#order").select_option(label="lowest SNR")
        page.wait_for_load_state("networkidle")
        top = page.locator("#text").bounding_box()["y"] - 30
        third = page.locator("audio").nth(2).bounding_box()["y"] - 35
        page.screenshot(path=PICTURE, clip={"x": 0, "y": top, "width": 1100, "height": third - top})
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
