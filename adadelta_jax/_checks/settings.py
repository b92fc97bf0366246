"""Checks of settings and other arguments of the functions that make an optimizer.

A setting is checked where it is concrete. Inside `jit`, `vmap` or `optax.inject_hyperparams` it may
be a tracer, which has no value yet.
"""

import contextlib
import math
import warnings
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from adadelta_jax._checks.trees import broadcast_by_path, is_array, path_name

LARGEST_EPS = 1e30  # next to the largest float32 it makes no difference
ACCUMULATOR_DTYPES = ("float32", "float64", "bfloat16", "float16", "uint8")


def check_rho(rho: Any) -> None:
    """Raise unless `rho` is a decay rate."""
    number = _number("rho", rho, "a number or a 0-d array")
    if number is not None and not 0 <= number <= 1:
        raise ValueError(f"rho must lie in [0, 1], got {number:g}")


def check_eps(eps: Any, smallest: float = 0.0) -> None:
    """Raise unless `eps` is in the range for which the rule, and how v is stored, are exact."""
    number = _number("eps", eps, "a number or a 0-d array")
    if number is not None:
        _check_not_negative("eps", number)
        # As float32, in which an injected 1e-9 is a little less.
        if number < float(np.float32(smallest)):
            raise ValueError(
                f"eps must be at least {smallest:g} with accumulators in uint8, got {number:g}"
            )
        if number > float(np.float32(LARGEST_EPS)):
            raise ValueError(f"eps must be at most {LARGEST_EPS:g}, got {number:g}")


def check_scalar_or_schedule(name: str, value: Any) -> Any:
    """The setting; raise unless it is a number of at least 0, or a schedule that returns one."""
    if not callable(value):
        number = _number(name, value, "a number, a 0-d array or a schedule")
        if number is not None:
            _check_not_negative(name, number)
        return value.real  # `optax.inject_hyperparams` makes it complex where parameters are

    def checked(count):
        scalar = value(count)
        if not is_array(scalar) or getattr(scalar, "shape", ()) != ():
            raise TypeError(f"{name} must return a number or a 0-d array, got {scalar!r}")
        return scalar

    return checked


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_accumulator_dtype(accumulator_dtype: Any) -> jnp.dtype | None:
    """The dtype, or None; raise unless accumulators can be stored in it."""
    if accumulator_dtype is None:
        return None
    if isinstance(accumulator_dtype, jax.Array) and accumulator_dtype.shape == ():
        # `optax.inject_hyperparams` takes `jnp.bfloat16`, a function, for a schedule and calls it.
        accumulator_dtype = accumulator_dtype.dtype
    expected = f"accumulator_dtype must be None or one of {', '.join(ACCUMULATOR_DTYPES)}"
    try:
        dtype = jnp.dtype(accumulator_dtype)
    except TypeError:
        raise TypeError(f"{expected}, got {accumulator_dtype!r}") from None
    if dtype.name not in ACCUMULATOR_DTYPES:
        raise ValueError(f"{expected}, got {dtype.name}")
    if dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "accumulator_dtype float64 needs jax.config.update('jax_enable_x64', True)"
        )
    return dtype


def broadcast_weight_decay_mask(mask: Any, params: Any) -> Any:
    """A boolean for every parameter; raise unless `mask` is a tree of booleans like them."""
    for path, leaf in jax.tree.leaves_with_path(mask):
        if not isinstance(leaf, (bool, np.bool_)) and getattr(leaf, "shape", None) != ():
            where = f" for {path_name(path)}" if path else ""
            raise TypeError(
                f"weight_decay_mask must be a tree of booleans like the parameters, "
                f"got {leaf!r}{where}"
            )
    try:
        return broadcast_by_path("booleans", mask, "parameters", params)
    except ValueError as error:
        raise ValueError(f"weight_decay_mask: {error}") from None


def check_optimizer(optimizer: Any) -> None:
    """Raise unless `optimizer` is an Optax transformation."""
    if not callable(getattr(optimizer, "init", None)) or not hasattr(optimizer, "update"):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r}")


def check_hook(name: str, hook: Any) -> None:
    """Raise unless a hook is a function or None."""
    if hook is not None and not callable(hook):
        raise TypeError(f"{name} must be a function (updates, state, params), got {hook!r}")


def _number(name: str, value: Any, expected: str) -> float | None:
    """The value of a numeric setting; None if it is traced."""
    if getattr(value, "dtype", None) in (jnp.bfloat16, jnp.float16):
        warnings.warn(
            f"{name} is {value.dtype}, which rounds 0.999 to {value.dtype.type(0.999):g} and 1e-8 "
            f"to {value.dtype.type(1e-8):g}: pass it in float32, or hyperparam_dtype=jnp.float32 "
            "to optax.inject_hyperparams",
            stacklevel=4,
        )
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, (int, float, np.generic, np.ndarray, jax.Array)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            array = np.asarray(value)  # of NumPy: one of JAX would start a backend
            is_number = array.dtype.kind in "biufc" or array.dtype == jnp.bfloat16
            if array.ndim == 0 and is_number and complex(value).imag == 0:
                return complex(value).real
    raise TypeError(f"{name} must be {expected}, got {value!r}")


def _check_not_negative(name: str, number: float) -> None:
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number:g}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number:g}")
