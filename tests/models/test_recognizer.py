"""Each family of NeMo's recognisers loads, and says what it writes and how it decodes."""

import re
import tarfile
from pathlib import Path

import pytest
import yaml

from asr_with_nemo.errors import InputError
from asr_with_nemo.models import model_file
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import choose_decoder, describe
from tests.conftest import pack_nemo
from tests.recognizers import DURATIONS, FAMILIES, LETTERS

CONFIG, WEIGHTS = "./model_config.yaml", "./model_weights.ckpt"


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {f"./{Path(one.name)}": archive.extractfile(one).read() for one in archive if one.isfile()}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_recognizer_says_what_it_is(family: str, recognizers: dict[str, Path]):
    model = load_model(recognizers[family])
    found = describe(model)
    assert found.writes == family.split()[-1]
    assert found.vocabulary[:3] == tuple(LETTERS[:3]) if found.writes == "letters" else len(found.vocabulary) == 60
    assert set(found.decoders) == set(family.split(" of ")[0].split(" and "))
    assert found.decoders[-1] == "ctc" or len(found.decoders) == 1
    assert (found.seconds_per_frame, found.sample_rate) == (0.04, 16_000)
    assert found.streams == (family == "rnnt and ctc of pieces")
    if found.streams:
        assert found.look_ahead == (0.52, 0.04, 0.0)
    assert " and ".join(found.decoders) in str(found)
    assert choose_decoder(model) == found.decoders[0]
    for name in {"ctc", "rnnt", "tdt"} - set(found.decoders):
        with pytest.raises(InputError, match=rf"{name}.*{found.decoders[0]}"):
            choose_decoder(model, name)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_vocabulary_survive_the_safe_reader(family: str, recognizers: dict[str, Path]):
    import torch
    from nemo.collections.asr.models import ASRModel

    ours = load_model(recognizers[family])
    by_nemo = ASRModel.restore_from(str(recognizers[family]), map_location="cpu")
    assert type(ours) is type(by_nemo)
    theirs = by_nemo.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
    if hasattr(ours, "joint"):
        assert list(ours.joint.vocabulary) == list(by_nemo.joint.vocabulary)
    if family.startswith("tdt"):
        assert list(ours.decoding.durations) == DURATIONS


OTHERS = {
    "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel": "Canary",
    "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models_prompt.EncDecHybridRNNTCTCBPEModelWithPrompt": "language",
    "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel": "speakers",
    "nemo.collections.speechlm2.models.salm.SALM": "language model",
    "nemo.collections.tts.models.fastpitch.FastPitchModel": "speaks",
}


@pytest.mark.slow
@pytest.mark.parametrize("target", OTHERS)
def test_a_model_of_another_kind_says_what_it_is_and_what_runs_it(
    target: str, recognizers: dict[str, Path], tmp_path: Path
):
    members = members_of(recognizers["rnnt of letters"])
    path = pack_nemo(
        tmp_path / "other.nemo", members | {CONFIG: yaml.safe_dump({"target": target, "encoder": {}}).encode()}
    )
    with pytest.raises(InputError, match=rf"other\.nemo.*{OTHERS[target]}.*{re.escape(target)}\.restore_from"):
        model_file.load(path)


WRITES = "nemo.collections.asr.parts.utils.manifest_utils.write_manifest"
HOSTILE = {
    "a callable as a joint network": lambda c, file: c.update(joint={"_target_": "builtins.open", "file": file}),
    "a function of NeMo's": lambda c, file: c["joint"].update(_target_=WRITES, output_path=file),
    "a function in the prediction network": lambda c, file: c["decoder"].update(_target_=WRITES, output_path=file),
    "a CTC decoder as a prediction network": lambda c, file: c["decoder"].update(
        _target_="nemo.collections.asr.modules.ConvASRDecoder"
    ),
    "a mapping as a size": lambda c, file: c["decoder"]["prednet"].update(pred_hidden={"_target_": WRITES}),
    "all of the memory": lambda c, file: c["joint"]["jointnet"].update(joint_hidden=10**9),
    "more weights than it has": lambda c, file: c["decoder"]["prednet"].update(pred_hidden=60_000),
    "a language model": lambda c, file: c["decoding"]["greedy"].update(ngram_lm_model=file),
    "a boosting tree": lambda c, file: c["decoding"]["greedy"].update(boosting_tree={"model_path": file}),
    "a language model for CTC": lambda c, file: c["aux_ctc"].update(decoding={"beam": {"kenlm_path": file}}),
    "a function as the CTC decoder": lambda c, file: c["aux_ctc"].update(decoder={"_target_": WRITES}),
    "a share that is none": lambda c, file: c["aux_ctc"].update(ctc_loss_weight=file),
    "durations that are none": lambda c, file: c["loss"]["tdt_kwargs"].update(durations=[file]),
    "durations without end": lambda c, file: c["loss"]["tdt_kwargs"].update(durations=[10**9] * 5),
    "fewer durations than outputs": lambda c, file: c["loss"]["tdt_kwargs"].update(durations=[0, 1]),
    "a tokenizer of its own": lambda c, file: c["tokenizer"].update(custom_tokenizer={"_target_": WRITES}),
    "a tokenizer elsewhere": lambda c, file: c["tokenizer"].update(model_path="/etc/passwd"),
    "widths that are none": lambda c, file: c.update(model_defaults={"enc_hidden": file, "pred_hidden": 12}),
}


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_transducer_that_asks_for_more_than_a_network(hostile: str, recognizers: dict[str, Path], tmp_path: Path):
    members = members_of(recognizers["tdt and ctc of pieces"])
    config = yaml.safe_load(members[CONFIG])
    sprung = tmp_path / "sprung"
    HOSTILE[hostile](config, str(sprung))
    path = pack_nemo(tmp_path / "model.nemo", members | {CONFIG: yaml.safe_dump(config).encode()})
    with pytest.raises(InputError, match=r"model\.nemo"):
        model_file.load(path)
    assert not sprung.exists()


@pytest.mark.slow
def test_the_alphabet_of_a_transducer_is_read_without_building_it(recognizers: dict[str, Path]):
    assert model_file.read_alphabet(recognizers["rnnt of letters"]) == LETTERS
    with pytest.raises(InputError, match="letters"):
        model_file.read_alphabet(recognizers["rnnt of pieces"])
