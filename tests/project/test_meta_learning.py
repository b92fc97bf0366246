import importlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--steps", "10", "--meta-steps", "2", "--batch-size", "8"]


@pytest.fixture
def meta_learning(monkeypatch):
    """The script as a module, beside the files that it imports."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("meta_learning")


def losses_in(output):
    """The test loss before and after, and the settings of each, from what was printed."""
    number = r"(\d+\.?\d*)"
    line = rf"^(?:before|after): +{number} nats, learning rate {number}, rho {number}$"
    return np.array(re.findall(line, output, re.MULTILINE), float)


def test_the_script_learns_settings_that_lose_less_than_half_on_digits_never_seen():
    finished = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "meta_learning.py", "--meta-steps", "40"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    before, after = losses_in(finished.stdout)
    np.testing.assert_array_equal(before[1:], [1, 0.9])
    assert after[0] < before[0] / 2
    assert after[1] > 1


def test_the_gradient_of_a_training_is_that_of_finite_differences(meta_learning):
    with jax.enable_x64(True):
        digits, _ = meta_learning.train_and_test_digits()
        batches = meta_learning.draw_batches(np.random.default_rng(0), digits, 10, 8)
        params = meta_learning.initial_params(8)

        @jax.jit
        def loss(settings):
            return meta_learning.loss_after_training(settings, params, batches, digits)

        settings = meta_learning.Settings(jnp.asarray(0.5), jnp.asarray(2.0))
        gradient = jax.grad(loss)(settings)
        for name in settings._fields:
            moved = [
                settings._replace(**{name: getattr(settings, name) + step})
                for step in (1e-5, -1e-5)
            ]
            by_differences = (loss(moved[0]) - loss(moved[1])) / 2e-5
            np.testing.assert_allclose(getattr(gradient, name), by_differences, rtol=1e-6)


def test_a_seed_fixes_the_batches_and_another_seed_changes_them(meta_learning, capsys, monkeypatch):
    drawn, printed = [], []

    def draw_and_learn_nothing(settings, params, digits, draw, **_):
        drawn.append(draw().labels.tolist())
        return settings

    monkeypatch.setattr(meta_learning, "learn", draw_and_learn_nothing)
    for seed in ("3", "3", "4"):
        meta_learning.main([*SHORT, "--seed", seed])
        printed.append(capsys.readouterr().out)
        before, after = losses_in(printed[-1])
        np.testing.assert_array_equal(before, after)
    for first, again, other in (drawn, printed):
        assert first == again
        assert first != other


def test_a_diverging_run_says_so_and_fails(meta_learning):
    with pytest.raises(SystemExit) as stop:
        meta_learning.main([*SHORT, "--meta-learning-rate", "1e30"])
    assert stop.value.code == "training diverged: the loss is nan in meta-step 2"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--bogus 1", "unrecognized arguments: --bogus 1"),
        ("--steps 0", "argument --steps: must be a whole number from 1"),
        ("--batch-size 1401", "argument --batch-size: must be a whole number from 1 to 1400"),
        ("--meta-steps 1.5", "argument --meta-steps: must be a whole number from 1"),
        ("--rho 1", "argument --rho: must be a number above 0 and below 1, got 1"),
        ("--rho nan", "argument --rho: must be a number above 0 and below 1, got nan"),
        ("--rho high", "argument --rho: must be a number above 0 and below 1, got high"),
        ("--learning-rate 0", "argument --learning-rate: must be a number above 0, got 0"),
        ("--learning-rate inf", "argument --learning-rate: must be a number above 0, got inf"),
        ("--meta-learning-rate -1", "argument --meta-learning-rate: must be a number above 0"),
        ("--seed -1", "argument --seed: must be a whole number from 0"),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2_before_any_training(
    flags, complaint, meta_learning, capsys, monkeypatch
):
    monkeypatch.delattr(meta_learning, "learn")
    with pytest.raises(SystemExit) as stop:
        meta_learning.main(flags.split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f": error: {complaint}" in printed.err
