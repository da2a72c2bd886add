"""Adapters: small layers in the blocks of an encoder, which alone are trained; the model around them stays as it is.

They are NeMo's (`LinearAdapter`): behind each block, x + up(act(down(norm(x)))) with `dim` values in between. `up`
starts at zero, so that a model with new adapters writes what it wrote without. The config of a model says which
adapters it has, so that NeMo builds them again. Source: N. Houlsby et al., "Parameter-efficient transfer learning for
NLP", ICML 2019.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from asr_with_nemo.base.values import is_whole
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.parts import ADAPTER, RESIDUAL

if TYPE_CHECKING:
    import torch

TYPES = {"ConvASREncoder": "ConvASREncoderAdapter", "ConformerEncoder": "ConformerEncoderAdapter"}
"""NeMo's encoders that take adapters, and the classes that have them."""
LAYER = ".adapter_layer."
"""In the name of each weight of an adapter."""
_MOST = 4096
_GLOBAL = "global_cfg"


def dim_of(given: object) -> int | None:
    """Return the width of the adapters that `finetuning.adapter` asks for: a number, {dim: NUMBER}, or null.

    Raises:
        InputError: it is none of these.
    """
    dim = given.get("dim") if isinstance(given, dict) and given.keys() == {"dim"} else given
    if dim is not None and (not is_whole(dim) or not 1 <= dim <= _MOST):
        raise InputError(f"finetuning.adapter={given}: expected the width of the adapters, 1 to {_MOST}, such as 32")
    return dim


def width_of(section: Mapping) -> int | None:
    """Return the width of the adapters that a config of NeMo's for adapters (`model.adapter`) asks for.

    Raises:
        InputError: it asks for others than linear ones.
    """
    kind = section.get("adapter_type", "linear")
    if kind != "linear":
        raise InputError(f"model.adapter.adapter_type={kind}: expected linear")
    return dim_of((section.get("linear") or {}).get("dim"))


def add(network: dict[str, object], dim: int) -> str:
    """Add adapters to the config of a model, in place, and return their name.

    Args:
        network: its sections; adapters that it has already stay.
        dim: the width of the new ones.

    Raises:
        InputError: its encoder is of a type that takes none.
    """
    encoder = dict(network["encoder"])
    package, _, kind = str(encoder["_target_"]).rpartition(".")
    if kind not in {*TYPES, *TYPES.values()}:
        raise InputError(
            f"--adapter {dim}: NeMo has no adapters for a {kind}, only for {' and '.join(TYPES)} (Jasper, QuartzNet, "
            "Citrinet; Conformer, FastConformer); to train few weights, use --freeze encoder"
        )
    encoder["_target_"] = f"{package}.{TYPES.get(kind, kind)}"
    there = dict(network.get("adapters") or {})
    name = f"tuned{sum(key != _GLOBAL for key in there) + 1}"
    modules = ((there.get(_GLOBAL) or {}).get("adapter_meta_cfg") or {}).get("modules") or {}
    network["encoder"] = encoder
    network["adapters"] = there | {
        _GLOBAL: {"adapter_meta_cfg": {"modules": {**modules, name: ""}}},
        name: {
            "_target_": ADAPTER,
            "in_features": None,  # NeMo sets it
            "dim": dim,
            "activation": "swish",
            "norm_position": "pre",
            "dropout": 0.0,
            "adapter_strategy": {"_target_": RESIDUAL, "stochastic_depth": 0.0, "l2_lambda": 0.0},
            "enabled": True,
        },
    }
    return name


def said(model: "torch.nn.Module", name: str, decoders: bool) -> str:
    """Freeze as `freeze_all_but`, and return a line with the number of weights that are trained."""
    freeze_all_but(model, name, decoders)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    count = sum(weight.numel() for weight in model.parameters())
    others = " and of the decoders, for the new symbols" if decoders else ""
    return f"trained are {trained:,} of {count:,} weights: those of the adapters {name!r}{others}"


def freeze_all_but(model: "torch.nn.Module", name: str, decoders: bool) -> None:
    """Let only the adapters of a name be trained, in place.

    Args:
        model: with these adapters.
        name: theirs.
        decoders: train the decoders too, for a vocabulary that they don't know.
    """
    model.requires_grad_(False)
    for key, weight in model.named_parameters():
        is_decoder = decoders and not key.startswith(("encoder.", "preprocessor."))
        weight.requires_grad_(is_decoder or f"{LAYER}{name}." in key)
