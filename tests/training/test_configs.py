"""The training configs build on one another, and each resolves to the config that its run folders are named for."""

import hashlib
import json

import pytest
from omegaconf import DictConfig, OmegaConf

from asr_with_nemo.errors import InputError
from asr_with_nemo.training.config import load_config
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
FOLDER = "data/an4"
RECIPES = ("config", "finetune", "quartznet_an4", "small_corpus", "streaming_an4", "transducer_an4")
SIZES = {
    "labels": [" ", "a", "b"],
    "sample_rate": 16000,
    "highest": None,
    "width": 384,
    "repeat": 1,
    "dropout": 0.25,
    "batch_size": 16,
    "epochs": 120,
    "check_every": 5,
    "average": 0.998,
    "use_cer": False,
}
"""Of a corpus, as `data.sizes.sizes` gives them."""


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> dict[str, DictConfig]:
    """All training configs with the same `data_dir`, by name."""
    monkeypatch.setattr("asr_with_nemo.data.sizes.sizes", lambda folder: SIZES)
    return {name: load_config(CONFIGS, name, [f"data_dir={FOLDER}"]) for name in RECIPES}


def resolved(config: DictConfig) -> dict:
    return OmegaConf.to_container(config, resolve=True)


def leaves(section: dict, prefix: str = "") -> dict[str, object]:
    """Values by dotted key."""
    found = {}
    for key, value in section.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_every_training_config_of_the_folder_is_composed_here():
    with pytest.raises(InputError, match=", ".join(f"{name}.yaml" for name in RECIPES)):
        load_config(CONFIGS, "nope")


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("config", "424c956af62a"),
        ("finetune", "ab920ae92214"),
        ("quartznet_an4", "586365a1196c"),
        ("small_corpus", "347fdd10e57c"),
        ("streaming_an4", "bf85203a5975"),
        ("transducer_an4", "bfac910d9b69"),
    ],
)
def test_a_config_resolves_to_the_same_values_as_ever(name: str, digest: str, composed: dict[str, DictConfig]):
    """A run folder is named for the digest of its config: with another one, a training would not find its folder.

    Where a config is changed on purpose, its digest here changes too, and its trainings begin anew.
    """
    text = json.dumps(resolved(composed[name]), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == digest


def test_what_the_recipes_share_is_as_in_config_yaml(composed: dict[str, DictConfig]):
    shared = leaves(OmegaConf.to_container(OmegaConf.load(CONFIGS / "base" / "training.yaml")))
    whole = leaves(OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml")))
    given = {key: value for key, value in shared.items() if value != "???"}
    assert {key: whole.get(key) for key in given} == given
    for name in RECIPES:
        assert shared.keys() <= leaves(OmegaConf.to_container(composed[name])).keys(), name


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "config"])
def test_a_recipe_repeats_nothing_that_its_base_sets(name: str):
    own, base = OmegaConf.load(CONFIGS / f"{name}.yaml"), {}
    files = [own]
    while files:
        for item in files.pop().get("defaults", []):
            if item != "_self_":
                file = OmegaConf.load(CONFIGS / "base" / f"{item.removeprefix('base/')}.yaml")
                files.append(file)
                base = leaves(OmegaConf.to_container(file)) | base
    mine = leaves(OmegaConf.to_container(own))
    assert base
    repeated = {key for key, value in mine.items() if key in base and base[key] == value and value != "???"}
    assert not repeated


def test_a_wrong_key_is_explained_by_the_keys_that_the_base_has():
    with pytest.raises(InputError, match=r"quartznet_an4\.yaml.*model\.optim\.betas"):
        load_config(CONFIGS, "quartznet_an4", ["model.optim.beta=1"])


def test_a_small_corpus_has_to_be_named():
    with pytest.raises(InputError, match="data_dir"):
        load_config(CONFIGS, "small_corpus")
