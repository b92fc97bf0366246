"""The comparison of optimizers without a learning rate is fair, and goes on where it stopped."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from benchmarks.learning_rate_free import curves, tasks
from benchmarks.learning_rate_free.compare import (
    ADAM,
    CONTENDERS,
    RATES,
    average,
    averaged,
    compare,
    main,
)
from benchmarks.learning_rate_free.curves import batches, train
from benchmarks.learning_rate_free.tables import TABLES
from benchmarks.learning_rate_free.tasks import Examples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def digits():
    return tasks.digits(quick=True)


@pytest.fixture
def trained(monkeypatch):
    """Replaces training by taking notes: which runs were asked for, and a score for each."""

    def train(task, contender, learning_rate, seed, held_out):
        notes.append((contender.made_by, learning_rate, seed, held_out))
        distance = abs(np.log(learning_rate / 0.01)) if learning_rate else 1.0
        return curves.Run(distance + 0.1 * seed, 2.0, [1.5], [1.0])

    notes = []
    monkeypatch.setattr(curves, "train", train)
    return notes


@pytest.fixture(
    scope="module",
    params=[(["digits"], []), (["mnist", "diabetes", "text"], ["adadelta", "dog"])],
    ids=["every contender on digits", "two contenders on the other tasks"],
)
def quick_run(request, tmp_path_factory):
    """The tasks of a quick run, what it printed, its report and its plot."""
    (tasks, contenders), folder = request.param, tmp_path_factory.mktemp("quick_run")
    command = [
        sys.executable,
        "-m",
        "benchmarks.learning_rate_free.compare",
        "--quick",
        "--only",
        *tasks,
    ]
    command += ["--json", folder / "report.json", "--plot", folder / "plot.svg"]
    command += ["--runs", folder / "runs"]
    command += ["--contenders", *contenders] if contenders else []
    hurried = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # in compilation
    done = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=hurried
    )
    report = json.loads((folder / "report.json").read_text())
    return tasks, done.stdout, report, (folder / "plot.svg").read_text()


def test_a_quick_run_prints_a_table_of_every_task_and_writes_json_and_a_plot(quick_run):
    tasks, printed, report, plot = quick_run
    assert report["benchmark"] == "learning_rate_free"
    assert not {"runs", "data_dir"} & report["settings"].keys()
    assert list(dict.fromkeys(row["work"] for row in report["results"])) == tasks
    for row in report["results"]:
        for text in (row["contender"], row["title"], row["score_name"]):
            assert text in printed
            assert text in plot
        assert np.isfinite([row["mean"], row["standard_error"], row["constant_score"]]).all()
        assert len(row["curve"]) == len(row["losses"]) == row["steps"]


def test_every_contender_starts_from_the_same_loss_and_ends_at_another(quick_run):
    tasks, _, report, _ = quick_run
    for task in tasks:
        rows = {row["contender"]: row for row in report["results"] if row["work"] == task}
        assert {"adadelta", "dog"} <= rows.keys()
        starts = [row["start_loss"] for row in rows.values()]  # each of a program of its own
        assert starts == pytest.approx([starts[0]] * len(starts), rel=1e-6)
        assert all(row["loss"] != row["start_loss"] for row in rows.values())
        alike = rows.keys() & {"dog_averaged", "adam_tuned"}  # as dog; as adam, if 1e-3 is best
        assert len({rows[name]["loss"] for name in rows.keys() - alike}) == len(rows) - len(alike)


def test_another_seed_is_another_start_and_other_batches(digits):
    runs = [train(digits, ADAM, 1e-3, seed, "test") for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0].start_loss != runs[2].start_loss
    assert not np.array_equal(*(np.sort(batches(digits, 1100, seed).ravel()) for seed in (0, 1)))


def test_validation_examples_are_never_trained_or_tested_on(digits):
    parts = [digits.parts(seed) for seed in (0, 1)]
    for each in parts:
        rows = [row.tobytes() for examples in each for row in np.asarray(examples.inputs)]
        assert len(set(rows)) == len(rows) == 1797
        np.testing.assert_array_equal(each.validation.inputs, parts[0].validation.inputs)
    assert not np.array_equal(parts[0].test.inputs, parts[1].test.inputs)


def test_schedule_free_is_judged_by_its_eval_params(digits):
    optimizer, parts = optax.contrib.schedule_free_adamw(), digits.parts(0)
    params = digits.initial_params(jax.random.key(0))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(digits.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    for (indices,) in batches(digits, len(parts.train.inputs), 0):
        batch = Examples(*(values[indices] for values in parts.train))
        params, state = step(params, state, batch)
    eval_params = optax.contrib.schedule_free_eval_params(state, params)

    # By the loss, which is finer than the error.
    task = dataclasses.replace(digits, score=digits.loss)
    score = train(task, CONTENDERS["schedule_free_adamw"], None, 0, "test").score
    np.testing.assert_allclose(score, digits.loss(eval_params, parts.test), rtol=1e-5)
    assert abs(score - digits.loss(params, parts.test)) > 1e-3


def test_the_average_of_power_zero_is_the_mean_and_training_goes_on_without_it():
    optimizer = averaged(optax.sgd(1.0), power=0.0)
    params, seen = np.zeros(2), []
    state = optimizer.init(params)
    for step in range(1, 6):
        updates, state = optimizer.update(np.array([1.0, -step]), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
        np.testing.assert_allclose(average(state, params), np.mean(seen, axis=0), rtol=1e-6)
    np.testing.assert_allclose(params, [-5.0, 15.0])


def test_an_interrupted_benchmark_does_not_train_finished_runs_again(
    digits, trained, tmp_path, monkeypatch
):

    names, whole = ["adadelta", "adam_tuned", "dog"], curves.train

    def stops(*args):
        if len(trained) == 6:
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(curves, "train", stops)
        with pytest.raises(KeyboardInterrupt):
            compare(digits, names, [0, 1], [1000], tmp_path)
    assert len(trained) == 6
    rows = compare(digits, names, [0, 1], [1000], tmp_path)
    assert len(trained) == len(set(trained)) == 7 + 6  # rates to tune; contenders by seeds
    assert compare(digits, names, [0, 1], [1000], tmp_path) == rows
    assert len(trained) == 7 + 6

    longer = dataclasses.replace(digits, settings=digits.settings | {"steps": 8})
    compare(longer, names, [0, 1], [1000], tmp_path)
    assert len(trained) == 2 * (7 + 6)


def test_a_half_written_run_is_trained_again(digits, trained, tmp_path, monkeypatch):
    def stops(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Path, "replace", stops)
        with pytest.raises(KeyboardInterrupt):
            compare(digits, ["adadelta"], [0, 1], [1000], tmp_path)
    compare(digits, ["adadelta"], [0, 1], [1000], tmp_path)
    assert [seed for _, _, seed, _ in trained] == [0, 0, 1]


def test_adam_is_tuned_on_validation_examples_and_other_seeds_alone(digits, trained, tmp_path):
    (row,) = compare(digits, ["adam_tuned"], [0, 1], [1000, 1001], tmp_path)
    assert row["learning_rate"] == 1e-2  # where the score that stands in for training is best
    tuning = {run for run in trained if run[3] == "validation"}
    assert tuning == {
        (ADAM.made_by, rate, seed, "validation") for rate in RATES for seed in (1000, 1001)
    }
    assert set(trained) - tuning == {(ADAM.made_by, 1e-2, seed, "test") for seed in (0, 1)}
    np.testing.assert_allclose(row["scores"], [0.0, 0.1], atol=1e-12)


def test_an_unknown_contender_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["learning_rate_free.py", "--contenders", "adadelta", "sgdd"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "invalid choice: 'sgdd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mean", "spread", "winner"), [(0.5, 0.1, "Adadelta"), (-0.5, 0.1, "it"), (0.5, 0.3, "level")]
)
def test_the_table_calls_a_difference_within_its_spread_level(tmp_path, mean, spread, winner):
    of_task = {"work": "digits", "title": "digits", "score_name": "test error, %"}
    ours = of_task | {"contender": "adadelta", "mean": 3.0, "standard_error": 0.2}
    theirs = of_task | {"contender": "dog", "mean": 3.0 + mean, "standard_error": 0.3}
    theirs |= {"less_adadelta": mean, "less_adadelta_standard_error": spread}
    report = {"results": [ours, theirs]}
    (tmp_path / "learning_rate_free.json").write_text(json.dumps(report))
    table = TABLES["learning_rate_free_against_adadelta"](tmp_path)
    assert table.splitlines()[-1] == f"| DoG | {mean:+.2f} ± {spread:.2f}: {winner} |"
