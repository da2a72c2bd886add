"""The traditional pipeline, PocketSphinx, reads the same manifests and writes the same results files."""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pocketsphinx
import pytest
import soundfile

from asr_with_nemo.data import an4, audio
from asr_with_nemo.data.manifest import read_manifest, write_manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import evaluation, language_model, ngrams, wer
from tests.conftest import ROOT, run_script


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "evaluate_pocketsphinx", ROOT / "scripts/tools/evaluate_pocketsphinx.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
STOCK = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))


@pytest.fixture(scope="module")
def corpus(small_corpus: an4.Corpus) -> an4.Corpus:
    """AN4 where it is prepared, else the small corpus."""
    return an4.locate(ROOT / "data") if (ROOT / "data/an4/corpus.json").is_file() else small_corpus


@pytest.fixture(scope="module")
def dev(corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five dev utterances of several speakers."""
    utterances = read_manifest(corpus.manifest("dev"))
    path = tmp_path_factory.mktemp("dev") / "dev.json"
    write_manifest(path, utterances[:: len(utterances) // 5][:5])
    return path


@pytest.fixture(scope="module")
def lm(corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "train.arpa"
    language_model.make(corpus.manifest("train"), path)
    return path


@pytest.fixture(scope="module")
def capitals(lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of the n-gram's words as CMU writes AN4's: in capitals."""
    words = {*ngrams.read_arpa(lm).vocabulary}
    entries = [line.split(maxsplit=1) for line in STOCK.read_text(encoding="utf-8").splitlines()]
    path = tmp_path_factory.mktemp("dictionary") / "capitals.dic"
    path.write_text("".join(f"{e[0].upper():20} {e[1]}\n" for e in entries if e[0].partition("(")[0] in words))
    return path


def texts(decoder: pocketsphinx.Decoder, manifest: Path) -> list[str]:
    return [script.transcribe(decoder, utterance["audio_filepath"])[0] for utterance in read_manifest(manifest)]


def test_the_command_measures(corpus: an4.Corpus, dev: Path, lm: Path, capitals: Path, tmp_path: Path):
    arguments = (dev, "--lm", lm, "--dictionary", capitals, "--output", "out/sphinx.json")
    done = run_script("tools/evaluate_pocketsphinx.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 utterances" in done.stdout and "WER" in done.stdout and "RTFx" in done.stdout

    utterances = read_manifest(dev)
    rows = evaluation.read_rows(tmp_path / "out/sphinx.json")
    assert [row.reference for row in rows] == [utterance["text"] for utterance in utterances]
    # A computer's voice through a small n-gram is hard on a model of people's speech.
    assert wer.total_errors(rows).rate < (0.3 if corpus.name == "an4" else 1)
    assert {word for row in rows for word in row.hypothesis.split()} <= {*ngrams.read_arpa(lm).vocabulary}

    result = json.loads((tmp_path / "out/sphinx.json").read_text())
    assert (result["model"], result["training"]) == ("", None)
    assert result["decoder"].startswith("PocketSphinx, word 3-gram (lw ")
    assert result["duration"] == pytest.approx(sum(u["duration"] for u in utterances), abs=0.5)
    settings = result["pocketsphinx"]
    assert (settings["lw"], settings["wip"]) == (script.LANGUAGE_WEIGHT, script.INSERTION_PENALTY)
    assert settings["version"] == metadata.version("pocketsphinx")
    assert settings["lm_notes"]["order"] == 3 and f"--dictionary {capitals}" in result["command"]


def test_a_text_depends_on_its_recording_alone(dev: Path, lm: Path, capitals: Path, tmp_path: Path):
    write_manifest(tmp_path / "backwards.json", read_manifest(dev)[::-1])
    decoder = script.load_decoder(lm, capitals, script.LANGUAGE_WEIGHT, script.INSERTION_PENALTY)
    forwards = texts(decoder, dev)
    assert texts(decoder, tmp_path / "backwards.json") == forwards[::-1]
    # PocketSphinx's own dictionary has the same words, in lower case, and a hundred thousand that the n-gram lacks.
    stock = script.load_decoder(lm, STOCK, script.LANGUAGE_WEIGHT, script.INSERTION_PENALTY)
    assert texts(stock, dev) == forwards


def test_where_nothing_is_said_the_text_is_empty(lm: Path, capitals: Path, tmp_path: Path):
    decoder = script.load_decoder(lm, capitals, script.LANGUAGE_WEIGHT, script.INSERTION_PENALTY)
    for samples in (1, 160, 1600):
        soundfile.write(tmp_path / "short.wav", np.zeros(samples, np.int16), audio.SAMPLE_RATE)
        assert script.transcribe(decoder, tmp_path / "short.wav") == ("", samples / audio.SAMPLE_RATE)


def test_the_settings_do_what_they_say(dev: Path, lm: Path, capitals: Path):
    few, many = (
        sum(len(text.split()) for text in texts(script.load_decoder(lm, capitals, script.LANGUAGE_WEIGHT, wip), dev))
        for wip in (1e-20, 1.0)
    )
    assert few < many
    stock = pocketsphinx.Config()
    decoder = script.load_decoder(lm, capitals, 2 * stock["lw"], 1.0)
    for name in ("lw", "fwdflatlw", "bestpathlw"):
        assert decoder.config[name] == pytest.approx(2 * stock[name])


def measure(dev: Path, lm: Path, dictionary: Path | None) -> None:
    script.main(dev, lm, dictionary, lw=script.LANGUAGE_WEIGHT, wip=script.INSERTION_PENALTY)


def test_words_that_it_cant_recognise_are_told(
    dev: Path, lm: Path, capitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lost = read_manifest(dev)[0]["text"].split()[0]
    entries = [
        line
        for line in capitals.read_text(encoding="utf-8").splitlines()
        if line.split()[0].partition("(")[0] != lost.upper()
    ]
    (tmp_path / "fewer.dic").write_text("\n".join(entries) + "\n")
    measure(dev, lm, tmp_path / "fewer.dic")
    warning = capsys.readouterr().err.partition("dictionary: ")[2].partition(";")[0]
    assert lost in warning.split(", ")


def test_what_is_missing_is_named(
    dev: Path, lm: Path, capitals: Path, corpus: an4.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(InputError, match=r"none\.arpa"):
        measure(dev, tmp_path / "none.arpa", capitals)
    with pytest.raises(InputError, match=r"none\.dic"):
        measure(dev, lm, tmp_path / "none.dic")
    with pytest.raises(InputError, match=r"none\.json"):
        measure(tmp_path / "none.json", lm, capitals)

    characters = tmp_path / "characters.arpa"
    language_model.make(corpus.manifest("train"), characters, characters=True)
    with pytest.raises(InputError, match=r"characters\.arpa"):
        measure(dev, characters, capitals)

    shouted = [text.upper().split() for text in language_model.read_texts(corpus.manifest("train"))[0]]
    ngrams.write_arpa(ngrams.build_ngrams(shouted, 2), tmp_path / "capitals.arpa")
    with pytest.raises(InputError, match=r"capitals\.arpa"):
        measure(dev, tmp_path / "capitals.arpa", capitals)

    knowing = tmp_path / "all.arpa"
    language_model.make(corpus.manifest("train_all"), knowing, final=True)
    with pytest.raises(InputError, match=r"all\.arpa"):
        measure(corpus.manifest("dev"), knowing, capitals)

    monkeypatch.setitem(sys.modules, "pocketsphinx", None)  # as if it weren't installed
    with pytest.raises(InputError, match="make setup"):
        measure(dev, lm, capitals)
