"""Downloads over unreliable connections: resumed, retried, and stored under their final name only when complete."""

import email.utils
import fcntl
import itertools
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tqdm import tqdm

from asr_with_nemo.errors import InputError

logger = logging.getLogger(__name__)
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
RETRIES = 5
"""How often a download is tried again; counted anew whenever new bytes have arrived."""
FIRST_PAUSE = 0.5  # seconds before the first retry; doubled each time
_LONGEST_PAUSE = 60.0  # seconds, also where a server asks for a longer one


class DownloadError(InputError):
    """A server did not deliver the file; unlike the InputError of a full disk, another server may help.

    Attributes:
        reason: The cause, without the URL.
        waited: Seconds until the first byte came, or until the attempt was given up.
    """

    def __init__(self, message: str, reason: str, waited: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.waited = waited


def download(url: str, destination: Path, *, progress: bool = True) -> Path:
    """Fetch `url` over HTTP(S) into the file `destination`, replacing an existing one, and return `destination`.

    Bytes that have arrived are kept in `<destination>.partial`, and the file's identity on the server in
    `<destination>.partial.json`: a killed run is resumed, unless the file on the server has changed.

    Broken connections, timeouts (`TIMEOUT`), and the statuses 408, 429 and 5xx are retried up to `RETRIES` times, after
    an exponential back-off or the time that Retry-After gives.

    Args:
        progress: Show a progress bar on stderr if the download takes longer than a second.

    Raises:
        DownloadError: The server refuses, can't be reached, or sends an incomplete file.
        InputError: The file can't be written (permissions, space), or another process is downloading it.
    """
    _fetch(url, destination, math.inf, RETRIES, progress)
    return destination


def download_first(
    urls: Sequence[str], destination: Path, *, give_up_after: float = 30.0, progress: bool = True
) -> str:
    """Fetch a file from the first of several URLs that delivers it, and return that URL.

    Args:
        urls: Tried in this order.
        destination: As in `download`, with the same resuming and retries.
        give_up_after: Seconds until the first byte, retries included, shared by all URLs: each may use an equal part of
            the time left. Once a server has begun to deliver, only `TIMEOUT` and `RETRIES` end the download.
        progress: As in `download`.

    Raises:
        DownloadError: No URL delivered; the message gives the reason for each.
        InputError: As in `download`.
    """
    left = give_up_after
    failures = []
    for place, url in enumerate(urls):
        try:
            # There are other servers to ask: a first contact that fails is repeated only once.
            _fetch(url, destination, left / (len(urls) - place), 1, progress)
            return url
        except DownloadError as error:
            logger.warning("%s: %s", url, error.reason)
            failures.append(f"  {url}: {error.reason}")
            left = max(left - error.waited, 0.0)
    raise DownloadError(
        "\n".join([f"None of these places delivered {destination.name}:", *failures])
        + f"\nCheck the network and run again, or save the file as {destination} yourself.",
        reason="no server delivered it",
        waited=give_up_after - left,
    )


def _fetch(url: str, destination: Path, give_up_after: float, first_retries: int, progress: bool) -> None:
    """Download one URL; see `_Transfer` for `give_up_after` and `first_retries`."""
    with (
        httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client,
        _partial(destination) as file,
        _bar(destination, progress) as bar,
    ):
        transfer = _Transfer(url, destination, file, bar, give_up_after, first_retries)
        tries = Retrying(
            retry=retry_if_exception_type(_Unfinished),
            stop=transfer.is_hopeless,
            wait=transfer.pause,
            before_sleep=transfer.log_retry,
            reraise=True,
        )
        try:
            tries(transfer.attempt, client)
        except _Unfinished as error:
            raise transfer.failure(error.reason, "Check the network and run again.") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise transfer.failure(str(error), "Check the URL.") from error
        os.fsync(file.fileno())
        os.replace(transfer.partial, destination)
        transfer.sidecar.unlink(missing_ok=True)


class _Unfinished(Exception):
    """An attempt failed for a reason that may be temporary.

    Attributes:
        reason: The cause.
        asked_pause: Seconds to wait before the next attempt; None where the server gives none.
    """

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.asked_pause = pause


class _Transfer:
    """The download of one URL into `file`, over one or more attempts.

    Args:
        give_up_after: Seconds until the first byte, retries included; infinity sets no limit.
        first_retries: How often to try again before the first byte has come; after it, `RETRIES`.
    """

    def __init__(
        self, url: str, destination: Path, file: BinaryIO, bar: tqdm, give_up_after: float, first_retries: int
    ) -> None:
        self.url = url
        self.partial, self.sidecar = _beside(destination)
        self.file = file
        self.bar = bar
        self.give_up_after = give_up_after
        self.first_retries = first_retries
        self.started = time.monotonic()
        self.first_byte_at: float | None = None
        self.furthest = self.size() if self.known() else 0
        self.failures = 0  # since new bytes arrived

    def size(self) -> int:
        """Move to the end of the partial file and return its size in bytes."""
        return self.file.seek(0, os.SEEK_END)

    def waited(self) -> float:
        """Return the seconds until the first byte came, or until now."""
        return (self.first_byte_at or time.monotonic()) - self.started

    def left(self) -> float:
        """Return the seconds within which the first byte must come."""
        return math.inf if self.first_byte_at is not None else max(self.give_up_after - self.waited(), 0.0)

    def failure(self, reason: str, advice: str) -> DownloadError:
        size = self.size()
        kept = f" The {size:,} bytes that arrived are kept in {self.partial}; the next run resumes." if size else ""
        return DownloadError(f"{self.url} could not be downloaded: {reason}. {advice}{kept}", reason, self.waited())

    # Retrying

    def is_hopeless(self, state: RetryCallState) -> bool:
        if self.first_byte_at is not None:
            return self.failures > RETRIES
        return self.failures > self.first_retries or self.left() <= state.upcoming_sleep

    def pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        asked = error.asked_pause if isinstance(error, _Unfinished) else None
        if asked is None:
            asked = FIRST_PAUSE * 2 ** (self.failures - 1)
        return min(asked, _LONGEST_PAUSE)

    def log_retry(self, state: RetryCallState) -> None:
        reason = state.outcome.exception().reason
        logger.warning("%s: %s; trying again in %.1f s", self.url, reason, state.upcoming_sleep)

    def attempt(self, client: httpx.Client) -> None:
        try:
            self.try_once(client)
        except _Unfinished:
            size = self.size()
            self.failures = 1 if size > self.furthest else self.failures + 1
            self.furthest = max(self.furthest, size)
            raise

    # One attempt

    def try_once(self, client: httpx.Client) -> None:
        known = self.known()
        offset = self.size() if known else 0
        # Compressed on the way, lengths and ranges would count other bytes than the file's.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if _validator(known):
                headers["If-Range"] = _validator(known)
        try:
            with self.answer(client, headers) as (response, chunks):
                total = self.place_for_body(response, known, offset)
                if response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self.receive(chunks, total)
        except httpx.UnsupportedProtocol:
            raise
        except httpx.TransportError as error:
            raise _Unfinished(_in_words(error)) from error
        self.file.flush()

    @contextmanager
    def answer(self, client: httpx.Client, headers: dict[str, str]) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """Yield the response and its body, begun within the time left of `give_up_after`."""
        request = client.build_request("GET", self.url, headers=headers)
        response, first, rest = _open_within(self.left(), client, request)
        try:
            if first:
                self.first_byte_at = self.first_byte_at or time.monotonic()
            yield response, itertools.chain([first], rest)
        finally:
            response.close()

    def place_for_body(self, response: httpx.Response, known: dict, offset: int) -> int | None:
        """Seek in `file` to where the body belongs, and return the whole file's length, or None if it is unknown."""
        status = response.status_code
        if status == httpx.codes.PARTIAL_CONTENT:
            total = self.check_continuation(response, known, offset)
        elif status == httpx.codes.OK:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            self.start_over()
            self.remember(response, total)
        elif status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            # A run that was killed after its last byte has left a complete partial file.
            if response.headers.get("Content-Range") != f"bytes */{offset}" or not _same_file(response, known, offset):
                self.start_over()
                raise _Unfinished("the file on the server has changed", pause=0.0)
            total = offset
        elif status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or status >= 500:
            raise _Unfinished(_status(response), _retry_after(response))
        else:
            raise self.failure(_status(response), "Check the URL.")
        self.bar.total, self.bar.n = total, self.file.tell()
        self.bar.initial = self.bar.n
        missing = (total or 0) - self.file.tell()
        free = shutil.disk_usage(self.partial.parent).free
        if missing > free:
            raise InputError(
                f"{self.partial.parent} has {free:,} bytes free; {missing:,} more are needed for {self.url}. Free some."
            )
        return total

    def check_continuation(self, response: httpx.Response, known: dict, offset: int) -> int | None:
        part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        total = int(part[3]) if part and part[3] != "*" else known.get("length")
        if not (part and int(part[1]) == offset > 0 and _same_file(response, known, total)):
            self.start_over()
            raise _Unfinished("the file on the server has changed", pause=0.0)
        return total

    def receive(self, chunks: Iterator[bytes], total: int | None) -> None:
        for chunk in chunks:
            self.file.write(chunk)
            self.bar.update(len(chunk))
        size = self.file.tell()
        if total is not None and size != total:
            if size > total:
                self.start_over()
            raise _Unfinished(f"{size:,} bytes arrived of {total:,}")

    # The identity of the file that the partial one is a part of

    def known(self) -> dict:
        """Read the saved identity of the file; empty where the partial file can't be resumed safely."""
        try:
            known = json.loads(self.sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        usable = isinstance(known, dict) and known.get("url") == self.url and _validator(known)
        return known if usable else {}

    def remember(self, response: httpx.Response, total: int | None) -> None:
        """Save the file's identity; only after the partial file was emptied, so that the two always agree."""
        tags = {name: response.headers.get(name) for name in ("ETag", "Last-Modified")}
        text = json.dumps({"url": self.url, "length": total} | tags, indent=1)
        self.sidecar.write_text(text, encoding="utf-8")

    def start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()


def _open(client: httpx.Client, request: httpx.Request) -> tuple[httpx.Response, bytes, Iterator[bytes]]:
    """Send a request, follow its redirects, and wait for the first bytes of the body."""
    response = client.send(request, stream=True)
    try:
        chunks = response.iter_raw()
        return response, (next(chunks, b"") if response.is_success else b""), chunks
    except BaseException:
        response.close()
        raise


def _open_within(
    seconds: float, client: httpx.Client, request: httpx.Request
) -> tuple[httpx.Response, bytes, Iterator[bytes]]:
    """Do as `_open`, but stop waiting after `seconds`.

    A socket's timeouts don't limit the total time: a silent name server, each address of a name, each redirect and each
    byte of a header start a new one. The call therefore runs in a thread, where its own timeouts end it.
    """
    future: futures.Future = futures.Future()

    def run() -> None:
        try:
            future.set_result(_open(client, request))
        except BaseException as error:  # raised again by `future.result`
            future.set_exception(error)

    # Not an executor's thread: Python waits for those at exit.
    Thread(target=run, daemon=True).start()
    futures.wait([future], None if math.isinf(seconds) else seconds)
    if not future.done():
        future.add_done_callback(_close_late)
        raise _Unfinished(f"no answer within {seconds:.1f} s")
    return future.result()


def _close_late(opened: futures.Future) -> None:
    if opened.exception() is None:
        opened.result()[0].close()


def _validator(known: dict) -> str | None:
    """Return the value for If-Range: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    tag = known.get("ETag")
    return tag if tag and not tag.startswith("W/") else known.get("Last-Modified")


def _same_file(response: httpx.Response, known: dict, total: int | None) -> bool:
    """Return whether the response is for the file that was saved; needed where servers ignore If-Range."""
    same_tags = all(response.headers.get(tag, known.get(tag)) == known.get(tag) for tag in ("ETag", "Last-Modified"))
    return same_tags and known.get("length") in (None, total)


def _status(response: httpx.Response) -> str:
    return f"the server answered {response.status_code} {response.reason_phrase}".rstrip()


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that the server asks to wait; Retry-After gives seconds or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max((email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _in_words(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {TIMEOUT:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"no data for {TIMEOUT:g} s"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error})"
    return f"the connection broke ({error})"


def _beside(destination: Path) -> tuple[Path, Path]:
    """Return the paths of a file's partial version and of its saved identity."""
    return tuple(destination.with_name(destination.name + end) for end in (".partial", ".partial.json"))


@contextmanager
def _partial(destination: Path) -> Iterator[BinaryIO]:
    """Open the partial file for this process alone; an empty one is removed at the end.

    httpx has its own exceptions, so an OSError in the block is one of writing, and is raised as an InputError.
    """
    partial, sidecar = _beside(destination)
    if destination.is_dir():
        raise InputError(f"{destination} is a folder; expected the name of a file to download to.")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        with partial.open("r+b") as file:
            _lock(file, partial)
            try:
                yield file
            finally:
                if partial.exists() and not partial.stat().st_size:
                    partial.unlink()
                    sidecar.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write {partial}: {error.strerror}. Check the space and the permissions.") from error


def _lock(file: BinaryIO, partial: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat())
    except BlockingIOError:
        ours = False
    except OSError:
        ours = True  # a file system without locks
    if not ours:
        raise InputError(f"{partial} is being written by another process. Wait until it is done, then run again.")


def _bar(destination: Path, progress: bool) -> tqdm:
    return tqdm(desc=destination.name, unit="B", unit_scale=True, unit_divisor=1024, delay=1.0, disable=not progress)
