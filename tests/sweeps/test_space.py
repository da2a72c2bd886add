"""W&B's own sweep files are taken as they are, drawn as W&B says, and what is wrong in one is named."""

import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.space import Sweep, _Loader, check_sweep, load_sweep, preview_trials

# As W&B publishes them: docs.wandb.ai/models/sweeps, github.com/wandb/examples and github.com/wandb/sweeps.
PUBLISHED = {
    "grid": """
        description: sweep example using grid search
        program: train.py
        project: sweeps-examples
        method: grid
        metric:
          name: loss_metric
          goal: minimize
        parameters:
          epochs:
            value: 5
          variance:
            value: 5
          sleep:
            value: 0.5
          base:
            values: [10,15,20]
          increment:
            values: [0.1,0.2,0.3]
          direction:
            values: [-1,0.1,1]
        """,
    "grid of flags": """
        program: train-bool.py
        method: grid
        parameters:
          optimizer:
            values: ["sgd", "adam"]
          flag1:
            values:
            - false
            - true
          flag2:
            values:
            - false
            - true
        """,
    "random": """
        program: train.py
        method: random
        metric:
          goal: minimize
          name: loss
        parameters:
          batch_size:
            distribution: q_log_uniform_values
            max: 256
            min: 32
            q: 8
          dropout:
            values: [0.3, 0.4, 0.5]
          epochs:
            value: 1
          fc_layer_size:
            values: [128, 256, 512]
          learning_rate:
            distribution: uniform
            max: 0.1
            min: 0
          optimizer:
            values: ["adam", "sgd"]
        """,
    "bayes": """
        program: train.py
        name: sweepdemo
        method: bayes
        metric:
          goal: minimize
          name: validation_loss
        parameters:
          learning_rate:
            min: 0.0001
            max: 0.1
          batch_size:
            values: [16, 32, 64]
          epochs:
            values: [5, 10, 15]
          optimizer:
            values: ["adam", "sgd"]
        """,
    "bayes, more is better": """
        program: train.py
        method: bayes
        metric:
            name: Validation/Accuracy
            goal: maximize
        parameters:
            batch_size:
                values: [8, 16, 32]
            set_abstraction_ratio_1:
                min: 0.1
                max: 0.9
            dropout:
                min: 0.1
                max: 0.7
        """,
    "bayes with hyperband": """
        program: train.py
        method: bayes
        metric:
          goal: minimize
          name: val_loss
        parameters:
          dropout:
            values: [0.15, 0.2, 0.25, 0.3, 0.4]
          hidden_layer_size:
            values: [96, 128, 148]
          layer_1_size:
            values: [10, 12, 14, 16, 18, 20]
          layer_2_size:
            values: [24, 28, 32, 36, 40, 44]
          learn_rate:
            values: [0.001, 0.01, 0.003]
          decay:
            values: [1e-5, 1e-6, 1e-7]
          momentum:
            values: [0.8, 0.9, 0.95]
          epochs:
            value: 27
        early_terminate:
          type: hyperband
          s: 2
          eta: 3
          max_iter: 27
        """,
    "grid with hyperband by a local controller": """
        description: sweep examples using local controller and hyperband
        program: train-local.py
        project: sweeps-examples
        method: grid
        controller:
          type: local
        metric:
          name: loss_metric
          goal: minimize
        early_terminate:
          type: hyperband
          max_iter: 10
          s: 2
          eta: 3
        parameters:
          epochs:
            value: 20
          base:
            values: [10,15,20]
          increment:
            values: [0.1,0.2,0.3]
          direction:
            values: [-1,0.1,1]
        """,
    "nested": """
        program: sweep_nest.py
        name: nested_sweep
        method: random
        metric:
          name: loss
          goal: minimize
        parameters:
          optimizer:
            values: ['adam', 'sgd']
          fc_layer_size:
            values: [128, 256, 512]
          epochs:
            value: 1
          learning_rate:
            distribution: uniform
            min: 0
            max: 0.1
          nested_category_1:
            parameters:
              momentum:
                distribution: uniform
                min: 0.0
                max: 0.9
              weight_decay:
                values: [0.0001, 0.0005, 0.001]
          nested_category_2:
            parameters:
              momentum:
                distribution: uniform
                min: 0.0
                max: 0.9
              weight_decay:
                values: [0.1, 0.2, 0.3]
        """,
    "nested twice": """
        description: sweep using nested params
        program: train-nested-cli.py
        project: nested-examples
        method: grid
        metric:
          name: loss
          goal: minimize
        parameters:
          batch_size:
            values: [32, 64]
          optimizer:
            parameters:
              # lr parameter is nested behind "optimizer"
              lr:
                values: [0.001, 0.0001]
              nadam:
                parameters:
                  beta:
                    values: [0.9, 0.95]
        """,
    "a command and dotted names": """
        program: main.py
        metric:
          name: val_loss
          goal: minimize
        method: bayes
        parameters:
          optimizer.config.learning_rate:
            min: !!float 1e-5
            max: 0.1
          experiment:
            values: [expt001, expt002]
          optimizer:
            values: [sgd, adagrad, adam]
        command:
        - ${env}
        - ${interpreter}
        - ${program}
        - ${args_no_hyphens}
        - "--batch_size=${batch_size}"
        """,
    "every macro of a command": """
        apiVersion: wandb/v1
        kind: sweep
        program: listen.py
        method: random
        run_cap: 7
        metric: {name: wer, goal: minimize, target: 0.01}
        parameters:
          loud: {values: [true, false], probabilities: [0.25, 0.75]}
          gain: {distribution: q_normal, mu: 0, sigma: 6, q: 0.5}
        command: ["${env}", "${interpreter}", "${program}", "${args}", "${args_no_boolean_flags}", "${args_no_hyphens}",
          "${args_json}", "${args_json_file}", "${envvar:HOME}", "--gain=${gain}", "${any thing else}"]
        """,
}


def read(text: str) -> Sweep:
    """What a sweep file of this text says."""
    return check_sweep(yaml.load(textwrap.dedent(text), _Loader), "sweep.yaml")


# --- What is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples_are_taken_as_they_are(name: str, tmp_path: Path):
    file = tmp_path / "sweep.yaml"
    file.write_text(textwrap.dedent(PUBLISHED[name]), encoding="utf-8")
    sweep = load_sweep(file)
    given = yaml.load(PUBLISHED[name], _Loader)["parameters"]

    def check(config: dict, parameters: dict) -> None:
        assert list(config) == list(parameters)
        for key, spec in parameters.items():
            if "parameters" in spec:
                check(config[key], spec["parameters"])
            elif "values" in spec:
                assert config[key] in spec["values"]
            elif "value" in spec:
                assert config[key] == spec["value"]
            elif "min" in spec:
                assert spec["min"] <= config[key] <= spec["max"]

    drawn = preview_trials(sweep, 5, seed=3)
    assert len(drawn) == 5
    for config in drawn:
        check(config, given)
    unused = [
        key
        for key in ("program", "command", "controller", "apiVersion", "kind")
        if f"\n        {key}:" in PUBLISHED[name]
    ]
    assert sweep.note == (f"{file}: has no effect here: {', '.join(unused)}" if unused else "")


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        ("{min: 1, max: 5}", stats.randint(1, 6)),
        ("{distribution: int_uniform, min: -3, max: 3}", stats.randint(-3, 4)),
        ("{min: 1, max: 5.0}", stats.uniform(1, 4)),
        ("{distribution: uniform, min: 1, max: 5}", stats.uniform(1, 4)),
        ("{distribution: q_uniform, min: 0, max: 10, q: 2}", stats.uniform(0, 10)),
        ("{distribution: log_uniform, min: -2, max: 2}", stats.loguniform(np.exp(-2), np.exp(2))),
        ("{distribution: q_log_uniform, min: 0, max: 4, q: 5}", stats.loguniform(1, np.exp(4))),
        ("{distribution: inv_log_uniform, min: -1, max: 3}", stats.loguniform(np.exp(-3), np.exp(1))),
        ("{distribution: log_uniform_values, min: 0.01, max: 1}", stats.loguniform(0.01, 1)),
        ("{distribution: q_log_uniform_values, min: 1, max: 100}", stats.loguniform(1, 100)),
        ("{distribution: inv_log_uniform_values, min: 0.01, max: 1}", stats.loguniform(0.01, 1)),
        ("{distribution: normal, mu: 3, sigma: 0.5}", stats.norm(3, 0.5)),
        ("{distribution: normal}", stats.norm(0, 1)),
        ("{distribution: q_normal, mu: 10, sigma: 4, q: 0.5}", stats.norm(10, 4)),
        ("{distribution: log_normal, mu: 1, sigma: 0.5}", stats.lognorm(0.5, scale=np.exp(1))),
        ("{distribution: q_log_normal, mu: 3, q: 2}", stats.lognorm(1, scale=np.exp(3))),
        ("{distribution: beta, a: 2, b: 5}", stats.beta(2, 5)),
        ("{distribution: q_beta, a: 5, b: 5, q: 0.25}", stats.beta(5, 5)),
    ],
)
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_each_distribution_draws_what_wandbs_documentation_says(spec: str, reference, method: str):
    sweep = read(f"method: {method}\nmetric: {{name: loss}}\nparameters:\n  x: {spec}\n")
    drawn = [config["x"] for config in preview_trials(sweep, 500 if method == "random" else 5, seed=0)]
    given = yaml.safe_load(spec)
    if given.get("distribution", "").startswith("q_"):
        q = given.get("q", 1)
        assert all((value / q).is_integer() for value in map(float, drawn))
        assert {type(value) for value in drawn} == {type(q)}
        expected = np.round(reference.rvs(5_000, random_state=0) / q) * q
    else:
        expected = reference.rvs(5_000, random_state=0)
    assert stats.ks_2samp(drawn, expected).pvalue > 0.001
    if isinstance(given.get("max"), int) and given.get("distribution", "int_uniform") == "int_uniform":
        assert set(drawn) <= set(range(given["min"], given["max"] + 1))
        assert {type(value) for value in drawn} == {int}


def test_values_of_any_type_with_their_probabilities():
    sweep = read("""
        method: bayes
        metric: {name: loss}
        parameters:
          x:
            distribution: categorical_w_probabilities
            values: [one, 2, [3, 3], null]
            probabilities: [0.6, 0.4, 0, 0]
          y: {values: [[1, 2], {a: 1}, true, 1, null, text]}
        """)
    configs = preview_trials(sweep, 300, seed=0)
    assert {config["x"] for config in configs} == {"one", 2}
    assert np.mean([config["x"] == "one" for config in configs]) == pytest.approx(0.6, abs=0.1)
    assert {json.dumps(config["y"]) for config in configs} == {"[1, 2]", '{"a": 1}', "true", "1", "null", '"text"'}


def test_a_number_with_an_exponent_is_a_number_and_yes_is_true():
    sweep = read("method: random\nparameters:\n  x: {min: 1e-5, max: 1E-4}\n  y: {values: [3e2, .5e1, yes, 1.5]}\n")
    configs = preview_trials(sweep, 30, seed=0)
    assert all(1e-5 <= config["x"] <= 1e-4 for config in configs)
    assert {config["y"] for config in configs} == {300.0, 5.0, True, 1.5}


def test_wandbs_client_is_not_left_to_guess_a_distribution():
    sweep = read("method: random\nparameters: {x: {min: 0, max: 0.1}, y: {parameters: {z: {min: 1, max: 2}}}}")
    assert sweep.config["parameters"] == {
        "x": {"min": 0, "max": 0.1, "distribution": "uniform"},
        "y": {"parameters": {"z": {"min": 1, "max": 2, "distribution": "int_uniform"}}},
    }


def test_a_grid_has_each_combination_once():
    sweep = read("""
        method: grid
        parameters:
          a: {values: [1, 2, 2]}
          b: {min: 3, max: 5}
          c: {distribution: q_uniform, min: 0, max: 0.3, q: 0.1}
          d: {value: x}
        """)
    configs = preview_trials(sweep, 100)
    assert sweep.cells == len(configs) == 2 * 3 * 4
    expected = itertools.product([1, 2], [3, 4, 5], [0.0, 0.1, 0.2, 0.3], ["x"])
    assert [tuple(config.values()) for config in configs] == list(expected)


# --- What is wrong with a file ----------------------------------------------------------------------------------------

GOOD = {"method": "random", "metric": {"name": "loss"}, "parameters": {"x": {"min": 0.0, "max": 1.0}}}


def x(**spec: object) -> dict:
    return {"parameters": {"x": spec}}


def early(**spec: object) -> dict:
    return {"early_terminate": {"type": "hyperband", **spec}}


@pytest.mark.parametrize(
    ("changes", "named"),  # the key, then what was found or what is expected
    [
        ({"method": "bayse"}, r"method: 'bayse'.* bayes\?.*grid, random, bayes$"),
        ({"method": "custom"}, r"method: 'custom'.*server"),
        ({"method": None}, r"method: .*grid, random, bayes$"),
        ({"parameter": {}}, r"'parameter'.* parameters\?.*run_cap"),
        ({"parameters": {}}, r"parameters: {}"),
        ({"scheduler": {"engine": "optuna"}}, r"scheduler: .*server"),
        ({"job": "a/b"}, r"job: .*server"),
        ({"metric": {"name": "loss", "impute": "best"}}, r"metric.impute: .*server"),
        ({"metric": {"name": "loss", "goal": "minimise"}}, r"metric.goal: 'minimise'.* minimize\?"),
        ({"metric": {"goal": "minimize"}}, r"metric.name: missing"),
        ({"method": "bayes", "metric": None}, r"metric: None.*name, goal"),
        ({"run_cap": 0}, r"run_cap: 0: .* 1$"),
        (x(min=1.0, max=0.5), r"parameters.x: min 1 .* max 0.5"),
        (x(min=0, max="1"), r"parameters.x.max: '1'.*number"),
        (x(min=0), r"parameters.x: .*value, values, min and max"),
        (x(vals=[1]), r"parameters.x: 'vals'.* values\?"),
        (x(values=[]), r"parameters.x.values: \[\]: .*list"),
        (x(distribution="loguniform", min=1, max=2), r"parameters.x.distribution: 'loguniform'.* log_uniform\?"),
        (x(distribution="uniform", min=1), r"parameters.x.max: missing"),
        (x(distribution="normal", min=1), r"parameters.x: 'min'.*normal.*mu, sigma$"),
        (x(distribution="normal", sigma=0), r"parameters.x.sigma: 0: .*greater than 0"),
        (x(distribution="log_uniform", min=1, max=1000), r"parameters.x: .*exponents.*log_uniform_values"),
        (x(distribution="log_uniform_values", min=0, max=1), r"parameters.x.min: 0: .*greater than 0"),
        (x(distribution="int_uniform", min=0.5, max=2), r"parameters.x.min: 0.5: .*integer"),
        (x(values=[1, 2], probabilities=[0.5, 0.6]), r"parameters.x: probabilities: \[0.5, 0.6\]"),
        (x(values=[1, 2], probabilities=[1.0]), r"parameters.x: probabilities: \[1.0\]"),
        (x(parameters={"y": {"value": 1}}, value=2), r"parameters.x: .*`parameters`"),
        (x(parameters={"y": {"min": 2, "max": 1}}), r"parameters.x.parameters.y: min 2 .* max 1"),
        ({"parameters": {"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}}}, r"parameters.a.b: .*twice"),
        (x(distribution="log_normal", mu=900), r"parameters.x: mu .*log_normal"),
        ({"parameters": {"2x": {"value": 1}}}, r"parameters.2x: '2x'"),
        ({"parameters": {"x": 3}}, r"parameters.x: 3: .*value, values"),
        ({"parameters": {"metrics": 3}}, r"parameters.metrics: 3: "),  # a parameter may have the name of a key
        ({"method": "grid"}, r"parameters.x: .*grid.*uniform"),
        ({"method": "grid", "parameters": {"x": {"min": 0, "max": 10**9}}}, r"parameters.x: 1,000,000,000 .*grid"),
        (early(min_iter=9, max_iter=3), r"early_terminate: .*min_iter 9, max_iter 3"),
        (early(min_iter=0), r"early_terminate.min_iter: 0: .* 1$"),
        (early(max_iter=9), r"early_terminate: .*min_iter.* s$"),
        (early(min_iter=1, eta=1), r"early_terminate.eta: 1: .*greater than 1"),
        (early(max_iter=2, s=2), r"early_terminate: .*max_iter 2"),
        (early(miniter=2), r"early_terminate: 'miniter'.* min_iter\?"),
        ({"early_terminate": {"type": "envelope"}}, r"early_terminate.type: 'envelope'.*hyperband"),
        (early(min_iter=1) | {"metric": None}, r"metric: None.*name, goal"),
    ],
)
def test_an_error_names_the_file_the_key_and_the_value(changes: dict, named: str):
    config = {key: value for key, value in (GOOD | changes).items() if key != "method" or value is not None}
    with pytest.raises(InputError, match=rf"^sweep.yaml: {named}"):
        check_sweep(config, "sweep.yaml")


@pytest.mark.parametrize("needing", [{"method": "bayes"}, early(min_iter=1)])
def test_a_metric_is_needed_to_compare_trials_by(needing: dict):
    with pytest.raises(InputError, match=r"^sweep.yaml: .*`metric`"):
        check_sweep({"method": "random", "parameters": GOOD["parameters"]} | needing, "sweep.yaml")


def test_all_that_is_wrong_is_named_at_once():
    with pytest.raises(InputError) as caught:
        check_sweep({"method": "grd", "parameters": {"x": {"vals": [1]}}, "metric": {"nam": "loss"}}, "sweep.yaml")
    assert str(caught.value) == (
        "sweep.yaml: method: 'grd' isn't a method that W&B knows; did you mean grid? "
        "expected one of grid, random, bayes\n"
        "sweep.yaml: metric.name: missing\n"
        "sweep.yaml: metric: 'nam' isn't a key of metric that W&B knows; did you mean name? "
        "expected one of name, goal, target, impute_while_running\n"
        "sweep.yaml: parameters.x: 'vals' isn't a key that W&B knows; did you mean values? "
        "expected one of distribution, value, values, probabilities, min, max, parameters"
    )


def test_what_was_given_is_not_changed():
    given = json.loads(json.dumps(GOOD))
    assert "distribution" in check_sweep(given, "sweep.yaml").config["parameters"]["x"]
    assert given == GOOD


def test_a_notebook_and_the_dry_run_load_no_framework():
    heavy = ("torch", "lightning", "nemo", "wandb", "matplotlib")
    program = f"import sys, asr_with_nemo.sweeps; print({{*{heavy}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_files_that_are_no_sweeps(tmp_path: Path):
    with pytest.raises(InputError, match=r"nope.yaml"):
        load_sweep(tmp_path / "nope.yaml")
    file = tmp_path / "sweep.yaml"
    for text, words in (
        ("a: [1", "sweep.yaml: .*YAML"),
        ("- 1\n- 2", r"sweep.yaml: \[1, 2\].*method, metric, parameters"),
        ("text", "sweep.yaml: 'text'.*method, metric, parameters"),
        ("#", "sweep.yaml: None.*method, metric, parameters"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            load_sweep(file)


def test_how_many_has_to_be_said():
    with pytest.raises(InputError, match=r"sweep.yaml: .*--count.*run_cap"):
        check_sweep(GOOD, "sweep.yaml").count(None)
    assert check_sweep(GOOD | {"run_cap": 3}, "sweep.yaml").count(None) == 3
    grid = {"method": "grid", "parameters": {"x": {"values": [1, 2]}, "y": {"values": [1, 2]}}}
    assert check_sweep(grid, "sweep.yaml").count(None) == 4


@pytest.mark.parametrize(
    ("spec", "brackets"),
    [
        (early(min_iter=3), (3, 9, 27, 81)),
        (early(max_iter=27, s=2), (3, 9)),
        (early(max_iter=19, s=2, min_iter=7), (2, 6)),  # as W&B: max_iter and s say it
        (early(min_iter=2, max_iter=20, eta=2), (2, 4, 8, 16)),
        (early(max_iter=10, s=4, eta=2.5), (1, 4)),
    ],
)
def test_brackets_are_those_of_wandbs_documentation(spec: dict, brackets: tuple[int, ...]):
    assert check_sweep(GOOD | spec, "sweep.yaml").hyperband.brackets[: len(brackets)] == brackets
