"""The course's pages: they build without running anything, each link leads somewhere, no page asks another host."""

import functools
import http.server
import importlib.util
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from asr_with_nemo.places.repository import repository_url
from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("myst_nb"), reason="needs the tools of requirements-dev.txt"),
]
browsers_only = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt install chromium)")


class Page(HTMLParser):
    """The links, anchors and pictures of a page.

    Attributes:
        links: targets of `a`, `img`, `script` and `link`.
        ids: what a link may end in.
        pictures: alt text, or None, of each picture.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures: list[str | None] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.update(value for name, value in attrs if name in ("id", "name") and value)
        if tag in ("a", "link", "img", "script", "iframe", "source"):
            self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if tag == "img":
            self.pictures.append(found.get("alt"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "site"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used.ru_utime + used.ru_stime
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tools" / "make_site.py"), "--output", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime - before < 90  # of a core; two minutes or less, whatever else runs
    assert re.search(r"\d+ pages in .*\n[\d.]+ MB together; the largest page .*: [\d.]+ MB", done.stdout)
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_all_notebooks_and_texts_are_there(site: Path, pages: dict[Path, Page]):
    for path in (*ROOT.glob("notebooks/[0-9]*.ipynb"), *ROOT.glob("notebooks/solutions/[0-9]*.ipynb")):
        assert site / path.relative_to(ROOT).with_suffix(".html") in pages
    for name in ("index", "RESULTS", "CONTRIBUTING", "SECURITY", "docs/article", "search"):
        assert site / f"{name}.html" in pages
    text = re.sub(r"<[^>]+>", "", (site / "index.html").read_text(encoding="utf-8"))
    assert "make tutorial" in text  # README is the first page


def test_every_link_leads_to_a_file_and_an_anchor(site: Path, pages: dict[Path, Page]):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{path.relative_to(site)}: {link}: no such anchor")
    assert not broken, "\n".join(broken)


def test_every_picture_has_its_alt_text(site: Path, pages: dict[Path, Page]):
    assert all(alt for page in pages.values() for alt in page.pictures)
    for path in ROOT.glob("notebooks/[0-9]*.ipynb"):
        shown = pages[site / path.relative_to(ROOT).with_suffix(".html")].pictures
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    # Markup may set spaces anew.
                    alt = " ".join(output.metadata["image/png"]["alt"].split())
                    assert alt in {" ".join(text.split()) for text in shown}, f"{path.name}: {alt}"


def test_the_colab_link_is_that_of_the_setting_and_no_badge_is_left(site: Path, pages: dict[Path, Page]):
    address = repository_url().removeprefix("https://github.com/")
    for path in ROOT.glob("notebooks/[0-9]*.ipynb"):
        page = pages[site / path.relative_to(ROOT).with_suffix(".html")]
        assert f"https://colab.research.google.com/github/{address}/blob/main/notebooks/{path.name}" in page.links
        assert not [link for link in page.links if "badge" in link]


def test_no_path_of_this_machine_is_in_the_pages(site: Path):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".js", ".json", ".css", ".inv", ".txt"):
            text = path.read_text(encoding="utf-8", errors="replace")
            for name in (ROOT, site, Path.home()):
                assert len(str(name)) < 4 or f"{name}/" not in text, f"{path.relative_to(site)}: {name}"


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@browsers_only
def test_no_page_asks_another_host_or_fails_or_is_wider_than_a_phone(site, pages, served: str, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    asked, errors, wide = [], [], []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda said: errors.append(f"{said.location}: {said.text}") if said.type == "error" else None)
    page = context.new_page()
    for path in sorted(pages):
        page.goto(f"{served}/{path.relative_to(site).as_posix()}", wait_until="load")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wide.append(f"{path.relative_to(site)}: {width} pixels")
    context.close()
    elsewhere = {url for url in asked if not url.startswith((served, "data:", "blob:"))}
    assert not elsewhere
    assert not errors
    assert not wide


@browsers_only
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_read_in_light_and_dark_on_desk_and_phone(scheme: str, width: int, served: str, browser, tmp_path: Path):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{served}/notebooks/14_deployment.html")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.screenshot(path=tmp_path / "page.png")
    shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(float, re.findall(r"[\d.]+", shown)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    page.locator("details > summary").first.click()
    assert page.locator("details[open]").count() == 1
    context.close()


@browsers_only
def test_the_search_finds_a_notebook(served: str, browser):
    page = browser.new_page()
    page.goto(f"{served}/search.html?q=telephone")
    page.wait_for_selector("#search-results li")
    assert page.locator("#search-results li a").count() > 0
    page.close()


@browsers_only
def test_formulas_are_set_and_their_files_are_on_the_site(site: Path, served: str, browser):
    found = [path for path in site.rglob("*.html") if re.search(r'class="math ', path.read_text(encoding="utf-8"))]
    assert found
    for path in found:
        page = browser.new_page()
        failed: list[str] = []
        page.on("requestfailed", lambda request, failed=failed: failed.append(request.url))
        page.on("response", lambda answer, failed=failed: answer.status >= 400 and failed.append(answer.url))
        page.goto(f"{served}/{path.relative_to(site).as_posix()}")
        page.wait_for_selector("mjx-container")
        page.wait_for_load_state("networkidle")
        count = page.locator(".math").count()
        assert page.locator("mjx-container").count() == count
        assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
        assert not failed
        page.close()


@browsers_only
def test_an_interactive_piece_works_on_its_page(site: Path, served: str, browser):
    found = [path for path in site.rglob("*.html") if 'class="asr-piece"' in path.read_text(encoding="utf-8")]
    if not found:
        pytest.skip("no notebook has an interactive piece yet")
    for path in found:
        page = browser.new_page()
        page.goto(f"{served}/{path.relative_to(site).as_posix()}")
        pieces = page.locator(".asr-piece")
        for index in range(pieces.count()):
            piece = pieces.nth(index)
            assert piece.locator(".asr-still").is_hidden()
            live = piece.locator(".asr-live")
            assert live.is_visible()
            controls = live.locator("input[type=range], button, input[type=text], select")
            # A button may stand for what is shown already.
            changed = any(operate(controls.nth(number), live) for number in range(controls.count()))
            assert changed, f"{path.name}: nothing changes in {piece.get_attribute('id')}"
        page.close()


def operate(control, live) -> bool:
    """Use a control of an interactive piece, and return whether what is shown has changed."""
    before = live.inner_html()
    kind = control.evaluate("node => node.type")
    if control.is_disabled():
        return False
    if kind == "range":
        control.focus()
        control.press("ArrowRight")
    elif kind == "text":
        control.fill("a b c")
    elif kind.startswith("select"):
        control.select_option(index=1)
    else:
        control.click()
    return live.inner_html() != before
