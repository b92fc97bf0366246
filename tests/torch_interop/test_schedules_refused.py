"""Schedulers of torch that cannot go on are refused by name, and so are wrong states of others."""

import re

import jax.numpy as jnp
import pytest

from adadelta_jax.torch_interop import optimizer_from_torch
from adadelta_jax.torch_interop.schedules import schedules_from_torch
from tests.refusals import assert_refused, each_refusal
from tests.torch_interop.test_schedules import SCHEDULERS, schedulers, torch, torch_run

pytestmark = pytest.mark.torch


BY_HAND = (
    "write it as an Optax schedule, make adadelta(schedule, ...) with it, and take the state "
    "along with carry_over_state"
)
NO_FORM = "has no closed form in this package"
UNKNOWN = {
    "LambdaLR": (
        lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
        "LambdaLR or MultiplicativeLR keeps its function out of its state_dict",
    ),
    "MultiplicativeLR": (
        lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.9),
        "LambdaLR or MultiplicativeLR keeps its function out of its state_dict",
    ),
    "ReduceLROnPlateau": (
        lambda o: schedulers.ReduceLROnPlateau(o),
        "ReduceLROnPlateau depends on the loss",
    ),
    "CyclicLR": (
        lambda o: schedulers.CyclicLR(o, 0.1, 1.0, cycle_momentum=False),
        f"CyclicLR {NO_FORM}",
    ),
    "OneCycleLR": (
        lambda o: schedulers.OneCycleLR(o, 1.0, total_steps=10, cycle_momentum=False),
        f"OneCycleLR {NO_FORM}",
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5),
        f"CosineAnnealingWarmRestarts {NO_FORM}",
    ),
    "SequentialLR": (
        lambda o: schedulers.SequentialLR(
            o, [schedulers.ConstantLR(o, 0.1), schedulers.ExponentialLR(o, 0.9)], [3]
        ),
        f"SequentialLR {NO_FORM}",
    ),
    "ChainedScheduler": (
        lambda o: schedulers.ChainedScheduler(
            [schedulers.ConstantLR(o, 0.1), schedulers.ExponentialLR(o, 0.9)]
        ),
        f"ChainedScheduler {NO_FORM}",
    ),
    "SWALR": (lambda o: torch.optim.swa_utils.SWALR(o, 0.05), f"SWALR {NO_FORM}"),
}


@pytest.mark.parametrize(("scheduler_of", "why"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_scheduler_that_is_no_function_of_the_epoch_is_refused_by_name(scheduler_of, why):
    _, optimizer, scheduler = torch_run(scheduler_of)
    with pytest.raises(ValueError, match=f"^{re.escape(f'lr_scheduler: {why}: {BY_HAND}')}$"):
        schedules_from_torch(scheduler.state_dict(), optimizer.param_groups, 0, 1)


def test_every_scheduler_of_torch_is_known_or_refused_by_name():
    classes = {
        name
        for name, value in vars(schedulers).items()
        if isinstance(value, type) and issubclass(value, schedulers.LRScheduler)
    }
    known = {name for name in SCHEDULERS if name in classes} | set(UNKNOWN) - {"SWALR"}
    assert classes - {"LRScheduler", "_LRScheduler"} == known


def load(steps_per_epoch=1, lr=0.25, **changes):
    scheduler = {"gamma": 0.5, "base_lrs": [1.0], "last_epoch": 2, "_last_lr": [0.25]} | changes
    return lambda: schedules_from_torch(scheduler, [{"lr": lr}], 2, steps_per_epoch)


def from_torch(**arguments):
    def call():
        group = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "params": [0]}
        saved = {"state": {}, "param_groups": [group]}
        return optimizer_from_torch(saved, {"w": jnp.ones(2)}, {"w": "w"}, **arguments)

    return call


BY_HAND_TOO = f"The two must be of one checkpoint. If something else changed the rate, {BY_HAND}"
REFUSALS = {
    "a list": (
        from_torch(lr_scheduler=[{}]),
        TypeError,
        "lr_scheduler must be a dict, as scheduler.state_dict() gives, got list",
    ),
    "nothing in it": (
        from_torch(lr_scheduler={}),
        ValueError,
        "lr_scheduler is of no scheduler that this package knows: it has no keys. If it is one, "
        + BY_HAND,
    ),
    "the keys of nothing known": (
        load(warmup=5),
        ValueError,
        "lr_scheduler is of no scheduler that this package knows: it has gamma, base_lrs, "
        f"last_epoch, _last_lr, warmup. If it is one, {BY_HAND}",
    ),
    "only settings": (
        from_torch(lr_scheduler={"gamma": 0.5}),
        ValueError,
        "lr_scheduler lacks base_lrs, last_epoch: pass scheduler.state_dict()",
    ),
    "another number of groups": (
        load(base_lrs=[1.0, 1.0]),
        ValueError,
        "lr_scheduler has base_lrs of 2 groups, but optim_state_dict has 1",
    ),
    "another number of last rates": (
        load(_last_lr=[]),
        ValueError,
        "lr_scheduler has _last_lr of 0 groups, but optim_state_dict has 1",
    ),
    "base_lrs, a number": (
        load(base_lrs=1.0),
        TypeError,
        "lr_scheduler: base_lrs must be a list of numbers, got 1.0",
    ),
    "base_lrs, a string": (
        load(base_lrs=["1"]),
        TypeError,
        "lr_scheduler: base_lrs[0] must be a number, got '1'",
    ),
    "the rate of another checkpoint": (
        load(lr=0.5),
        ValueError,
        f"param_groups[0] has lr 0.5, but lr_scheduler has _last_lr 0.25. {BY_HAND_TOO}",
    ),
    "a rate that was changed by hand": (
        load(lr=0.2, _last_lr=[0.2]),
        ValueError,
        "lr_scheduler has _last_lr 0.2 for param_groups[0], but at last_epoch 2 the settings of "
        f"this ExponentialLR give 0.25. {BY_HAND_TOO}",
    ),
    **{
        f"{key}={value!r}": (
            load(**{key: value}),
            error,
            f"lr_scheduler: {key} must be {expected}, got {shown}",
        )
        for key, value, error, expected, shown in (
            ("last_epoch", -1, ValueError, "a whole number of at least 0", "-1"),
            ("last_epoch", 0.5, ValueError, "a whole number of at least 0", "0.5"),
            ("last_epoch", None, TypeError, "a number", "None"),
            ("step_size", 0, ValueError, "a whole number of at least 1", "0"),
            ("gamma", "0.5", TypeError, "a number", "'0.5'"),
        )
    },
    **{
        f"milestones={value!r}": (
            load(milestones=value),
            TypeError,
            f"lr_scheduler: milestones must be a dict from epochs to counts, got {value!r}",
        )
        for value in (3, {"3": 1}, {3: 0.5}, ["3"])
    },
    **{
        f"steps_per_epoch={value!r}": (
            from_torch(steps_per_epoch=value),
            ValueError,
            f"steps_per_epoch must be an integer of at least 1, got {value!r}",
        )
        for value in (0, -1, 1.5, None, True)
    },
}


@each_refusal(REFUSALS)
def test_what_cannot_go_on_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
