"""The search space of a sweep: read from a W&B sweep file, and the configs that are sampled from it.

With an account, W&B's server searches; without one, Optuna does (`store`, `run`). Offline differs from W&B's search:

- `bayes` is a tree-structured Parzen estimator, not a Gaussian process; it ignores failed trials, where
  W&B counts them as the worst;
- hyperband looks at each report, not every few minutes; a bracket of 3 is the third report, where W&B's code counts
  from 0; a NaN counts as the worst value, where W&B ignores it;
- a grid over q_uniform includes the upper bound; its last parameter changes fastest, where W&B sorts the names;
- 1e-5 is read as a number, not as a string; an integer min with a float max, or the reverse, is uniform, where W&B's
  client asks for the distribution;
- the outermost millionth of each tail of a normal, log-normal or beta distribution is never sampled.
"""

import copy
import itertools
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from asr_with_nemo.base.files import read_text
from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.schema import UNUSED_KEYS, Metric, Nested, Section, check_content

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's constant_liar and the journal
Config = dict[str, Any]
"""A trial's config: the value of each parameter, nested as in the sweep file."""
STARTUP = 5  # random trials before TPE starts to model; Optuna's default, 10, would be all of a short sweep
_TAIL = 1e-6  # the share of each tail of a normal, log-normal or beta distribution that is never sampled
_LARGEST_GRID = 1_000_000  # values of one parameter


# --- The file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Attributes:
        path: the names of the parameters that it is nested in, then its own.
        kind: one of `schema.DISTRIBUTIONS`.
        spec: the keys of that distribution, defaults filled in.
    """

    path: tuple[str, ...]
    kind: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The dotted name.

        Example:
            >>> Parameter(("optim", "lr"), "constant", {"value": 0.01}).name
            'optim.lr'
        """
        return ".".join(self.path)

    @cached_property
    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna samples; `value` converts a sample to the parameter's value.

        Categories are sampled as JSON, so that they can have any type. Distributions that Optuna lacks are sampled as a
        quantile in (0, 1).
        """
        spec = self.spec
        low, high = spec.get("min"), spec.get("max")
        if self.kind in ("constant", "categorical"):
            values = [spec["value"]] if self.kind == "constant" else spec["values"]
            return CategoricalDistribution(list(dict.fromkeys(map(as_json, values))))
        if self.kind == "int_uniform":
            return IntDistribution(low, high)
        if self.kind in ("uniform", "q_uniform"):
            return FloatDistribution(low, high)
        if self.kind in ("log_uniform", "q_log_uniform"):
            return FloatDistribution(math.exp(low), math.exp(high), log=True)
        if self.kind == "inv_log_uniform":
            return FloatDistribution(math.exp(-high), math.exp(-low), log=True)
        if "log_uniform_values" in self.kind:  # log(1/x) is uniform where log(x) is
            return FloatDistribution(low, high, log=True)
        return FloatDistribution(_TAIL, 1 - _TAIL)

    def value(self, drawn: Any) -> Any:
        """Convert a sample of Optuna's to the parameter's value.

        Example:
            >>> Parameter(("x",), "q_uniform", {"min": 0.0, "max": 1.0, "q": 0.1}).value(0.34)
            0.3
        """
        if self.kind in ("constant", "categorical"):
            return json.loads(drawn)
        if self.kind == "categorical_w_probabilities":
            edges = np.cumsum(self.spec["probabilities"])
            return self.spec["values"][int(np.searchsorted(edges / edges[-1], drawn, side="right"))]
        value = drawn
        if self.kind.removeprefix("q_") in ("normal", "log_normal", "beta"):
            value = float(self._quantile(drawn))
        if self.kind.startswith("q_"):
            q = self.spec["q"]
            value = round(value / q) * q
            return value if isinstance(q, int) else float(f"{value:.12g}")  # 0.3, not 0.30000000000000004
        return value

    def _quantile(self, share: float) -> float:
        from scipy import special

        spec = self.spec
        if "beta" in self.kind:
            return special.betaincinv(spec["a"], spec["b"], share)
        quantile = NormalDist(spec["mu"], spec["sigma"]).inv_cdf(share)
        return math.exp(quantile) if "log" in self.kind else quantile

    def values(self) -> list[Any] | None:
        """List the possible values, for a grid; None for a continuous distribution.

        Example:
            >>> Parameter(("x",), "int_uniform", {"min": 3, "max": 5}).values()
            [3, 4, 5]
        """
        if self.kind == "constant":
            return [self.spec["value"]]
        if self.kind == "categorical":
            return list(self.spec["values"])
        if self.kind == "int_uniform":
            return list(range(self.spec["min"], self.spec["max"] + 1))
        if self.kind == "q_uniform":
            first, last = (round(self.spec[key] / self.spec["q"]) for key in ("min", "max"))
            return [self.value(step * self.spec["q"]) for step in range(first, last + 1)]
        return None


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked by `load_sweep`.

    Attributes:
        file: its path, for messages.
        config: its content, for W&B; `distribution` is filled in where W&B's client doesn't infer it.
        name: its `name`, by default the file's name without suffix.
        method: grid, random or bayes.
        parameters: in the order of the file, nested ones flattened; for a grid, each with its list of values.
        metric: None if the file has none.
        hyperband: the pruner that stops trials early; None if the file has no `early_terminate`.
        run_cap: the largest number of trials; None for no limit.
    """

    IDENTITY: ClassVar = ("method", "metric", "parameters", "early_terminate")
    """Keys of the config that must be equal in the same sweep."""

    file: str
    config: Config
    name: str
    method: str
    parameters: tuple[Parameter, ...]
    metric: Metric | None
    hyperband: "Hyperband | None"
    run_cap: int | None

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """Optuna's search space: dotted name → distribution."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    @property
    def note(self) -> str:
        """A line with the keys of the file that have no effect here; empty if there are none."""
        unused = [key for key in UNUSED_KEYS if key in self.config]
        if self.config.get("early_terminate", {}).keys() >= {"min_iter", "max_iter", "s"}:
            unused.append("early_terminate.min_iter")
        return f"{self.file}: has no effect here: {', '.join(unused)}" if unused else ""

    def count(self, asked: int | None) -> int:
        """Return the number of trials: `asked`, by default the file's run_cap, else the size of the grid.

        Raises:
            InputError: none of these is given.
        """
        count = asked or self.run_cap or self.cells
        if not count:
            raise InputError(f"{self.file}: method {self.method} has no end of its own; give --count, or add run_cap")
        return count

    @property
    def cells(self) -> int | None:
        """The number of combinations in the grid; None for the other methods."""
        if self.method != "grid":
            return None
        return math.prod(len(parameter.distribution.choices) for parameter in self.parameters)

    def cell(self, number: int) -> dict[str, Any]:
        """Return the samples of the grid's combination of this number; the last parameter changes fastest."""
        sizes = [len(parameter.distribution.choices) for parameter in self.parameters]
        places = np.unravel_index(number, sizes)
        pairs = zip(self.parameters, places, strict=True)
        return {parameter.name: parameter.distribution.choices[int(place)] for parameter, place in pairs}

    def configuration(self, drawn: Mapping[str, Any]) -> Config:
        """Convert a trial's samples, dotted name → sample, to its config."""
        config: Config = {}
        for parameter in self.parameters:
            *outer, last = parameter.path
            section = config
            for name in outer:
                section = section.setdefault(name, {})
            section[last] = parameter.value(drawn[parameter.name])
        return config

    def values(self, config: Config) -> dict[str, Any]:
        """Flatten a trial's config to dotted name → value."""
        values = {}
        for parameter in self.parameters:
            value: Any = config
            for name in parameter.path:
                value = value[name]
            values[parameter.name] = value
        return values

    def sampler(self, seed: int | None, index: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of the trial of this index; with a seed, the same in each process and after a resume."""
        if seed is not None:
            seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        if self.method == "bayes":
            # Running trials count as bad ones, so that two workers don't sample the same values.
            return optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def as_json(value: Any) -> str:
    """Return the value as JSON with sorted keys, so that equal values give equal text.

    Example:
        >>> as_json({"b": 1, "a": [True, None]})
        '{"a": [true, null], "b": 1}'
    """
    return json.dumps(value, sort_keys=True)


class _Loader(yaml.SafeLoader):
    """A YAML loader as W&B's, except that a number needs no dot before its exponent: 1e-5."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load_sweep(file: str | os.PathLike) -> Sweep:
    """Read a W&B sweep file and check it against W&B's schema.

    Numbers such as 1e-5, which W&B's own reader takes for strings, are numbers.

    Raises:
        InputError: the file can't be read, or has an unknown key, method or distribution, a wrong value, or a key that
            needs W&B's server. The message has a line for each mistake.
    """
    file = Path(file)
    text = read_text(file, "a sweep file", "no such sweep file")
    try:
        config = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a number of more digits than Python reads, or a date without a day
        raise InputError(f"{file}: isn't valid YAML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{file}: isn't a sweep file: its YAML is nested too deeply") from error
    return check_sweep(config, file)


def check_sweep(config: object, file: str | os.PathLike) -> Sweep:
    """Check the content of a sweep file, as `load_sweep` does.

    Args:
        config: the file's keys and values; it isn't changed.
        file: how messages call it.

    Raises:
        InputError: as `load_sweep`.
    """
    where = str(file)
    config = copy.deepcopy(config)
    content = check_content(config, where)
    parameters = list(_flatten(content.parameters, config["parameters"], ()))
    for one, other in itertools.combinations(parameters, 2):
        if one.name == other.name:
            raise InputError(f"{where}: parameters.{one.name}: defined twice, nested and dotted; remove one of them")
    if content.method == "grid":
        parameters = [_as_grid(parameter, where) for parameter in parameters]
    early, hyperband = content.early_terminate, None
    if early:
        hyperband = Hyperband(early.brackets, early.eta, content.metric.sign, early.strict)
    name = content.name or Path(file).stem
    return Sweep(where, config, name, content.method, tuple(parameters), content.metric, hyperband, content.run_cap)


def _flatten(section: Mapping[str, Section], given: dict, path: tuple[str, ...]) -> Iterator[Parameter]:
    for name, model in section.items():
        if isinstance(model, Nested):
            yield from _flatten(model.parameters, given[name]["parameters"], (*path, name))
        else:  # the values as given, since the models turn whole numbers into floats
            spec = model.model_dump() | given[name]
            yield Parameter((*path, name), spec.pop("distribution", model.distribution), spec)


def _as_grid(parameter: Parameter, where: str) -> Parameter:
    """Return the parameter as the list of its values."""
    here, spec, kind = f"{where}: parameters.{parameter.name}", parameter.spec, parameter.kind
    if "max" in spec and (size := (spec["max"] - spec["min"]) / spec.get("q", 1)) >= _LARGEST_GRID:
        raise InputError(f"{here}: {size:,.0f} values are too many for a grid; use method random, or list `values`")
    values = parameter.values()
    if values is None:
        allowed = "constant, categorical, int_uniform and q_uniform"
        raise InputError(f"{here}: a grid can't have {kind}, only {allowed}; list `values`, or use method random")
    return Parameter(parameter.path, "categorical", {"values": values})


# --- Stopping early ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyperband(optuna.pruners.BasePruner):
    """W&B's early_terminate: at each bracket, continue the best 1/eta of the trials that have reached it.

    A bracket is a number of reports of the metric. Trials don't wait for one another: each is compared with those that
    reached the bracket before it, which is the asynchronous successive halving of L. Li et al., "A System for Massively
    Parallel Hyperparameter Tuning", MLSys 2020, with W&B's threshold: of n sorted values, the one at int(n / eta).
    Optuna's own pruners support neither W&B's brackets nor a fractional eta.

    Attributes:
        brackets: ascending.
        eta: greater than 1.
        sign: 1 if a lower value is better, else -1.
        strict: compare the value at the bracket; otherwise the best value so far.
    """

    brackets: tuple[int, ...]
    eta: float
    sign: int
    strict: bool

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Decide whether to stop a trial that has just reported."""
        own = self._history(trial)
        bracket = max((bracket for bracket in self.brackets if bracket <= len(own)), default=None)
        if bracket is None:
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        others = (self._history(other) for other in study.get_trials(deepcopy=False, states=states))
        values = sorted(history[bracket - 1] for history in others if len(history) >= bracket)
        threshold = values[int(len(values) / self.eta)]
        value = own[bracket - 1] if self.strict else min(own)
        return value > threshold or value == math.inf

    def _history(self, trial: FrozenTrial) -> list[float]:
        values = [self.sign * value for _, value in sorted(trial.intermediate_values.items())]
        return [math.inf if math.isnan(value) else value for value in values]


def preview_trials(sweep: Sweep, count: int, seed: int | None = None) -> list[Config]:
    """Return the configs of the first `count` trials; with bayes, all after the first few depend on results."""
    study = optuna.create_study(direction=sweep.metric.goal if sweep.metric else "minimize")
    configs = []
    for index in range(min(count, sweep.cells or count)):
        study.sampler = sweep.sampler(seed, index)
        if sweep.cells is not None:
            study.enqueue_trial(sweep.cell(index))
        configs.append(sweep.configuration(study.ask(sweep.space).params))
    return configs
