"""Optax's own tests of its Adadelta pass with this package, with none of them skipped."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta
from tests.parity.optax_own_tests import MODULES

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

# How many cases of Adadelta Optax 0.2.8 has in each module; a later Optax may have more.
CASES = dict(zip(MODULES, (32, 3, 1), strict=True))
STEPS = 10_000  # those of Optax's test_optimization
TOLERANCE = 3e-2  # its relative and absolute tolerance
ROSENBROCK_CASES = [
    (settings, dtype)
    for settings in ({"learning_rate": 0.1}, {})
    for dtype in ("float32", "complex64")
]


def run_in_an_interpreter_of_its_own(module):
    """The outcome of each case. absl makes the cases at import, and JAX chooses devices once."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.parity.optax_own_tests", module],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("module", MODULES)
def test_every_case_passes_except_a_minimum_that_torch_does_not_reach_either(module):
    outcomes = run_in_an_interpreter_of_its_own(module)
    assert len(outcomes) >= CASES[module]
    unexcused = {
        case: reason
        for case, reason in outcomes.items()
        if reason is not None
        and not ("Not equal to tolerance" in reason and torch_misses_the_minimum_too(case))
    }
    assert not unexcused, "\n".join(f"{case}: {reason}" for case, reason in unexcused.items())


def torch_misses_the_minimum_too(case):
    """Whether torch ends outside Optax's tolerance in this case of the Rosenbrock function."""
    for settings, dtype in ROSENBROCK_CASES:
        if re.search(
            rf"test_optimization.*{re.escape(f'opt_kwargs={settings!r}')}.*rosenbrock.*{dtype}",
            case,
        ):
            a = minimum(dtype)
            end = minimize_with_torch(settings, dtype)
            return not np.allclose(end, [a, a**2], rtol=TOLERANCE, atol=TOLERANCE)
    return False


@pytest.mark.parametrize(("settings", "dtype"), ROSENBROCK_CASES)
def test_minimizing_the_rosenbrock_function_ends_where_torch_ends(settings, dtype):
    # Measured: at most 3e-4 apart on one processor, 1.5e-3 on another; torch's own float32 and
    # float64 runs end 6e-4 apart.
    np.testing.assert_allclose(
        minimize(settings, dtype), minimize_with_torch(settings, dtype), rtol=0, atol=3e-3
    )


def minimum(dtype):
    """Optax's a: the minimum of the Rosenbrock function is at (a, a²)."""
    return 1 + 1j if dtype == "complex64" else 1.0


def rosenbrock_gradient(params, a):
    """The gradient of |a - x|² + 100 |y - x²|², as torch gives it: conjugated for `jax.grad`."""
    x, y = params
    rise = y - x**2
    return 2 * (x - a) - 400 * x.conj() * rise, 200 * rise


def minimize(settings, dtype):
    """The parameters of `adadelta` after 10,000 steps from Optax's start."""
    optimizer = adadelta(**settings)
    a = minimum(dtype)

    def step(carry, _):
        params, state = carry
        grads = jnp.stack(rosenbrock_gradient(params, a))
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.zeros(2, dtype)
    start = params, optimizer.init(params)
    return jax.jit(lambda: jax.lax.scan(step, start, None, STEPS))()[0][0]


def minimize_with_torch(settings, dtype):
    """The parameters of torch's Adadelta after 10,000 steps from the same start."""
    params = torch.zeros(2, dtype=getattr(torch, dtype))
    renamed = {"lr": settings["learning_rate"]} if settings else {}
    optimizer = torch.optim.Adadelta([params], rho=0.9, eps=1e-6, foreach=False, **renamed)
    a = minimum(dtype)
    for _ in range(STEPS):
        params.grad = torch.stack(rosenbrock_gradient(params, a))
        optimizer.step()
    return params.numpy()
