"""Checks of optimizer states, in `update` and wherever else a state is passed."""

import contextlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from adadelta_jax._checks.trees import is_array, listed, path_name, type_name

CARRY_OVER = "carry_over_state makes a state for this optimizer from that of another"


def check_state(optimizer: str, state: Any, is_its_own: bool) -> None:
    """Raise unless a state is of the kind that `init` of an optimizer makes."""
    if not is_its_own:
        got = state if state is None or state == () else type(state).__name__
        raise TypeError(f"state must be that of {optimizer}, as init makes it, got {got}")


def check_chain_state(optimizer: str, state: Any, expected: Sequence[tuple[str, type]]) -> None:
    """Raise unless a state is a tuple of the `expected` types, each with what its part is for."""
    check_state(optimizer, state, type(state) is tuple and len(state) == len(expected))
    for (purpose, type_), part in zip(expected, state, strict=True):
        if type(part) is not type_:
            raise TypeError(
                f"state must be that of {optimizer}, as init makes it: its part for {purpose} "
                f"must be {type_.__name__}, got {type(part).__name__} ({CARRY_OVER})"
            )


def check_count(name: str, count: Any) -> None:
    """Raise unless the count of the state `name` is an integer of at least 0."""
    dtype = jnp.result_type(count) if is_array(count) else None
    is_integer = dtype is not None and dtype.kind in "iu"
    # An array of JAX's is not looked into: that would wait for the device at every eager step.
    if not is_integer or (not isinstance(count, jax.Array) and np.min(count) < 0):
        raise ValueError(f"the count of {name} must be an integer of at least 0, got {count!r}")


def check_accumulators(name: str, states: Iterable[Any]) -> None:
    """Raise unless each `ScaleByAdadeltaState` in the state `name` is complete."""
    for state in states:
        counts = jax.tree.leaves(state.count)  # which NNX keeps in a variable
        check_count(name, counts[0] if len(counts) == 1 else state.count)
        held = {}
        for field in ("square_avg", "acc_delta"):
            tree = jax.tree.leaves_with_path(getattr(state, field))
            leaves = [(path_name(path), leaf) for path, leaf in tree]
            for path, leaf in leaves:
                if not is_array(leaf):
                    raise TypeError(f"{field} of {path} must be an array, got {type_name(leaf)}")
            held[field] = {path for path, _ in leaves}
        for field, other in (("square_avg", "acc_delta"), ("acc_delta", "square_avg")):
            if missing := sorted(held[field] - held[other]):
                raise ValueError(f"{name} holds {field} of {listed(missing)}, but no {other}")


def check_holds_accumulators(states: Collection[Any]) -> None:
    """Raise unless there is a `ScaleByAdadeltaState`, and each is complete."""
    if not states:
        raise ValueError(
            "opt_state holds no ScaleByAdadeltaState: pass the state of an optimizer made with "
            "adadelta or scale_by_adadelta"
        )
    check_accumulators("opt_state", states)


@contextlib.contextmanager
def merging_states() -> Iterator[None]:
    """Within this context, say why the states of several groups do not form one tree."""
    try:
        yield
    except ValueError:
        raise ValueError(
            "opt_state holds the states of several trees of parameters: pass one of them"
        ) from None


def check_renamed(renamed: Any, held: Collection[tuple[str, ...]]) -> None:
    """Raise unless `renamed` maps paths at or above those that are held to paths."""
    if renamed is None:
        return
    pairs = renamed.items() if isinstance(renamed, Mapping) else [(None, None)]
    if not all(isinstance(path, str) for pair in pairs for path in pair):
        raise TypeError(f"renamed must map old paths to new paths, got {renamed!r}")
    for old in renamed:
        prefix = tuple(old.split("/"))
        if not any(names[: len(prefix)] == prefix for names in held):
            raise ValueError(
                f"renamed: old_state has no {old!r}: it holds accumulators of "
                f"{listed(map('/'.join, held))}"
            )


def check_accumulators_in_common(
    old: Collection[tuple[str, ...]], new: Collection[tuple[str, ...]], params: Any
) -> None:
    """Raise unless the accumulators of two states, by names of paths, share a parameter."""
    if set(old) & set(new):
        return
    if not old:
        raise ValueError(
            "old_state holds no ScaleByAdadeltaState: pass the state of an optimizer made with "
            "adadelta; a checkpoint is to be restored into the structure of optimizer.init(params)"
        )
    held = sorted("/".join(names) or "the parameter" for names in old)
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    raise ValueError(
        f"nothing to carry over: old_state holds accumulators of {listed(held)}, none of which "
        f"optimizer keeps for the parameters {listed(names)}"
    )


def accumulators_fit(name: str, old: Any, new: Any) -> bool:
    """Whether shapes and dtypes of old v and u fit the new ones; warn if they do not."""

    def kind(node):
        complex_ = jnp.complexfloating
        return jax.tree.map(lambda x: (x.shape, jnp.issubdtype(x.dtype, complex_)), node)

    if kind(old) == kind(new):
        return True
    held, needed = (
        jax.tree.map(lambda x: jax.core.ShapedArray(x.shape, x.dtype), square_avg)
        for square_avg, _ in (old, new)
    )
    warnings.warn(
        f"the accumulators of {name} start from zero: old_state holds {held}, "
        f"the parameter needs {needed}",
        stacklevel=3,
    )
    return False
