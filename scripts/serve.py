#!/usr/bin/env python3
"""Serve a model: OpenAI's transcription API, live recognition, and a page with a microphone."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, LanguageModel, run
from asr_with_nemo.errors import InputError

KEY = "ASR_API_KEY"
"""The variable of the environment that holds the API key; a command line could be read by others on the machine."""


def main(
    model: Annotated[Path, typer.Argument(help="An .onnx file (scripts/export.py), or an4, which ships.")] = Path(
        "an4"
    ),
    host: Annotated[
        str, typer.Option(help="Who may connect: 127.0.0.1 this machine; any other address wants ASR_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 for any that is free.")] = 8000,
    lm: LanguageModel = None,
    threads: Annotated[int | None, typer.Option(min=1, help="That compute; by default one a core.")] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of an upload.")] = 25_000_000,
    max_seconds: Annotated[float, typer.Option(min=1, help="Of sound in an upload.")] = 600,
    max_requests: Annotated[int, typer.Option(min=1, help="Uploads that are worked on or wait at a time.")] = 64,
    max_streams: Annotated[int, typer.Option(min=1, help="Live streams at a time.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to arrive, and to be transcribed.")] = 60,
) -> None:
    """Serve a model: OpenAI's transcription API, live recognition, and a page with a microphone.

    With the variable ASR_API_KEY set, clients must send that key; without it, only this machine may connect. SIGTERM
    and Ctrl-C stop it after what was accepted is done. A browser gives a page the microphone only on 127.0.0.1, or over
    https, which a proxy in front can add.

    Examples:

        python scripts/serve.py

        python scripts/serve.py model.onnx --lm model.arpa --port 8001

        curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@recording.wav -F model=an4
    """
    key = os.environ.get(KEY, "")
    if not (key or _is_this_machine(host)):
        raise InputError(f"--host {host} lets others in, and {KEY} holds no key that they would need: set it")

    from asr_with_nemo.base.machine import usable_cores
    from asr_with_nemo.deployment import runtime
    from asr_with_nemo.deployment.app import create_app, run_server
    from asr_with_nemo.deployment.service import Limits
    from asr_with_nemo.recognition import beam, decoding

    arpa = None if lm is None else decoding.language_model_path(model, lm)
    recognizer = runtime.Recognizer(model, threads=1)
    search = beam.load(arpa, recognizer.labels) if arpa else None
    limits = Limits(bytes=max_bytes, seconds=max_seconds, timeout=timeout, requests=max_requests, streams=max_streams)
    app = create_app(recognizer, search, threads or usable_cores(), limits, key)
    run_server(app, host, port)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may stand for any address
        return False


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
