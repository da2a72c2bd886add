"""Models of pieces, transducers and hybrids become one file each, which writes what NeMo writes, without it."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import torch
from fastapi.testclient import TestClient
from nemo.collections.asr.models import EncDecRNNTModel
from omegaconf import OmegaConf

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.deployment import export, runtime
from asr_with_nemo.deployment.app import create_app
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, load_model
from asr_with_nemo.models.recognizer import ctc_decoder
from asr_with_nemo.recognition import boosting, decoding, spelling, transcripts
from asr_with_nemo.recognition.boosting import PhraseTree
from asr_with_nemo.recognition.spelling import Spelling
from asr_with_nemo.recognition.transducer_beam import boosting_tree, probabilities
from tests.conftest import first_rows, run_script
from tests.recognition.test_transducers import taught
from tests.recognizers import DURATIONS, config_of

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


def test_a_prediction_network_without_a_state_is_exported_too(files: list[str], tmp_path: Path):
    config = config_of("rnnt of letters", tmp_path)
    config["decoder"] |= {
        "_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder",
        "context_size": 3,
        "normalization_mode": "layer",
    }
    torch.manual_seed(0)
    EncDecRNNTModel(cfg=OmegaConf.create(config)).save_to(str(tmp_path / "model.nemo"))
    model = taught(tmp_path / "model.nemo")
    equality = export.export(model, tmp_path / "model.onnx", files)
    assert equality.same_texts == len(files) and max(equality.alone, equality.padded) < 1e-3
    heard = runtime.Recognizer(tmp_path / "model.onnx").transcribe(files)
    assert sum(len(transcript.words) for transcript in heard) > 3


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


# --- Boosts of a transducer -------------------------------------------------------------------------------------------


class TreeForNemo:
    """The tree of whole words for NeMo's search, in the place of NeMo's own, whose pieces may end inside a word."""

    def __init__(self, tree: PhraseTree, columns: int):
        self.tree, self.columns = tree, columns

    def get_init_states(self, batch_size: int, bos: bool) -> torch.Tensor:
        return torch.full([batch_size], self.tree.start)

    def advance(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.tensor(
            [[self.tree.step(state, column) for column in range(self.columns)] for state in states.tolist()]
        )
        return steps[:, :, 1], steps[:, :, 0].long()

    def to(self, device: torch.device) -> "TreeForNemo":
        return self


def by_nemos_greedy_search(model, files: list[str], boosts: dict[str, float]) -> list[tuple[list, list]]:
    """What NeMo's greedy search writes, with boosts: letters or pieces and their frames, and the probability of each.

    Its own probabilities are of what it would have written without boosts.
    """
    search, labels, pieces = decoding.greedy_search(model), alphabet(model), spelling.of(model)
    tree = TreeForNemo(boosting.tree_of_pieces(boosts, labels, pieces.columns), len(labels)) if pieces else None
    computer = search.decoding.decoding_computer
    computer.fusion_models, computer.fusion_models_alpha = [tree or boosting_tree(model, boosts)], [1.0]
    found = []
    with decoding.inference(model):
        for samples in transcripts.read(files, 16_000):
            encoded, frames = decoding.encode(model, [samples])
            (one,) = search.rnnt_decoder_predictions_tensor(encoded, frames, return_hypotheses=True)
            steps = zip(map(int, one.y_sequence), map(int, one.timestamp), strict=True)
            found.append((list(steps), probabilities(model, encoded[0], one)))
    return found


BOOSTS = {
    "nothing": {"go": 0.0},
    "a word": {"go": 60.0},
    "several": {"man": 25.0, "tan": 12.0, "go on": 50.0, "yes": 9.0},
    "some held back": {"my": -40.0, "y": -15.0, "seven": 30.0, "bus": 30.0},
}


@pytest.mark.parametrize("family", ["rnnt of letters", "tdt and ctc of pieces"])
def test_a_transducer_boosts_as_nemos_greedy_search_does(
    family: str, models: dict, exports: dict[str, Path], files: list[str]
):
    recognizer = runtime.Recognizer(exports[family])
    plain, texts = recognizer.transcribe(files, 3), set()
    for name, boosts in BOOSTS.items():
        search = recognizer.load_search(boosts=boosts)
        expected = by_nemos_greedy_search(models[family], files, boosts)
        ours = recognizer.transducer.search(
            *recognizer.encode(transcripts.read(files, recognizer.sample_rate)), boosted=search
        )
        for choices, (steps, sure) in zip(ours, expected, strict=True):
            assert [(one.column, one.frame) for one in choices] == steps
            assert [one.probability for one in choices] == pytest.approx(sure, abs=5e-3)
        alone, together = (recognizer.transcribe(files, size, search=search) for size in (1, 3))
        assert [one.text for one in alone] == [one.text for one in together]
        assert (together == plain) == (name == "nothing")
        assert "go" in " ".join(one.text for one in alone).split() or name != "a word"
        texts.add(tuple(one.text for one in alone))
    assert len(texts) == len(BOOSTS)
    assert recognizer.load_search(boosts={}) is None
    assert recognizer.decoder_of(search) == f"greedy, 4 boosted, {recognizer.decoder}"


def test_words_are_expected_or_held_back_on_the_command_line(exports: dict[str, Path], files: list[str]):
    path = exports["tdt and ctc of pieces"]
    plain, folder = runtime.Recognizer(path).transcribe(files[:1])[0].text.split(), path.parent
    word = max(plain, key=plain.count)
    lowered = run_script("transcribe.py", path, files[0], "--boost", f"{word}:-60", cwd=folder)
    assert (lowered.returncode, lowered.stderr) == (0, "")
    assert lowered.stdout.split().count(word) < plain.count(word)
    raised = run_script("transcribe.py", path, files[0], "--boost", "go:60", "--json", cwd=folder)
    words = json.loads(raised.stdout)["words"]
    assert "go" in [one["word"] for one in words] and all(0 <= one["confidence"] <= 1 for one in words)
    wrong = run_script("transcribe.py", path, files[0], "--boost", "zürich:3", cwd=folder)
    assert wrong.returncode == 1 and re.search("zürich.*'ü'", wrong.stderr), wrong.stderr


def test_a_request_to_the_server_boosts_a_transducer(exports: dict[str, Path], files: list[str]):
    recognizer = runtime.Recognizer(exports["tdt and ctc of pieces"], threads=1)
    search = recognizer.load_search(boosts={"rubout": 1.0})
    with TestClient(create_app(recognizer, search)) as client:

        def ask(boost: str) -> httpx.Response:
            content = Path(files[0]).read_bytes()
            return client.post("/v1/audio/transcriptions", files={"file": content}, data={"boost": boost})

        usual = recognizer.transcribe(files[:1], search=search)[0].text
        assert ask("").json()["text"] == usual and "go" not in usual.split()
        assert "go" in ask("go:60, new york").json()["text"].split()
        assert ask("").json()["text"] == usual
        word = usual.split()[0]
        assert ask(f"{word}:-60").json()["text"].split().count(word) < usual.split().count(word)
        wrong = ask("zürich")
        assert wrong.status_code == 400 and "'ü'" in wrong.json()["error"]["message"]


def test_what_a_transducers_search_cant_do_is_refused(exports: dict[str, Path], files: list[str], tmp_path: Path):
    recognizer, by_ctc = (runtime.Recognizer(exports[name]) for name in ("rnnt of letters", "ctc of pieces"))
    search, other = (one.load_search(boosts={"go": 3.0}) for one in (recognizer, by_ctc))
    for one, wrong, reason in ((recognizer, other, "language model"), (by_ctc, search, "not for the decoder ctc")):
        with pytest.raises(InputError, match=reason):
            one.transcribe(files[:1], search=wrong)
    with pytest.raises(InputError, match="'7'"):
        recognizer.load_search(boosts={"route 7": 3.0})
    with pytest.raises(InputError, match=r"language model.*rnnt.*greedy.*\.nemo.*--decoder ctc"):
        recognizer.load_search("words.arpa", {"go": 3.0})
    with pytest.raises(InputError, match="--width.*greedy"):
        recognizer.load_search(boosts={"go": 3.0}, width=8)
    # A file of before still writes its texts, and says what it lacks.
    proto = onnx.load(exports["rnnt of letters"])
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    joint = onnx.load_from_string(base64.b64decode(facts["joint"]))
    assert joint.graph.output.pop().name == "scores"
    onnx.helper.set_model_props(proto, facts | {"joint": base64.b64encode(joint.SerializeToString()).decode()})
    onnx.save(proto, tmp_path / "old.onnx")
    old = runtime.Recognizer(tmp_path / "old.onnx")
    assert old.transcribe(files[:1]) == recognizer.transcribe(files[:1])
    with pytest.raises(InputError, match=r"old\.onnx.*scores.*scripts/export\.py"):
        old.load_search(boosts={"go": 3.0})


# --- The file ---------------------------------------------------------------------------------------------------------


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
