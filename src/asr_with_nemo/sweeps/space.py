"""Hyperparameter sweeps from W&B's sweep file: what the file says, checked, and the configs that are drawn from it.

With an account, W&B's server searches; with none, Optuna does (`sweep_store`, `sweep_runs`). Offline differs from W&B's
own search in this:

- `bayes` is a tree-structured Parzen estimator, not a Gaussian process; trials that fail are left out of what it learns
  from, not counted as the worst;
- hyperband looks at each report, not every few minutes; a bracket of 3 is the third report, where W&B's code counts
  from 0; a report that is no number counts as the worst, where W&B leaves it out;
- a grid over q_uniform has the upper bound too, and its last parameter changes fastest, where W&B sorts the names;
- a number such as 1e-5 is one, not a text; min and max of which one is whole and one isn't are uniform, where W&B's
  client asks for the distribution;
- of a normal, log-normal or beta distribution the last millionth of each tail is never drawn.
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
"""What a trial is given: the value of each parameter, nested where the sweep file nests."""
STARTUP = 5  # random trials before TPE models anything; Optuna's 10 are all of a short sweep
TAIL = 1e-6
"""The share of each tail of a normal, log-normal or beta distribution that is never drawn."""
LARGEST_GRID = 1_000_000  # values of one parameter


# --- The file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Attributes:
        path: its name, below the names of the parameters that it is nested in.
        kind: one of `DISTRIBUTIONS`.
        spec: that distribution's keys, defaults filled in.
    """

    path: tuple[str, ...]
    kind: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its dotted name."""
        return ".".join(self.path)

    @cached_property
    def distribution(self) -> BaseDistribution:
        """What Optuna draws from, and `value` turns into the parameter's value.

        Values of any type are drawn as JSON. What has no equal of its own in Optuna is drawn as a quantile.
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
        return FloatDistribution(TAIL, 1 - TAIL)

    def value(self, drawn: Any) -> Any:
        """The parameter's value, from what Optuna drew."""
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
        """Each value that it can have, for a grid; None where they are too many to count."""
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
    """A sweep file, read and checked by `load`.

    Attributes:
        file: where it came from, for messages.
        config: what it says, for W&B; `distribution` is filled in where W&B's client won't guess it.
        name: its `name`, or that of the file.
        method: one of `METHODS`.
        parameters: in the order of the file, nested ones flattened; for a grid, each with its list of values.
        metric: None where the file names none.
        hyperband: when trials are stopped early; None for never.
        run_cap: the most trials that there may be.
    """

    IDENTITY: ClassVar = ("method", "metric", "parameters", "early_terminate")
    """Keys of the config that tell one sweep from another."""

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
        """What Optuna draws for a trial: a distribution for each name."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    @property
    def note(self) -> str:
        """A line that names the keys of the file that change nothing here; empty where there are none."""
        unused = [key for key in UNUSED_KEYS if key in self.config]
        if self.config.get("early_terminate", {}).keys() >= {"min_iter", "max_iter", "s"}:
            unused.append("early_terminate.min_iter")
        return f"{self.file}: has no effect here: {', '.join(unused)}" if unused else ""

    def count(self, asked: int | None) -> int:
        """How many trials there are to be: as asked for, else the file's run_cap, else all of a grid.

        Raises:
            InputError: nothing of that says so.
        """
        count = asked or self.run_cap or self.cells
        if not count:
            raise InputError(f"{self.file}: method {self.method} has no end of its own; give --count, or add run_cap")
        return count

    @property
    def cells(self) -> int | None:
        """Combinations in the grid; None for the other methods."""
        if self.method != "grid":
            return None
        return math.prod(len(parameter.distribution.choices) for parameter in self.parameters)

    def cell(self, number: int) -> dict[str, Any]:
        """What would be drawn for one of the grid's combinations; the last parameter changes fastest."""
        sizes = [len(parameter.distribution.choices) for parameter in self.parameters]
        places = np.unravel_index(number, sizes)
        pairs = zip(self.parameters, places, strict=True)
        return {parameter.name: parameter.distribution.choices[int(place)] for parameter, place in pairs}

    def configuration(self, drawn: Mapping[str, Any]) -> Config:
        """A trial's config, from what Optuna drew."""
        config: Config = {}
        for parameter in self.parameters:
            *outer, last = parameter.path
            section = config
            for name in outer:
                section = section.setdefault(name, {})
            section[last] = parameter.value(drawn[parameter.name])
        return config

    def values(self, config: Config) -> dict[str, Any]:
        """A trial's config as dotted name → value, nested parameters flattened."""
        values = {}
        for parameter in self.parameters:
            value: Any = config
            for name in parameter.path:
                value = value[name]
            values[parameter.name] = value
        return values

    def sampler(self, seed: int | None, index: int) -> optuna.samplers.BaseSampler:
        """What draws the trial of this index: the same for the same seed, in whatever process, also after a resume."""
        if seed is not None:
            seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        if self.method == "bayes":
            # Trials that others work on count as bad ones until they are done, so that no two draw the same.
            return optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def as_json(value: Any) -> str:
    """A value as text that is the same whenever the value is."""
    return json.dumps(value, sort_keys=True)


class _Loader(yaml.SafeLoader):
    """YAML as W&B reads it, but that a number needs no dot before its exponent."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load_sweep(file: str | os.PathLike) -> Sweep:
    """Read one of W&B's sweep files and check it against W&B's schema.

    Numbers such as 1e-5, which W&B's own reader takes for text, are numbers.

    Raises:
        InputError: it can't be read, has a key, method or distribution that W&B doesn't know, a value that is not what
            is expected there, or a key that stands for something only W&B's server has.
    """
    file = Path(file)
    text = read_text(file, "a sweep file", "no such sweep file")
    try:
        config = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: can't be read as YAML: {error}") from error
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
    if "max" in spec and (size := (spec["max"] - spec["min"]) / spec.get("q", 1)) >= LARGEST_GRID:
        raise InputError(f"{here}: {size:,.0f} values are too many for a grid; use method random, or list `values`")
    values = parameter.values()
    if values is None:
        allowed = "constant, categorical, int_uniform and q_uniform"
        raise InputError(f"{here}: a grid can't have {kind}, only {allowed}; list `values`, or use method random")
    return Parameter(parameter.path, "categorical", {"values": values})


# --- Stopping early ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyperband(optuna.pruners.BasePruner):
    """W&B's early_terminate: at each bracket go on with the best 1/eta of the trials that came so far.

    A bracket is a number of reports of the metric. Trials don't wait for one another: each is compared with those that
    were there before it, which is the asynchronous successive halving of L. Li et al., "A System for Massively
    Parallel Hyperparameter Tuning", MLSys 2020, with W&B's threshold: of n sorted values, the one at int(n / eta).
    Optuna's own pruners take neither W&B's brackets nor an eta that is not whole.

    Attributes:
        brackets: ascending.
        eta: above 1.
        sign: 1 where less is better, -1 where more is.
        strict: compare the value at the bracket; otherwise the best until now.
    """

    brackets: tuple[int, ...]
    eta: float
    sign: int
    strict: bool

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial, which has just reported, is to stop."""
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
    """The configs of the first `count` trials; those of bayes after the first few depend on how the trials end."""
    study = optuna.create_study(direction=sweep.metric.goal if sweep.metric else "minimize")
    configs = []
    for index in range(min(count, sweep.cells or count)):
        study.sampler = sweep.sampler(seed, index)
        if sweep.cells is not None:
            study.enqueue_trial(sweep.cell(index))
        configs.append(sweep.configuration(study.ask(sweep.space).params))
    return configs
