"""A parameter whose gradient is None keeps its value and its state, as in torch.

(torch counts the steps of each parameter, this package those of all of them: the counts are not
compared.)
"""

import functools

import numpy as np
import pytest

from tests.parity.tolerances import assert_snapshots_close
from tests.parity.trajectories import draw, run_jax, run_torch

pytestmark = pytest.mark.torch

STEPS = 12
# The steps, counted from 1, at which each parameter has no gradient; at step 8, none has.
MISSING = {
    "seldom": {8},
    "comes_and_goes": {2, 4, 6, 8, 10, 12},
    "starts_late": {1, 2, 3, 4, 5, 6, 8},
    "never": set(range(1, STEPS + 1)),
}
SHAPES = {"seldom": (3,), "comes_and_goes": (2, 3), "starts_late": (), "never": (4,)}
DTYPES = ["float32", "float64", "bfloat16", "complex64"]


@functools.cache
def drawn(dtype):
    params, gradients = draw(dtype, STEPS, SHAPES)
    for step, grads in enumerate(gradients, start=1):
        for name, steps in MISSING.items():
            if step in steps:
                grads[name] = None
    return params, gradients


@functools.cache
def ours(dtype, weight_decay):
    return run_jax(*drawn(dtype), dtype, weight_decay=weight_decay)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_that_come_and_go_give_what_torch_gives(dtype, weight_decay, foreach):
    theirs = run_torch(*drawn(dtype), dtype, foreach, weight_decay=weight_decay)
    for step in range(1, STEPS + 1):
        assert_snapshots_close(ours(dtype, weight_decay)[step], theirs[step], step, dtype)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", ["torch", "torch_foreach", "ours"])
def test_without_a_gradient_value_and_state_stay_bit_for_bit(optimizer, dtype, weight_decay):
    if optimizer == "ours":
        snapshots = ours(dtype, weight_decay)
    else:
        foreach = optimizer == "torch_foreach"
        snapshots = run_torch(*drawn(dtype), dtype, foreach, weight_decay=weight_decay)
    for step in range(2, STEPS + 1):
        before, after = snapshots[step - 1], snapshots[step]
        for name, steps in MISSING.items():
            params, square_avg, acc_delta = (
                np.array_equal(old[name], new[name]) for old, new in zip(before, after, strict=True)
            )
            if step in steps:
                assert params, (name, step)
                assert acc_delta, (name, step)
            assert square_avg == (step in steps), (name, step)
