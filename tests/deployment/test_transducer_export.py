"""Models of pieces, transducers and hybrids become one file each, which writes what NeMo writes, without it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.deployment import export, runtime
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import ctc_decoder
from asr_with_nemo.recognition import decoding, spelling
from asr_with_nemo.recognition.spelling import Spelling
from tests.conftest import first_rows, run_script
from tests.recognition.test_transducers import taught
from tests.recognizers import DURATIONS

pytestmark = pytest.mark.slow

FAMILIES = {
    "ctc of pieces": "ctc",
    "rnnt of letters": "rnnt",
    "rnnt and ctc of pieces": "ctc",  # one that streams, as it hears whole recordings
    "tdt and ctc of pieces": "tdt",
}
"""Of each family, the decoder that is exported."""


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[str]:
    return [utterance["audio_filepath"] for utterance in manifest.read_manifest(small_corpus.manifest("dev"))][:4]


@pytest.fixture(scope="module")
def models(recognizers: dict[str, Path]) -> dict:
    found = {name: (load_model if name.startswith("ctc") else taught)(recognizers[name]) for name in FAMILIES}
    with torch.no_grad():
        for name in ("ctc of pieces", "rnnt and ctc of pieces"):
            ctc_decoder(found[name]).decoder_layers[0].bias[-1] -= 1  # fewer blanks
    return found


@pytest.fixture(scope="module")
def exports(models: dict, files: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    paths = {name: folder / f"{name.replace(' ', '_')}.onnx" for name in FAMILIES}
    for name, path in paths.items():
        equality = export.export(models[name], path, files, decoder=FAMILIES[name])
        assert equality.same_texts == len(files) and max(equality.alone, equality.padded) < 1e-3
    return paths


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_times_and_confidence_are_nemos(family: str, models: dict, exports: dict[str, Path], files: list[str]):
    recognizer = runtime.Recognizer(exports[family])
    assert recognizer.decoder == FAMILIES[family]
    expected = decoding.transcribe(models[family], files, progress=False, decoder=FAMILIES[family])
    assert any(heard.words for heard in expected)
    for batch_size in (1, 3):
        for ours, theirs in zip(recognizer.transcribe(files, batch_size), expected, strict=True):
            assert (ours.text, ours.duration) == (theirs.text, theirs.duration)
            for one, other in zip(ours.words, theirs.words, strict=True):
                assert (one.word, one.start, one.end) == (other.word, other.start, other.end)
                assert one.confidence == pytest.approx(other.confidence, abs=5e-3)


def test_the_file_needs_neither_torch_nor_nemo_nor_sentencepiece(exports: dict[str, Path], files: list[str]):
    program = (
        "import sys\nfrom asr_with_nemo.deployment import live, runtime\n"
        "heard = runtime.Recognizer(sys.argv[1]).transcribe(sys.argv[2:])\n"
        "heavy = 'torch nemo lightning sentencepiece onnx'.split()\n"
        "print(len(heard[0].words), [name for name in heavy if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, str(exports["tdt and ctc of pieces"]), files[0]]
    words, heavy = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(" ", 1)
    assert int(words) > 0 and heavy == "[]"


def test_the_file_says_what_it_is(exports: dict[str, Path], models: dict):
    recognizer = runtime.Recognizer(exports["tdt and ctc of pieces"])
    assert recognizer.labels == list(models["tdt and ctc of pieces"].joint.vocabulary)
    assert recognizer.transducer.durations == tuple(DURATIONS)
    assert recognizer.card["network"] == "ConformerEncoder with TDT" and recognizer.card["pieces"] == 60
    with pytest.raises(InputError, match="tdt, which gives no log-probabilities"):
        recognizer.log_probs([np.zeros(16_000, np.float32)])


def test_a_decoder_that_the_model_lacks_is_an_error(models: dict, exports: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match=r"rnnt.*tdt and ctc"):
        export.export(models["tdt and ctc of pieces"], tmp_path / "model.onnx", decoder="rnnt")
    with pytest.raises(InputError, match=r"ctc.*only rnnt"):
        export.export(models["rnnt of letters"], tmp_path / "model.onnx", decoder="ctc")
    recognizer = runtime.Recognizer(exports["rnnt and ctc of pieces"])
    recognizer.check_decoder("ctc")
    with pytest.raises(InputError, match=r"ctc, the one decoder.*--decoder rnnt"):
        recognizer.check_decoder("rnnt")
    with pytest.raises(InputError, match=r"language model.*rnnt"):
        runtime.Recognizer(exports["rnnt of letters"]).transcribe([], search="any")
    assert list(tmp_path.iterdir()) == []


def test_an_export_boosts_as_the_model_does(models: dict, exports: dict[str, Path], files: list[str]):
    recognizer, model = runtime.Recognizer(exports["ctc of pieces"]), models["ctc of pieces"]
    for boosts in ({"rubout": 0.0}, {"rubout": 40.0}):
        ours = recognizer.transcribe(files[:2], search=recognizer.load_search(boosts=boosts))
        theirs = decoding.transcribe(
            model, files[:2], progress=False, search=decoding.load_search(model, boosts=boosts)
        )
        assert [one.text for one in ours] == [one.text for one in theirs]
        assert any("rubout" in one.text.split() for one in ours) == bool(boosts["rubout"])
    with pytest.raises(InputError, match=r"boosts.*decoder tdt.*\.nemo.*--decoder ctc"):
        runtime.Recognizer(exports["tdt and ctc of pieces"]).load_search(boosts={"rubout": 3.0})


def test_text_becomes_the_tokenizers_pieces(models: dict, small_corpus: an4.Corpus, tmp_path: Path):
    import sentencepiece

    texts = [row["text"] for row in manifest.read_manifest(small_corpus.manifest("train"))]
    model = models["tdt and ctc of pieces"]
    whole, tokenizer = spelling.parsed(spelling.of(model).as_json()), model.tokenizer.tokenizer
    for kind in ("unigram", "bpe"):
        if kind == "bpe":
            where = str(tmp_path / kind)
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_prefix=where, vocab_size=60, model_type=kind, minloglevel=2
            )
            tokenizer = sentencepiece.SentencePieceProcessor(f"{where}.model")
            scores = tuple(map(tokenizer.get_score, range(60)))
            whole = Spelling(spelling.written(tokenizer), scores, kind, "")
        for text in texts:
            assert whole.columns(text) == tokenizer.encode(text), (kind, text)
            assert whole.text(tokenizer.encode(text)) == text
    assert whole.text([tokenizer.unk_id(), tokenizer.bos_id()]) == "⁇"
    with pytest.raises(InputError, match="'é'"):
        whole.columns("née")


HOSTILE = {
    "an unknown decoder": {"decoder": "lstm"},
    "no durations": {"durations": None},
    "durations that are none": {"durations": '["a"]'},
    "durations without end": {"durations": "[1000000000]"},
    "fewer labels than outputs": {"labels": '["a"]'},
    "labels that are none": {"labels": "{}"},
    "pieces that are none": {"pieces": "[]"},
    "pieces of another kind": {"pieces": '{"pieces": [1], "scores": [0], "kind": "bpe", "punctuation": ""}'},
    "a rate of nothing": {"sample_rate": "0"},
    "frames of nothing": {"seconds_per_frame": "nan"},
    "a search without end": {"most_symbols": "1000000000"},
    "no joint network": {"joint": None},
    "a joint network that isn't one": {"joint": "bm8="},
    "no base64": {"prediction": "é"},
    "the networks the wrong way round": {"joint": "prediction", "prediction": "joint"},
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_damaged_metadata_are_refused(hostile: str, exports: dict[str, Path], tmp_path: Path):
    proto = onnx.load(exports["tdt and ctc of pieces"])
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    changed = {key: facts.get(value, value) for key, value in HOSTILE[hostile].items()}
    facts = {key: value for key, value in (facts | changed).items() if value is not None}
    onnx.helper.set_model_props(proto, facts)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"model\.onnx.*scripts/export\.py"):
        runtime.Recognizer(tmp_path / "model.onnx")


def test_the_commands_take_a_transducer(models: dict, small_corpus: an4.Corpus, tmp_path: Path, files: list[str]):
    models["tdt and ctc of pieces"].save_to(str(tmp_path / "hybrid.nemo"))
    folder = first_rows(small_corpus, tmp_path, train=4, dev=3)
    dev, train = folder / "dev_manifest.json", folder / "train_manifest.json"
    arguments = ["--manifest", dev, "--quantize", "int8", "--calibration", train, "--calibrate-on", "4"]
    made = run_script("export.py", "hybrid.nemo", "hybrid.onnx", *arguments, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "texts are the same" in made.stdout and "int8" in made.stdout
    recognizer = runtime.Recognizer(tmp_path / "hybrid.onnx")
    assert recognizer.decoder == "tdt" and recognizer.card["bits"] == 8
    assert {node.op_type for node in onnx.load(tmp_path / "hybrid.onnx").graph.node} >= {"QuantizeLinear"}
    heard = run_script("transcribe.py", "hybrid.onnx", files[0], "--json", cwd=tmp_path)
    assert heard.returncode == 0, heard.stderr
    assert json.loads(heard.stdout)["text"] == recognizer.transcribe(files[:1])[0].text
    measured = run_script("evaluate.py", "hybrid.onnx", dev, "--output", "result.json", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert json.loads((tmp_path / "result.json").read_text())["decoder"] == "greedy, tdt"
    for script in (["transcribe.py", "hybrid.onnx", files[0]], ["evaluate.py", "hybrid.onnx", dev]):
        wrong = run_script(*script, "--decoder", "ctc", cwd=tmp_path)
        assert wrong.returncode == 1 and re.search("hybrid.onnx.*tdt.*--decoder ctc", wrong.stderr)
