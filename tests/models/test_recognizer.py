"""Each family of NeMo's recognisers loads, and says what it writes and how it decodes."""

import re
import tarfile
from collections.abc import Callable
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
    runs = "from_pretrained.*salm_generate" if target.endswith("SALM") else "restore_from"
    with pytest.raises(InputError, match=rf"other\.nemo.*{OTHERS[target]}.*{re.escape(target)}\.{runs}"):
        model_file.load(path)


def test_a_folder_of_hugging_faces_format_is_no_nemo_model(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="Hugging Face.*SALM.*from_pretrained"):
        model_file.load(tmp_path)


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


def is_refused(model: Path, change: Callable[[dict, str], object], folder: Path) -> None:
    """Make sure that a model whose config is changed isn't loaded, and that the file isn't made that it asks for."""
    members = members_of(model)
    config = yaml.safe_load(members[CONFIG])
    sprung = folder / "sprung"
    change(config, str(sprung))
    path = pack_nemo(folder / "model.nemo", members | {CONFIG: yaml.safe_dump(config).encode()})
    with pytest.raises(InputError, match=r"model\.nemo"):
        model_file.load(path)
    assert not sprung.exists()


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_transducer_that_asks_for_more_than_a_network(hostile: str, recognizers: dict[str, Path], tmp_path: Path):
    is_refused(recognizers["tdt and ctc of pieces"], HOSTILE[hostile], tmp_path)


@pytest.mark.slow
def test_the_alphabet_of_a_transducer_is_read_without_building_it(recognizers: dict[str, Path]):
    assert model_file.read_alphabet(recognizers["rnnt of letters"]) == LETTERS
    with pytest.raises(InputError, match="letters"):
        model_file.read_alphabet(recognizers["rnnt of pieces"])


HOSTILE_CANARIES = {
    "a callable as a decoder": lambda c, file: c.update(transf_decoder={"_target_": "builtins.open", "file": file}),
    "a function of NeMo's": lambda c, file: c["head"].update(_target_=WRITES, output_path=file),
    "another transformer": lambda c, file: c["transf_encoder"].update(
        _target_="nemo.collections.asr.modules.transformer.transformer_utils.get_nemo_transformer"
    ),
    "a decoder that loads a model": lambda c, file: c["transf_decoder"].update(model_name=file, pretrained=True),
    "a mapping as a size": lambda c, file: c["transf_decoder"]["config_dict"].update(hidden_size={"_target_": WRITES}),
    "a path as an activation": lambda c, file: c["transf_decoder"]["config_dict"].update(hidden_act=file),
    "layers without end": lambda c, file: c["transf_decoder"]["config_dict"].update(num_layers=10**9),
    "copies of large layers": lambda c, file: c["transf_decoder"]["config_dict"].update(
        num_layers=128, inner_size=20_000
    ),
    "copies of large layers between": lambda c, file: c["transf_encoder"].update(num_layers=128, inner_size=20_000),
    "a table of positions that fills the memory": lambda c, file: c["transf_decoder"]["config_dict"].update(
        max_sequence_length=65_536, hidden_size=65_536
    ),
    "a large head": lambda c, file: c["head"].update(num_layers=8, hidden_size=60_000),
    "a function of torch's as an activation": lambda c, file: c["head"].update(num_layers=8, activation="diag_embed"),
    "languages without end": lambda c, file: c["tokenizer"]["langs"].update(
        {f"l{number}": c["tokenizer"]["langs"]["en"] for number in range(300)}
    ),
    "a callable as the loss": lambda c, file: c.update(loss={"_target_": "builtins.open", "file": file}),
    "a callable as a metric": lambda c, file: c.update(
        multitask_metrics_cfg={"metrics": {"wer": {"_target_": "os.system", "command": f"touch {file}"}}}
    ),
    "a tokenizer of its own": lambda c, file: c["tokenizer"].update(custom_tokenizer={"_target_": WRITES}),
    "a tokenizer elsewhere": lambda c, file: c["tokenizer"]["langs"]["en"].update(model_path="/etc/passwd"),
    "a tokenizer of another type": lambda c, file: c["tokenizer"]["langs"]["en"].update(type="wpe"),
    "a path as a language": lambda c, file: c["tokenizer"]["langs"].update(
        {f"../{Path(file).name}": c["tokenizer"]["langs"]["en"]}
    ),
    "no special tokens": lambda c, file: c["tokenizer"]["langs"].pop("spl_tokens"),
    "a prompt of another kind": lambda c, file: c.update(prompt_format=file),
    "a mapping in the prompt": lambda c, file: c.update(
        prompt_defaults=[{"role": "user", "slots": {"pnc": {"_target_": WRITES}}}]
    ),
    "a slot that there isn't": lambda c, file: c.update(prompt_defaults=[{"role": "user", "slots": {"run": file}}]),
    "widths that are none": lambda c, file: c["model_defaults"].update(lm_dec_hidden=file),
    "a language model": lambda c, file: c["decoding"]["beam"].update(ngram_lm_model=file),
    "no decoder": lambda c, file: c.pop("transf_decoder"),
}


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE_CANARIES)
def test_an_attention_decoder_that_asks_for_more_than_a_network(
    hostile: str, canaries: dict[str, Path], tmp_path: Path
):
    is_refused(canaries["canary"], HOSTILE_CANARIES[hostile], tmp_path)


@pytest.mark.slow
def test_a_second_model_in_the_file_for_times_is_left_unread(canaries: dict[str, Path], tmp_path: Path):
    """NeMo would restore it, whatever its config names."""
    members = members_of(canaries["canary"])
    sprung = tmp_path / "sprung"
    trap = {
        "target": "nemo.collections.asr.models.EncDecCTCModel",
        "encoder": {"_target_": WRITES, "output_path": str(sprung)},
    }
    members |= {
        "./timestamps_asr_model_config.yaml": yaml.safe_dump(trap).encode(),
        "./timestamps_asr_model_weights.ckpt": b"no weights",
    }
    model = model_file.load(pack_nemo(tmp_path / "model.nemo", members))
    assert model.timestamps_asr_model is None and not sprung.exists()


@pytest.mark.slow
def test_the_weights_of_an_attention_decoder_survive_the_safe_reader(canaries: dict[str, Path], tmp_path: Path):
    import torch
    from nemo.collections.asr.models import ASRModel

    for path in canaries.values():
        ours, by_nemo = load_model(path), ASRModel.restore_from(str(path), map_location="cpu")
        assert type(ours) is type(by_nemo)
        theirs = by_nemo.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
        assert ours.tokenizer.vocab == by_nemo.tokenizer.vocab
        ours.save_to(str(tmp_path / "again.nemo"))
        again = load_model(tmp_path / "again.nemo")
        assert again.prompt_format == by_nemo.prompt_format
        assert again.prompt.get_default_dialog_slots() == by_nemo.prompt.get_default_dialog_slots()


@pytest.mark.slow
def test_an_attention_decoder_with_one_tokenizer_for_all_languages(pieces_of_words: Path, tmp_path: Path):
    """As Canary 1B v2 has: its special tokens are pieces of it."""
    import sentencepiece
    import torch
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from nemo.collections.common.tokenizers.canary_tokenizer import DEFAULT_TOKENS
    from omegaconf import OmegaConf

    from asr_with_nemo.recognition import attention, decoding
    from tests.recognizers import PROMPTS, canary_config

    pieces = [line.split("\t")[0] for line in (pieces_of_words / "tokenizer.vocab").read_text().splitlines()]
    special = [*DEFAULT_TOKENS, *(f"<|{name}|>" for name in PROMPTS["canary2"])]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(pieces[3:]).split("▁") * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=len(special) + 40,
        user_defined_symbols=special,
        hard_vocab_limit=False,
    )
    names = [line.split("\t")[0] for line in (tmp_path / "tokenizer.vocab").read_text().splitlines()]
    (tmp_path / "vocab.txt").write_text("\n".join(names))
    config = canary_config("canary2", tmp_path, tmp_path)
    custom = "nemo.collections.common.tokenizers.canary_tokenizer.CanaryBPETokenizer"
    config["tokenizer"] = {"dir": str(tmp_path), "type": "bpe", "custom_tokenizer": {"_target_": custom}}
    model = EncDecMultiTaskModel(cfg=OmegaConf.create(config))
    with torch.no_grad():
        model.log_softmax.mlp.layer0.bias[len(names) :] = -100.0
    model.save_to(str(tmp_path / "model.nemo"))
    loaded = load_model(tmp_path / "model.nemo")
    assert attention.values_of(loaded)["target_lang"] == ["en", "de"]
    heard = decoding.transcribe(loaded, [torch.randn(16_000).numpy() / 10], progress=False)[0]
    assert [word.word for word in heard.words] == heard.text.split()
