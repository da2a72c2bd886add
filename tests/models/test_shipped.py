"""The model that ships, an4, is what its results say."""

import json
import os
import shlex
import tarfile
from pathlib import Path

import pytest

from asr_with_nemo.data import an4
from asr_with_nemo.models.names import ASSETS
from tests.conftest import ROOT, run_script

RESULTS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "results" / "shipped").glob("*.json")}


@pytest.fixture(scope="module")
def corpus(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> an4.Corpus:
    """AN4 where `AN4_ARCHIVE` names its archive, else the built-in corpus."""
    archive = os.environ.get("AN4_ARCHIVE")
    if not archive:
        return small_corpus
    return an4.prepare(tmp_path_factory.mktemp("corpus"), source="an4", archive=archive, progress=False)


def test_it_is_small_and_says_what_it_is():
    sizes = {path.name: path.stat().st_size / 1e6 for path in ASSETS.iterdir()}  # MB
    assert sizes["an4.nemo"] <= 8
    assert sum(sizes.values()) <= 16
    card = (ASSETS / "README.md").read_text()
    for row in RESULTS.values():
        assert f"{row['errors']} of {row['words']}" in card
    notice = (ASSETS / "AN4-LICENSE.txt").read_text()
    assert "Copyright (c) 1991-2005 Carnegie Mellon University" in notice


def test_its_language_model_knows_training_texts_and_the_dictionary_alone():
    notes = json.loads((ASSETS / "an4.json").read_text())
    assert notes["text"] | {"sha256": ""} == {
        "file": "train_all_manifest.json",
        "sha256": "",
        "utterances": 948,
        "words": 5442,
    }
    assert notes["lexicon"]["file"] == "an4.dic"
    assert notes["tuning"]["manifest"] == "dev_manifest.json"


def test_nothing_of_this_package_or_machine_is_in_it():
    with tarfile.open(ASSETS / "an4.nemo") as archive:
        config = archive.extractfile("./model_config.yaml").read().decode()
    assert "asr_with_nemo" not in config
    assert str(ROOT) not in config


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_it_makes_the_errors_that_are_written(name: str, corpus: an4.Corpus, tmp_path: Path):
    row = RESULTS[name]
    _, _, _, _, *options = shlex.split(row["command"])  # python scripts/evaluate.py an4 MANIFEST …
    test = corpus.manifest("test")
    done = run_script("evaluate.py", "an4", test, *options, "--output", "again.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["decoder"] == row["decoder"]
    if corpus.name == "an4":
        # Another kind of CPU adds in another order, which can tip a letter.
        assert abs(again["errors"] - row["errors"]) <= 1
    else:
        assert again["wer"] < 0.9  # computer voices, which it never heard
