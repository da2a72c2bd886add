"""Downloads over a bad line, from a real HTTP server on this machine that misbehaves as it is told to."""

import hashlib
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asr_with_nemo.data import download
from asr_with_nemo.data.download import DownloadError, download_first
from asr_with_nemo.errors import InputError
from tests.conftest import free_port

CONTENT = bytes(i * i % 251 for i in range(300_000))
CHANGED = CONTENT[::-1]


class Server(ThreadingHTTPServer):
    """Serves `content` at every path. Each request takes the next of `moods` (none left: it behaves)."""

    daemon_threads = True
    content = CONTENT
    validators = True
    ranges = True
    if_range = True
    seconds_between_pieces = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.moods: list[str] = []
        self.requests: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/corpus.tar.gz"

    def ranges_asked(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what these tests are about


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        mood = server.moods.pop(0) if server.moods else "fine"
        self.close_connection = True
        if mood == "silent":
            server.over.wait(10)
            return
        if mood == "slow":
            server.over.wait(0.8)
        if mood.isdecimal():
            return self.head(int(mood), {"Content-Length": "0"} | ({"Retry-After": "0"} if mood == "429" else {}))
        if mood == "redirect":
            return self.head(302, {"Location": "/elsewhere", "Content-Length": "0"})

        content = server.content
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        tags = {"ETag": etag} if server.validators else {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if server.if_range and self.headers.get("If-Range") not in (None, etag):
            asked = None
        start = int(asked[1]) if asked and server.ranges else 0
        if start and start >= len(content):
            return self.head(416, tags | {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
        length = len(content) - start + (5_000 if mood == "says too much" else 0)
        if start:
            tags["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(206 if start else 200, tags | {"Content-Length": str(length)})

        end = start + 100_000 if mood in ("breaks", "stalls") else len(content)
        for at in range(start, min(end, len(content)), 10_000):
            self.wfile.write(content[at : min(at + 10_000, end)])
            self.wfile.flush()
            time.sleep(server.seconds_between_pieces)
        if mood == "stalls":
            server.over.wait(10)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The module's warnings arrive, also where NeMo, imported by an earlier test, has switched off what was there."""
    monkeypatch.setattr(download.logger, "disabled", False)
    monkeypatch.setattr(download.logger, "propagate", True)
    logging.disable(logging.NOTSET)
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.WARNING, logger=download.logger.name)


@pytest.fixture
def start_server() -> Iterator[Callable[[], Server]]:
    servers = []

    def start() -> Server:
        servers.append(Server())
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start_server: Callable[[], Server]) -> Server:
    return start_server()


@pytest.fixture(autouse=True)
def short_pauses_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def silent_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A name server that never answers; addresses still work."""
    known, over = socket.getaddrinfo, threading.Event()

    def look_up(host: str, *args: object, **kwargs: object) -> list:
        if host == "127.0.0.1":
            return known(host, *args, **kwargs)
        over.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    over.set()


@pytest.fixture
def nobody() -> str:
    """A URL of this machine where nobody listens."""
    return f"http://127.0.0.1:{free_port()}/corpus.tar.gz"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "corpus.tar.gz"


def assert_only(file: Path, content: bytes = CONTENT) -> None:
    """The file is whole and nothing else was left beside it."""
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def leave_broken(server: Server, file: Path) -> None:
    """A download that ended after 100,000 bytes, as an earlier run would leave it."""
    server.moods = ["breaks"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DownloadError):
        patch.setattr(download, "RETRIES", 0)
        download.download(server.url, file, progress=False)
    assert file.with_name("corpus.tar.gz.partial").stat().st_size == 100_000
    assert not file.exists()
    server.requests.clear()


# A good line


def test_fetches_a_file_through_a_redirect(server: Server, file: Path) -> None:
    server.moods = ["redirect"]
    assert download.download(server.url, file, progress=False) == file
    assert_only(file)
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_replaces_an_older_file_only_when_the_new_one_is_whole(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.parent.mkdir()
    file.write_bytes(b"older")
    server.moods = ["breaks"]
    with monkeypatch.context() as patch, pytest.raises(DownloadError, match=r"100,000 .*corpus\.tar\.gz\.partial"):
        patch.setattr(download, "RETRIES", 0)
        download.download(server.url, file, progress=False)
    assert file.read_bytes() == b"older"
    download.download(server.url, file, progress=False)
    assert_only(file)


def test_fetches_an_empty_file(server: Server, file: Path) -> None:
    server.content = b""
    download.download(server.url, file, progress=False)
    assert_only(file, b"")


def test_shows_progress_only_when_it_lasts(server: Server, file: Path, capsys: pytest.CaptureFixture) -> None:
    download.download(server.url, file)
    assert capsys.readouterr().err == ""
    server.seconds_between_pieces = 0.037
    download.download(server.url, file)
    assert "corpus.tar.gz" in (shown := capsys.readouterr()).err
    assert "293k/293k" in shown.err
    assert shown.out == ""


# A bad line


def test_resumes_each_time_the_line_breaks(
    server: Server, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.moods = ["breaks", "breaks"]
    # One retry is enough for two breaks: the count begins anew when something new has arrived.
    monkeypatch.setattr(download, "RETRIES", 1)
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == [None, "bytes=100000-", "bytes=200000-"]
    assert_only(file)
    assert "the connection broke" in caplog.messages[0]


def test_resumes_what_an_earlier_run_left(server: Server, file: Path) -> None:
    leave_broken(server, file)
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == ["bytes=100000-"]
    assert server.requests[0]["If-Range"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert_only(file)


def test_a_killed_run_is_continued(server: Server, file: Path) -> None:
    server.seconds_between_pieces = 0.05
    code = "import sys, pathlib, asr_with_nemo.data.download as d; d.download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url, str(file)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    partial = file.with_name("corpus.tar.gz.partial")
    deadline = time.monotonic() + 10
    while not (partial.exists() and partial.stat().st_size > 50_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(InputError, match=r"corpus\.tar\.gz\.partial"):
        download.download(server.url, file, progress=False)
    process.send_signal(signal.SIGKILL)
    process.wait()

    left = partial.stat().st_size
    assert 50_000 < left < len(CONTENT)
    server.seconds_between_pieces = 0.0
    server.requests.clear()
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == [f"bytes={left}-"]
    assert_only(file)


def test_a_run_killed_after_its_last_byte_only_asks_whether_it_is_whole(server: Server, file: Path) -> None:
    leave_broken(server, file)
    file.with_name("corpus.tar.gz.partial").write_bytes(CONTENT)
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == [f"bytes={len(CONTENT)}-"]
    assert_only(file)


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changed_between_is_not_stitched(server: Server, file: Path, honours_if_range: bool) -> None:
    leave_broken(server, file)
    server.content = CHANGED
    server.if_range = honours_if_range
    download.download(server.url, file, progress=False)
    assert_only(file, CHANGED)


def test_a_file_that_shrank_between_is_fetched_anew(server: Server, file: Path) -> None:
    leave_broken(server, file)
    server.content = CHANGED[:60_000]
    server.if_range = False  # answers 416
    download.download(server.url, file, progress=False)
    assert_only(file, CHANGED[:60_000])


@pytest.mark.parametrize("lack", ["ranges", "validators"])
def test_starts_over_where_resuming_is_not_possible_or_not_safe(server: Server, file: Path, lack: str) -> None:
    setattr(server, lack, False)
    leave_broken(server, file)
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == [None if lack == "validators" else "bytes=100000-"]
    assert_only(file)


def test_what_another_place_left_is_not_continued(start_server: Callable[[], Server], file: Path) -> None:
    one, other = start_server(), start_server()
    other.content = CHANGED
    leave_broken(one, file)
    download.download(other.url, file, progress=False)
    assert other.ranges_asked() == [None]
    assert_only(file, CHANGED)


def test_a_damaged_note_beside_the_partial_file_costs_only_time(server: Server, file: Path) -> None:
    leave_broken(server, file)
    file.with_name("corpus.tar.gz.partial.json").write_text('{"url": ')
    download.download(server.url, file, progress=False)
    assert_only(file)


def test_a_stalled_line_is_a_broken_one(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.moods = ["stalls"]
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == [None, "bytes=100000-"]
    assert_only(file)


def test_asks_a_busy_server_again(server: Server, file: Path) -> None:
    server.moods = ["503", "429", "500"]
    download.download(server.url, file, progress=False)
    assert len(server.requests) == 4
    assert_only(file)


def test_gives_up_after_the_retries(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.moods = ["503"] * 10
    monkeypatch.setattr(download, "RETRIES", 2)
    with pytest.raises(DownloadError, match="503"):
        download.download(server.url, file, progress=False)
    assert len(server.requests) == 3
    assert list(file.parent.iterdir()) == []


def test_a_server_that_always_breaks_at_the_same_byte_is_given_up(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges = False
    server.moods = ["breaks"] * 10
    monkeypatch.setattr(download, "RETRIES", 2)
    with pytest.raises(DownloadError, match="connection"):
        download.download(server.url, file, progress=False)
    assert len(server.requests) == 3


# What no patience helps


def test_a_missing_page_fails_at_once(server: Server, file: Path) -> None:
    server.moods = ["404"]
    with pytest.raises(DownloadError, match=f"{server.url} .*404"):
        download.download(server.url, file, progress=False)
    assert len(server.requests) == 1
    assert list(file.parent.iterdir()) == []


def test_a_length_that_is_never_reached_is_not_taken_for_whole(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.moods = ["says too much"] * 10
    server.ranges = False
    monkeypatch.setattr(download, "RETRIES", 1)
    with pytest.raises(DownloadError, match=re.escape(server.url)):
        download.download(server.url, file, progress=False)
    assert not file.exists()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "corpus.tar.gz", "http://127.0.0.1:port/"])
def test_an_address_that_is_none(file: Path, url: str) -> None:
    with pytest.raises(DownloadError, match=re.escape(url)):
        download.download(url, file, progress=False)


def test_an_unwritable_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"corpus\.tar\.gz"):
        download.download(server.url, tmp_path / "file" / "corpus.tar.gz", progress=False)
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        download.download(server.url, tmp_path, progress=False)
    assert server.requests == []


def test_a_disk_without_room(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = download.shutil.disk_usage("/")._replace(free=200_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="200,000 .* 300,000") as caught:
        download_first([server.url, server.url], file, progress=False)
    assert not isinstance(caught.value, DownloadError)  # another place would not help
    assert len(server.requests) == 1
    assert list(file.parent.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_has_arrived(server: Server, file: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"corpus\.tar\.gz\.partial.*File too large"):
            download.download(server.url, file, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    download.download(server.url, file, progress=False)
    assert server.ranges_asked() == [None, "bytes=150000-"]
    assert_only(file)


# Several places, and a limit to the waiting


@pytest.mark.parametrize("fault", ["silent server", "silent names", "nobody"])
def test_gives_up_in_time(
    server: Server, file: Path, silent_names: None, nobody: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.2)
    server.moods = ["silent"] * 10
    url = {"silent server": server.url, "silent names": "http://corpus.invalid/x", "nobody": nobody}[fault]
    with pytest.raises(DownloadError, match=re.escape(url)) as caught:
        download_first([url], file, give_up_after=0.5, progress=False)
    assert caught.value.waited <= 1  # the silence lasts 10 s
    assert list(file.parent.iterdir()) == []


def test_takes_the_first_place_that_delivers(
    start_server: Callable[[], Server], file: Path, nobody: str, silent_names: None, caplog: pytest.LogCaptureFixture
) -> None:
    gone, silent, good, unused = (start_server() for _ in range(4))
    gone.moods, silent.moods = ["404"], ["silent"] * 10
    urls = [nobody, gone.url, "http://corpus.invalid/x", silent.url, good.url, unused.url]
    with caplog.at_level(logging.WARNING):
        assert download_first(urls, file, give_up_after=2.4, progress=False) == good.url
    assert_only(file)
    assert unused.requests == []
    final = [message for message in caplog.messages if "trying again" not in message]
    assert [message.split(": ")[0] for message in final] == urls[:4]


def test_names_every_place_that_failed_within_the_limit(
    start_server: Callable[[], Server], file: Path, nobody: str, silent_names: None
) -> None:
    gone, silent = start_server(), start_server()
    gone.moods, silent.moods = ["404"], ["silent"] * 10
    urls = ["http://corpus.invalid/x", silent.url, gone.url, nobody]
    with pytest.raises(DownloadError) as caught:
        download_first(urls, file, give_up_after=1.0, progress=False)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].strip() for line in lines[1:-1]] == urls
    assert "404 Not Found" in lines[3]
    assert caught.value.waited <= 1.0  # the silences last 10 s each
    assert str(file) in lines[-1]


def test_a_place_that_has_begun_is_not_cut_off(
    start_server: Callable[[], Server], file: Path, capsys: pytest.CaptureFixture
) -> None:
    lame, other = start_server(), start_server()
    lame.seconds_between_pieces = 0.02
    lame.moods = ["breaks", "slow"]
    assert download_first([lame.url, other.url], file, give_up_after=1.0, progress=False) == lame.url
    assert lame.ranges_asked() == [None, "bytes=100000-"]
    assert other.requests == []
    assert_only(file)
    assert capsys.readouterr() == ("", "")  # it lasted long enough for a bar, had one been asked for


def test_the_note_beside_the_partial_file_says_whose_it_is(server: Server, file: Path) -> None:
    leave_broken(server, file)
    note = json.loads(file.with_name("corpus.tar.gz.partial.json").read_text())
    assert (note["url"], note["length"]) == (server.url, len(CONTENT))
