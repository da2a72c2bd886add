"""The page in a real browser: a microphone that plays recordings, a file, the keyboard, a phone, the dark."""

import csv
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from IPython.display import HTML

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.deployment import runtime
from asr_with_nemo.deployment.app import serve_in_background
from asr_with_nemo.recognition import wer
from asr_with_nemo.teaching import notebook
from tests.deployment.test_app import InThread, Served

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt install chromium)"),
]

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two test recordings of AN4 where `AN4_ARCHIVE` names its archive, else of the built-in corpus."""
    corpus, archive = small_corpus, os.environ.get("AN4_ARCHIVE")
    if archive:
        corpus = an4.prepare(tmp_path_factory.mktemp("corpus"), source="an4", archive=archive, progress=False)
    rows = manifest.read_manifest(corpus.manifest("test"))
    return [Path(row["audio_filepath"]) for row in rows[:2]]


@pytest.fixture(scope="module")
def texts(files: list[Path]) -> list[str]:
    return [heard.text for heard in runtime.Recognizer("an4").transcribe(files)]


@pytest.fixture(scope="module")
def microphone(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is said into the microphone: the recordings, with a second of silence around each."""
    path = tmp_path_factory.mktemp("microphone") / "said.wav"
    silence = np.zeros(RATE, np.float32)
    soundfile.write(path, np.concatenate([silence, *(p for f in files for p in (audio.load_audio(f), silence))]), RATE)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(microphone: Path) -> Iterator["playwright.Browser"]:
    options = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        "--no-sandbox",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "playwright.Browser", served: Served) -> Iterator[Callable[..., "playwright.Page"]]:
    """Opens the page; whatever its console says is an error, as is whatever it asks of another server."""
    wrong: list[str] = []
    contexts = []

    def visit(path: str = "/", **options: object) -> "playwright.Page":
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text) if is_error(message) else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith((served.url, "blob:")) else wrong.append(request.url),
        )
        page.goto(served.url + path)
        expect(page.locator("#model")).to_have_text("an4")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def is_error(message: "playwright.ConsoleMessage") -> bool:
    """An upload that is refused, as it shall be, is none, though the browser calls it so."""
    return message.type == "error" and "400 (Bad Request)" not in message.text


def colours(page: "playwright.Page", canvas: str) -> int:
    """How many different colours a canvas shows."""
    return page.evaluate(
        """id => {
            const canvas = document.getElementById(id);
            const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(image.data.buffer)).size;
        }""",
        canvas,
    )


def test_what_is_said_stands_on_the_page(
    visit: Callable, files: list[Path], texts: list[str], microphone: Path, tmp_path: Path
):
    page = visit()
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_selector("#text p[aria-hidden]", timeout=20_000)  # partial text, while it is said
    assert colours(page, "waveform") > 1 and colours(page, "spectrogram") > 50
    page.locator("#said tr:not(.empty)").nth(1).wait_for(timeout=40_000)
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=false]")
    expect(page.locator("#status")).to_have_text("Done.")

    text = " ".join(page.inner_text("#text").split())
    # The first 50 ms are lost, and the browser resamples.
    assert wer.count_errors(" ".join(texts), text, "character").rate < 0.15
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000

    page.evaluate("document.getElementById('player').play()")
    page.wait_for_selector(".word.lit", timeout=15_000)  # lights up with the playback
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(download.value.path().open(newline="")))
    assert " ".join(row["text"] for row in rows) == text
    assert all(float(row["from"]) < float(row["to"]) and 0 <= float(row["confidence"]) <= 1 for row in rows)


def test_a_file_becomes_text(visit: Callable, files: list[Path], texts: list[str], tmp_path: Path):
    page = visit()
    page.set_input_files("#file", files[0])
    page.wait_for_selector("#said tr:not(.empty)")
    assert " ".join(page.inner_text("#text").split()) == texts[0]
    assert page.locator(".word").first.get_attribute("title").endswith(" s")
    (tmp_path / "letter.wav").write_text("dear friend")
    page.set_input_files("#file", tmp_path / "letter.wav")
    page.wait_for_selector("#status.wrong")
    assert "letter.wav" in page.inner_text("#status")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_by_day_and_night(visit: Callable, files: list[Path], scheme: str):
    page = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page.set_input_files("#file", files[0])
    page.wait_for_selector("#said tr:not(.empty)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 3 * 128) == (scheme == "light")
    sizes = page.evaluate(
        "[...document.querySelectorAll('#controls button, #controls .button')].map(b => b.clientHeight)"
    )
    assert min(sizes) >= 40  # a thumb's


def test_the_keyboard_reaches_everything(visit: Callable, files: list[Path]):
    page = visit()
    page.set_input_files("#file", files[0])
    page.wait_for_selector("#said tr:not(.empty)")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"record", "file", "player", "csv"} <= set(reached)
    assert any(name.startswith("word") for name in reached)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "other.localhost"])
def test_a_notebook_of_this_machine_shows_it_with_its_microphone(browser: "playwright.Browser", name: str):
    class Notebook(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(shown[0].data.encode())

        def log_message(self, *_: object) -> None:
            pass

    shown: list[HTML] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "display", shown.append)
        notebook.show_page(serve_in_background())
    with ThreadingHTTPServer(("127.0.0.1", 0), Notebook) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://{name}:{site.server_port}/")
        frame = page.frame_locator("iframe")
        if name == "other.localhost":
            page.wait_for_timeout(1000)
            assert frame.locator("#model").count() == 0
        else:
            expect(frame.locator("#model")).to_have_text("an4", timeout=20_000)
            frame.locator("#record").click()
            expect(frame.locator("#status")).to_contain_text("Listening", timeout=20_000)
        page.close()
        site.shutdown()


def test_a_key_is_asked_for(browser: "playwright.Browser", files: list[Path]):
    with InThread(api_key="secret") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("an4")
        page.set_input_files("#file", files[0])
        page.wait_for_selector("#said tr:not(.empty)")
        page.close()
