"""The functions of the example, the paths over them, and that it prints and draws these paths."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from adadelta_jax import adadelta

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("Beale", "Rosenbrock", "Saddle")


@pytest.fixture
def example(monkeypatch):
    """The script as a module, beside the files that it imports."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("trajectories")


@pytest.mark.parametrize(
    ("name", "lowest"), [("Beale", 0.0), ("Rosenbrock", 0.0), ("Saddle", -0.5)]
)
def test_each_function_is_lowest_at_its_minima_and_flat_there(example, name, lowest):
    landscape = example.LANDSCAPES[name]
    for minimum in landscape.minima:
        point = jnp.array(minimum)
        assert landscape.value(point) == lowest
        np.testing.assert_array_equal(jax.grad(landscape.value)(point), [0, 0])
    x, y = np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-4, 4, 81))
    assert np.min(landscape.value(jnp.stack([x, y]))) >= lowest


@pytest.mark.parametrize(
    ("name", "point", "value", "gradient"),
    [
        ("Beale", (0.0, 2.0), 14.203125, (53.25, 0.0)),
        ("Rosenbrock", (-1.0, 2.0), 104.0, (396.0, 200.0)),
        ("Saddle", (0.0, 0.0), 0.0, (0.0, 0.0)),
        ("Saddle", (2.0, 2.0), 8.0, (4.0, 12.0)),
    ],
)
def test_each_function_has_its_known_values_and_gradients(example, name, point, value, gradient):
    computed = jax.value_and_grad(example.LANDSCAPES[name].value)(jnp.array(point))
    np.testing.assert_allclose(computed[0], value, rtol=1e-6)
    np.testing.assert_allclose(computed[1], gradient, rtol=1e-6)


def test_every_path_begins_at_the_start_and_carries_the_function_along(example):
    for name, runs in example.all_runs(steps=20).items():
        landscape = example.LANDSCAPES[name]
        assert list(runs) == list(example.STYLES)
        for run in runs.values():
            assert run.path.shape == (21, 2)
            np.testing.assert_allclose(run.path[0], landscape.start, rtol=1e-6)
            assert len(np.unique(run.path, axis=0)) > 15
            values = jax.vmap(landscape.value)(jnp.asarray(run.path))
            np.testing.assert_allclose(run.values, values, rtol=1e-4, atol=1e-5)


def test_a_path_is_that_of_the_optimizer_step_by_step(example):
    landscape = example.LANDSCAPES["Beale"]
    for optimizer in (adadelta(), optax.adam(0.1)):
        path, _ = example.descend(optimizer, landscape, 5)
        point = jnp.array(landscape.start)
        state = optimizer.init(point)
        for expected in path:
            np.testing.assert_allclose(point, expected, rtol=1e-5)
            grads = jax.grad(landscape.value)(point)
            updates, state = optimizer.update(grads, state, point)
            point = optax.apply_updates(point, updates)


def test_the_chosen_learning_rate_ends_lowest_of_those_that_stay_in_the_picture(example):
    landscape = example.LANDSCAPES["Rosenbrock"]
    best = example.best_run(optax.sgd, landscape, 50)
    low, high = np.transpose([landscape.x_range, landscape.y_range])
    ends = {}
    for rate in example.RATES:
        path, values = example.descend(optax.sgd(rate), landscape, 50)
        if np.all((path >= low) & (path <= high)):
            ends[rate] = values[-1]
    assert 1 < len(ends) < len(example.RATES)
    assert best.learning_rate == min(ends, key=ends.get)


def test_the_script_prints_where_the_paths_end_and_draws_them(example, tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / "trajectories.py"]
    flags = ["--steps", "30", "--frames", "4", "--output", tmp_path]
    finished = subprocess.run(
        [*command, *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    runs = example.all_runs(steps=30)
    for label in example.STYLES:
        line = re.search(rf"^{re.escape(label)}  +(.*)$", finished.stdout, re.MULTILINE)[1]
        printed = re.findall(r"(\S+) \(rate (\S+)\)", line)
        expected = [
            (runs[name][label].values[-1], runs[name][label].learning_rate) for name in NAMES
        ]
        np.testing.assert_allclose(np.array(printed, float), expected, rtol=0.01)

    with Image.open(tmp_path / "trajectories.png") as picture:
        assert picture.size == (1560, 702)
        pixels = np.array(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 50
    with Image.open(tmp_path / "trajectories.gif") as animation:
        assert animation.n_frames >= 4
        first = np.array(animation.convert("RGB"))
        animation.seek(animation.n_frames - 1)
        assert np.any(first != np.array(animation.convert("RGB")))


@pytest.mark.parametrize(("flag", "value"), [("--steps", "0"), ("--frames", "1")])
def test_a_bad_flag_is_one_line_and_status_2(example, flag, value, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main([flag, value])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
