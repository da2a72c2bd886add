"""Recognition without NeMo: the file that ships, in onnxruntime."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import soxr

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.deployment import runtime
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition import beam, decoding, wer
from tests.conftest import run_script

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def recognizer() -> runtime.Recognizer:
    return runtime.Recognizer("an4")


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[str]:
    return [row["audio_filepath"] for row in manifest.read_manifest(small_corpus.manifest("test"))]


def test_it_needs_neither_torch_nor_nemo(files: list[str]):
    program = (
        "import sys\n"
        "from asr_with_nemo.deployment import live, runtime\n"
        "from asr_with_nemo.recognition import beam, decoding\n"
        "recognizer = runtime.Recognizer('an4')\n"
        "search = beam.load(decoding.language_model_path('an4'), recognizer.labels)\n"
        "print(recognizer.transcribe([sys.argv[1]], search=search)[0].text)\n"
        "heavy = 'torch nemo lightning transformers wandb scipy pandas librosa matplotlib onnx'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, files[0]], capture_output=True, text=True, check=True)
    text, heavy = done.stdout.splitlines()
    assert text and heavy == "[]"


def test_nothing_is_told_to_anybody(files: list[str], tmp_path: Path):
    """onnxruntime keeps what it reports in the user's home."""
    program = (
        "import sys\nfrom asr_with_nemo.deployment.runtime import Recognizer\n"
        "Recognizer('an4').transcribe(sys.argv[1:])"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-B", "-c", program, files[0]], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_the_command_answers_with_the_model_that_ships(
    recognizer: runtime.Recognizer, files: list[str], tmp_path: Path
):
    expected = recognizer.transcribe(files[:2])
    for name, file in zip(("a.wav", "b.wav"), files, strict=False):
        shutil.copy(file, tmp_path / name)
    done = run_script("transcribe.py", "an4", "a.wav", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected[0].text + "\n", "")
    lines = run_script("transcribe.py", "an4", "a.wav", "b.wav", "--json", cwd=tmp_path).stdout.splitlines()
    for line, heard in zip(map(json.loads, lines), expected, strict=True):
        assert line["text"] == heard.text
        assert [word["word"] for word in line["words"]] == heard.text.split()
        assert all(0 <= word["confidence"] <= 1 for word in line["words"])


def test_samples_files_and_any_rate_give_the_same(recognizer: runtime.Recognizer, files: list[str], tmp_path: Path):
    samples = audio.load_audio(files[0])
    heard = recognizer.transcribe(files[:1])
    assert recognizer.transcribe([samples]) == heard
    assert recognizer.transcribe([samples.astype(np.float64)]) == heard
    stereo = soxr.resample(np.stack([samples, samples], 1), RATE, 44_100)
    soundfile.write(tmp_path / "stereo.flac", stereo, 44_100)
    (other,) = recognizer.log_probs([tmp_path / "stereo.flac"])
    (one,) = recognizer.log_probs(files[:1])
    length = min(len(one), len(other))
    assert (one[:length].argmax(1) == other[:length].argmax(1)).mean() > 0.95


def test_neither_batches_nor_order_change_the_outputs(recognizer: runtime.Recognizer, files: list[str]):
    alone = recognizer.log_probs(files, batch_size=1)
    together = recognizer.log_probs(files[::-1], batch_size=len(files))[::-1]
    for one, other, file in zip(alone, together, files, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
        np.testing.assert_allclose(np.exp(one).sum(axis=1), 1, atol=1e-4)
        seconds = len(audio.load_audio(file)) / RATE
        assert abs(len(one) * recognizer.seconds_per_frame - seconds) <= 0.04
        assert one.shape[1] == len(recognizer.labels) + 1


def test_words_have_times_and_confidence(recognizer: runtime.Recognizer, files: list[str]):
    search = beam.load(decoding.language_model_path("an4"), recognizer.labels)
    for heard in [*recognizer.transcribe(files), *recognizer.transcribe(files, search=search)]:
        assert [word.word for word in heard.words] == heard.text.split()
        times = [time for word in heard.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= word.start < word.end <= heard.duration for word in heard.words)
        assert all(0 <= word.confidence <= 1 for word in heard.words)


def test_a_long_recording_is_cut_at_pauses(recognizer: runtime.Recognizer, files: list[str], tmp_path: Path):
    pause = np.random.default_rng(0).normal(0, 1e-4, RATE // 2).astype(np.float32)
    sound = np.concatenate([part for file in files for part in (audio.load_audio(file), pause)])
    sound = np.tile(sound, -(-40 * RATE // len(sound)))
    soundfile.write(tmp_path / "long.wav", sound, RATE, subtype="FLOAT")
    (heard,) = recognizer.transcribe([tmp_path / "long.wav"])
    assert heard.duration == pytest.approx(len(sound) / RATE)
    assert [word.word for word in heard.words] == heard.text.split()
    assert heard.words[-1].end > heard.duration - 10


def test_a_quiet_recording_is_heard_as_a_loud_one(recognizer: runtime.Recognizer, files: list[str]):
    quiet = [audio.load_audio(file) * np.float32(10 ** (-42 / 20)) for file in files]
    pairs = zip(recognizer.transcribe(files), recognizer.transcribe(quiet), strict=True)
    assert sum((wer.count_errors(loud.text, soft.text) for loud, soft in pairs), wer.Counts()).rate < 0.1


@pytest.mark.parametrize("gain", [1.0, 0.01])
@pytest.mark.parametrize("offset", [0.05, 0.4])
def test_a_constant_in_the_samples_changes_nothing(
    recognizer: runtime.Recognizer, files: list[str], offset: float, gain: float
):
    sounds = [audio.load_audio(file) * np.float32(gain) for file in files]
    sounds.append(np.concatenate(sounds))  # cut at pauses
    plain, shifted = recognizer.transcribe(sounds), recognizer.transcribe([one + np.float32(offset) for one in sounds])
    pairs = zip(plain, shifted, strict=True)
    assert sum((wer.count_errors(one.text, other.text) for one, other in pairs), wer.Counts()).rate < 0.05


def test_silence_has_no_text_alone_or_in_a_batch(recognizer: runtime.Recognizer, files: list[str]):
    hush = [np.zeros(RATE, np.float32), np.random.default_rng(0).normal(0, 5e-5, 3 * RATE).astype(np.float32)]
    assert [recognizer.recognise([one])[0].text for one in hush] == ["", ""]
    (first, *silent) = recognizer.recognise([audio.load_audio(files[0]), *hush])
    assert first.text and [one.text for one in silent] == ["", ""]


def test_recordings_that_cant_be_used_are_named(recognizer: runtime.Recognizer, files: list[str], tmp_path: Path):
    (tmp_path / "letter.wav").write_text("dear friend")
    with pytest.raises(InputError, match=r"missing\.wav"):
        recognizer.transcribe([tmp_path / "missing.wav"])
    with pytest.raises(InputError, match="array 0.*int16"):
        recognizer.transcribe([np.zeros(100, np.int16)])
    results = list(recognizer.transcribe_each([files[0], tmp_path / "letter.wav", files[1]]))
    assert isinstance(results[1], InputError)
    assert [results[0], results[2]] == recognizer.transcribe(files[:2])


def test_the_file_says_what_it_is(recognizer: runtime.Recognizer):
    assert "".join(recognizer.labels) == " abcdefghijklmnopqrstuvwxyz'"
    assert (recognizer.sample_rate, recognizer.seconds_per_frame) == (16_000, 0.02)
    card = recognizer.card
    assert card["source"]["file"] == "an4.nemo" and card["training"]["epochs"] > 0
    assert card["equality"]["padded"] <= 1e-3 and card["about"].startswith("# an4\n")


def test_what_is_no_such_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"missing\.onnx.*scripts/export\.py"):
        runtime.Recognizer(tmp_path / "missing.onnx")
    (tmp_path / "letter.onnx").write_text("dear friend")
    with pytest.raises(InputError, match=r"letter\.onnx.*scripts/export\.py"):
        runtime.Recognizer(tmp_path / "letter.onnx")
    proto = onnx.load(model_path("an4", suffix=".onnx"))
    for name, facts in (("other", {}), ("newer", {"format": "99"})):
        onnx.helper.set_model_props(proto, facts)
        onnx.save(proto, tmp_path / f"{name}.onnx")
        with pytest.raises(InputError, match=rf"{name}\.onnx.*format"):
            runtime.Recognizer(tmp_path / f"{name}.onnx")
    with pytest.raises(InputError, match="an5"):
        runtime.Recognizer("an5")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample_rate": "0"}, "sample rate"),
        ({"sample_rate": "20"}, "sample rate"),
        ({"sample_rate": "1000000000000"}, "sample rate"),
        ({"sample_rate": "9" * 5_000}, "digits"),
        ({"seconds_per_frame": "1e-9"}, "frame length"),
        ({"seconds_per_frame": "nan"}, "frame length"),
        ({"card": "{"}, "Expecting property"),
        ({"card": "[1]"}, "card"),
        ({"card": "[" * 100_000}, "recursion"),
        ({"card": None}, "card"),
        ({"labels": None}, "labels"),
        ({"labels": "{}"}, "labels"),
        ({"decoder": "os.system"}, "decoder"),
        ({"decoder": "rnnt"}, "most_symbols"),
    ],
)
def test_metadata_of_somebody_elses_file_are_checked(tmp_path: Path, changed: dict[str, str | None], said: str):
    model = onnx.load(model_path("an4", suffix=".onnx"))
    facts = {one.key: one.value for one in model.metadata_props} | changed
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in facts.items() if value is not None})
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=rf"model\.onnx: can't be used as a model \(.*{said}"):
        runtime.Recognizer(tmp_path / "model.onnx")


def test_it_may_be_used_from_several_threads(recognizer: runtime.Recognizer, files: list[str]):
    from concurrent.futures import ThreadPoolExecutor

    expected = [recognizer.transcribe([file])[0] for file in files]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda file: recognizer.transcribe([file])[0], files)) == expected


@pytest.mark.slow
def test_it_gives_what_nemo_gives(recognizer: runtime.Recognizer, files: list[str]):
    model = load_model("an4")
    for one, other in zip(recognizer.log_probs(files), decoding.log_probs(model, files), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    search = beam.load(decoding.language_model_path("an4"), recognizer.labels)
    for one, other in zip(
        [*recognizer.transcribe(files), *recognizer.transcribe(files, search=search)],
        [*decoding.transcribe(model, files), *decoding.transcribe(model, files, search=search)],
        strict=True,
    ):
        assert (one.text, one.duration) == (other.text, other.duration)
        for ours, theirs in zip(one.words, other.words, strict=True):
            assert (ours.start, ours.end) == (theirs.start, theirs.end)
            assert ours.confidence == pytest.approx(theirs.confidence, abs=2e-3)
