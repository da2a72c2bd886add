"""Make the picture of the server's page: `python -m tests.deployment.picture_of_page [RECORDING]`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.conftest import ROOT
from tests.deployment.test_app import Served
from tests.deployment.test_page import CHROMIUM

PICTURE = ROOT / "notebooks" / "pictures" / "server_page.png"
EXAMPLE = ROOT / "data" / "an4" / "wav" / "an4_clstk" / "mgah" / "cen2-mgah-b.wav"


def main(recording: Path) -> None:
    """Serve an4, give the page a recording, and take a picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        server = Served(Path(folder))
        try:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 900, "height": 1000})
            page.goto(server.url)
            page.set_input_files("#file", recording)
            page.wait_for_selector("#said tr:not(.empty)")
            PICTURE.parent.mkdir(exist_ok=True)
            text = page.locator("section[aria-labelledby=text-title]").bounding_box()
            height = text["y"] + text["height"] + 10  # down to the text and what its colours mean
            page.screenshot(path=PICTURE, full_page=True, clip={"x": 0, "y": 0, "width": 900, "height": height})
            browser.close()
        finally:
            server.stop()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLE)
