"""The checks of settings, parameters, gradients and hooks.

Hyperparameters are checked where they are concrete: inside `jit`, `vmap` or
`optax.inject_hyperparams` a value may be a tracer, which has no value yet.
"""

import contextlib
import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from adadelta_jax._checks.trees import (
    difference,
    is_array,
    is_leaf,
    is_sparse,
    nth_path,
    path_name,
    prefix_difference,
    type_name,
)

LARGEST_EPS = 1e30  # next to the largest float32 it makes no difference
ACCUMULATOR_DTYPES = ("float32", "float64", "bfloat16", "float16", "int8")
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def check_rho(rho: Any) -> None:
    """Raise unless it is a decay rate."""
    number = _number("rho", rho, "a number or a 0-d array")
    if number is not None and not 0 <= number <= 1:
        raise ValueError(f"rho must lie in [0, 1], got {number:g}")


def check_eps(eps: Any) -> None:
    """Raise unless Adadelta can add it to its averages."""
    number = _number("eps", eps, "a number or a 0-d array")
    if number is not None:
        _check_not_negative("eps", number)
        if number > LARGEST_EPS:
            raise ValueError(f"eps must be at most {LARGEST_EPS:g}, got {number:g}")


def check_scalar_or_schedule(name: str, value: Any) -> Any:
    """The value; raise unless it is a number >= 0 or a schedule, which then raises like this."""
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


def _number(name: str, value: Any, expected: str) -> float | None:
    """The number that a setting is; None where it is traced."""
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


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_accumulator_dtype(accumulator_dtype: Any) -> None:
    """Raise unless accumulators can be stored so."""
    if accumulator_dtype is None:
        return
    expected = f"accumulator_dtype must be None or one of {', '.join(ACCUMULATOR_DTYPES)}"
    try:
        name = jnp.dtype(accumulator_dtype).name
    except TypeError:
        raise TypeError(f"{expected}, got {accumulator_dtype!r}") from None
    if name not in ACCUMULATOR_DTYPES:
        raise ValueError(f"{expected}, got {name}")
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "accumulator_dtype float64 needs jax.config.update('jax_enable_x64', True)"
        )


def check_params(params: Any) -> None:
    """Raise unless every parameter is a floating-point or complex array."""
    try:
        params_with_path = jax.tree.leaves_with_path(params)
    except ValueError as error:
        raise ValueError(f"params is no tree that JAX can walk through: {error}") from None
    for path, param in params_with_path:
        name = f"parameter {path_name(path)}" if path else "the parameter"
        dtype = _dtype(name, param)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name} has dtype {dtype}, which has no gradient: "
                "use floating-point or complex parameters, or leave it out with optax.masked"
            )
        _check_float(name, dtype)


def check_arrays(tree: Any) -> None:
    """Raise unless every leaf is an array or a number."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        _dtype(path_name(path) if path else "tree", leaf)


def _dtype(name: str, leaf: Any) -> Any:
    """The dtype of a leaf; raise unless it is an array or a number."""
    if not is_array(leaf):
        raise TypeError(f"{name} must be an array, got {type_name(leaf)}")
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _check_float(name: str, dtype: Any) -> None:
    if dtype.name not in DTYPES:
        raise TypeError(f"{name} has dtype {dtype}: it must be one of {', '.join(DTYPES)}")


def check_weight_decay_mask(mask: Any, params: Any) -> None:
    """Raise unless `mask` is a tree of booleans like the parameters, or a prefix of one."""
    for path, leaf in jax.tree.leaves_with_path(mask):
        if not isinstance(leaf, (bool, np.bool_)) and getattr(leaf, "shape", None) != ():
            where = f" for {path_name(path)}" if path else ""
            raise TypeError(
                f"weight_decay_mask must be a tree of booleans like the parameters, "
                f"got {leaf!r}{where}"
            )
    try:
        jax.tree.structure(mask).flatten_up_to(params)
    except ValueError:
        where = prefix_difference("booleans", mask, "parameters", params)
        raise ValueError(f"weight_decay_mask: {where}") from None


def check_optimizer(optimizer: Any) -> None:
    """Raise unless it is an Optax transformation."""
    if not callable(getattr(optimizer, "init", None)) or not hasattr(optimizer, "update"):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r}")


def check_weight_decay_has_params(params: Any) -> None:
    """Raise where weight decay lacks the parameters that it acts on."""
    if params is None:
        raise ValueError(
            "weight_decay needs the parameters: call update(grads, state, params), got params=None"
        )


def check_gradients(grads: Any, like: Any, like_name: str) -> None:
    """Raise unless `grads` has a gradient or None for every leaf of `like`, of the same shape.

    `like` is the accumulators or the parameters, and `like_name` what to call them.
    """
    grad_leaves, grad_structure = jax.tree.flatten(grads, is_leaf=is_leaf)
    like_leaves, like_structure = jax.tree.flatten(like, is_leaf=is_leaf)
    _check_are_gradients(grads, grad_leaves)
    if grad_structure != like_structure:
        raise ValueError(
            difference("gradients", grads, like_name, like, " (None stands for no gradient)")
        )
    for index, (grad, expected) in enumerate(zip(grad_leaves, like_leaves, strict=True)):
        if grad is None:
            continue
        if expected is None:
            raise ValueError(f"{nth_path(grads, index)} has a gradient, but no {like_name}")
        if jnp.shape(grad) != jnp.shape(expected):
            raise ValueError(
                f"the gradient of {nth_path(grads, index)} has shape {jnp.shape(grad)}, "
                f"but the {like_name} have shape {jnp.shape(expected)}"
            )
        if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(expected):
            raise TypeError(
                f"the gradient of {nth_path(grads, index)} is complex, but the {like_name} are real"
            )


def check_are_gradients(grads: Any) -> None:
    """Raise unless every leaf is None or a dense array of floats or complex numbers."""
    _check_are_gradients(grads, jax.tree.leaves(grads, is_leaf=is_leaf))


def _check_are_gradients(grads: Any, leaves: list[Any]) -> None:
    for index, grad in enumerate(leaves):
        if grad is None or (isinstance(grad, jax.Array) and grad.dtype.name in DTYPES):
            continue
        name = f"the gradient of {nth_path(grads, index)}"
        if is_sparse(grad):
            raise TypeError(
                f"{name} is sparse ({type(grad).__name__}): "
                "Adadelta needs a dense one, as grad.todense() gives"
            )
        dtype = _dtype(name, grad)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"{name} has dtype {dtype}: it must be floating-point or complex")
        _check_float(name, dtype)


def check_hook(name: str, hook: Any) -> None:
    """Raise unless a hook can be called."""
    if hook is not None and not callable(hook):
        raise TypeError(f"{name} must be a function (updates, state, params), got {hook!r}")


def check_hook_result(name: str, returned: Any, given: Any) -> None:
    """Raise unless a hook returned a tree like the one that it was given.

    None may take the place of a gradient, but not that of an update, which has to be applied.
    """
    noun = "gradient" if name == "pre_step" else "update"
    returned_leaves, returned_structure = jax.tree.flatten(returned, is_leaf=is_leaf)
    given_leaves, given_structure = jax.tree.flatten(given, is_leaf=is_leaf)
    if returned_structure != given_structure:
        raise ValueError(
            f"{name} must return a tree like the {noun}s, {given_structure}, or None, "
            f"got {returned_structure}"
        )
    for index, (leaf, expected) in enumerate(zip(returned_leaves, given_leaves, strict=True)):
        if expected is None or (leaf is None and noun == "gradient"):
            continue
        if leaf is not None and not is_array(leaf):
            raise TypeError(
                f"{name} must return arrays, but that of {nth_path(given, index)} is a "
                f"{type(leaf).__name__}"
            )
        shape = None if leaf is None else jnp.shape(leaf)
        if shape != jnp.shape(expected):
            raise ValueError(
                f"{name} must keep the shapes of the {noun}s: that of {nth_path(given, index)} "
                f"is {jnp.shape(expected)}, got {shape}"
            )
