"""What the example sees of a training, and that it says and draws it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

from adadelta_jax import ScaleByAdadeltaState, adadelta

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """The script as a module, beside the files that it imports."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("watch_learning_rates")


def row(output, name):
    """The numbers printed in a line."""
    line = re.search(rf"^{re.escape(name)}((?: +[\d.e-]+)+)$", output, re.MULTILINE)
    return np.array(line[1].split(), float)


def test_the_script_sees_updates_shrink_and_rates_return_to_one(tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / "watch_learning_rates.py"]
    flags = ["--steps", "600", "--output", tmp_path]
    finished = subprocess.run(
        [*command, *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    for layer in ("lower", "middle", "upper"):
        rates = row(finished.stdout, f"rate, {layer} layer")
        updates = row(finished.stdout, f"update, {layer} layer")
        assert rates[0] == 1
        assert min(rates) < 0.9 < rates[-1]
        assert updates[-1] < updates[0] / 5
    assert row(finished.stdout, "loss of the batch, nats")[-1] < 0.05
    assert float(re.search(r"^test accuracy: ([\d.]+) %$", finished.stdout, re.M)[1]) > 95
    pixels = matplotlib.image.imread(tmp_path / "watch_learning_rates.png")
    assert pixels.shape[:2] == (650, 1560)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


def test_what_is_seen_is_what_the_steps_do(example):
    digits, _ = example.train_and_test_digits()
    batches = np.arange(12).reshape(3, 4)
    params = example.initial_params()
    trained, watched = example.train(params, jax.device_put(digits), jnp.asarray(batches))

    optimizer = adadelta()
    state = optimizer.init(params)
    for step, batch in enumerate(batches):
        (_, v, u), *_ = (part for part in state if isinstance(part, ScaleByAdadeltaState))
        grads = jax.grad(example.mean_loss)(params, digits.at(batch))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for layer in example.UNITS:
            size = np.abs(updates[layer]["kernel"])
            rate = np.sqrt((u[layer]["kernel"] + 1e-6) / (v[layer]["kernel"] + 1e-6))
            for seen, numbers in (
                (watched.update_sizes[layer], size),
                (watched.learning_rates[layer], rate),
            ):
                expected = np.min(numbers), np.median(numbers), np.max(numbers)
                np.testing.assert_allclose([x[step] for x in seen], expected, rtol=1e-3)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), trained, params)


def test_one_step_is_enough_for_a_picture(example, tmp_path, capsys):
    example.main(["--steps", "1", "--batch-size", "10", "--output", str(tmp_path)])
    picture = tmp_path / "watch_learning_rates.png"
    assert capsys.readouterr().out.splitlines()[-1] == f"picture: {picture}"
    assert picture.exists()


@pytest.mark.parametrize("flag", ["--steps", "--batch-size"])
def test_a_bad_flag_is_one_line_and_status_2(example, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main([flag, "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
