"""The server: OpenAI's client and curl get text, live streams get it while they speak, and nothing brings it down."""

import asyncio
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest
import soundfile
import uvicorn
from fastapi.testclient import TestClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.deployment import runtime
from asr_with_nemo.deployment.answers import LONGEST_LINE
from asr_with_nemo.deployment.app import create_app
from asr_with_nemo.deployment.engine import Engine
from asr_with_nemo.deployment.service import Limits
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import decoding, transcripts
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import serve

RATE = audio.SAMPLE_RATE


class Client:
    """Asks a server."""

    url: str

    def post(self, content: bytes, name: str = "a.wav", timeout: float = 60, **fields: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/audio/transcriptions", files={"file": (name, content)}, data=fields, timeout=timeout
        )

    def live(self, rate: int = RATE, **more: object) -> ClientConnection:
        client = connect(self.url.replace("http", "ws") + "/v1/listen")
        client.send(json.dumps({"type": "start", "sample_rate": rate, **more}))
        return client

    def begin_upload(self) -> socket.socket:
        """Send the beginning of an upload, and not the rest."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)))
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        return connection

    def wait_until_accepted(self, count: int) -> None:
        """Wait until so many uploads are processed or queued."""
        wait_until(lambda: f"asr_requests_accepted {count}.0" in httpx.get(f"{self.url}/metrics").text)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.01)


class Served(Client):
    """scripts/serve.py in a process of its own, whose temporary files go to `folder`."""

    def __init__(self, folder: Path, *options: str, **environment: str):
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "serve.py"), "an4", "--port", "0", *options],
            env=os.environ | {"TMPDIR": str(self.temporary)} | environment,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
        )
        self.errors = folder / "stderr"
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + self.errors.read_text()
        self.url = line.split()[-1].rstrip("/")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


class InThread(Client):
    """The app under uvicorn in a thread of this process: for what isn't about the process, and starts at once."""

    def __init__(self, limits: Limits = Limits(), api_key: str = ""):
        app = create_app(runtime.Recognizer("an4", threads=1), limits=limits, api_key=api_key)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})

    def __enter__(self) -> "InThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.errors.read_text()  # what else there is, libmpg123 says of damaged files
    assert list(server.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[Path]:
    return [Path(row["audio_filepath"]) for row in manifest.read_manifest(small_corpus.manifest("test"))]


@pytest.fixture(scope="module")
def texts(files: list[Path]) -> list[str]:
    return [heard.text for heard in runtime.Recognizer("an4").transcribe(files)]


def wav(samples: np.ndarray, rate: int = RATE, **more: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, **{"format": "WAV"} | more)
    return content.getvalue()


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


# --- Uploads ----------------------------------------------------------------------------------------------------------


def test_openais_client_works_unchanged(served: Served, files: list[Path], texts: list[str]):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list().data
    assert model.id == client.models.retrieve("an4").id == "an4"

    def ask(form: str, **more: object):
        with files[0].open("rb") as file:
            return client.audio.transcriptions.create(model="an4", file=file, response_format=form, **more)

    assert ask("json").text == texts[0]
    assert ask("text") == texts[0] + "\n"
    verbose = ask("verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.text == texts[0]
    assert [word.word for word in verbose.words] == texts[0].split()
    assert all(0 <= word.start < word.end <= verbose.duration for word in verbose.words)
    assert " ".join(segment.text for segment in verbose.segments) == texts[0]
    srt, vtt = ask("srt"), ask("vtt")
    assert srt.startswith("1\n00:00:0") and " --> 00:00:0" in srt and vtt.startswith("WEBVTT\n\n00:00:0")
    assert [line for line in srt.splitlines() if line[:1].isalpha()] == [segment.text for segment in verbose.segments]

    events = list(ask("json", stream=True))
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert "".join(event.delta for event in events[:-1]) == texts[0]
    assert (events[-1].type, events[-1].text) == ("transcript.text.done", texts[0])
    with pytest.raises(openai.BadRequestError, match=r"stream=true with response_format srt"):
        ask("srt", stream=True)

    with pytest.raises(openai.NotFoundError, match="whisper-1.*an4"):
        client.audio.transcriptions.create(model="whisper-1", file=files[0])
    with pytest.raises(openai.BadRequestError, match=r"a\.wav"):
        client.audio.transcriptions.create(model="an4", file=("a.wav", b"dear friend"))


def test_curl_works(served: Served, files: list[Path], texts: list[str]):
    arguments = ["-F", f"file=@{files[0]}", "-F", "model=an4"]
    done = subprocess.run(
        ["curl", "-sS", f"{served.url}/v1/audio/transcriptions", *arguments], capture_output=True, text=True
    )
    assert json.loads(done.stdout)["text"] == texts[0], done.stderr


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "AIFF", "WAV"])
def test_many_kinds_of_files_are_read(served: Served, files: list[Path], kind: str):
    samples, rate = soundfile.read(files[0])
    stereo = np.stack([samples, samples], 1)
    reply = served.post(wav(stereo, rate, format=kind), name=f"a.{kind.lower()}", response_format="verbose_json")
    assert reply.status_code == 200, reply.text
    assert reply.json()["duration"] == pytest.approx(len(samples) / rate, abs=0.1)
    assert len(reply.json()["text"]) > 5


def test_a_long_recording_comes_whole(served: Served, files: list[Path]):
    pause = np.random.default_rng(0).normal(0, 1e-4, RATE // 2)
    parts = [part for file in files for part in (soundfile.read(file)[0], pause)]
    sound = np.concatenate(parts * 4)
    reply = served.post(wav(sound), response_format="verbose_json").json()
    assert reply["duration"] == pytest.approx(len(sound) / RATE, abs=0.01)
    assert reply["text"].split() == [word["word"] for word in reply["words"]]
    assert reply["words"][-1]["end"] > reply["duration"] - 10
    assert all(segment["end"] - segment["start"] <= LONGEST_LINE for segment in reply["segments"])


@pytest.mark.parametrize(
    ("content", "fields", "status", "reason"),
    [
        (b"", {}, 400, "a.wav"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", {}, 400, "a.wav"),
        (b"longer than", {"name": "longer than.wav"}, 400, "longer than.wav"),
        (wav(np.zeros(0)), {}, 400, "zero samples"),
        (wav(np.full(RATE, np.nan), subtype="FLOAT"), {}, 400, "NaN"),
        (wav(np.zeros(RATE), rate=500), {}, 400, "500 Hz"),
        (wav(np.zeros((10, 200))), {}, 400, "200 channels"),
        (wav(np.zeros(RATE)), {"response_format": "xml"}, 400, "response_format 'xml'"),
        (wav(np.zeros(RATE)), {"model": "x" * 5_000}, 404, "xxx"),
        (wav(np.zeros(RATE)), {"boost": "rubout:loud"}, 400, "rubout:loud"),
        (wav(np.zeros(RATE)), {"boost": "Zürich"}, 400, "'ü'"),
        (wav(np.zeros(RATE)), {"boost": "go:1,go:2"}, 400, "two weights"),
        (wav(np.zeros(RATE)), {"boost": "/etc/passwd"}, 400, "'/'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cant_be_used_is_refused_with_a_reason(
    served: Served, content: bytes, fields: dict, status: int, reason: str
):
    reply = served.post(content, **fields)
    assert reply.status_code == status
    assert reason in reply.json()["error"]["message"] and len(reply.text) < 500


def test_requests_of_another_shape_are_refused(served: Served):
    url = f"{served.url}/v1/audio/transcriptions"
    assert httpx.post(url, json={"file": "a.wav"}).status_code == 400
    assert httpx.post(url, data={"file": "a.wav"}).status_code == 400
    assert httpx.post(url, files={"other": b"abc"}).status_code == 400
    many = [("file", ("a.wav", b"abc"))] * 3
    assert httpx.post(url, files=many).status_code == 400
    assert httpx.post(url, content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400
    broken = {"Content-Type": "multipart/form-data; boundary=b"}
    assert httpx.post(url, content=b"--b\r\nnonsense", headers=broken).status_code == 400
    for reply, status in ((httpx.get(url), 405), (httpx.get(served.url + "/v2"), 404)):
        assert reply.status_code == status and reply.json()["error"]["type"]


def test_the_description_has_examples(served: Served):
    schema = httpx.get(f"{served.url}/openapi.json").json()
    post = schema["paths"]["/v1/audio/transcriptions"]["post"]
    assert "file" in post["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert "text" in post["responses"]["200"]["content"]["application/json"]["examples"]["json"]["value"]
    docs = httpx.get(f"{served.url}/docs")
    assert "curl http" in docs.text and "//" not in docs.text.replace("http://127.0.0.1:8000", "")


def test_metrics_are_prometheus(served: Served, files: list[Path]):
    served.post(files[0].read_bytes())
    text = httpx.get(f"{served.url}/metrics").text
    assert 'asr_requests_total{route="/v1/audio/transcriptions",status="200"}' in text
    assert "asr_audio_seconds_count" in text and "asr_batch_size_bucket" in text
    assert httpx.get(f"{served.url}/healthz").json() == {"status": "ok", "model": "an4"}


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_what_is_too_much_is_refused(caplog: pytest.LogCaptureFixture):
    with InThread(Limits(bytes=300_000, seconds=3, requests=2)) as server:
        long = wav(np.zeros(4 * RATE))
        assert (reply := server.post(long)).status_code == 413 and "3 s" in reply.text
        for size in (400_000, 5_000_000, 50_000_000):
            reply = server.post(bytes(size))
            assert reply.status_code == 413 and "300,000 bytes" in reply.text
        endless = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            content=(b"x" * 10_000 for _ in range(100)),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert endless.status_code in (400, 413)

        slow = [server.begin_upload() for _ in range(2)]  # they hold all places
        server.wait_until_accepted(2)
        reply = server.post(wav(np.zeros(RATE)))
        assert reply.status_code == 503 and int(reply.headers["Retry-After"]) >= 1
        for one in slow:
            one.close()
        server.wait_until_accepted(0)
        assert server.post(wav(np.zeros(RATE))).status_code == 200
    # run_server silences what python_multipart says of broken uploads.
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record for record in loud if not record.name.startswith("python_multipart")] == []


def test_an_upload_that_takes_too_long_is_refused():
    with InThread(Limits(timeout=0.2)) as server:
        slow = server.begin_upload()
        slow.settimeout(20)
        assert slow.recv(1_000).startswith(b"HTTP/1.1 408")


def test_an_upload_that_finds_no_room_is_refused_and_the_server_goes_on_and_stops(tmp_path: Path):
    served = Served(tmp_path)
    psutil.Process(served.process.pid).rlimit(psutil.RLIMIT_FSIZE, (100_000, 100_000))  # to a program, like a full disk
    refused = served.post(wav(np.random.default_rng(0).uniform(-0.1, 0.1, 60 * RATE)))
    assert refused.status_code == 507 and "no room" in refused.json()["error"]["message"]
    assert served.post(wav(np.zeros(RATE))).status_code == 200
    assert served.stop() == 0
    assert list(served.temporary.iterdir()) == []
    assert "Traceback" not in served.errors.read_text()


def test_the_options_are_the_servers_limits(monkeypatch: pytest.MonkeyPatch):
    apps = []
    monkeypatch.setenv("ASR_API_KEY", "secret")
    monkeypatch.setattr("asr_with_nemo.deployment.app.run_server", lambda app, host, port: apps.append((app, port)))
    serve.main(
        Path("an4"), port=5, threads=3, max_bytes=1, max_seconds=2, max_requests=3, max_streams=4, timeout=5, lm=""
    )
    ((app, port),) = apps
    server = app.state.server
    assert port == 5 and server.engine.threads == 3 and server.engine.search is not None
    assert server.limits == Limits(bytes=1, seconds=2, requests=3, streams=4, timeout=5)
    assert server.lets_in(b"secret") and not server.lets_in(b"")


def test_an_api_key_is_asked_for(files: list[Path]):
    with InThread(api_key="secret ü") as server:
        url = f"{server.url}/v1/models"
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "secret"},
            {"Authorization": "Bearer"},
        ):
            reply = httpx.get(url, headers=headers)
            assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"
        assert server.post(files[0].read_bytes()).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer secret ü".encode()}).status_code == 200
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        with server.live(api_key="wrong") as client:
            assert "key" in json.loads(client.recv())["message"]
        with server.live(api_key="secret ü") as client:
            assert json.loads(client.recv())["type"] == "ready"


def test_those_who_come_together_are_computed_together(files: list[Path]):
    sizes: list[int] = []
    recognizer = runtime.Recognizer("an4", threads=1)
    samples = transcripts.read(files, RATE)[:1] * 12

    async def ask() -> list[transcripts.Transcript]:
        engine = Engine(recognizer, None, 1, sizes.append)
        return await asyncio.gather(*(engine.recognise(one) for one in samples))

    heard = asyncio.run(ask())
    assert sizes == [1, 8, 3]
    assert {one.text for one in heard} == {recognizer.transcribe(samples[:1])[0].text}


def test_a_request_has_its_own_expected_words(files: list[Path], texts: list[str]):
    """Words that are held back aren't written, though they are said; the next request is as before."""
    first, second, *_ = texts[0].split()
    with InThread() as server:
        content = files[0].read_bytes()
        with ThreadPoolExecutor(8) as pool:
            work = ["", f"{first}:-60", f"{second}:-60, new york", " , "] * 3
            replies = list(pool.map(lambda boost: server.post(content, boost=boost).json()["text"].split(), work))
        plain, without_first, without_second, blank = (replies[place::4] for place in range(4))
        assert plain == blank == [texts[0].split()] * 3
        assert all(first not in words and second in words for words in without_first)
        assert all(first in words and second not in words for words in without_second)
        with server.live(boost=f"{first}:-60") as client:
            client.send(pcm(audio.load_audio(files[0])))
            client.send(json.dumps({"type": "stop"}))
            heard = [one["text"] for one in messages(client) if one["type"] == "final"]
        assert heard and first not in " ".join(heard).split()


def test_a_request_has_words_that_the_servers_language_model_lacks(files: list[Path], texts: list[str]):
    recognizer = runtime.Recognizer("an4", threads=1)
    search = recognizer.load_search(decoding.language_model_path("an4"))
    spelled = ((file, word) for file, text in zip(files, texts, strict=True) for word in text.split())
    file, word = next(one for one in spelled if not search.language_model.knows(one[1]) and len(one[1]) > 2)
    with TestClient(create_app(recognizer, search)) as client:
        for boost, known in (("", False), (f"{word}:20", True), ("", False)):
            reply = client.post("/v1/audio/transcriptions", files={"file": file.open("rb")}, data={"boost": boost})
            assert (word in reply.json()["text"].split()) == known


def test_a_long_upload_lets_others_pass(served: Served, files: list[Path]):
    sound = np.concatenate([soundfile.read(file)[0] for file in files])
    long = wav(np.tile(sound, -(-300 * RATE // len(sound))))
    done: list[float] = []
    thread = threading.Thread(target=lambda: done.append(served.post(long).status_code))
    thread.start()
    served.wait_until_accepted(1)
    quick = 0
    while thread.is_alive():
        assert served.post(files[0].read_bytes()).status_code == 200
        quick += 1
    assert done == [200] and quick >= 2


def test_many_at_once_all_get_their_own_text(served: Served, files: list[Path], texts: list[str]):
    work = list(range(len(files))) * 5
    with ThreadPoolExecutor(16) as pool:
        replies = pool.map(lambda number: served.post(files[number].read_bytes()).json(), work)
        assert [reply["text"] for reply in replies] == [texts[number] for number in work]


# --- Live -------------------------------------------------------------------------------------------------------------


def messages(client: ClientConnection) -> list[dict]:
    received = []
    while True:
        try:
            received.append(json.loads(client.recv(timeout=30)))
        except ConnectionClosed:
            return received


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_live_stream_gets_its_text(served: Served, files: list[Path], texts: list[str], rate: int):
    import soxr

    samples = soxr.resample(audio.load_audio(files[0]), RATE, rate)
    with served.live(rate) as client:
        ready = json.loads(client.recv())
        assert (ready["type"], ready["sample_rate"], ready["latency"]) == ("ready", rate, 0.16)
        assert "whole recordings" in ready["about"] and "0.16 s" in ready["about"]
        for first in range(0, len(samples), rate // 10):
            client.send(pcm(samples[first : first + rate // 10]))
        client.send(json.dumps({"type": "stop"}))
        received = messages(client)
    kinds = [message["type"] for message in received]
    assert kinds[-2:] == ["final", "done"] and kinds.count("partial") > 2
    final = " ".join(message["text"] for message in received if message["type"] == "final")
    assert len(set(final.split()) & set(texts[0].split())) >= len(set(texts[0].split())) / 2
    for message in received[:-1]:
        assert [word["word"] for word in message["words"]] == message["text"].split()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (["hello"], "JSON"),
        (['{"type": "stop"}'], 'expected {"type": "start"'),
        (['{"type": "start", "sample_rate": 1e99}'], 'expected {"type": "start"'),
        (['{"type": "start", "sample_rate": true}'], 'expected {"type": "start"'),
        (["[" * 2_000], "JSON object"),
        ([b"\0\0"], "JSON object"),
        (['{"type": "start"}', b"\0\0\0"], "16-bit PCM"),
        (['{"type": "start"}', '{"type": "dance"}'], '{"type": "stop"}'),
        (['{"type": "start"}', "1"], "JSON object"),
        (['{"type": "start", "boost": "rubout:loud"}'], "rubout:loud"),
        (['{"type": "start", "boost": ["rubout"]}'], "boost: expected a text"),
    ],
    ids=str,
)
def test_a_live_stream_that_is_wrong_is_told_why(served: Served, sent: list[str | bytes], reason: str):
    with connect(served.url.replace("http", "ws") + "/v1/listen") as client:
        for message in sent:
            client.send(message)
        *_, last = messages(client)
        assert last["type"] == "error" and reason in last["message"]
    assert httpx.get(f"{served.url}/healthz").status_code == 200


def test_another_sites_page_may_not_use_it(served: Served):
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus):
        connect(served.url.replace("http", "ws") + "/v1/listen", origin="https://evil.example")


def test_there_is_an_end_to_live_streams():
    with InThread(Limits(streams=1)) as server:
        with server.live() as first:
            assert json.loads(first.recv())["type"] == "ready"
            with connect(server.url.replace("http", "ws") + "/v1/listen") as second:
                assert "too many" in messages(second)[0]["message"]
        wait_until(lambda: "asr_streams 0.0" in httpx.get(f"{server.url}/metrics").text)
        with server.live() as third:
            assert json.loads(third.recv())["type"] == "ready"


# --- The end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_was_accepted(tmp_path: Path, files: list[Path], texts: list[str], number: int):
    server = Served(tmp_path)
    sound = np.concatenate([soundfile.read(file)[0] for file in files])
    long = wav(np.tile(sound, -(-200 * RATE // len(sound))))
    with ThreadPoolExecutor(1) as pool, server.live() as client:
        assert json.loads(client.recv())["type"] == "ready"
        client.send(pcm(audio.load_audio(files[0])))
        while json.loads(client.recv())["type"] != "partial":
            pass
        reply = pool.submit(server.post, long)
        server.wait_until_accepted(1)
        assert server.stop(number) == 0 or number == signal.SIGINT
        assert reply.result().status_code == 200
        kinds = [message["type"] for message in messages(client)]
        assert kinds[-2:] == ["final", "done"]
    assert "Traceback" not in server.errors.read_text()
    assert list(server.temporary.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "myself.example"])
def test_others_are_let_in_with_a_key_only(monkeypatch: pytest.MonkeyPatch, host: str):
    monkeypatch.delenv("ASR_API_KEY", raising=False)
    with pytest.raises(InputError, match=f"--host {re.escape(host)}.*ASR_API_KEY"):
        serve.main(host=host, port=0)


def test_an_address_that_is_taken_is_told(served: Served):
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}.*--port"):
        serve.main(port=port)


# --- Fuzzing ----------------------------------------------------------------------------------------------------------


def broken(content: bytes, random: np.random.Generator) -> bytes:
    """A file with some bytes changed, cut out, doubled or cut off."""
    damaged = bytearray(content)
    for _ in range(random.integers(1, 8)):
        place = int(random.integers(0, 1 + (min(len(damaged), 400) if random.random() < 0.7 else len(damaged))))
        kind = random.integers(4)
        if kind == 0:
            damaged[place : place + 4] = random.bytes(4)
        elif kind == 1:
            del damaged[place : place + int(random.integers(1, 2_000))]
        elif kind == 2:
            damaged[place:place] = damaged[place : place + int(random.integers(1, 2_000))]
        elif len(damaged) > 200:
            del damaged[max(100, place) :]
    return bytes(damaged)


@pytest.mark.slow
def test_broken_sound_of_every_kind_brings_nothing_down(served: Served, files: list[Path]):
    samples, rate = soundfile.read(files[0])
    kinds = soundfile.available_formats()
    whole = {}
    for kind in sorted(kinds.keys() - {"RAW", "SD2"}):  # the one has no header, the other a second file
        try:
            whole[kind] = wav(samples, rate, format=kind)
        except (soundfile.LibsndfileError, ValueError, TypeError):
            continue
    assert len(whole) > 10
    random = np.random.default_rng(0)
    work = [broken(content, random) for content in whole.values() for _ in range(12)]
    process = psutil.Process(served.process.pid)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda content: served.post(content).status_code, work[:100]))
        before = process.memory_info().rss, process.num_fds()
        codes += list(pool.map(lambda content: served.post(content).status_code, work[100:]))
    assert set(codes) <= {200, 400, 413}
    after = process.memory_info().rss, process.num_fds()
    assert after[0] < before[0] + 100e6 and after[1] <= before[1] + 10
    assert served.post(files[0].read_bytes()).status_code == 200
    assert list(served.temporary.iterdir()) == []


@pytest.mark.slow
def test_noise_on_the_wire_brings_nothing_down(served: Served):
    random = np.random.default_rng(0)
    for _ in range(40):
        with connect(served.url.replace("http", "ws") + "/v1/listen") as client:
            try:
                if random.random() < 0.7:
                    rate = int(random.choice([1_000, 8_000, 16_000, 44_100, 384_000]))
                    client.send(json.dumps({"type": "start", "sample_rate": rate}))
                for _ in range(random.integers(1, 10)):
                    content = random.bytes(int(random.integers(0, 20_000)))
                    client.send(content if random.random() < 0.8 else content.decode("latin-1"))
            except ConnectionClosed:
                pass
    assert httpx.get(f"{served.url}/healthz").status_code == 200


@pytest.mark.slow
def test_whatever_its_description_allows_or_forbids_brings_nothing_down(
    served: Served, files: list[Path], tmp_path: Path
):
    """schemathesis asks what openapi.json allows and what it forbids, and holds the answers against it."""
    process = psutil.Process(served.process.pid)
    before = process.num_fds()
    options = ["--max-time=12", "--workers=2", "--seed=0", "--no-shrink", "--phases=examples,coverage,fuzzing"]
    # It can't know what no schema says: which bytes are sound, and what the model is called.
    options += ["--exclude-checks=positive_data_acceptance,negative_data_rejection"]
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", f"{served.url}/openapi.json", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert process.num_fds() <= before + 10
    assert list(served.temporary.iterdir()) == []
    assert served.post(files[0].read_bytes()).status_code == 200


def test_the_app_can_be_used_without_a_network(files: list[Path], texts: list[str]):
    with TestClient(create_app(runtime.Recognizer("an4", threads=1))) as client:
        reply = client.post("/v1/audio/transcriptions", files={"file": files[0].open("rb")})
        assert reply.json()["text"] == texts[0]
        policy = client.get("/").headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert policy.endswith("frame-ancestors http://127.0.0.1:* http://localhost:*")
    with TestClient(create_app(runtime.Recognizer("an4", threads=1), api_key="secret")) as client:
        assert client.get("/").headers["content-security-policy"].endswith("frame-ancestors 'none'")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", ""]
)
def test_a_page_elsewhere_cannot_reach_the_server_by_a_name_of_its_own(host: str):
    recognizer = runtime.Recognizer("an4", threads=1)
    with TestClient(create_app(recognizer)) as client:
        for path in ("/", "/v1/models", "/metrics"):
            assert client.get(path, headers={"host": host}).status_code == 400
        for own in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
            assert client.get("/v1/models", headers={"host": own}).status_code == 200
    with TestClient(create_app(recognizer, api_key="secret")) as client:  # behind a proxy, by the proxy's name
        answer = client.get("/v1/models", headers={"host": "asr.example", "authorization": "Bearer secret"})
        assert answer.status_code == 200
