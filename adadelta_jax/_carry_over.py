"""`carry_over_state`: continue with another optimizer from the state of the old one."""

from collections.abc import Container, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adadelta_jax._checks.settings import check_optimizer
from adadelta_jax._checks.states import (
    accumulators_fit,
    check_accumulators,
    check_accumulators_in_common,
)
from adadelta_jax._checks.trees import path_name
from adadelta_jax._core.transform import ScaleByAdadeltaState, adadelta_states
from adadelta_jax._storage.formats import convert, shapes

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
    optimizer: optax.GradientTransformation, params: optax.Params, old_state: optax.OptState
) -> optax.OptState:
    """A state for another optimizer that continues where the old one stopped.

    Use it to thaw layers, add a head, move parameters to another group, or change between
    [`adadelta`][] and [`param_groups`][]. Kept, at any depth of the states, are:

    * the accumulators of every parameter that has the same path and shape in both states, converted
      if the new state stores them in another format. A parameter of another shape starts from zero
      with a warning. A parameter without accumulators in ``old_state`` starts from zero.
    * the step count. All counts of [`ScaleByAdadeltaState`][], of schedules, of
      `optax.inject_hyperparams` and of the gradient steps of `optax.MultiSteps` continue from the
      largest count of a [`ScaleByAdadeltaState`][] in ``old_state``, also for new parameters.

    Everything else is as ``optimizer.init(params)`` makes it: the hyperparameters of
    `optax.inject_hyperparams` are those of ``optimizer``, gradients that `optax.MultiSteps` has
    gathered are dropped, and the states of other transformations start anew.

    Args:
        optimizer: The transformation to continue with.
        params: Its parameters.
        old_state: The old state, or a tuple of states, of which the first that holds a parameter's
            accumulators counts. Freezing drops accumulators: to bring them back with the thaw, pass
            ``(state, state_before_freezing)``.

    Returns:
        A state like ``optimizer.init(params)``. It shares the arrays that it keeps with
        ``old_state``, and keeps their shardings.

    Raises:
        ValueError: If the two states hold accumulators of no parameter in common.

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
    check_accumulators("old_state", adadelta_states(old_state))
    new_state = optimizer.init(params)
    paths = {path for path, _ in jax.tree.leaves_with_path(params)}
    old, new = _accumulators_at(paths, old_state), _accumulators_at(paths, new_state)
    check_accumulators_in_common(old, new, _names(old_state), params)
    kept = {}
    for path in new:
        if path in old and accumulators_fit(path, *map(shapes, (old[path], new[path]))):
            kept[path] = tuple(map(convert, old[path], new[path]))
    step = jnp.stack([jnp.asarray(state.count) for state in adadelta_states(old_state)]).max()

    def carry_over(node):
        """A node of the new state, with all that it keeps of the old state."""
        if jax.tree_util.all_leaves([node]):
            return node
        field = STEP_COUNTS.get(type(node)) or UNEXPORTED_STEP_COUNTS.get(type(node).__name__)
        if field is not None:
            # A sum gives each count a buffer of its own: one in two places could not be donated.
            node = node._replace(**{field: getattr(node, field) + step})
        if isinstance(node, ScaleByAdadeltaState):
            return node._replace(
                square_avg=_replace_at({path: v for path, (v, _) in kept.items()}, node.square_avg),
                acc_delta=_replace_at({path: u for path, (_, u) in kept.items()}, node.acc_delta),
            )
        return jax.tree.map(carry_over, node, is_leaf=lambda child: child is not node)

    return carry_over(new_state)


def _accumulators_at(paths: Container[Any], state: optax.OptState) -> dict[Any, tuple[Any, Any]]:
    """The accumulators of the parameters at `paths`, the first that a state holds for each."""
    found = {}
    for node in adadelta_states(state):
        square_avgs = _nodes_at(paths, node.square_avg)
        acc_deltas = _nodes_at(paths, node.acc_delta)
        for path in square_avgs:
            found.setdefault(path, (square_avgs[path], acc_deltas[path]))
    return found


def _nodes_at(paths: Container[Any], tree: Any) -> dict[Any, Any]:
    """The nodes of a tree at `paths`, except empty ones, such as masked ones."""
    nodes = jax.tree.leaves_with_path(
        tree, is_leaf=lambda path, _: path in paths, is_leaf_takes_path=True
    )
    return {path: node for path, node in nodes if path in paths and jax.tree.leaves(node)}


def _replace_at(nodes: dict[Any, Any], tree: Any) -> Any:
    """The tree with `nodes` at their paths, except where the tree is empty, as if masked."""
    return jax.tree.map_with_path(
        lambda path, node: nodes[path] if path in nodes and jax.tree.leaves(node) else node,
        tree,
        is_leaf=lambda path, _: path in nodes,
        is_leaf_takes_path=True,
    )


def _names(state: optax.OptState) -> list[str]:
    """The names of the parameters whose accumulators a state holds."""
    return [
        path_name(path)
        for node in adadelta_states(state)
        for path, _ in jax.tree.leaves_with_path(node.square_avg)
    ]
