"""A cache-aware model streams: it writes what it writes of whole recordings, and each second is computed once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.deployment import cache_aware
from asr_with_nemo.deployment.app import create_app
from asr_with_nemo.deployment.cache_aware import CacheListener, StreamingModel
from asr_with_nemo.deployment.live import Heard
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import ctc_decoder
from asr_with_nemo.recognition import decoding, transcripts
from tests.conftest import run_script
from tests.recognition.test_transducers import taught
from tests.recognizers import FAMILIES, config_of

pytestmark = pytest.mark.slow

RATE = 16_000


@pytest.fixture(scope="module")
def paths(pieces_of_words: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Cache-aware models with random weights, whose features aren't normalised: a hybrid by RNN-T, and CTC alone."""
    from nemo.collections.asr import models
    from omegaconf import OmegaConf

    folder, made = tmp_path_factory.mktemp("streaming"), {}
    streaming = FAMILIES["rnnt and ctc of pieces"][2] | {"att_context_size": [[70, 6], [70, 1], [70, 0]]}
    for name, family in {"hybrid": "rnnt and ctc of pieces", "ctc": "ctc of pieces"}.items():
        config = config_of(family, pieces_of_words)
        config["encoder"] |= streaming | {"subsampling": "dw_striding", "subsampling_factor": 8, "n_layers": 2}
        config["preprocessor"] |= {"normalize": "NA", "pad_to": 0}
        torch.manual_seed(1)
        model = getattr(models, FAMILIES[family][0])(cfg=OmegaConf.create(config))
        made[name] = folder / f"{name}.nemo"
        model.save_to(str(made[name]))
    return made


@pytest.fixture(scope="module")
def loaded(paths: dict[str, Path]) -> dict:
    models = {"hybrid": taught(paths["hybrid"]), "ctc": load_model(paths["ctc"])}
    with torch.no_grad():
        for model in models.values():
            ctc_decoder(model).decoder_layers[0].bias[-1] -= 0.5
    return models


@pytest.fixture(scope="module")
def sounds(small_corpus: an4.Corpus) -> list[np.ndarray]:
    rows = manifest.read_manifest(small_corpus.manifest("dev"))[:4]
    return transcripts.read([row["audio_filepath"] for row in rows], RATE)


def listen(listener: CacheListener, sound: np.ndarray, size: int) -> list[Heard]:
    def events() -> Iterator[Heard]:
        for first in range(0, len(sound), size):
            yield from listener.feed(sound[first : first + size])
        yield from listener.finish()

    return list(events())


@pytest.mark.parametrize(("name", "decoder"), [("hybrid", "rnnt"), ("hybrid", "ctc"), ("ctc", "ctc")])
def test_a_stream_becomes_the_text_of_the_whole_recording(name: str, decoder: str, loaded: dict, sounds: list):
    for look_ahead in (0.48, 0.08, 0.0):
        streaming = StreamingModel(loaded[name], look_ahead, decoder)
        assert streaming.chunk == pytest.approx(look_ahead + 0.08)
        recognise = decoding.recogniser(loaded[name], decoder=decoder)
        for sound in sounds:
            (whole,) = recognise([sound])
            heard = listen(CacheListener(streaming, pause=100), sound, 1600)
            assert whole.text and heard[-1].text == whole.text
            assert heard[-1].final and not any(one.final for one in heard[:-1])
            for one, other in zip(heard[-1].words, whole.words, strict=True):
                assert (one.word, one.start) == (other.word, pytest.approx(other.start, abs=1e-3))
                assert one.confidence == pytest.approx(other.confidence, abs=5e-3)
            again = listen(CacheListener(streaming, pause=100), sound, 517)[-1]
            assert replace(again, words=[]) == replace(heard[-1], words=[])
            for one, other in zip(again.words, heard[-1].words, strict=True):
                # What is computed together has an effect on the last bit of a probability.
                assert replace(one, confidence=0) == replace(other, confidence=0)
                assert one.confidence == pytest.approx(other.confidence, abs=1e-3)


@pytest.mark.parametrize("look_ahead", [0.48, 0.08, 0.0])
def test_each_frame_of_a_stream_is_that_of_the_whole_recording(
    look_ahead: float, loaded: dict, sounds: list, monkeypatch: pytest.MonkeyPatch
):
    model, frames = loaded["ctc"], []
    streaming = StreamingModel(model, look_ahead)
    step = streaming.step

    def kept(*chunk: object) -> tuple:
        frames.append((found := step(*chunk))[0])
        return found

    monkeypatch.setattr(streaming, "step", kept)
    for sound in [*sounds, *(sounds[0][:length] for length in range(8000, 12_000, 400))]:
        frames.clear()
        listen(CacheListener(streaming, pause=100), sound, 1600)
        with decoding.inference(model):
            whole, lengths, _ = model(
                input_signal=torch.tensor(sound)[None], input_signal_length=torch.tensor([len(sound)])
            )
        np.testing.assert_allclose(np.concatenate(frames), whole[0, : int(lengths[0])].numpy(), atol=2e-5)


def test_words_stay_and_are_there_soon(loaded: dict, sounds: list):
    streaming = StreamingModel(loaded["hybrid"], 0.08)
    listener = CacheListener(streaming, pause=100)
    texts = []
    for fed in range(1600, len(sounds[0]), 1600):
        for heard in listener.feed(sounds[0][fed - 1600 : fed]):
            texts.append(heard.text.split())
            assert fed / RATE - 0.4 < heard.end <= fed / RATE
    assert len(texts) > 3
    for before, after in pairwise(texts):
        assert after[: len(before) - 1] == before[:-1]  # the last word may still grow


def test_a_pause_ends_an_utterance_and_little_is_kept(loaded: dict, sounds: list):
    streaming = StreamingModel(loaded["ctc"], 0.08)
    listener = CacheListener(streaming, pause=0.2)
    heard = listen(listener, np.concatenate(sounds), 1600)
    finals = [one for one in heard if one.final]
    starts = [word.start for one in finals for word in one.words]
    assert finals and starts == sorted(starts)
    assert all(one.text.split() == [word.word for word in one.words] for one in finals)
    assert listener._buffer.shape[2] < 100 and len(listener._features._sound) < RATE


def test_an_utterance_without_a_pause_ends_some_time(loaded: dict, sounds: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_aware, "WHOLE", 1.0)
    for name in ("hybrid", "ctc"):
        heard = listen(CacheListener(StreamingModel(loaded[name], 0.08), pause=100), np.concatenate(sounds), 1600)
        finals = [one for one in heard if one.final]
        assert len(finals) > 1
        assert all(one.end - one.start < 3.5 for one in finals)


def test_what_cannot_stream_says_what_happens_instead(
    recognizers: dict[str, Path], paths: dict[str, Path], tmp_path: Path
):
    with pytest.raises(InputError, match=r"whole recordings.*scripts/export\.py.*0\.16 s"):
        StreamingModel(load_model(recognizers["rnnt of letters"]))
    with pytest.raises(InputError, match="normalize: per_feature"):
        StreamingModel(load_model(recognizers["rnnt and ctc of pieces"]))
    model = load_model(paths["ctc"])
    with pytest.raises(InputError, match=r"look-ahead 0\.3 s.*0\.48, 0\.08, 0"):
        StreamingModel(model, 0.3)
    with pytest.raises(InputError, match=r"rnnt.*only ctc"):
        StreamingModel(model, decoder="rnnt")
    listener = StreamingModel(model).listener()
    for wrong in (np.zeros((100, 2), np.float32), np.zeros(100, np.int16), np.array([np.nan])):
        with pytest.raises(InputError, match="samples"):
            list(listener.feed(wrong))
    wrong = run_script("serve.py", recognizers["rnnt of letters"], "--port", "0", cwd=tmp_path)
    assert wrong.returncode == 1 and "scripts/export.py" in wrong.stderr
    wrong = run_script("serve.py", "an4", "--look-ahead", "0.08", cwd=tmp_path)
    assert wrong.returncode == 1 and "--look-ahead" in wrong.stderr


def test_the_server_streams_and_takes_whole_recordings(loaded: dict, sounds: list):
    streaming = StreamingModel(loaded["hybrid"], 0.48, path=Path(__file__))
    whole = decoding.recogniser(loaded["hybrid"])([sounds[0]])[0].text
    pcm = (np.clip(sounds[0], -1, 1) * 32_767).astype("<i2").tobytes()
    with TestClient(create_app(streaming)) as client, client.websocket_connect("/v1/listen") as socket:
        socket.send_json({"type": "start", "sample_rate": RATE})
        ready = socket.receive_json()
        assert ready["latency"] == 0.56 and "the model streams" in ready["about"]
        for first in range(0, len(pcm), 3200):
            socket.send_bytes(pcm[first : first + 3200])
        socket.send_json({"type": "stop"})
        messages = []
        while not messages or messages[-1]["type"] != "done":
            messages.append(socket.receive_json())
    finals = [one["text"] for one in messages if one["type"] == "final"]
    assert " ".join(finals).split()[:3] == whole.split()[:3]


def test_word_error_rates_at_two_latencies(paths: dict[str, Path], small_corpus: an4.Corpus, tmp_path: Path):
    rows = manifest.read_manifest(small_corpus.manifest("dev"))[:3]
    manifest.write_manifest(tmp_path / "few.json", rows)
    arguments = ["few.json", "--decoder", "rnnt", "--output", "live.json"]
    done = run_script("tools/evaluate_live.py", paths["hybrid"], *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["look-ahead"] for row in json.loads((tmp_path / "live.json").read_text())["rows"]] == [
        "0.48 s",
        "0.08 s",
        "0 s",
    ]
    wrong = run_script("tools/evaluate_live.py", "an4", "few.json", "--look-ahead", "1", cwd=tmp_path)
    assert wrong.returncode == 1 and "--look-ahead" in wrong.stderr
