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
import difflib
import itertools
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from asr_with_nemo.base.values import is_number, is_whole
from asr_with_nemo.errors import InputError

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's constant_liar and the journal
Config = dict[str, Any]
"""What a trial is given: the value of each parameter, nested where the sweep file nests."""
STARTUP = 5  # random trials before TPE models anything; Optuna's 10 are all of a short sweep
PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
UNUSED_KEYS = ("program", "command", "controller", "apiVersion", "kind")
"""Keys of W&B's schema for its own command, which starts a program for each trial; here a function is called."""
KEYS = ("description", "entity", "project", "name", "method", "metric", "parameters", "early_terminate", "run_cap")
KEYS += UNUSED_KEYS
ONLINE_KEYS = ("job", "image_uri", "scheduler", "metrics")
"""Keys of W&B's schema that stand for something which only its server has."""
METHODS = ("grid", "random", "bayes")
METRIC_KEYS = ("name", "goal", "target")
ONLINE_METRIC_KEYS = ("impute", "impute_while_running")
EARLY_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (("min", "max"), {}),
    "uniform": (("min", "max"), {}),
    "q_uniform": (("min", "max"), {"q": 1}),
    "log_uniform": (("min", "max"), {}),
    "q_log_uniform": (("min", "max"), {"q": 1}),
    "inv_log_uniform": (("min", "max"), {}),
    "log_uniform_values": (("min", "max"), {}),
    "q_log_uniform_values": (("min", "max"), {"q": 1}),
    "inv_log_uniform_values": (("min", "max"), {}),
    "normal": ((), {"mu": 0, "sigma": 1}),
    "q_normal": ((), {"mu": 0, "sigma": 1, "q": 1}),
    "log_normal": ((), {"mu": 0, "sigma": 1}),
    "q_log_normal": ((), {"mu": 0, "sigma": 1, "q": 1}),
    "beta": ((), {"a": 1, "b": 1}),
    "q_beta": ((), {"a": 1, "b": 1, "q": 1}),
}
"""W&B's distributions: the keys that each must have, and those that it may have with their defaults.

Source: https://docs.wandb.ai/models/sweeps/sweep-config-keys and the schema of github.com/wandb/sweeps."""
TAIL = 1e-6
"""The share of each tail of a normal, log-normal or beta distribution that is never drawn."""
LARGEST_EXPONENT = 700  # e^710 is more than a float holds
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
class Metric:
    """What a sweep optimises; it ends when a trial reaches `target`."""

    name: str
    goal: str = "minimize"
    target: float | None = None

    @property
    def sign(self) -> int:
        """1 where less is better, -1 where more is."""
        return 1 if self.goal == "minimize" else -1


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
        _expect(count, self.file, f"{self.method} has no end of its own; give --count, or run_cap in it")
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
    """Check what a sweep file says, as `load` does; `file` is what messages call it."""
    where = str(file)
    config = copy.deepcopy(config)
    _expect(isinstance(config, dict) and config, where, "expected W&B's sweep keys (method, metric, parameters)")
    for key in config:
        _expect(key not in ONLINE_KEYS, f"{where}: {key}", "has no equal without W&B's server; leave it out")
        _known(where, key, KEYS)
    method = config.get("method")
    _expect(method is not None, where, f"lacks `method`; expected one of {', '.join(METHODS)}")
    _expect(method != "custom", f"{where}: method", "custom has no equal without W&B's server; use grid, random, bayes")
    _known(f"{where}: method", method, METHODS, "method")
    run_cap = config.get("run_cap")
    capped = run_cap is None or (is_whole(run_cap) and run_cap > 0)
    _expect(capped, f"{where}: run_cap", f"{run_cap!r}: expected 1 or more")
    for key in ("name", "project", "entity", "description", "program"):
        _expect(isinstance(config.get(key, ""), str), f"{where}: {key}", f"{config.get(key)!r}: expected a text")
    metric = _metric(config["metric"], f"{where}: metric") if "metric" in config else None
    _expect(metric or method != "bayes", where, "method bayes needs a `metric` with a name to optimise")
    hyperband = None
    if "early_terminate" in config:
        _expect(metric, where, "early_terminate needs a `metric` with a name to compare trials by")
        hyperband = _hyperband(config["early_terminate"], f"{where}: early_terminate", metric)
    _expect("parameters" in config, where, "lacks `parameters`, the names and values to try")
    parameters = list(_parameters(config["parameters"], f"{where}: parameters", ()))
    for one, other in itertools.combinations(parameters, 2):
        _expect(one.name != other.name, f"{where}: parameters.{one.name}", "is there twice, nested and dotted")
    if method == "grid":
        parameters = [_gridded(parameter, where) for parameter in parameters]
    name = config.get("name") or Path(file).stem
    return Sweep(where, config, name, method, tuple(parameters), metric, hyperband, run_cap)


def _expect(condition: object, where: str, what: str) -> None:
    """Raise an `InputError` about a place in the file unless the condition holds."""
    if not condition:
        raise InputError(f"{where}: {what}")


def _known(where: str, key: object, known: Sequence[str], kind: str = "key") -> None:
    if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"{where}: {key!r} is no {kind} that W&B knows; {hint}expected one of {', '.join(known)}")


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _metric(metric: object, where: str) -> Metric:
    _expect(isinstance(metric, dict), where, "expected `name` and `goal`")
    for key in metric:
        if key == "impute_while_running" and metric[key] in ("false", False):
            continue
        _expect(key not in ONLINE_METRIC_KEYS, f"{where}.{key}", "has no equal without W&B's server; leave it out")
        _known(where, key, METRIC_KEYS)
    name, goal, target = metric.get("name"), metric.get("goal", "minimize"), metric.get("target")
    _expect(isinstance(name, str) and name, f"{where}.name", f"{name!r}: expected the name of a metric")
    _known(f"{where}.goal", goal, ("minimize", "maximize"), "goal")
    _expect(target is None or _is_finite(target), f"{where}.target", f"{target!r}: expected a number")
    return Metric(name, goal, target)


def _hyperband(early: object, where: str, metric: Metric) -> "Hyperband":
    _expect(isinstance(early, dict), where, "expected `type: hyperband` with min_iter, or with max_iter and s")
    for key in early:
        _known(where, key, EARLY_KEYS)
    _known(f"{where}.type", early.get("type"), ("hyperband",), "type")
    for key in ("min_iter", "max_iter", "s"):
        value = early.get(key)
        _expect(value is None or (is_whole(value) and value >= 1), f"{where}.{key}", f"{value!r}: expected 1, 2, 3 ...")
    eta, strict = early.get("eta", 3), early.get("strict", True)
    _expect(_is_finite(eta) and eta > 1, f"{where}.eta", f"{eta!r}: expected a number above 1")
    _expect(isinstance(strict, bool), f"{where}.strict", f"{strict!r}: expected true or false")
    first, last, count = early.get("min_iter"), early.get("max_iter"), early.get("s")
    _expect(first or (last and count), where, "expected min_iter, or max_iter together with s")
    if last and count:
        # As W&B does, whatever min_iter says beside them.
        brackets = sorted({int(last / eta**power) for power in range(1, count + 1)} - {0})
        _expect(brackets, where, f"no bracket is left: max_iter / eta is {last / eta:.2g}; raise max_iter or lower eta")
    else:
        _expect(not last or first <= last, where, f"min_iter {first} is above max_iter {last}")
        end = last or 1_000_000
        grown = itertools.takewhile(lambda bracket: bracket <= end, (int(first * eta**power) for power in range(100)))
        brackets = sorted(set(grown))
    return Hyperband(tuple(brackets), eta, metric.sign, strict)


def _parameters(section: object, where: str, path: tuple[str, ...]) -> Iterator[Parameter]:
    _expect(isinstance(section, dict) and section, where, "expected names, each with the values to try")
    for name, spec in section.items():
        here = f"{where}.{name}"
        named = isinstance(name, str) and PARAMETER_NAME.fullmatch(name)
        _expect(
            named, where, f"{name!r} is no name that W&B takes; expected letters, digits, _ . - with no digit first"
        )
        _expect(isinstance(spec, dict), here, f"{spec!r}: expected value, values, min and max, or a distribution")
        if "parameters" in spec:
            _expect(len(spec) == 1, here, "a parameter with `parameters` of its own can have no other key")
            yield from _parameters(spec["parameters"], f"{here}.parameters", (*path, name))
        else:
            yield _parameter(spec, here, (*path, name))


def _parameter(spec: dict, where: str, path: tuple[str, ...]) -> Parameter:
    kind = spec["distribution"] if "distribution" in spec else _inferred(spec, where)
    if "min" in spec:
        spec["distribution"] = kind
    _known(f"{where}.distribution", kind, tuple(DISTRIBUTIONS), "distribution")
    required, defaults = DISTRIBUTIONS[kind]
    given = {key: value for key, value in spec.items() if key != "distribution"}
    for key in given:
        _known(f"{where}, {kind}", key, (*required, *defaults))
    for key in required:
        _expect(key in given, where, f"{kind} lacks {key!r}; it has {', '.join((*required, *defaults))}")
    filled = {**defaults, **given}
    for key in ("min", "max", "mu", "sigma", "a", "b", "q"):
        if key in filled:
            _expect(_is_finite(filled[key]), f"{where}.{key}", f"{filled[key]!r}: expected a number")
            above_zero = key not in ("sigma", "a", "b", "q") or filled[key] > 0
            _expect(above_zero, f"{where}.{key}", f"{filled[key]}: expected a number above 0")
    if "min" in filled:
        low, high = filled["min"], filled["max"]
        if kind == "int_uniform":
            _expect(is_whole(low) and is_whole(high), where, f"int_uniform with {low} to {high}: expected integers")
        _expect(low < high, where, f"min {low} is not below max {high}")
        if kind.endswith("_values"):
            _expect(low > 0, f"{where}.min", f"{low}: expected a number above 0, for its logarithm is taken")
        elif "log_uniform" in kind:
            bounded = max(abs(low), abs(high)) < LARGEST_EXPONENT
            _expect(bounded, where, f"min and max of {kind} are exponents of e; for values, use {kind}_values")
    if "log_normal" in kind:
        bounded = filled["mu"] + 5 * filled["sigma"] < LARGEST_EXPONENT
        _expect(bounded, where, f"mu and sigma of {kind} are of the logarithm; these make values without end")
    if "values" in filled:
        values = filled["values"]
        _expect(isinstance(values, list) and values, f"{where}.values", f"{values!r}: expected a list of values")
    if "probabilities" in filled:
        shares = filled["probabilities"]
        right = isinstance(shares, list) and all(_is_finite(share) and share >= 0 for share in shares)
        right = right and len(shares) == len(filled["values"]) and math.isclose(sum(shares), 1, abs_tol=1e-6)
        _expect(right, f"{where}.probabilities", f"{shares!r}: expected a share for each value, 1 together")
    return Parameter(path, kind, filled)


def _inferred(spec: dict, where: str) -> str:
    """The distribution that W&B takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    for key in spec:
        _known(where, key, ("distribution", "value", "values", "probabilities", "min", "max", "parameters"))
    _expect("min" in spec and "max" in spec, where, "expected value, values, min and max, or a distribution")
    return "int_uniform" if is_whole(spec["min"]) and is_whole(spec["max"]) else "uniform"


def _gridded(parameter: Parameter, where: str) -> Parameter:
    if "max" in parameter.spec:
        size = (parameter.spec["max"] - parameter.spec["min"]) / parameter.spec.get("q", 1)
        _expect(size < LARGEST_GRID, f"{where}: parameters.{parameter.name}", f"{size:,.0f} values are no grid")
    values = parameter.values()
    allowed = "constant, categorical, int_uniform and q_uniform"
    what = f"a grid has no {parameter.kind}, only {allowed}; list `values`, or use method random"
    _expect(values is not None, f"{where}: parameters.{parameter.name}", what)
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
