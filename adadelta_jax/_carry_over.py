"""`carry_over_state`: continue with another optimizer from the state of the old one."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adadelta_jax._checks.settings import check_flag, check_optimizer
from adadelta_jax._checks.states import (
    accumulators_fit,
    check_accumulators,
    check_accumulators_in_common,
    check_renamed,
)
from adadelta_jax._checks.trees import path_names
from adadelta_jax._core.transform import ScaleByAdadeltaState, adadelta_states
from adadelta_jax._storage.formats import convert

# The field in which each state counts the steps of a run.
STEP_COUNTS: Mapping[type, str] = {
    ScaleByAdadeltaState: "count",
    optax.InjectStatefulHyperparamsState: "count",
    optax.MultiStepsState: "gradient_step",
    optax.ScaleByScheduleState: "count",
}
# Those of Optax's that it does not export go by name.
UNEXPORTED_STEP_COUNTS = {"WeightDecaySchedule": "count", "WrappedScheduleState": "count"}


def carry_over_state(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    old_state: optax.OptState,
    *,
    renamed: Mapping[str, str] | None = None,
    pad: bool = False,
) -> optax.OptState:
    """A state for another optimizer that continues where the old one stopped.

    Use it to thaw layers, add a head, move parameters to another group, change between
    [`adadelta`][] and [`param_groups`][], or come from `optax.adadelta`. Kept, at any depth of the
    states, are:

    * the accumulators of every parameter that has the same path and shape in both states, whatever
      containers hold them, converted if the new state stores them in another format. A parameter of
      another shape starts from zero with a warning. A parameter without accumulators in
      ``old_state`` starts from zero.
    * the step count. All counts of [`ScaleByAdadeltaState`][], of schedules, of
      `optax.inject_hyperparams` and of the gradient steps of `optax.MultiSteps` continue from the
      largest count of a [`ScaleByAdadeltaState`][] in ``old_state``, also for new parameters. The
      state of `optax.adadelta` has no count: they continue from the other counts beside it, or
      from 0.

    Everything else is as ``optimizer.init(params)`` makes it: the hyperparameters of
    `optax.inject_hyperparams` are those of ``optimizer``, gradients that `optax.MultiSteps` has
    gathered are dropped, and the states of other transformations start anew.

    Args:
        optimizer: The transformation to continue with.
        params: Its parameters.
        old_state: The old state, or a tuple of states, of which the first that holds a parameter's
            accumulators counts. Freezing drops accumulators: to bring them back with the thaw, pass
            ``(state, state_before_freezing)``.
        renamed: New paths by old paths, "encoder/kernel", of parameters or of all that is below.
        pad: Whether a parameter that has grown keeps the accumulators of its old elements, which
            come first in every dimension. New elements start from zero.

    Returns:
        A state like ``optimizer.init(params)``. It shares the arrays that it keeps with
        ``old_state``, and keeps their shardings.

    Raises:
        ValueError: If the two states hold accumulators of no parameter in common, or if
            ``renamed`` has a path that ``old_state`` lacks.
        TypeError: If an argument has the wrong type.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from adadelta_jax import adadelta, carry_over_state, param_groups
        >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
        >>> optimizer = adadelta()
        >>> state = optimizer.init(params)
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> optimizer = param_groups(
        ...     {"slow": {"learning_rate": 0.1}, "fast": {}}, {"body": "slow", "head": "fast"}
        ... )
        >>> state = carry_over_state(optimizer, params, state)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> print(updates["body"].round(6), updates["head"].round(6))
        [-0.000324 -0.000324] [-0.003244 -0.003244]

    Source: ``add_param_group`` of [torch.optim.Optimizer](
    <https://docs.pytorch.org/docs/stable/optim.html>).
    """
    check_optimizer(optimizer)
    check_flag("pad", pad)
    old_states = _states_of_adadelta(old_state)
    check_accumulators("old_state", old_states)
    old = _accumulators_by_names(old_states)
    check_renamed(renamed, old)
    old = {_rename(names, renamed or {}): accumulators for names, accumulators in old.items()}
    new_state = optimizer.init(params)
    new = _accumulators_by_names(adadelta_states(new_state))
    check_accumulators_in_common(old, new, params)
    kept = {}
    for names in new.keys() & old.keys():
        if pad:
            old[names] = tuple(map(_pad, old[names], new[names]))
        if accumulators_fit("/".join(names), old[names], new[names]):
            kept[names] = tuple(map(convert, old[names], new[names]))
    step = jnp.stack([_count(state) for state in old_states]).max()

    def keep(accumulators, index):
        def kept_or_zeros(path, zeros):
            found = kept.get(path_names(path))
            return zeros if found is None else found[index]

        return jax.tree.map_with_path(kept_or_zeros, accumulators)

    def carry_over(node):
        """A node of the new state, with all that it keeps of the old state."""
        if jax.tree_util.all_leaves([node]):
            return node
        field = _field_of_count(node)
        if field is not None:
            # A sum gives each count a buffer of its own: one in two places could not be donated.
            node = node._replace(**{field: getattr(node, field) + step})
        if isinstance(node, ScaleByAdadeltaState):
            return node._replace(
                square_avg=keep(node.square_avg, 0), acc_delta=keep(node.acc_delta, 1)
            )
        return jax.tree.map(carry_over, node, is_leaf=lambda child: child is not node)

    return carry_over(new_state)


def _field_of_count(node: Any) -> str | None:
    return STEP_COUNTS.get(type(node)) or UNEXPORTED_STEP_COUNTS.get(type(node).__name__)


def _count(state: ScaleByAdadeltaState) -> jax.Array:
    (count,) = jax.tree.leaves(state.count)  # NNX keeps it in a variable
    return jnp.asarray(count)


def _states_of_adadelta(state: optax.OptState) -> list[ScaleByAdadeltaState]:
    """Every state of Adadelta in a state, those of Optax's as this package's."""

    def nodes(is_wanted: Callable[[Any], bool]) -> list[Any]:
        return [n for n in jax.tree.leaves(state, is_leaf=is_wanted) if is_wanted(n)]

    counted = [(n, _field_of_count(n)) for n in nodes(lambda n: _field_of_count(n) is not None)]
    counts = [leaf for n, field in counted if field for leaf in jax.tree.leaves(getattr(n, field))]
    # Optax's Adadelta counts no steps, but what stands beside it may.
    step = jnp.stack([jnp.asarray(count) for count in counts or [0]]).max()
    kinds = (ScaleByAdadeltaState, optax.ScaleByAdaDeltaState)
    found = nodes(lambda node: isinstance(node, kinds))
    return [
        node if isinstance(node, ScaleByAdadeltaState) else ScaleByAdadeltaState(step, *node)
        for node in found
    ]


def _accumulators_by_names(states: Iterable[ScaleByAdadeltaState]) -> dict[tuple[str, ...], Any]:
    """The v and u of every parameter by the names of its path, the first that a state holds."""
    found = {}
    for state in states:
        fields = [
            {path_names(path): leaf for path, leaf in jax.tree.leaves_with_path(field)}
            for field in (state.square_avg, state.acc_delta)
        ]
        for names, square_avg in fields[0].items():
            found.setdefault(names, (square_avg, fields[1][names]))
    return found


def _rename(names: tuple[str, ...], renamed: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a path, with the beginning that is renamed replaced."""
    for old, new in renamed.items():
        prefix = tuple(old.split("/"))
        if names[: len(prefix)] == prefix:
            return (*new.split("/"), *names[len(prefix) :])
    return names


def _pad(old: Any, new: Any) -> Any:
    """An accumulator of a smaller parameter with zeros for the new elements."""
    growth = [after - before for before, after in zip(old.shape, new.shape, strict=False)]
    if len(old.shape) != len(new.shape) or min(growth, default=0) < 0 or not any(growth):
        return old
    return jnp.pad(old, [(0, more) for more in growth])
