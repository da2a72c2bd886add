#!/usr/bin/env python3
"""Serve a model: OpenAI's transcription API, live recognition, and a page with a microphone."""

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, Boost, Decoder, LanguageModel, run
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from asr_with_nemo.deployment.cache_aware import StreamingModel

_KEY = "ASR_API_KEY"
"""The environment variable with the API key: other users of the machine can read a command line."""


def main(
    model: Annotated[
        Path,
        typer.Argument(
            help="An .onnx file that scripts/export.py wrote; an4, the model that ships; or a cache-aware .nemo file."
        ),
    ] = Path("an4"),
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any other than this machine's own needs ASR_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for any free one.")] = 8000,
    lm: LanguageModel = None,
    boost: Boost = (),
    threads: Annotated[
        int | None, typer.Option(min=1, help="Batches computed at the same time; by default one per core.")
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Largest upload, in bytes.")] = 25_000_000,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest audio of an upload, in seconds.")] = 600,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Uploads processed or queued at the same time; more get 503.")
    ] = 64,
    max_streams: Annotated[int, typer.Option(min=1, help="Live streams at the same time.")] = 16,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for an upload to arrive, and again to be transcribed.")
    ] = 60,
    look_ahead: Annotated[
        float | None,
        typer.Option(help="Seconds that a cache-aware model hears ahead; by default its first.", metavar="SECONDS"),
    ] = None,
    decoder: Decoder = "",
) -> None:
    """Serve a model: OpenAI's transcription API, live recognition, and a page with a microphone.

    If the environment variable ASR_API_KEY is set, clients must send that key; without it, only this machine may
    connect. SIGTERM and Ctrl-C stop the server after the accepted requests are finished. Browsers give a page the
    microphone only on 127.0.0.1 or over https, which needs a proxy in front of the server.

    Live, an exported model recognises each utterance again every 0.16 s, and its words may change until the utterance
    ends. NeMo's cache-aware models (a .nemo file whose config has att_context_style chunked_limited) stream: they
    compute each piece of audio once, so that more streams fit on a machine; this needs NeMo. --look-ahead chooses among
    the delays that the model was trained for: the longer, the better its texts.

    Words that are expected: --boost for all requests; the field boost of a request, or of the start message of a live
    stream, adds its own ("rubout:3, new york").

    Examples:

        python scripts/serve.py

        python scripts/serve.py model.onnx --lm model.arpa --port 8001

        python scripts/serve.py STREAMING.nemo --look-ahead 0.48

        curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@recording.wav -F model=an4

        curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@recording.wav -F model=an4 -F boost="rubout:3, stop"
    """
    key = os.environ.get(_KEY, "")
    if not (key or _is_this_machine(host)):
        raise InputError(f"--host {host} lets other machines connect, which needs an API key: set the variable {_KEY}")

    from asr_with_nemo.base.machine import usable_cores
    from asr_with_nemo.deployment import runtime
    from asr_with_nemo.deployment.app import create_app, run_server
    from asr_with_nemo.deployment.service import Limits
    from asr_with_nemo.recognition import boosting, decoding

    arpa = None if lm is None else decoding.language_model_path(model, lm)
    boosts, search = boosting.read_boosts(boost), None
    if model.suffix in (".nemo", ".ckpt"):
        recognizer = _streaming(model, look_ahead, decoder, bool(arpa or boosts))
    else:
        recognizer = runtime.Recognizer(model, threads=1)
        recognizer.check_decoder(decoder)
        search = recognizer.load_search(arpa, boosts)
        if look_ahead is not None:
            raise InputError(
                f"{model}: an exported model hears whole utterances; --look-ahead is for cache-aware .nemo"
            )
    limits = Limits(bytes=max_bytes, seconds=max_seconds, timeout=timeout, requests=max_requests, streams=max_streams)
    app = create_app(recognizer, search, threads or usable_cores(), limits, key, host)
    run_server(app, host, port)


def _streaming(model: Path, look_ahead: float | None, decoder: str, has_search: bool) -> "StreamingModel":
    """Load a cache-aware model."""
    from asr_with_nemo.deployment.cache_aware import StreamingModel
    from asr_with_nemo.models.loading import load_model

    if has_search:
        raise InputError(
            f"{model}: a model that streams takes no language model and no boosts; export it, or leave out --lm and "
            "--boost"
        )
    try:
        return StreamingModel(load_model(model), look_ahead, decoder, model)
    except InputError as error:
        raise InputError(f"{model}: {str(error).removeprefix(f'{model}: ')}") from None


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may have any address
        return False


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
