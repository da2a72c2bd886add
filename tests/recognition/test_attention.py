"""Attention encoder-decoders (Canary) become text, told by a prompt; what they can't do is refused in a line."""

import json
from pathlib import Path

import pytest

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import describe
from asr_with_nemo.recognition import attention, decoding, evaluation
from asr_with_nemo.recognition.formats import FORMATS
from asr_with_nemo.recognition.transcripts import Transcript, Word
from tests.conftest import run_script
from tests.recognition.in_process import error_of
from tests.recognizers import PROMPTS, canary_config


@pytest.fixture(scope="module")
def rows(small_corpus: an4.Corpus) -> list[dict]:
    return manifest.read_manifest(small_corpus.manifest("dev"))


@pytest.fixture(scope="module")
def files(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four that the models know, and one of half a second, which NeMo pads."""
    known = [row["audio_filepath"] for row in rows[:4]]
    short = tmp_path_factory.mktemp("short") / "short.wav"
    audio.write_wav(short, audio.load_audio(known[0])[:8_000])
    return [*known, str(short)]


def by_nemo(path: Path, files: list[str], batch_size: int, **prompt: object) -> list:
    """What NeMo's own model writes, restored by NeMo."""
    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(str(path), map_location="cpu")
    return model.transcribe(files, batch_size=batch_size, verbose=False, **prompt)


# --- Texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_texts_are_nemos_alone_and_in_a_batch(prompt: str, canaries: dict[str, Path], files: list[str], rows: list):
    texts = [found.text.strip() for found in by_nemo(canaries[prompt], files, 2)]
    assert sum(text == row["text"] for text, row in zip(texts, rows, strict=False)) >= 2, texts
    model = load_model(canaries[prompt])
    for size in (1, 3, 5):
        ours = decoding.transcribe(model, files, batch_size=size, progress=False)
        assert [heard.text for heard in ours] == texts, size
    for heard in ours:
        assert [word.word for word in heard.words] == heard.text.split()
        assert all((word.start, word.end) == (0, heard.duration) for word in heard.words)
        assert all(0 < word.confidence <= 1 for word in heard.words)
        assert not heard.has_word_times or not heard.words
    assert "aed" in describe(model).decoders and "aed" in str(describe(model))
    assert decoding.decoder_of(model).startswith("greedy, aed (source_lang=en")


@pytest.mark.slow
def test_the_confidence_of_a_word_is_the_probability_of_its_pieces(
    canaries: dict[str, Path], files: list[str], rows: list[dict]
):
    """By the decoder itself, which is given all that was written at once."""
    import torch

    model = load_model(canaries["canary"])
    texts = decoding.transcribe(model, files[:4], progress=False)
    file, heard = next(
        (file, one) for file, one, row in zip(files, texts, rows, strict=False) if one.text == row["text"]
    )
    prompt = attention.prompt_tokens(model, {})
    written = model.tokenizer.text_to_ids(heard.text, "en")
    tokens = torch.cat([prompt, torch.tensor(written)])[None]
    samples = torch.from_numpy(audio.load_audio(file))[None]
    with decoding.inference(model):
        log_probs, *_ = model(
            input_signal=samples,
            input_signal_length=torch.tensor([samples.shape[1]]),
            transcript=tokens,
            transcript_length=torch.tensor([tokens.shape[1]]),
        )
    sure = [float(log_probs[0, len(prompt) - 1 + place, token].exp()) for place, token in enumerate(written)]
    pieces = model.tokenizer.ids_to_tokens(written)
    first = next((place for place, piece in enumerate(pieces) if place and piece.startswith("▁")), len(pieces))
    word = [chance for chance, piece in zip(sure[:first], pieces, strict=False) if piece != "▁"]  # the space before it
    assert heard.words[0].confidence == pytest.approx(float(torch.tensor(word).prod()), abs=2e-3)


@pytest.mark.slow
def test_a_model_that_was_trained_for_it_gives_times_of_words(canaries: dict[str, Path], files: list[str]):
    timed = by_nemo(canaries["canary2"], files[:4], 4, timestamps=True)
    model = load_model(canaries["canary2"])
    ours = decoding.transcribe(model, files[:4], progress=False, prompt={"timestamp": "yes"})
    assert [heard.text for heard in ours] == [found.text for found in timed]
    known = max(zip(ours, timed, strict=True), key=lambda pair: pair[0].duration)
    assert known[0].has_word_times and known[0].duration > 1
    for word, found in zip(known[0].words, known[1].timestamp["word"], strict=True):
        assert word.word == found["word"]
        assert word.start == pytest.approx(min(found["start"], known[0].duration), abs=1e-3)
        assert word.end == pytest.approx(min(found["end"], known[0].duration), abs=1e-3)


@pytest.mark.slow
def test_long_recordings_are_cut_and_silence_has_no_text(canaries: dict[str, Path], files: list[str]):
    import numpy as np

    model = load_model(canaries["canary"])
    sounds = [audio.load_audio(file) for file in files[:3]]
    pause = np.zeros(3 * 16_000, np.float32)
    whole, silence = decoding.transcribe(
        model, [np.concatenate([part for sound in sounds for part in (sound, pause)]), pause], progress=False
    )
    assert len(whole.stretches) >= 2 and not whole.has_word_times
    starts = [stretch[0].start for stretch in whole.stretches]
    assert starts == sorted(starts) and starts[-1] > 3
    assert silence.text == "" and silence.words == []


# --- The prompt -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wrong_prompt_is_answered_with_what_the_model_has(canaries: dict[str, Path], files: list[str]):
    one, two = (load_model(canaries[name]) for name in ("canary", "canary2"))
    assert attention.complete_prompt(one, {"pnc": "no"}) == {
        "source_lang": "en",
        "target_lang": "en",
        "task": "asr",
        "pnc": "no",
    }
    assert attention.complete_prompt(two, {"emotion": "emo:happy"})["emotion"] == "<|emo:happy|>"
    for model, given, said in (
        (one, {"language": "de"}, "language=de.*source_lang, target_lang, task, pnc"),
        (one, {"source_lang": "fi"}, "source_lang=fi.*en, es, de, fr"),
        (one, {"target_lang": "de"}, "target_lang=de.*: en$"),
        (one, {"task": "sing"}, "task=sing.*asr, ast"),
        (one, {"timestamp": "yes"}, "timestamp"),
        (two, {"pnc": "maybe"}, "pnc=maybe.*yes, no"),
        (two, {"decodercontext": "go " * 300}, "shorten"),
    ):
        with pytest.raises(InputError, match=said):
            decoding.transcribe(model, files[:1], prompt=given)
    told = {"source_lang": "de", "task": "ast", "target_lang": "en", "pnc": "no"}
    theirs = by_nemo(canaries["canary"], files[:2], 2, **told | {"task": "s2t_translation"})
    assert theirs  # NeMo takes the same slots
    ours = decoding.transcribe(one, files[:1], progress=False, prompt=told)
    assert ours[0].duration > 0
    decoding.transcribe(two, files[:1], progress=False, prompt={"decodercontext": "go on"})


@pytest.mark.parametrize("text", ["de", "=de", 'source_lang="de'])
def test_a_prompt_of_another_form_is_refused(text: str):
    with pytest.raises(InputError, match="--prompt"):
        attention.parse_prompt(text)


# --- Formats ----------------------------------------------------------------------------------------------------------


def test_formats_use_the_times_of_the_stretch_where_words_have_none():
    words = [Word(word, 0.0, 4.0, 0.9) for word in ("go", "on")] + [Word("stop", 5.0, 7.0, 0.9)]
    heard = Transcript("go on stop", words, 8.0, has_word_times=False)
    written = {name: form.write("a.wav", heard, False) for name, form in FORMATS.items()}
    assert "00:00:00,000 --> 00:00:04,000\ngo on\n" in written["srt"]
    assert "00:05.000 --> 00:00:07.000\nstop" in written["vtt"]
    assert 'text = "go on"' in written["textgrid"] and 'text = "stop"' in written["textgrid"]
    assert json.loads(written["jsonl"])["has_word_times"] is False
    assert [line.split()[2:4] for line in written["ctm"].splitlines()] == [["0.000", "4.000"]] * 2 + [
        ["5.000", "2.000"]
    ]
    long = Transcript("", [Word("letters", 0.0, 20.0, 0.9) for _ in range(30)], 20.0, has_word_times=False)
    times = [line for line in FORMATS["srt"].write("a.wav", long, False).splitlines() if "-->" in line]
    assert len(times) >= 3  # shared out, so that no subtitle lasts over 7 s


# --- The commands -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_transcribe_and_evaluate(canaries: dict[str, Path], files: list[str], rows: list, tmp_path: Path):
    model = canaries["canary2"]
    plain = run_script("transcribe.py", model, *files[:2], cwd=tmp_path)
    assert plain.returncode == 0 and plain.stderr == "", plain.stderr
    assert [line.partition("\t")[2] for line in plain.stdout.splitlines()] == [
        found.text.strip() for found in by_nemo(model, files[:2], 2)
    ]
    subtitles = run_script("transcribe.py", model, files[0], "--format", "srt", cwd=tmp_path)
    assert subtitles.returncode == 0 and "-->" in subtitles.stdout
    assert "no times of words" in subtitles.stderr and "timestamp=yes" in subtitles.stderr
    timed = run_script("transcribe.py", model, files[0], "--json", "--prompt", "timestamp=yes pnc=no", cwd=tmp_path)
    assert timed.returncode == 0 and timed.stderr == "", timed.stderr
    assert "has_word_times" not in json.loads(timed.stdout)
    chosen = run_script("transcribe.py", model, *files, "--uncertain", "2", "--output", "next.json", cwd=tmp_path)
    assert chosen.returncode == 0, chosen.stderr
    assert len(manifest.read_manifest(tmp_path / "next.json")) == 2
    tasks = run_script(
        *("transcribe.py", model, *files[:2], "--format", "label-studio", "--output", "tasks.json"), cwd=tmp_path
    )
    assert tasks.returncode == 0 and len(json.loads((tmp_path / "tasks.json").read_text())) == 2, tasks.stderr

    some = [row | {"text": row["text"].capitalize() + "."} for row in rows[:4]]
    manifest.write_manifest(tmp_path / "some.json", some)
    measured = run_script(
        *("evaluate.py", model, "some.json", "--output", "results.json", "--report", "errors.html"),
        *("--prompt", "timestamp=no"),
        cwd=tmp_path,
    )
    assert measured.returncode == 0, measured.stderr
    assert "only capitals, punctuation or hyphens" in measured.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert "aed" in results["decoder"] and "timestamp=no" in results["decoder"]
    assert "--prompt=timestamp=no" in results["command"]
    assert (tmp_path / "errors.html").is_file()


@pytest.mark.slow
def test_what_it_cant_do_is_refused_in_a_line_that_says_what_would(
    canaries: dict[str, Path],
    files: list[str],
    small_corpus: an4.Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    model, dev = canaries["canary"], small_corpus.manifest("dev")
    for command in (
        ("transcribe.py", model, files[0], "--boost", "rubout"),
        ("transcribe.py", model, files[0], "--decoder", "ctc"),
        ("transcribe.py", model, files[0], "--prompt", "pnc=maybe"),
        ("transcribe.py", "an4", files[0], "--prompt", "pnc=no"),
        ("evaluate.py", model, dev, "--boost", "rubout"),
        ("export.py", model, "out.onnx"),
        ("serve.py", model),
        ("build_lm.py", small_corpus.manifest("train"), "lm.arpa", "--model", model),
        ("finetune.py", model, "--manifest", small_corpus.manifest("train"), "--dev", dev),
        ("prepare_corpus.py", dev, "--align", model, "--out", "out"),
    ):
        said = error_of(*command)
        last = said.strip().splitlines()[-1]
        assert last.startswith("error: ") and "Traceback" not in said, (command, said)
        assert "aed" in last or "attention" in last or "pnc" in last, (command, last)
    assert not (tmp_path / "out.onnx").exists()
    (tmp_path / "aed.yaml").write_text(json.dumps({"model": canary_config("canary", tmp_path, tmp_path)}))
    trained = run_script("train.py", "--config-path", tmp_path, "--config-name", "aed", cwd=tmp_path)
    assert trained.returncode == 1 and "speech_to_text_aed.py" in trained.stderr
    with pytest.raises(InputError, match="only aed"):
        decoding.log_probs(load_model(model), files)


@pytest.mark.slow
def test_an_evaluation_of_a_model_that_nemo_restored(canaries: dict[str, Path], small_corpus: an4.Corpus):
    """Its decoding is as published: a beam of one hypothesis."""
    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(str(canaries["canary"]), map_location="cpu").eval()
    result = evaluation.evaluate(model, small_corpus.manifest("dev"), progress=False)
    assert result.words.words and result.decoder.startswith("greedy, aed (")
    model.cfg.decoding.beam.beam_size = 2
    model.change_decoding_strategy(model.cfg.decoding)
    with pytest.raises(InputError, match="beam"):
        decoding.transcribe(model, [])
