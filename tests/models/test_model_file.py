"""A model file is data: it gives a model, or is refused with the reason, and nothing in it is ever run."""

import contextlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import model_file
from asr_with_nemo.models.loading import alphabet, load_model, writes_letters
from asr_with_nemo.recognition import decoding
from tests.conftest import pack_nemo

CONFIG, WEIGHTS = "./model_config.yaml", "./model_weights.ckpt"


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def members(small_model: Path) -> dict[str, bytes]:
    """What is in the small model's file, by name."""
    with tarfile.open(small_model) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """A file that is there once somebody has run what a hostile model asks for."""
    return tmp_path / "sprung"


def saved(thing: object) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def with_config(members: dict[str, bytes], path: Path, change: Callable[[dict], object]) -> Path:
    """A copy of the small model whose config was changed."""
    config = yaml.safe_load(members[CONFIG])
    change(config)
    return pack_nemo(path, members | {CONFIG: yaml.safe_dump(config).encode()})


def refused(path: Path, reason: str) -> None:
    from nemo.core import ModelPT

    with pytest.raises(InputError, match=f"{re.escape(path.name)}.*{reason}"):
        model_file.load(path)
    assert not ModelPT._is_model_being_restored()  # the next model in this process is made as ever


# --- What is no model -------------------------------------------------------------------------------------------------


def test_what_is_no_model_file_is_told_so_at_once(tmp_path: Path):
    contents = {
        "empty.nemo": b"",
        "text.nemo": b"a letter to a friend\n" * 100,
        "random.ckpt": np.random.default_rng(0).bytes(20_000),
        "zeros.nemo": bytes(20_000),
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}.*"):
            model_file.load(path)
    with pytest.raises(InputError, match=r"missing\.nemo"):
        model_file.load(tmp_path / "missing.nemo")
    with pytest.raises(InputError, match="a folder"):
        model_file.load(tmp_path)


@pytest.mark.slow
def test_models_of_other_kinds_and_damaged_ones_are_refused(small_model: Path, members: dict, tmp_path: Path):
    refused(pack_nemo(tmp_path / "an4_sphere.tar", {"README": b"hello"}), r"without model_config\.yaml")
    refused(pack_nemo(tmp_path / "half.nemo", {CONFIG: members[CONFIG]}), r"without model_weights\.ckpt")
    transducer = with_config(
        members,
        tmp_path / "transducer.nemo",
        lambda config: config.update(target="nemo.collections.asr.models.EncDecRNNTBPEModel"),
    )
    refused(transducer, "refused.*RNNTDecoder")
    strange = with_config(
        members, tmp_path / "strange.nemo", lambda config: config.update(target="nemo.collections.asr.models.NewModel")
    )
    refused(strange, "NewModel.*EncDecCTCModel.*EncDecHybridRNNTCTCBPEModel")
    refused(with_config(members, tmp_path / "deaf.nemo", lambda config: config.pop("preprocessor")), "no preprocessor")
    smaller = with_config(members, tmp_path / "smaller.nemo", lambda config: config["encoder"]["jasper"].pop(2))
    refused(smaller, "weights|loaded")
    refused(pack_nemo(tmp_path / "prose.nemo", members | {CONFIG: b"a: [1\nb: }"}), "YAML")

    whole = small_model.read_bytes()
    for name, content in (("cut.nemo", whole[: len(whole) // 2]), ("config only.nemo", whole[: 64 * 1024])):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "")
    checkpoint = next(small_model.parent.glob("checkpoints/last.ckpt"))
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:100_000])
    refused(tmp_path / "cut.ckpt", r"\.nemo.*\.ckpt")
    with zipfile.ZipFile(tmp_path / "photos.ckpt", "w") as archive:
        archive.writestr("holiday.txt", "sun")
    refused(tmp_path / "photos.ckpt", "")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    refused(tmp_path / "other.ckpt", "state_dict")


# --- What asks for more than to be a network --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped_from_a_model", "folder/../../escaped"])
def test_a_member_that_would_land_elsewhere(name: str, members: dict, tmp_path: Path):
    refused(pack_nemo(tmp_path / "model.nemo", members | {name: b"gotcha"}), re.escape(name))
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/escaped_from_a_model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_member_that_is_a_link(kind: bytes, members: dict, tmp_path: Path):
    path = pack_nemo(tmp_path / "model.nemo", {WEIGHTS: members[WEIGHTS]})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo(CONFIG)
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    refused(path, "/etc/passwd")


@pytest.mark.slow
def test_a_file_that_grows_without_bounds(members: dict, tmp_path: Path):
    bomb = pack_nemo(tmp_path / "bomb.nemo", {CONFIG: members[CONFIG], WEIGHTS: bytes(200_000_000)}, "w:gz")
    assert bomb.stat().st_size < 1_000_000
    refused(bomb, "model_weights.ckpt|bytes")
    laughs = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    refused(
        pack_nemo(tmp_path / "laughs.nemo", members | {CONFIG: f"l0: &l0 ha\n{laughs}".encode()}), "1,000,000 values"
    )
    chain = "".join(f"  k{n}: {{a: '${{encoder.k{n - 1}}}', b: '${{encoder.k{n - 1}}}'}}\n" for n in range(1, 40))
    chained = pack_nemo(tmp_path / "chain.nemo", members | {CONFIG: f"encoder:\n  k0: 1\n{chain}".encode()})
    refused(chained, "1,000,000 values")


@pytest.mark.slow
def test_weights_that_run_code(members: dict, sprung: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # With this set, torch.load runs what it finds unless it is told not to.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trapped = pack_nemo(tmp_path / "trap.nemo", members | {WEIGHTS: saved({"encoder": Trap(sprung)})})
    refused(trapped, r"\w*open\b")
    torch.save({"state_dict": {}, "hyper_parameters": Trap(sprung)}, tmp_path / "trap.ckpt")
    refused(tmp_path / "trap.ckpt", r"\w*open\b")
    assert not sprung.exists()


def nested(levels: int) -> list:
    return [nested(levels - 1)] if levels else []


WRITES = "nemo.collections.asr.parts.utils.manifest_utils.write_manifest"
HOSTILE = {
    "a callable": lambda c, file: c.update(encoder={"_target_": "builtins.open", "file": file, "mode": "w"}),
    "a command": lambda c, file: c.update(encoder={"_target_": "os.system", "command": f"touch {file}"}),
    "as NeMo 1.0 wrote it": lambda c, file: c.update(encoder={"cls": "os.system", "params": {"command": "touch"}}),
    "in parameters": lambda c, file: c["encoder"].update(params={"_target_": "os.system", "command": f"touch {file}"}),
    "deep inside": lambda c, file: c["encoder"]["jasper"].append({"x": [{"_target_": "builtins.open", "file": file}]}),
    "of an optimiser": lambda c, file: c.update(optim={"_target_": "builtins.open", "file": file, "mode": "w"}),
    "of an adapter": lambda c, file: c.update(adapters={"one": {"_target_": "antigravity.fly"}}),
    "of the model": lambda c, file: c.update(target="builtins.exec"),
    "a function of NeMo's": lambda c, file: c.update(encoder={"_target_": WRITES, "output_path": file}),
    "through NeMo": lambda c, file: c["encoder"].update(_target_="nemo.core.classes.common.shutil.rmtree"),
    "a class through NeMo": lambda c, file: c["encoder"].update(_target_="nemo.core.classes.common.Path"),
    "of torch's, no module": lambda c, file: c["encoder"].update(_target_="torch.nn.Parameter"),
    "a model in a model": lambda c, file: c["encoder"].update(_target_="nemo.collections.asr.models.EncDecCTCModel"),
    "by a reference": lambda c, file: c.update(x="os.system", encoder={"_target_": "${x}", "command": f"touch {file}"}),
    "computed": lambda c, file: c["encoder"].update(activation="${oc.env:HOME}"),
    "a language model": lambda c, file: c["decoding"].update(strategy="beam", beam={"ngram_lm_model": file}),
    "another's tokenizer": lambda c, file: c.update(tokenizer={"type": "bpe", "model_path": "/etc/passwd"}),
    "a class that loads a model by itself": lambda c, file: c.update(
        spec_augment={
            "_target_": "nemo.collections.tts.metrics.frechet_codec_distance.FrechetCodecDistance",
            "codec_name": file,
        }
    ),
    "a decoder that opens a file": lambda c, file: c.update(
        decoder={"_target_": "nemo.collections.asr.modules.BeamSearchDecoderWithLM", "lm_path": file}
    ),
    "an encoder as a preprocessor": lambda c, file: c["preprocessor"].update(
        _target_="nemo.collections.asr.modules.ConvASREncoder"
    ),
    "Hydra's own keys": lambda c, file: c["encoder"].update(_args_=[file], _partial_=True),
    "a path as an option": lambda c, file: c["encoder"].update(activation=file),
    "a mapping as an option": lambda c, file: c["encoder"].update(init_mode={"_target_": WRITES, "output_path": file}),
    "deep in a mapping that is allowed": lambda c, file: c["preprocessor"].update(
        normalize={"fixed_mean": [0.0], "fixed_std": {"_target_": WRITES, "output_path": file}}
    ),
    "a loss within": lambda c, file: c.update(interctc={"loss_weights": {"_target_": WRITES, "output_path": file}}),
    "all of the memory": lambda c, file: c["preprocessor"].update(n_fft=10**9),
    "filters that fill the memory": lambda c, file: c["preprocessor"].update(
        features=1024, sample_rate=100_000, window_size=5.0
    ),
    "spectrograms that fill the memory": lambda c, file: c["preprocessor"].update(window_size=1.0, window_stride=0.001),
    "positions that fill the memory": lambda c, file: c.update(
        encoder={
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            **{"feat_in": 64, "n_layers": 0, "d_model": 2_048, "n_heads": 1, "pos_emb_max_len": 100_000},
        }
    ),
    "positions by default that fill the memory": lambda c, file: c.update(
        encoder={"_target_": "nemo.collections.asr.modules.TransformerEncoder", "d_model": 65_536, "n_layers": 0}
    ),
    "a tiny stride": lambda c, file: c["preprocessor"].update(window_stride=1e-9),
    "more layers than it has weights": lambda c, file: c["encoder"]["jasper"].extend(
        [{**c["encoder"]["jasper"][0], "filters": 60_000, "kernel": [5], "separable": False}] * 2
    ),
    "no end of levels": lambda c, file: c["encoder"].update(x=nested(200)),
    "code for a tokenizer": lambda c, file: c.update(tokenizer={"type": "wpe", "hf_kwargs": {"trust_remote_code": 1}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_config_that_asks_for_more_than_a_network(hostile: str, members: dict, sprung: Path, tmp_path: Path):
    path = with_config(members, tmp_path / "model.nemo", lambda config: HOSTILE[hostile](config, str(sprung)))
    refused(path, "refused|wpe|doesn't support")
    assert not sprung.exists()
    with contextlib.suppress(InputError):  # the alphabet is read without building anything
        model_file.read_alphabet(path)
    assert not sprung.exists()


@pytest.mark.slow
def test_tables_that_no_weight_bounds_have_a_limit(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_file, "_BUFFERS", 1_000)  # its mel filters alone have more
    refused(small_model, "refused")


@pytest.mark.slow
def test_a_checkpoint_is_held_to_the_same(small_model: Path, sprung: Path, tmp_path: Path):
    from omegaconf import open_dict

    checkpoint = torch.load(next(small_model.parent.glob("checkpoints/last.ckpt")), weights_only=False)
    with open_dict(checkpoint["hyper_parameters"]["cfg"]):
        checkpoint["hyper_parameters"]["cfg"].encoder = {"_target_": "builtins.open", "file": str(sprung), "mode": "w"}
    torch.save(checkpoint, tmp_path / "hostile.ckpt")
    refused(tmp_path / "hostile.ckpt", "refused")
    assert not sprung.exists()


@pytest.mark.slow
def test_what_waits_for_a_training_is_left_behind(members: dict, sprung: Path, tmp_path: Path):
    def plant(config: dict) -> None:
        config["train_ds"] = {"use_lhotse": True, "cuts_path": f"pipe:touch {sprung}"}
        config["memory_profile"] = {"enabled": True, "output_path": str(sprung)}

    model = model_file.load(with_config(members, tmp_path / "model.nemo", plant))
    assert not {"train_ds", "memory_profile"} & set(model.cfg)
    assert not sprung.exists()


# --- What gives a model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[str]:
    return [utterance["audio_filepath"] for utterance in manifest.read_manifest(small_corpus.manifest("dev"))]


@pytest.mark.slow
def test_a_checkpoint_is_the_same_model_as_its_nemo_file(small_model: Path, files: list[str]):
    best = next(small_model.parent.glob("checkpoints/best-*.ckpt"))
    results = [decoding.log_probs(model_file.load(path), files[:2]) for path in (small_model, best)]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_was_switched_off_and_is_no_longer_known_does_no_harm(members: dict, tmp_path: Path):
    off = with_config(members, tmp_path / "off.nemo", lambda c: c["preprocessor"].update(int_values=False))
    assert "int_values" not in model_file.load(off).cfg.preprocessor
    on = with_config(members, tmp_path / "on.nemo", lambda c: c["preprocessor"].update(int_values=True))
    refused(on, "preprocessor.*int_values=True")


@pytest.mark.slow
def test_a_model_model_of_pieces_of_words_transcribes_too(model_of_pieces: Path, files: list[str], tmp_path: Path):
    model = load_model(model_of_pieces)
    transcripts = decoding.transcribe(model, files, progress=False)
    by_nemo = [heard.text for heard in model.transcribe(files, batch_size=4, verbose=False)]
    assert [transcript.text for transcript in transcripts] == by_nemo
    talkative = max(transcripts, key=lambda transcript: len(transcript.words))
    assert len(talkative.words) > 1
    assert [word.word for word in talkative.words] == talkative.text.split()
    assert all(word.start < word.end <= talkative.duration for word in talkative.words)

    model.save_to(str(tmp_path / "again.nemo"))
    again = decoding.transcribe(load_model(tmp_path / "again.nemo"), files, progress=False)
    assert [transcript.text for transcript in again] == by_nemo


@pytest.mark.slow
def test_pieces_of_words_are_aligned_and_know_their_letters(model_of_pieces: Path, files: list[str]):
    from asr_with_nemo.recognition import beam

    model = load_model(model_of_pieces)
    assert not writes_letters(model)
    letters = decoding.align(model, files[0], "five nine")
    assert "".join(letter.letter for letter in letters).strip() == "five nine"
    with pytest.raises(InputError, match="of words, which needs a model of letters.*build_lm.py --model"):
        beam.load(decoding.language_model_path("an4"), alphabet(model))
