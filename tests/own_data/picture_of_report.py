"""Make the picture of a corpus's report: `python -m tests.own_data.picture_of_report`."""

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from asr_with_nemo.own_data import formats, preparation
from asr_with_nemo.own_data.demo import LABELS, make
from asr_with_nemo.own_data.prepared import Settings
from tests.conftest import ROOT
from tests.deployment.test_page import CHROMIUM

PICTURE = ROOT / "notebooks" / "pictures" / "corpus_report.png"


def main() -> None:
    """Prepare the demonstration's corpus, and take a picture of the first part of its report."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        source = make(Path(folder) / "spoken_words")
        labels = formats.read_labels(source.parent / LABELS)
        settings = Settings(pattern="{label}_{speaker}_{take}.wav", labels=labels)
        prepared = preparation.prepare(source, Path(folder) / "own", settings, progress=False)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 1400}, color_scheme="light")
        page.goto(prepared.report.as_uri())
        page.wait_for_load_state("networkidle")
        PICTURE.parent.mkdir(exist_ok=True)
        row = page.locator("table.problems tr").nth(7).bounding_box()  # the picture ends below a whole row
        page.screenshot(path=PICTURE, clip={"x": 0, "y": 0, "width": 900, "height": row["y"] + row["height"]})
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
