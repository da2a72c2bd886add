"""Downloads that survive a bad line: resumed, retried, checked, and there under their name only when complete."""

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tqdm import tqdm

from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.errors import InputError

logger = logging.getLogger(__name__)
FIRST_PAUSE = 0.5  # seconds before the first retry; doubled each time
LONGEST_PAUSE = 60.0  # seconds, also where a server asks for a longer one


class DownloadError(InputError):
    """A place didn't deliver, unlike the InputError of a full disk, which no other place could help.

    Attributes:
        reason: What went wrong, without the URL.
        waited: Seconds that passed before the first byte came, or until it was given up.
    """

    def __init__(self, message: str, reason: str, waited: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.waited = waited


def download(
    url: str,
    destination: Path,
    *,
    timeout: float = 30.0,
    give_up_after: float | None = None,
    retries: int = 5,
    progress: bool = True,
    sha256: str | None = None,
) -> Path:
    """Fetch `url` over HTTP(S) into the file `destination`, replacing what is there, and return `destination`.

    What has arrived lies in `<destination>.partial`, with what identifies the file on the server beside it in
    `<destination>.partial.json`: a run that was killed is taken up where it ended, unless the file has changed there.

    Args:
        timeout: Seconds without a byte after which a connection counts as broken.
        give_up_after: Seconds that may pass until the first byte, retries included; None sets no limit.
        retries: How often to try again; counted anew whenever something new has arrived. Tried again are broken
            connections, timeouts, and the statuses 408, 429 and 5xx, after an exponential back-off or what
            Retry-After asks for.
        progress: Draw a bar on stderr when it takes longer than a second.
        sha256: The digest that the file must have, in hexadecimal.

    Raises:
        DownloadError: The server refuses, can't be reached, or what it sends isn't whole or has another digest.
        InputError: The file can't be written (permissions, space), or another process is downloading it.
    """
    patience = _Patience(timeout, give_up_after, retries, first_retries=retries)
    _fetch(url, destination, patience, progress, sha256)
    return destination


def download_first(
    urls: Sequence[str],
    destination: Path,
    *,
    give_up_after: float = 30.0,
    timeout: float = 30.0,
    retries: int = 5,
    progress: bool = True,
    sha256: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Fetch a file from the first of several places that delivers it, and return that place's URL.

    The places share `give_up_after`: each may use an equal part of what the ones before it left. Once a place has begun
    to deliver, only `timeout` and `retries` end it. `headers` are sent along, those that authorise to the place itself
    only and not to where it redirects. The other arguments are those of `download`.

    Raises:
        DownloadError: No place delivered; the message gives the reason for each.
        InputError: As `download`.
    """
    left = give_up_after
    failures = []
    for place, url in enumerate(urls):
        share = left / (len(urls) - place)
        # There are other places to ask: a first contact that fails is repeated only once.
        patience = _Patience(timeout, share, retries, first_retries=min(retries, 1))
        try:
            _fetch(url, destination, patience, progress, sha256, headers)
            return url
        except DownloadError as error:
            logger.warning("%s: %s", url, error.reason)
            failures.append(f"  {url}: {error.reason}")
            left = max(left - error.waited, 0.0)
    raise DownloadError(
        "\n".join([f"None of these places delivered {destination.name}:", *failures])
        + f"\nCheck the network and run again, or put the file at {destination} yourself.",
        reason="no place delivered it",
        waited=give_up_after - left,
    )


@dataclass(frozen=True)
class _Patience:
    """How long to hope; the arguments of `download`, and how often a place is asked again that never sent a byte."""

    timeout: float
    give_up_after: float | None
    retries: int
    first_retries: int


def _fetch(
    url: str,
    destination: Path,
    patience: _Patience,
    progress: bool,
    sha256: str | None,
    headers: Mapping[str, str] | None = None,
) -> None:
    with (
        httpx.Client(follow_redirects=True, timeout=patience.timeout, headers=headers) as client,
        _partial(destination) as file,
        _bar(destination, progress) as bar,
    ):
        transfer = _Transfer(url, destination, file, bar, patience, sha256)
        tries = Retrying(
            retry=retry_if_exception_type(_Unfinished),
            stop=transfer.is_hopeless,
            wait=transfer.pause,
            before_sleep=transfer.tell_of_retry,
            reraise=True,
        )
        try:
            tries(transfer.attempt, client)
        except _Unfinished as error:
            raise transfer.failure(error.reason, "Check the network and run again.") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise transfer.failure(str(error), "Check the address.") from error
        os.fsync(file.fileno())
        os.replace(transfer.partial, destination)
        transfer.sidecar.unlink(missing_ok=True)


class _Unfinished(Exception):
    """A try that failed in a way that the next one may not; `pause` says in how many seconds, if that is known."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.asked_pause = pause


class _Transfer:
    """One file on its way from one place into `file`, over as many tries as it takes."""

    def __init__(
        self, url: str, destination: Path, file: BinaryIO, bar: tqdm, patience: _Patience, sha256: str | None
    ) -> None:
        self.url = url
        self.partial, self.sidecar = _beside(destination)
        self.file = file
        self.bar = bar
        self.patience = patience
        self.sha256 = sha256.lower() if sha256 else None
        self.started = time.monotonic()
        self.first_byte_at: float | None = None
        self.furthest = self.size() if self.known() else 0
        self.failures = 0  # since something new arrived

    def size(self) -> int:
        """Bytes in the partial file; moves to its end."""
        return self.file.seek(0, os.SEEK_END)

    def waited(self) -> float:
        """Seconds until the first byte came, or until now."""
        return (self.first_byte_at or time.monotonic()) - self.started

    def left(self) -> float:
        """Seconds in which a first byte must come."""
        limit = self.patience.give_up_after
        if limit is None or self.first_byte_at is not None:
            return math.inf
        return max(limit - self.waited(), 0.0)

    def failure(self, reason: str, advice: str) -> DownloadError:
        size = self.size()
        kept = f" The {size:,} bytes that arrived are kept in {self.partial} and will be continued." if size else ""
        return DownloadError(f"{self.url} could not be downloaded: {reason}. {advice}{kept}", reason, self.waited())

    # Retrying

    def is_hopeless(self, state: RetryCallState) -> bool:
        if self.first_byte_at is not None:
            return self.failures > self.patience.retries
        return self.failures > self.patience.first_retries or self.left() <= state.upcoming_sleep

    def pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        asked = error.asked_pause if isinstance(error, _Unfinished) else None
        if asked is None:
            asked = FIRST_PAUSE * 2 ** (self.failures - 1)
        return min(asked, LONGEST_PAUSE)

    def tell_of_retry(self, state: RetryCallState) -> None:
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

    # One try

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
            raise _Unfinished(_in_words(error, self.patience.timeout)) from error
        self.check_digest(resumed=offset > 0)

    @contextmanager
    def answer(self, client: httpx.Client, headers: dict[str, str]) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """The response and its body, begun within what is left of `give_up_after`."""
        request = client.build_request("GET", self.url, headers=headers)
        response, first, rest = _open_within(self.left(), client, request)
        try:
            if first:
                self.first_byte_at = self.first_byte_at or time.monotonic()
            yield response, itertools.chain([first], rest)
        finally:
            response.close()

    def place_for_body(self, response: httpx.Response, known: dict, offset: int) -> int | None:
        """Put `file` where the body belongs and return how long the whole file will be, where the server says so."""
        status = response.status_code
        if status == httpx.codes.PARTIAL_CONTENT:
            total = self.check_continuation(response, known, offset)
        elif status == httpx.codes.OK:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            self.start_over()
            self.remember(response, total)
        elif status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            # A run that was killed after its last byte leaves nothing to ask for.
            if response.headers.get("Content-Range") != f"bytes */{offset}" or not _same_file(response, known, offset):
                self.start_over()
                raise _Unfinished("the file there is another one than before", pause=0.0)
            total = offset
        elif status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or status >= 500:
            raise _Unfinished(_status(response), _retry_after(response))
        else:
            raise self.failure(_status(response), "Check the address.")
        self.bar.total, self.bar.n = total, self.file.tell()
        self.bar.initial = self.bar.n
        missing = (total or 0) - self.file.tell()
        free = shutil.disk_usage(self.partial.parent).free
        if missing > free:
            raise InputError(
                f"{self.partial.parent} has {free:,} bytes free; {missing:,} more are needed for {self.url}. Make room."
            )
        return total

    def check_continuation(self, response: httpx.Response, known: dict, offset: int) -> int | None:
        part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        total = int(part[3]) if part and part[3] != "*" else known.get("length")
        if not (part and int(part[1]) == offset > 0 and _same_file(response, known, total)):
            self.start_over()
            raise _Unfinished("the file there is another one than before", pause=0.0)
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

    def check_digest(self, resumed: bool) -> None:
        self.file.flush()
        if self.sha256 is None or (found := sha256_of(self.partial)) == self.sha256:
            return
        self.start_over()
        if resumed:
            raise _Unfinished("its parts don't fit together", pause=0.0)
        raise self.failure(f"its SHA-256 is {found}, expected {self.sha256}", "Check the address and the digest.")

    # What is known of the file that the partial one is a part of

    def known(self) -> dict:
        """What was remembered, or nothing when the partial file can't be continued safely."""
        try:
            known = json.loads(self.sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        usable = isinstance(known, dict) and known.get("url") == self.url and (_validator(known) or self.sha256)
        return known if usable else {}

    def remember(self, response: httpx.Response, total: int | None) -> None:
        """Must come after the partial file was emptied, so that the two never speak of different files."""
        tags = {name: response.headers.get(name) for name in ("ETag", "Last-Modified")}
        text = json.dumps({"url": self.url, "length": total} | tags, indent=1)
        self.sidecar.write_text(text, encoding="utf-8")

    def start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()


def _open(client: httpx.Client, request: httpx.Request) -> tuple[httpx.Response, bytes, Iterator[bytes]]:
    """Send a request, follow its redirects, and wait for the first bytes of what it asked for."""
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
    """As `_open`, but stop waiting after `seconds`.

    The timeouts of a socket don't bound the whole: a name server that is silent, each address of a name, each redirect
    and each byte of a header count anew. So the call is left alone in its thread, where its own timeouts end it.
    """
    future: futures.Future = futures.Future()

    def run() -> None:
        try:
            future.set_result(_open(client, request))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    # Not an executor's thread: Python would wait for it at its exit.
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
    """What If-Range may carry: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    tag = known.get("ETag")
    return tag if tag and not tag.startswith("W/") else known.get("Last-Modified")


def _same_file(response: httpx.Response, known: dict, total: int | None) -> bool:
    """Whether the response speaks of the file that was remembered; for servers that ignore If-Range."""
    same_tags = all(response.headers.get(tag, known.get(tag)) == known.get(tag) for tag in ("ETag", "Last-Modified"))
    return same_tags and known.get("length") in (None, total)


def _status(response: httpx.Response) -> str:
    return f"the server answered {response.status_code} {response.reason_phrase}".rstrip()


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait: it gives them, or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max((email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _in_words(error: httpx.TransportError, timeout: float) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {timeout:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"nothing came for {timeout:g} s"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error})"
    return f"the connection broke ({error})"


def _beside(destination: Path) -> tuple[Path, Path]:
    """Where a file lies until it is complete, and where what is known of it does."""
    return tuple(destination.with_name(destination.name + end) for end in (".partial", ".partial.json"))


@contextmanager
def _partial(destination: Path) -> Iterator[BinaryIO]:
    """The partial file, opened for this process alone; an empty one isn't left behind.

    httpx has its own kinds of errors, so that an OSError inside is one of writing: an InputError is made of it.
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
        ours = True  # a file system that knows no locks
    if not ours:
        raise InputError(f"{partial} is being written by another process. Wait until it is done, then run again.")


def _bar(destination: Path, progress: bool) -> tqdm:
    return tqdm(desc=destination.name, unit="B", unit_scale=True, unit_divisor=1024, delay=1.0, disable=not progress)
