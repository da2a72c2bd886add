"""What kind of model a training config describes: others than recognisers are refused, with what would train them."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.parts import ALLOWED

_LOSSES = ("default", "warprnnt_numba", "pytorch", "tdt")  # of transducers: the first three are of RNN-T
_SECTIONS = {
    "preprocessor": "preprocessor",
    "encoder": "encoder",
    "decoder": "decoder",
    "joint": "joint",
    "aux_ctc.decoder": "decoder",
}
"""The sections of `model:` that name a class, with where `parts.ALLOWED` has the allowed ones."""


def check(model: DictConfig, file: Path) -> None:
    """Refuse a config of a model that isn't trained here.

    Args:
        model: the section `model:`, which may lack any part, as in a config for fine-tuning.
        file: of the config, for messages.

    Raises:
        InputError: it describes an attention encoder-decoder, or has a part that isn't a recogniser's or that this NeMo
            doesn't have.
    """
    if "transf_decoder" in model:
        if "prompt_format" in {*model}:  # also where its value is missing
            what = "an attention encoder-decoder (EncDecMultiTaskModel, such as Canary)"
            how = (
                "examples/asr/speech_multitask/speech_to_text_aed.py does. transcribe.py and evaluate.py take what it "
                "writes"
            )
        else:
            what = "a model that translates speech (EncDecTransfModelBPE)"
            how = "examples/asr/speech_translation/speech_to_text_transformer.py does"
        raise InputError(f"{file}: describes {what}, which train.py doesn't train; NeMo's {how}")
    for section, part in _SECTIONS.items():
        if section == "decoder" and model.get("joint"):
            part = "prediction"
        named = OmegaConf.select(model, f"{section}._target_", throw_on_missing=False)
        name = str(named).rpartition(".")[2]
        if named is not None and name not in ALLOWED[part]:
            raise InputError(
                f"{file}: model.{section} is a {name}, {_what_it_is(str(named))}; expected one of "
                f"{', '.join(ALLOWED[part])}"
            )


def _what_it_is(named: str) -> str:
    """Describe a class that isn't a recogniser's."""
    from importlib import metadata

    from hydra.utils import get_class

    try:
        get_class(named)
    except Exception:  # Hydra's own, or whatever the import of a module raises
        return f"which NeMo {metadata.version('nemo_toolkit')} doesn't have"
    return "which this course doesn't load again"


def check_loss(model: Mapping) -> None:
    """Make sure that a transducer's loss is of a kind whose models this package loads again.

    Raises:
        InputError: it is another.
    """
    loss = (model.get("loss") or {}).get("loss_name", "default")
    if model.get("joint") and loss not in _LOSSES:
        raise InputError(f"model.loss.loss_name={loss}: expected one of {', '.join(_LOSSES)}")


def check_is_whole(model: Mapping) -> None:
    """Make sure that a config has the parts of a recogniser.

    Raises:
        InputError: it has none, as a config for fine-tuning or for adapters; or another's.
    """
    if model.get("decoder"):
        return
    if model.get("encoder"):
        raise InputError("the config is not of a recogniser: it has no model.decoder")
    raise InputError(
        "the config has neither model.encoder nor model.decoder, like one for fine-tuning or adapters, which takes "
        "them from a model: scripts/finetune.py MODEL --manifest TRAIN --dev DEV --config-path ... --config-name ..."
    )
