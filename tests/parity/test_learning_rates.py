"""Learning rates that change from step to step, and learning rates in an array, as in torch."""

import functools
import math

import jax.numpy as jnp
import optax
import pytest

from tests.parity.tolerances import TOLERANCES, assert_snapshots_close
from tests.parity.trajectories import draw, run_jax, run_torch

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

CHECKPOINTS = (1, 2, 100)
PEAK, DECAY_STEPS, FLOOR = 0.5, 80, 0.1  # the schedule reaches its floor before the run ends


def cosine(count):
    """The formula of `optax.cosine_decay_schedule` in Python, as a share of the peak."""
    progress = min(count / DECAY_STEPS, 1.0)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


def by_lambda_lr(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, cosine).step


def by_setting_the_group(optimizer):
    counts = iter(range(1, max(CHECKPOINTS) + 1))

    def after_step():
        learning_rate = PEAK * cosine(next(counts))
        for group in optimizer.param_groups:
            is_tensor = isinstance(group["lr"], torch.Tensor)
            group["lr"] = (
                torch.full_like(group["lr"], learning_rate) if is_tensor else learning_rate
            )

    return after_step


@functools.cache
def drawn(dtype):
    return draw(dtype, steps=max(CHECKPOINTS))


@functools.cache
def ours_by_schedule(dtype):
    schedule = optax.cosine_decay_schedule(PEAK, DECAY_STEPS, alpha=FLOOR)
    return run_jax(*drawn(dtype), dtype, checkpoints=CHECKPOINTS, learning_rate=schedule)


@functools.cache
def ours_by_array(dtype):
    learning_rate = jnp.array(0.01, jnp.float32)
    return run_jax(*drawn(dtype), dtype, checkpoints=CHECKPOINTS, learning_rate=learning_rate)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("schedule", [by_lambda_lr, by_setting_the_group])
@pytest.mark.parametrize("lr_type", [float, torch.DoubleTensor])
def test_a_schedule_gives_what_torch_gives(lr_type, schedule, dtype, foreach):
    lr = PEAK if lr_type is float else lr_type([PEAK])
    theirs = run_torch(
        *drawn(dtype), dtype, foreach, schedule=schedule, checkpoints=CHECKPOINTS, lr=lr
    )
    for step in CHECKPOINTS:
        assert_snapshots_close(ours_by_schedule(dtype)[step], theirs[step], step, dtype)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_learning_rate_in_an_array_gives_what_torch_gives_for_a_tensor(dtype, foreach):
    theirs = run_torch(
        *drawn(dtype), dtype, foreach, checkpoints=CHECKPOINTS, lr=torch.tensor(0.01)
    )
    for step in CHECKPOINTS:
        assert_snapshots_close(ours_by_array(dtype)[step], theirs[step], step, dtype)
