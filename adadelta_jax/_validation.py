"""Every check of what a user passes, and its words.

Hyperparameters are checked where they are concrete: inside `jit`, `vmap` or
`optax.inject_hyperparams` a value may be a tracer, which has no value yet.
"""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

ACCUMULATOR_DTYPES = ("float32", "float64", "bfloat16", "float16")


def check_hyperparameters(
    *, learning_rate: Any = 1.0, rho: Any = 0.9, eps: Any = 1e-6, weight_decay: Any = 0.0
) -> None:
    """Raise unless every setting is one with which Adadelta can run; schedules pass."""
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not callable(value):
            _check_number(name, value, "a number, a 0-d array or a schedule")
    for name, value in (("rho", rho), ("eps", eps)):
        _check_number(name, value, "a number or a 0-d array", highest=1 if name == "rho" else None)


def _check_number(name: str, value: Any, expected: str, highest: float | None = None) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    try:
        array = np.asarray(value)
        number = float(array) if array.ndim == 0 else None
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, str):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if highest is not None and not 0 <= number <= highest:
        raise ValueError(f"{name} must lie in [0, {highest}], got {number:g}")
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number:g}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number:g}")


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
    for path, param in jax.tree.leaves_with_path(params):
        dtype = getattr(param, "dtype", None)
        if dtype is None:
            dtype = np.asarray(param).dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"parameter {path_name(path)} has dtype {dtype}, which has no gradient: "
                "use floating-point or complex parameters, or leave it out with optax.masked"
            )


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
    for index, grad in enumerate(grad_leaves):
        if is_sparse(grad):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} is sparse ({type(grad).__name__}): "
                "Adadelta needs a dense one, as grad.todense() gives"
            )
    if grad_structure != like_structure:
        raise ValueError(_difference(grads, like, like_name))
    for index, (grad, expected) in enumerate(zip(grad_leaves, like_leaves, strict=True)):
        if grad is None:
            continue
        if expected is None:
            raise ValueError(f"{_nth_path(grads, index)} has a gradient, but no {like_name}")
        if jnp.shape(grad) != jnp.shape(expected):
            raise ValueError(
                f"the gradient of {_nth_path(grads, index)} has shape {jnp.shape(grad)}, "
                f"but the {like_name} have shape {jnp.shape(expected)}"
            )
        dtype = jnp.result_type(grad)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} has dtype {dtype}: "
                "it must be floating-point or complex"
            )
        if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(expected):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} is complex, "
                f"but the {like_name} are real"
            )


def _difference(grads: Any, like: Any, like_name: str) -> str:
    grad_paths = [path_name(path) for path, _ in leaves_with_path(grads)]
    like_paths = [path_name(path) for path, _ in leaves_with_path(like)]
    missing = [path for path in like_paths if path not in set(grad_paths)]
    unknown = [path for path in grad_paths if path not in set(like_paths)]
    reasons = []
    if missing:
        reasons.append(f"they lack {', '.join(missing)} (None stands for no gradient)")
    if unknown:
        reasons.append(f"they have {', '.join(unknown)}, which the {like_name} lack")
    if not reasons:
        reasons.append(
            f"they are a {jax.tree.structure(grads)}, the {like_name} a {jax.tree.structure(like)}"
        )
    return f"the gradients do not match the {like_name}: {' and '.join(reasons)}"


def is_leaf(node: Any) -> bool:
    """Whether a node of a gradient tree stands for one parameter, though JAX would look inside."""
    return node is None or is_sparse(node)


def is_sparse(node: Any) -> bool:
    """Whether a node is one of `jax.experimental.sparse`, without importing that module."""
    return type(node).__module__.startswith("jax.experimental.sparse")


def leaves_with_path(tree: Any) -> list[tuple[Any, Any]]:
    """The leaves of a gradient-like tree, None among them, each with its path."""
    return jax.tree.leaves_with_path(tree, is_leaf=is_leaf)


def path_name(path: Any) -> str:
    """A tree path as users write it, "dense/kernel"; that of a bare array is "the parameter"."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the parameter"


def _nth_path(tree: Any, index: int) -> str:
    return path_name(leaves_with_path(tree)[index][0])
