"""The schema of W&B's sweep files, as pydantic models."""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator

from asr_with_nemo.base.values import is_whole
from asr_with_nemo.errors import InputError

UNUSED_KEYS = ("program", "command", "controller", "apiVersion", "kind")
"""Keys that W&B's own command reads to start a program for each trial; here a function is called."""
_SERVER_ONLY = ("job", "image_uri", "scheduler", "metrics", "impute", "impute_while_running", "custom")
"""Keys, and a method, that only W&B's server implements."""
_LARGEST_EXPONENT = 700  # e^710 is more than a float holds

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[_Number, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """A mapping of the file: no keys but its fields, and no conversions, so that "1" isn't a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# --- Parameters -------------------------------------------------------------------------------------------------------

_VALUES = {"values": Annotated[list[Any], Field(min_length=1)]}
_RANGE = {"min": _Number, "max": _Number}
_POSITIVE_RANGE = {"min": _Positive, "max": _Positive}
_NORMAL = {"mu": (_Number, 0), "sigma": (_Positive, 1)}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": Any},
    "categorical": _VALUES,
    "categorical_w_probabilities": _VALUES | {"probabilities": list[Annotated[_Number, Field(ge=0)]]},
    "int_uniform": {"min": int, "max": int},
    "uniform": _RANGE,
    "log_uniform": _RANGE,
    "inv_log_uniform": _RANGE,
    "log_uniform_values": _POSITIVE_RANGE,
    "inv_log_uniform_values": _POSITIVE_RANGE,
    "normal": _NORMAL,
    "log_normal": _NORMAL,
    "beta": {"a": (_Positive, 1), "b": (_Positive, 1)},
}
_QUANTIZED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
DISTRIBUTIONS |= {f"q_{kind}": DISTRIBUTIONS[kind] | {"q": (_Positive, 1)} for kind in _QUANTIZED}
"""W&B's distributions: the keys of each with their types, and the default of those that may be left out.

Source: https://docs.wandb.ai/models/sweeps/sweep-config-keys and the schema of github.com/wandb/sweeps."""


class _Distribution(Section):
    @model_validator(mode="after")
    def _check_together(self) -> Self:
        spec = self.model_dump()
        kind, low, high, shares = spec["distribution"], spec.get("min"), spec.get("max"), spec.get("probabilities")
        if low is not None and low >= high:
            raise ValueError(f"min {low:g} isn't below max {high:g}")
        if kind.endswith("log_uniform") and max(abs(low), abs(high)) >= _LARGEST_EXPONENT:
            raise ValueError(f"min and max of {kind} are exponents of e; for the values themselves use {kind}_values")
        if kind.endswith("log_normal") and spec["mu"] + 5 * spec["sigma"] >= _LARGEST_EXPONENT:
            raise ValueError(f"mu and sigma of {kind} are of the logarithm; these give values that overflow a float")
        if shares and not (len(shares) == len(spec["values"]) and math.isclose(sum(shares), 1, abs_tol=1e-6)):
            raise ValueError(f"probabilities: {shares}: expected one for each value, with a sum of 1")
        return self


def _infer(spec: object) -> object:
    """Fill in the distribution that W&B infers from the keys."""
    expected = "expected value, values, min and max, or a distribution"
    if not isinstance(spec, dict):
        raise ValueError(f"{spec!r}: {expected}")
    if "parameters" in spec:
        if len(spec) > 1:
            raise ValueError("a parameter with `parameters` of its own can have no other key")
        return {"distribution": "nested", **spec}
    if "distribution" in spec:
        return spec
    if "value" in spec:
        return {"distribution": "constant", **spec}
    if "values" in spec:
        return {"distribution": "categorical_w_probabilities" if "probabilities" in spec else "categorical", **spec}
    known = ("distribution", "value", "values", "probabilities", "min", "max", "parameters")
    if wrong := [_unknown(key, known) for key in spec if key not in known]:
        raise ValueError(wrong[0])
    if not {"min", "max"} <= spec.keys():
        raise ValueError(expected)
    # In the config too, for W&B's client doesn't infer each of these.
    spec["distribution"] = "int_uniform" if is_whole(spec["min"]) and is_whole(spec["max"]) else "uniform"
    return spec


class Nested(Section):
    """A parameter that consists of parameters."""

    distribution: Literal["nested"]
    parameters: "Parameters"


_SECTIONS: dict[str, type[Section]] = {
    kind: create_model(kind, __base__=_Distribution, distribution=Literal[kind], **fields)
    for kind, fields in DISTRIBUTIONS.items()
}
_Parameter = Union[Nested, *_SECTIONS.values()]
_Inferred = Annotated[_Parameter, Field(discriminator="distribution"), BeforeValidator(_infer)]
Parameters = Annotated[dict[_Name, _Inferred], Field(min_length=1)]
Nested.model_rebuild()


# --- The other keys ---------------------------------------------------------------------------------------------------


class Metric(Section):
    """The metric that a sweep optimizes; the sweep ends when a trial reaches `target`."""

    name: Annotated[str, Field(min_length=1)]
    goal: Literal["minimize", "maximize"] = "minimize"
    target: _Number | None = None
    impute_while_running: Literal[False, "false"] = False

    @property
    def sign(self) -> int:
        """1 if a lower value is better, else -1."""
        return 1 if self.goal == "minimize" else -1


class EarlyTerminate(Section):
    """W&B's hyperband, by min_iter or by max_iter and s."""

    type: Literal["hyperband"]
    min_iter: _Count | None = None
    max_iter: _Count | None = None
    s: _Count | None = None
    eta: Annotated[_Number, Field(gt=1)] = 3
    strict: bool = True

    @property
    def brackets(self) -> tuple[int, ...]:
        """The numbers of reports after which trials are compared, ascending."""
        if self.max_iter and self.s:  # as W&B does, whatever min_iter is
            return tuple(sorted({int(self.max_iter / self.eta**power) for power in range(1, self.s + 1)} - {0}))
        grown = (int(self.min_iter * self.eta**power) for power in range(100))
        last = self.max_iter or 1_000_000
        return tuple(sorted(set(itertools.takewhile(lambda bracket: bracket <= last, grown))))

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not (self.min_iter or (self.max_iter and self.s)):
            raise ValueError("expected min_iter, or max_iter together with s")
        if not self.brackets:
            given = ", ".join(
                f"{key} {value:g}" for key, value in self if key in ("min_iter", "max_iter", "eta") and value
            )
            raise ValueError(f"no bracket is left with {given}; raise max_iter, or lower min_iter or eta")
        return self


class Content(Section):
    """A whole sweep file. `metric` and `early_terminate` may be left out, but not be null."""

    method: Literal["grid", "random", "bayes"]
    metric: Metric = None
    parameters: Parameters
    early_terminate: EarlyTerminate = None
    run_cap: _Count | None = None
    name: str = ""
    project: str = ""
    entity: str = ""
    description: str = ""
    program: str = ""
    command: Any = None
    controller: Any = None
    apiVersion: Any = None
    kind: Any = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        needing = "method bayes" if self.method == "bayes" else "early_terminate" if self.early_terminate else ""
        if needing and not self.metric:
            raise ValueError(f"{needing} needs a `metric`, with the name of a metric that trials report")
        return self


_SECTIONS |= {"nested": Nested, "metric": Metric, "early_terminate": EarlyTerminate}


# --- Errors -----------------------------------------------------------------------------------------------------------


def check_content(config: object, file: str) -> Content:
    """Check the keys and values of a sweep file; an inferred uniform distribution is filled in.

    Raises:
        InputError: there are mistakes; each has a line with the file, the dotted key and what is expected.
    """
    try:
        return Content.model_validate(config)
    except ValidationError as error:
        problems = map(_problem, error.errors(include_url=False))
        raise InputError("\n".join(f"{file}: {problem}" for problem in problems)) from None


def _unknown(found: object, known: Iterable[object], what: str = "key") -> str:
    near = difflib.get_close_matches(str(found), known := list(map(str, known)), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{found!r} isn't a {what} that W&B knows; {hint}expected one of {', '.join(known)}"


def _problem(error: Mapping[str, Any]) -> str:
    """Describe one of pydantic's errors: the dotted key, what was found, and what is expected."""
    kind, path, found = error["type"], error["loc"], error["input"]
    key, section = path[-1] if path else "", path[-2] if len(path) > 1 else ""
    fields = _SECTIONS.get(section, Content).model_fields
    annotation = fields[key].annotation if key in fields else None
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    # After the name of each parameter, pydantic puts that of its distribution.
    is_parameter = path[:1] == ("parameters",)
    place = [str(part) for at, part in enumerate(path) if not is_parameter or at % 3 != 2]
    if key in _SERVER_ONLY and not is_parameter:
        what = "needs W&B's server; leave it out"
    elif path == ("method",) and found in _SERVER_ONLY:
        what = f"{found!r} needs W&B's server; expected one of {', '.join(choices)}"
    elif kind in ("extra_forbidden", "invalid_key"):
        place.pop()
        what = _unknown(key, fields, f"key of {section}" if section else "key")
    elif kind == "literal_error":
        what = _unknown(found, choices, key)
    elif kind == "union_tag_invalid":
        place.append("distribution")
        what = _unknown(found["distribution"], DISTRIBUTIONS, "distribution")
    elif kind == "model_type":
        what = f"{found!r}: expected the keys {', '.join(_SECTIONS.get(key, Content).model_fields)}"
    elif kind == "missing":
        what = f"missing; expected one of {', '.join(choices)}" if choices else "missing"
    elif kind == "value_error":
        what = str(error["ctx"]["error"])
    else:
        what = f"{found!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
    return ": ".join([".".join(place), what] if place else [what])
