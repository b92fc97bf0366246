"""Checks of what `init` and `update` are given, and of what hooks return."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from adadelta_jax._checks.states import check_accumulators, check_count
from adadelta_jax._checks.trees import (
    difference,
    is_array,
    is_leaf,
    is_sparse,
    nth_path,
    path_name,
    type_name,
)

# By the module that a tree's classes come from.
ADVICE = {
    "equinox": "pass eqx.filter(model, eqx.is_inexact_array) to init",
    "flax.nnx": "pass nnx.state(model, nnx.Param) to init",
}
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def check_params(params: Any) -> None:
    """Raise unless every parameter is a floating-point or complex array."""
    try:
        params_with_path = jax.tree.leaves_with_path(params)
    except ValueError as error:
        raise ValueError(f"params is no tree that JAX can walk through: {error}") from None
    for path, param in params_with_path:
        name = f"parameter {path_name(path)}" if path else "the parameter"
        if not is_array(param):
            advice = _advice(params)
            raise TypeError(f"{name} must be an array, got {type_name(param)}: {advice}")
        dtype = _dtype(name, param)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"{name} has dtype {dtype}, which has no gradient: {_advice(params)}")
        _check_float(name, dtype)


def _advice(params: Any) -> str:
    """How to leave out what cannot be trained, in the words of the library of a tree."""

    def library(node):
        modules = [cls.__module__ for cls in type(node).__mro__]
        return next((name for name in ADVICE if any(m.startswith(name) for m in modules)), None)

    nodes = jax.tree.leaves(params, is_leaf=lambda node: library(node) is not None)
    found = [ADVICE[name] for node in nodes if (name := library(node)) is not None]
    plain = "use floating-point or complex parameters, or leave it out with optax.masked"
    return found[0] if found else plain


def check_step(grads: Any, state: Any, params: Any) -> None:
    """Raise unless gradients, a `ScaleByAdadeltaState` and, if given, parameters fit together.

    None may stand in the place of a gradient. Where no gradient is, parameters are not looked at.
    """
    check_count("state", state.count)
    square_avgs, structure = jax.tree.flatten(state.square_avg, is_leaf=is_leaf)
    try:
        acc_deltas = structure.flatten_up_to(state.acc_delta)
    except ValueError:
        check_accumulators("state", [state])
        names = "arrays of acc_delta", "arrays of square_avg"
        raise ValueError(
            difference(names[0], state.acc_delta, names[1], state.square_avg)
        ) from None
    try:
        grad_leaves = structure.flatten_up_to(grads)
        param_leaves = grad_leaves if params is None else structure.flatten_up_to(params)
    except ValueError:
        _raise_difference(grads, state, params)

    leaves = zip(grad_leaves, param_leaves, square_avgs, acc_deltas, strict=True)
    for index, each in enumerate(leaves):
        _check_leaf(partial(nth_path, state.square_avg, index), *each)


def _check_leaf(name: Callable[[], str], grad: Any, param: Any, v: Any, u: Any) -> None:
    """Raise unless a gradient or None, a parameter and its accumulators fit together."""
    if v is None or u is None:
        if u is not None or v is not None:
            held, missing = (
                ("acc_delta", "square_avg") if v is None else ("square_avg", "acc_delta")
            )
            raise ValueError(f"state holds {held} of {name()}, but no {missing}")
        if grad is not None:
            raise ValueError(f"{name()} has a gradient, but no accumulators")
        return
    for field, accumulator in (("square_avg", v), ("acc_delta", u)):
        if not isinstance(accumulator, jax.Array) and not is_array(accumulator):
            raise TypeError(f"{field} of {name()} must be an array, got {type_name(accumulator)}")
    if u.shape != v.shape:
        raise ValueError(
            f"acc_delta of {name()} has shape {u.shape}, but square_avg has shape {v.shape}"
        )
    if grad is None:
        return
    if not isinstance(grad, jax.Array) or grad.dtype.name not in DTYPES:
        _check_is_gradient(name, grad)
    for like_name, like in (("parameters", param), ("accumulators", v)):
        shape = jnp.shape(grad)
        if shape != (like_shape := getattr(like, "shape", ())):
            raise ValueError(
                f"the gradient of {name()} has shape {shape}, "
                f"but the {like_name} have shape {like_shape}"
            )
        if jnp.iscomplexobj(grad) and not jnp.issubdtype(_dtype("", like), jnp.complexfloating):
            raise TypeError(f"the gradient of {name()} is complex, but the {like_name} are real")


def _check_is_gradient(name: Callable[[], str], grad: Any) -> None:
    """Raise unless a gradient is a dense array of floats or complex numbers."""
    what = f"the gradient of {name()}"
    if is_sparse(grad):
        raise TypeError(
            f"{what} is sparse ({type(grad).__name__}): "
            "Adadelta needs a dense one, as grad.todense() gives"
        )
    dtype = _dtype(what, grad)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"{what} has dtype {dtype}: it must be floating-point or complex")
    _check_float(what, dtype)


def _raise_difference(grads: Any, state: Any, params: Any) -> NoReturn:
    """Raise an error that says where trees of different structures differ."""
    for index, grad in enumerate(jax.tree.leaves(grads, is_leaf=is_leaf)):
        if grad is not None:
            _check_is_gradient(partial(nth_path, grads, index), grad)
    like_name, like = "accumulators", state.square_avg
    structures = [jax.tree.structure(tree, is_leaf=is_leaf) for tree in (grads, params)]
    if params is not None and structures[0] != structures[1]:
        like_name, like = "parameters", params
    hint = " (None stands for no gradient)"
    raise ValueError(difference("gradients", grads, like_name, like, hint)) from None


def check_weight_decay_has_params(params: Any) -> None:
    """Raise where weight decay lacks the parameters that it acts on."""
    if params is None:
        raise ValueError(
            "weight_decay needs the parameters: call update(grads, state, params), got params=None"
        )


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
