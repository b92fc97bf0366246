"""The learning-rate schedulers of torch as schedules that continue from a checkpoint."""

import itertools
import math
import numbers
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adadelta_jax.torch_interop.checks import check_dict
from adadelta_jax.torch_interop.tensors import read_number

# What the state_dict of any scheduler holds, in one version of torch or another.
_COMMON_KEYS = {
    *("base_lrs", "last_epoch", "_last_lr", "_step_count", "verbose"),
    *("_is_initial", "_get_lr_called_within_step"),
}
_NO_FORM = "has no closed form in this package"
# Schedulers that are refused: a key that only they have, their name, and why.
_REFUSED = {
    "lr_lambdas": ("LambdaLR or MultiplicativeLR", "keeps its function out of its state_dict"),
    "patience": ("ReduceLROnPlateau", "depends on the loss"),
    "max_lrs": ("CyclicLR", _NO_FORM),
    "total_steps": ("OneCycleLR", _NO_FORM),
    "T_mult": ("CosineAnnealingWarmRestarts", _NO_FORM),
    "_milestones": ("SequentialLR", _NO_FORM),
    "_schedulers": ("ChainedScheduler", _NO_FORM),
    "anneal_epochs": ("SWALR", _NO_FORM),
}
_BY_HAND = (
    "write it as an Optax schedule, make adadelta(schedule, ...) with it, and take the state along "
    "with carry_over_state"
)
_LARGEST = 2**30  # twice as much is still an int32
_KNOTS = 2**16  # so many that a straight line between two is as good as exact
_DIGITS = (2**11, 2**10, 2**10)  # together all of an int32

Curve = Callable[[jax.Array], jax.Array]


def warn_of_constant_rates(groups: Sequence[Mapping[str, Any]]) -> None:
    """Warn if a scheduler of torch has set learning rates, which stay constant here."""
    rates = [
        read_number(f"param_groups[{index}]: lr", group["lr"])
        for index, group in enumerate(groups)
        if "initial_lr" in group
    ]
    if rates:
        warnings.warn(
            "param_groups have initial_lr, so that a scheduler sets their learning rate in torch. "
            f"Here it stays that of the checkpoint, {', '.join(f'{rate:g}' for rate in rates)}. To "
            "go on with the schedule, pass lr_scheduler=scheduler.state_dict() and "
            "steps_per_epoch, the optimizer's steps per step of the scheduler",
            stacklevel=3,
        )


def schedules_from_torch(
    lr_scheduler: Any, groups: Sequence[Mapping[str, Any]], step: int, steps_per_epoch: Any
) -> list[optax.Schedule]:
    """The learning rate of each group by count, which continues torch's after `step` steps."""
    check_dict("lr_scheduler", lr_scheduler, "a dict, as scheduler.state_dict() gives")
    name, form = _class_of(lr_scheduler)
    epoch = _whole(lr_scheduler, "last_epoch", at_least=0)
    base_lrs = _rates(lr_scheduler, "base_lrs", len(groups))
    in_groups = [read_number(f"param_groups[{i}]: lr", g["lr"]) for i, g in enumerate(groups)]
    last_lrs = in_groups  # schedulers of old did not note their last rate
    if "_last_lr" in lr_scheduler:
        last_lrs = _rates(lr_scheduler, "_last_lr", len(groups))
    schedules = []
    for index, base_lr in enumerate(base_lrs):
        curve = form(lr_scheduler, base_lr)
        with jax.enable_x64(True):
            expected = float(curve(jnp.asarray(epoch, jnp.int32)))
        _check_rate(
            f"param_groups[{index}] has lr {in_groups[index]!r}, but lr_scheduler has _last_lr",
            in_groups[index],
            last_lrs[index],
            base_lr,
        )
        _check_rate(
            f"lr_scheduler has _last_lr {last_lrs[index]!r} for param_groups[{index}], but at "
            f"last_epoch {epoch} the settings of this {name} give",
            last_lrs[index],
            expected,
            base_lr,
        )
        schedules.append(_by_count(curve, epoch, step, steps_per_epoch))
    _warn_of_other_epochs(epoch, step, steps_per_epoch)
    return schedules


def check_steps_per_epoch(value: Any) -> None:
    """Raise unless `value` is a number of steps."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= _LARGEST:
        raise ValueError(f"steps_per_epoch must be an integer of at least 1, got {value!r}")


def _class_of(lr_scheduler: Mapping[str, Any]) -> tuple[str, Callable[[Any, float], Curve]]:
    """The name of a scheduler's class and its closed form, told by the keys of its state_dict."""
    for key, (name, why) in _REFUSED.items():
        if key in lr_scheduler:
            raise ValueError(f"lr_scheduler: {name} {why}: {_BY_HAND}")
    own = {key for key in lr_scheduler if key not in _COMMON_KEYS}
    for name, (keys, form) in _FORMS.items():
        if own == set(keys):
            lacking = [key for key in ("base_lrs", "last_epoch") if key not in lr_scheduler]
            if lacking:
                raise ValueError(
                    f"lr_scheduler lacks {', '.join(lacking)}: pass scheduler.state_dict()"
                )
            return name, form
    raise ValueError(
        "lr_scheduler is of no scheduler that this package knows: it has "
        f"{', '.join(map(str, lr_scheduler)) or 'no keys'}. If it is one, {_BY_HAND}"
    )


def _step_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    powers = _powers(base_lr, _number(settings, "gamma"))
    step_size = _whole(settings, "step_size", at_least=1)
    return lambda epoch: powers(epoch // step_size)


def _multi_step_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    milestones = np.array(_milestones(settings["milestones"]), np.int32)
    rates = base_lr * np.float64(_number(settings, "gamma")) ** np.arange(len(milestones) + 1)
    return lambda epoch: jnp.asarray(rates)[(epoch >= milestones).sum()]


def _exponential_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    return _powers(base_lr, _number(settings, "gamma"))


def _constant_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    last = _last_iteration(settings)
    rates = np.array([base_lr * _number(settings, "factor"), base_lr])
    # torch undoes the factor only on reaching the last iteration, which is never the first.
    return lambda epoch: jnp.asarray(rates)[jnp.asarray((epoch >= last) & (last > 0), jnp.int32)]


def _linear_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    start, end = (_number(settings, f"{which}_factor") for which in ("start", "end"))
    last = _last_iteration(settings)
    return _knotted(lambda epoch: base_lr * (start + (end - start) * epoch / max(last, 1)), last)


def _polynomial_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    last, power = _last_iteration(settings), _number(settings, "power")
    return _knotted(lambda epoch: base_lr * (1 - epoch / max(last, 1)) ** power, last)


def _cosine_annealing_lr(settings: Mapping[str, Any], base_lr: float) -> Curve:
    half, eta_min = _whole(settings, "T_max", at_least=1), _number(settings, "eta_min")

    def falling(epoch):
        # The square of a sine has no cancellation at the end, unlike one plus a cosine.
        weight = np.sin(math.pi / 2 * (half - epoch) / half) ** 2
        return base_lr * weight + eta_min * (1 - weight)

    curve = _knotted(falling, half)
    return lambda epoch: curve(half - jnp.abs(half - epoch % (2 * half)))


_FORMS: dict[str, tuple[tuple[str, ...], Callable[[Any, float], Curve]]] = {
    "StepLR": (("step_size", "gamma"), _step_lr),
    "MultiStepLR": (("milestones", "gamma"), _multi_step_lr),
    "ExponentialLR": (("gamma",), _exponential_lr),
    "ConstantLR": (("factor", "total_iters"), _constant_lr),
    "LinearLR": (("start_factor", "end_factor", "total_iters"), _linear_lr),
    "PolynomialLR": (("total_iters", "power"), _polynomial_lr),
    "CosineAnnealingLR": (("T_max", "eta_min"), _cosine_annealing_lr),
}


def _powers(first: float, base: float) -> Curve:
    """``first * base**n`` with at most three roundings, where `jnp.power` has more the larger n."""
    tables, stride = [], 1
    with np.errstate(over="ignore"):
        for digits in _DIGITS:
            tables.append(np.float64(base) ** (stride * np.arange(digits, dtype=np.float64)))
            stride *= digits
        tables[0] = first * tables[0]

    def power(n):
        result = jnp.asarray(tables[0])[n % len(tables[0])]
        for smaller, table in itertools.pairwise(tables):
            n = n // len(smaller)
            result = result * jnp.asarray(table)[n % len(table)]
        return result

    return power


def _knotted(values: Callable[[np.ndarray], np.ndarray], last: int) -> Curve:
    """A function of the epochs up to `last`, where it stays: its values, or lines between them."""
    every = max(1, -(-last // _KNOTS))
    knots = np.minimum(np.arange(0, last + every, every), last).astype(np.int32)
    rates = values(knots.astype(np.float64))

    def curve(epoch):
        epoch = jnp.clip(epoch, 0, last)
        left = epoch // every
        right = jnp.minimum(left + 1, len(knots) - 1)
        at, ys = jnp.asarray(knots), jnp.asarray(rates)
        distances = (epoch - at[left], jnp.maximum(at[right] - at[left], 1))
        passed, width = (distance.astype(ys.dtype) for distance in distances)
        part = passed / width
        return ys[left] * (1 - part) + ys[right] * part

    return curve


def _by_count(curve: Curve, epoch: int, step: int, steps_per_epoch: int) -> optax.Schedule:
    """The rate for the update after `count` steps; after `step` steps it is that of `epoch`."""
    # In the middle of an epoch, the epoch's remaining steps have its rate.
    start = epoch * steps_per_epoch if step // steps_per_epoch == epoch else step

    def schedule(count):
        epochs = (jnp.asarray(count, jnp.int32) - start) // steps_per_epoch
        return curve(jnp.maximum(epoch + epochs, 0))

    return schedule


def _warn_of_other_epochs(epoch: int, step: int, steps_per_epoch: int) -> None:
    """Warn if the scheduler has stepped far more or less often than `steps_per_epoch` says."""
    # A scaler of gradients skips some steps of the optimizer, but not those of the scheduler.
    if not (epoch - 0.5) * steps_per_epoch <= step < (epoch + 1) * steps_per_epoch:
        warnings.warn(
            f"lr_scheduler has stepped {epoch} times and the optimizer {step} times, which does "
            f"not fit steps_per_epoch={steps_per_epoch}. The next epoch begins {steps_per_epoch} "
            "steps after the checkpoint",
            stacklevel=4,
        )


def _check_rate(what: str, rate: float, expected: float, base_lr: float) -> None:
    """Raise unless torch, which multiplies step by step, can mean the expected rate."""
    # Next to the base rate, one of almost zero is mostly rounding.
    if not math.isclose(rate, expected, rel_tol=1e-6, abs_tol=1e-9 * abs(base_lr)):
        raise ValueError(
            f"{what} {expected!r}. The two must be of one checkpoint. If something else changed "
            f"the rate, {_BY_HAND}"
        )


def _rates(lr_scheduler: Mapping[str, Any], key: str, count: int) -> list[float]:
    """The learning rates that a scheduler holds, one for each group."""
    values = lr_scheduler[key]
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"lr_scheduler: {key} must be a list of numbers, got {values!r}")
    if len(values) != count:
        raise ValueError(
            f"lr_scheduler has {key} of {len(values)} groups, but optim_state_dict has {count}"
        )
    return [read_number(f"lr_scheduler: {key}[{i}]", value) for i, value in enumerate(values)]


def _number(settings: Mapping[str, Any], key: str) -> float:
    return read_number(f"lr_scheduler: {key}", settings[key])


def _whole(settings: Mapping[str, Any], key: str, at_least: int) -> int:
    """A number of epochs; raise unless it is whole, because torch counts up to it."""
    value = _number(settings, key)
    if not value.is_integer() or not at_least <= value <= _LARGEST:
        raise ValueError(
            f"lr_scheduler: {key} must be a whole number of at least {at_least}, got {value:g}"
        )
    return int(value)


def _milestones(value: Any) -> list[int]:
    """The epochs of the milestones, as often as each counts."""
    counts = value if isinstance(value, Mapping) else None
    if isinstance(value, (list, tuple)) and all(isinstance(m, numbers.Real) for m in value):
        counts = Counter(value)
    if counts is None or not all(
        isinstance(milestone, numbers.Real) and isinstance(count, int)
        for milestone, count in counts.items()
    ):
        raise TypeError(
            f"lr_scheduler: milestones must be a dict from epochs to counts, got {value!r}"
        )
    # torch compares for equality, and so passes by a milestone that is no epoch.
    epochs = [m for m in counts if 0 <= m <= _LARGEST and float(m).is_integer()]
    return [int(m) for m in epochs for _ in range(counts[m])]


def _last_iteration(settings: Mapping[str, Any]) -> int:
    return _whole(settings, "total_iters", at_least=0)
