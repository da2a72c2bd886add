"""A model file and some sound become text, with times."""

import json
import re
import shutil
import tracemalloc
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from asr_with_nemo.data import an4, audio, manifest, pauses
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, load_model, seconds_per_frame
from asr_with_nemo.recognition import beam, decoding, language_model, ngrams, transcripts, wer
from tests.conftest import run_script
from tests.recognition.in_process import error_of

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def utterances(small_corpus: an4.Corpus) -> list[manifest.Utterance]:
    return manifest.read_manifest(small_corpus.manifest("dev"))


@pytest.fixture(scope="module")
def files(utterances: list[manifest.Utterance]) -> list[str]:
    return [utterance["audio_filepath"] for utterance in utterances]


@pytest.fixture(scope="module")
def model(small_model: Path, files: list[str]):
    """The briefly trained model, its letters made about equally likely: it spells nonsense, but at length."""
    model = load_model(small_model)
    average = np.concatenate(decoding.log_probs(model, files)).mean(axis=0)
    with torch.no_grad():
        model.decoder.decoder_layers[0].bias -= torch.from_numpy(average).to(model.device)
    return model


@pytest.fixture(scope="module")
def talkative(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talkative") / "talkative.nemo"
    model.save_to(str(path))
    return path


@pytest.fixture(scope="module")
def arpa(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    language_model.make(small_corpus.manifest("train"), path, order=2)
    return path


@pytest.fixture(scope="module")
def long_sound(files: list[str]) -> np.ndarray:
    """About a minute: the recordings with half a second of near silence between them."""
    pause = np.random.default_rng(0).normal(0, 1e-4, RATE // 2).astype(np.float32)
    once = [part for file in files for part in (audio.load_audio(file), pause)]
    sound = np.concatenate(once)
    return np.tile(sound, -(-60 * RATE // len(sound)))


# --- Outputs and transcripts ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_texts_are_those_of_nemos_own_transcribe(model, files: list[str]):
    ours = [transcript.text for transcript in decoding.transcribe(model, files, batch_size=3)]
    assert ours == [hypothesis.text.strip() for hypothesis in model.transcribe(files, batch_size=4, verbose=False)]
    assert len(set(ours)) > 1 and max(map(len, ours)) > 5


@pytest.mark.slow
def test_neither_batches_nor_order_change_the_outputs(model, files: list[str]):
    together = decoding.log_probs(model, files, batch_size=8)
    backwards = decoding.log_probs(model, files[::-1], batch_size=1)[::-1]
    for one, other, file in zip(together, backwards, files, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
        np.testing.assert_allclose(np.exp(one).sum(axis=1), 1, atol=1e-4)
        seconds = len(audio.load_audio(file)) / RATE
        assert abs(len(one) * seconds_per_frame(model) - seconds) <= 0.04
        assert one.shape[1] == len(alphabet(model)) + 1


@pytest.mark.slow
def test_the_model_is_left_as_it_was(model, files: list[str]):
    featurizer = model.preprocessor.featurizer
    model.train()
    featurizer.dither, featurizer.pad_to = 1e-5, 16
    decoding.transcribe(model, files[:1])
    assert model.training and (featurizer.dither, featurizer.pad_to) == (1e-5, 16)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    model.eval()


@pytest.mark.slow
def test_words_have_times_in_order(model, files: list[str]):
    for transcript, file in zip(decoding.transcribe(model, files), files, strict=True):
        assert [word.word for word in transcript.words] == transcript.text.split()
        assert transcript.duration == pytest.approx(len(audio.load_audio(file)) / RATE)
        times = [time for word in transcript.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= word.start < word.end <= transcript.duration for word in transcript.words)


@pytest.mark.slow
def test_word_times_are_near_nemos(model, files: list[str]):
    (ours,) = decoding.transcribe(model, files[:1])
    (hypothesis,) = model.transcribe(files[:1], timestamps=True, verbose=False)
    theirs = hypothesis.timestamp["word"]
    model.change_decoding_strategy(None, verbose=False)
    assert [word.word for word in ours.words] == [word["word"] for word in theirs]
    for one, other in zip(ours.words, theirs, strict=True):
        # NeMo lets a letter begin where the blank before it began, and end a frame before.
        assert float(other["start"]) <= one.start + 1e-6
        assert one.end == pytest.approx(float(other["end"]), abs=0.1)


@pytest.mark.slow
def test_a_beam_search_gives_word_times_too(talkative: Path, files: list[str]):
    from omegaconf import OmegaConf

    model = load_model(talkative)
    assert decoding.decoder_of(model) == "greedy"
    model.change_decoding_strategy(
        OmegaConf.create({"strategy": "beam_batch", "beam": {"beam_size": 8}}), verbose=False
    )
    assert decoding.decoder_of(model) == "beam_batch"
    (transcript,) = decoding.transcribe(model, files[:1])
    assert [word.word for word in transcript.words] == transcript.text.split() != []
    assert all(0 <= word.start < word.end <= transcript.duration for word in transcript.words)


@pytest.mark.slow
def test_a_lexicon_and_a_language_model_give_words_with_times(model, files: list[str], arpa: Path):
    search = beam.load(arpa, alphabet(model))
    assert decoding.decoder_of(model, search) == "beam, lexicon + word 2-gram (alpha 0.5, beta 0, width 32)"
    heard = decoding.transcribe(model, files, search=search)
    assert [transcript.text for transcript in heard] == search.texts(decoding.log_probs(model, files))
    said = [word for transcript in heard for word in transcript.words]
    assert {word.word for word in said} <= set(ngrams.read_arpa(arpa).vocabulary) and len(said) > len(files)
    for transcript in heard:
        assert [word.word for word in transcript.words] == transcript.text.split()
        assert all(0 <= word.start < word.end <= transcript.duration for word in transcript.words)
    greedy = decoding.transcribe(model, files)
    assert decoding.decoder_of(model) == "greedy" and greedy != heard


@pytest.mark.slow
def test_nemos_search_with_a_language_model_of_characters(
    talkative: Path, files: list[str], small_corpus: an4.Corpus, tmp_path: Path
):
    from omegaconf import OmegaConf

    model = load_model(talkative)
    language_model.make(small_corpus.manifest("train"), tmp_path / "characters.arpa", order=3, characters=True)
    search = beam.load(tmp_path / "characters.arpa", alphabet(model), beta=2, width=4)
    ours = [transcript.text for transcript in decoding.transcribe(model, files[:2], search=search)]
    assert all(ours) and decoding.decoder_of(model, search).startswith("beam_batch, character 3-gram")
    (silent,) = decoding.transcribe(model, files[:1], search=search.with_weights(language_model.Weights(0.5, -10, 4)))
    assert (silent.text, silent.words) == ("", [])
    options = {
        "beam_size": 4,
        "ngram_lm_model": str(tmp_path / "characters.arpa"),
        "ngram_lm_alpha": 0.5,
        "beam_beta": 2.0,
    }
    model.change_decoding_strategy(OmegaConf.create({"strategy": "beam_batch", "beam": options}), verbose=False)
    assert ours == [transcript.text for transcript in decoding.transcribe(model, files[:2])]


@pytest.mark.slow
def test_any_sound_file_will_do(model, files: list[str], tmp_path: Path):
    samples = audio.load_audio(files[0])
    at_44k, at_8k = (soxr.resample(samples, RATE, rate) for rate in (44_100, 8_000))
    soundfile.write(tmp_path / "stereo.wav", np.stack([at_44k, at_44k], axis=1), 44_100)
    soundfile.write(tmp_path / "24bit.wav", samples, RATE, subtype="PCM_24")
    soundfile.write(tmp_path / "lossless.flac", samples, RATE)
    soundfile.write(tmp_path / "telephone.wav", at_8k, 8_000)
    soundfile.write(tmp_path / "click.wav", samples[:1], RATE)
    names = ["stereo.wav", "24bit.wav", "lossless.flac", "telephone.wav", "click.wav"]
    original, *outputs = decoding.log_probs(model, [files[0], *(tmp_path / name for name in names)])
    heard = decoding.transcribe(model, [tmp_path / name for name in names])
    for name, output, transcript in zip(names[:3], outputs, heard, strict=False):
        length = min(len(original), len(output))
        assert abs(len(original) - len(output)) <= 1, name
        # Resampling touches the top of the band only; bits that were lost are inaudible.
        agree = (original[:length].argmax(axis=1) == output[:length].argmax(axis=1)).mean()
        assert agree > 0.9, name
        assert transcript.duration == pytest.approx(len(samples) / RATE, abs=0.001)
    assert heard[3].duration == pytest.approx(len(samples) / RATE, abs=0.001)
    assert heard[4].duration == 1 / RATE
    assert np.isfinite(outputs[4]).all()


@pytest.mark.slow
def test_samples_and_files_give_the_same(model, files: list[str]):
    samples = audio.load_audio(files[0])
    assert decoding.transcribe(model, [samples]) == decoding.transcribe(model, files[:1])
    assert decoding.transcribe(model, [samples.astype(np.float64)]) == decoding.transcribe(model, files[:1])


@pytest.mark.slow
def test_sound_that_cant_be_used_is_named(model, files: list[str], tmp_path: Path):
    samples = audio.load_audio(files[0])
    spoiled = samples.copy()
    spoiled[100] = np.nan
    soundfile.write(tmp_path / "spoiled.wav", spoiled, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "zero.wav", samples[:0], RATE)
    soundfile.write(tmp_path / "whole.flac", samples, RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:90])  # its header
    (tmp_path / "letter.wav").write_text("dear friend")
    unusable = [tmp_path / name for name in ("spoiled.wav", "zero.wav", "cut.flac", "letter.wav", "missing.wav")]
    for file in unusable:
        with pytest.raises(InputError, match=file.name):
            decoding.transcribe(model, [file])
        with pytest.raises(InputError, match=file.name):
            decoding.log_probs(model, [file])
    for wrong in (np.zeros((100, 2), np.float32), np.zeros(100, np.int16), np.zeros(0, np.float32)):
        with pytest.raises(InputError, match=r"array 0: .*\(T,\)"):
            decoding.transcribe(model, [wrong])
    with pytest.raises(InputError, match="batch size 0"):
        decoding.transcribe(model, files[:1], batch_size=0)

    results = list(decoding.transcribe_each(model, [files[0], *unusable, files[1]], batch_size=2))
    assert [isinstance(result, InputError) for result in results] == [False] + [True] * 5 + [False]
    assert [results[0], results[-1]] == decoding.transcribe(model, files[:2])


@pytest.mark.slow
def test_a_long_recording_is_cut_at_pauses_and_joined(model, files: list[str], long_sound: np.ndarray, tmp_path: Path):
    soundfile.write(tmp_path / "long.wav", long_sound, RATE, subtype="FLOAT")  # the same samples, bit for bit
    first, transcript, last = decoding.transcribe(model, [files[0], tmp_path / "long.wav", files[1]], batch_size=2)
    assert [first, last] == decoding.transcribe(model, files[:2])
    assert transcript.duration == pytest.approx(len(long_sound) / RATE)
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    assert starts[-1] > transcript.duration - 10  # it was heard to the end
    assert [word.word for word in transcript.words] == transcript.text.split()

    pieces = list(pauses.cut_at_pauses([long_sound], RATE))
    assert len(pieces) >= 3
    heard = decoding.transcribe(model, [samples for _, samples in pieces if len(samples)])
    texts = [piece.text for piece in heard]
    # This model's letters are nearly as likely as each other, so another batch's rounding may turn one.
    assert wer.count_errors(" ".join(text for text in texts if text), transcript.text, "character").rate < 0.01


@pytest.mark.slow
def test_memory_does_not_grow_with_a_recordings_length(model, long_sound: np.ndarray, tmp_path: Path):
    def peak(minutes: int) -> int:
        """Bytes of samples held at once while the recording is read (numpy's memory, not torch's)."""
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(long_sound, minutes), RATE)
        tracemalloc.start()
        for window in transcripts.windows(transcripts.pieces([path], RATE), RATE, 16):
            assert sum(piece.size for piece in window) <= (transcripts.WINDOW_SECONDS + 20) * RATE
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(30) < 1.3 * peak(10)


# --- Forced alignment -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_alignment_spells_the_text_in_order(model, utterances: list[manifest.Utterance]):
    for utterance in utterances[:3]:
        letters = decoding.align(model, utterance["audio_filepath"], utterance["text"])
        assert "".join(letter.letter for letter in letters) == utterance["text"]
        assert all(letter.start < letter.end for letter in letters)
        assert all(one.end <= other.start for one, other in pairwise(letters))
        assert letters[-1].end <= utterance["duration"] + 0.04


@pytest.mark.slow
def test_aligning_what_the_model_heard_finds_where_it_heard_it(model, files: list[str]):
    """The likeliest of all paths is also the likeliest of those that spell what it spells."""
    (output,) = decoding.log_probs(model, files[:1])
    letters = alphabet(model)
    runs = [(token, [frame for frame, _ in run]) for token, run in groupby(enumerate(output.argmax(1)), itemgetter(1))]
    heard = [(letters[token], frames[0]) for token, frames in runs if token < len(letters)]
    aligned = decoding.align(model, files[0], "".join(letter for letter, _ in heard))
    seconds = seconds_per_frame(model)
    assert [(letter.letter, round(letter.start / seconds)) for letter in aligned] == heard


@pytest.mark.slow
def test_what_cant_be_aligned_is_refused(model, files: list[str]):
    with pytest.raises(InputError, match="empty"):
        decoding.align(model, files[0], "")
    with pytest.raises(InputError, match="'é'"):
        decoding.align(model, files[0], "née")
    with pytest.raises(InputError, match="frames"):
        decoding.align(model, files[0], "ab" * 5_000)
    # Twins need a blank between them: 3 frames hold "aba", but not "aab".
    assert len(decoding.align(model, np.zeros(RATE // 16, np.float32), "aba")) == 3
    with pytest.raises(InputError, match="4 frames"):
        decoding.align(model, np.zeros(RATE // 16, np.float32), "aab")


# --- scripts/transcribe.py --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_texts(talkative: Path, model, files: list[str], tmp_path: Path):
    texts = [transcript.text for transcript in decoding.transcribe(model, files[:2])]
    for name, file in zip(("a.wav", "b.wav"), files, strict=False):
        shutil.copy(file, tmp_path / name)
    one = run_script("transcribe.py", talkative, "a.wav", cwd=tmp_path)
    assert (one.returncode, one.stdout) == (0, texts[0] + "\n"), one.stderr
    (tmp_path / "bad.wav").write_text("dear friend")

    some = run_script("transcribe.py", talkative, "a.wav", "bad.wav", "b.wav", "--output", "out.tsv", cwd=tmp_path)
    assert some.returncode == 1 and some.stdout == ""
    assert "error: bad.wav: " in some.stderr and "1 of 3 files" in some.stderr and "Traceback" not in some.stderr
    assert (tmp_path / "out.tsv").read_text() == f"a.wav\t{texts[0]}\nb.wav\t{texts[1]}\n"

    lines = run_script("transcribe.py", talkative, "a.wav", "b.wav", "--json", cwd=tmp_path).stdout.splitlines()
    first, second = map(json.loads, lines)
    assert list(first) == ["file", "text", "words", "duration"]
    assert (first["file"], first["text"], second["text"]) == ("a.wav", *texts)
    assert [word["word"] for word in first["words"]] == texts[0].split()
    assert all(word["start"] < word["end"] for word in first["words"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "bad.wav", "out.tsv"]


def test_the_command_refuses_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notes.nemo").write_text("no model")
    monkeypatch.chdir(tmp_path)
    assert error_of("transcribe.py", "notes.nemo", "a.wav").startswith("error: notes.nemo: ")


@pytest.mark.slow
def test_the_command_takes_the_language_model_beside_the_model(
    talkative: Path, model, files: list[str], arpa: Path, tmp_path: Path
):
    search = beam.load(arpa, alphabet(model))
    (transcript,) = decoding.transcribe(model, files[:1], search=search)
    shutil.copy(files[0], tmp_path / "a.wav")
    shutil.copy(talkative, tmp_path / "mine.nemo")
    shutil.copy(arpa, tmp_path / "mine.arpa")
    done = run_script("transcribe.py", "mine.nemo", "--lm", "a.wav", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, transcript.text + "\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["mine.nemo", "--lm", "a.wav"], r"mine\.arpa: .*mine\.nemo"),
        (["mine.nemo", "a.wav", "--lm"], r"mine\.arpa: .*mine\.nemo"),
        (["--lm", "mine.nemo", "--", "a.wav"], r"mine\.arpa: .*mine\.nemo"),
        (["mine.nemo", "--lm", "--json", "a.wav"], r"mine\.arpa: .*mine\.nemo"),
        (["mine.nemo", "--lm", "other.arpa", "a.wav"], r"other\.arpa"),
        (["mine.nemo", "--lm=other.lm", "a.wav"], r"other\.lm"),
        (["an5", "--lm", "a.wav"], "an5"),
    ],
)
def test_the_command_tells_a_language_model_from_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
):
    monkeypatch.chdir(tmp_path)
    assert re.search(f"^error: {reason}", error_of("transcribe.py", *arguments))
