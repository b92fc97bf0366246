"""Several settings in one optimizer: parameter groups, and a state that outlives a regrouping."""

import inspect
import re
from collections.abc import Callable, Container, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adadelta_jax._storage import formats as _accumulators
from adadelta_jax._checks import groups as _group_checks
from adadelta_jax._checks import states as _state_checks
from adadelta_jax._checks import step as _validation
from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._core.transform import ScaleByAdadeltaState
from adadelta_jax._checks.trees import is_leaf, leaves_with_path, path_name

# The states that count the steps of a run, and the fields in which they do. They go by name, as in
# `optax.tree_utils`, because Optax does not export all of them.
STEP_COUNTS = {
    "ScaleByAdadeltaState": "count",
    "ScaleByScheduleState": "count",
    "WeightDecaySchedule": "count",
    "WrappedScheduleState": "count",
    "InjectStatefulHyperparamsState": "count",
    "MultiStepsState": "gradient_step",
}


def param_groups(
    groups: Mapping[str, Mapping[str, Any] | None],
    labels: Any | Callable[[optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    """Adadelta with settings of its own for each group of parameters, as `optax.partition`.

    Args:
        groups: For each label, the keyword arguments of [`adadelta`][] for the parameters that bear
            it, or None to freeze them: their updates are zero, and nothing is stored for them.
        labels: A pytree of labels like the parameters or a prefix of them, or a function from the
            parameters to one, such as [`label_by_path`][] makes. `update` calls it with the
            parameters, or, where they are not passed, with the gradients.

    Returns:
        An `optax.GradientTransformationExtraArgs`. A gradient of None gives a zero update and
        leaves v and u alone; in a frozen group, `update` needs ``params`` for that.

    Raises:
        ValueError: If a setting of a group is out of range, or, from `init`, if a label has no
            group, a group has no parameter, or the labels do not match the parameters. From
            `update`, if the labels do not match the gradients, and as from [`adadelta`][].
        TypeError: If a label is not a string, a group is not a mapping or None, or has a keyword
            that [`adadelta`][] does not take or a setting of the wrong type.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from adadelta_jax import param_groups
        >>> params = {"encoder": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> optimizer = param_groups(
        ...     {"pretrained": None, "new": {"learning_rate": 0.5, "rho": 0.95}},
        ...     labels={"encoder": "pretrained", "head": "new"},
        ... )
        >>> state = optimizer.init(params)
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> print(updates["encoder"]["kernel"], updates["head"]["kernel"].round(4))
        [0. 0.] [-0.0022 -0.0022]

    Source: the per-parameter options of [torch.optim](
    <https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options>).
    """
    _group_checks.check_groups(groups, tuple(inspect.signature(adadelta).parameters))
    transforms: dict[Hashable, optax.GradientTransformation] = {
        label: _group(label, settings) for label, settings in groups.items()
    }
    # A pytree of labels can be callable too: that of an Equinox module, say.
    is_function = callable(labels) and jax.tree_util.all_leaves([labels])

    def labels_of(tree):
        if not leaves_with_path(tree):
            return tree  # the placeholder of `optax.tree_utils.tree_map_params` needs no labels
        return labels(tree) if is_function else labels

    def init_fn(params):
        label_tree = labels_of(params)
        _group_checks.check_labels(label_tree, params, transforms)
        return optax.partition(transforms, lambda _: label_tree).init(params)

    def update_fn(updates, state, params=None, **extra_args):
        is_ours = isinstance(state, optax.PartitionState)
        _state_checks.check_state("param_groups", state, is_ours)
        label_tree = labels_of(updates if params is None else params)
        _group_checks.paths_by_label(label_tree, updates, "gradients")
        partition = optax.partition(transforms, lambda _: label_tree)
        return partition.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _group(label: str, settings: Mapping[str, Any] | None) -> optax.GradientTransformation:
    """The optimizer of one group; an error in its settings names the group."""
    if settings is None:
        return optax.stateless(_no_step)
    try:
        return adadelta(**settings)
    except TypeError as error:
        raise TypeError(f"group {label!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"group {label!r}: {error}") from error


def _no_step(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
    """Zeros: like the parameters where these are known, as a gradient may be None."""
    return jax.tree.map(jnp.zeros_like, updates if params is None else params)


def label_by_path(rules: Mapping[str, str], default: str) -> Callable[[optax.Params], Any]:
    """Label parameters by their paths: a function to pass to [`param_groups`][] as ``labels``.

    A path is written as error messages write it: the keys, indices and attributes that lead to the
    parameter, joined by slashes, as in ``encoder/layers/0/kernel``.

    Args:
        rules: Labels by regular expression. The first rule, in the mapping's order, whose
            expression is found anywhere in the path (`re.search`) decides. Anchor an expression
            with ``^`` and ``$`` to match from the start and to the end.
        default: The label of the parameters to which no rule applies.

    Returns:
        A function from parameters, or gradients with None among them, to a tree of labels. It
        raises a ValueError if a rule applies to no parameter.

    Raises:
        ValueError: If an expression is not a regular expression.
        TypeError: If ``rules`` is not a mapping from strings to strings, or ``default`` not a
            string.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax import label_by_path, param_groups
        >>> params = {name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for name in "ab"}
        >>> labels = label_by_path({"^a/": "frozen", "bias$": "no decay"}, default="decay")
        >>> labels(params)
        {'a': {'bias': 'frozen', 'kernel': 'frozen'}, 'b': {'bias': 'no decay', 'kernel': 'decay'}}
        >>> optimizer = param_groups(
        ...     {"frozen": None, "no decay": {}, "decay": {"weight_decay": 1e-4}}, labels
        ... )
        >>> state = optimizer.init(params)

    Source: the expressions are those of Python's [re](https://docs.python.org/3/library/re.html).
    """
    _group_checks.check_rules(rules, default)
    rules = dict(rules)

    def labels(params: optax.Params) -> Any:
        applied = set()

        def label_of(path, _):
            for regex, label in rules.items():
                if re.search(regex, path_name(path)):
                    applied.add(regex)
                    return label
            return default

        # None is a leaf here, so that gradients are labelled as the parameters are.
        tree = jax.tree.map_with_path(label_of, params, is_leaf=is_leaf)
        _group_checks.check_rules_apply(rules, applied, params)
        return tree

    return labels


def carry_over_state(
    optimizer: optax.GradientTransformation, params: optax.Params, old_state: optax.OptState
) -> optax.OptState:
    """A state with which another optimizer goes on where the old one stopped.

    A run can so thaw layers, gain a head, move parameters to another group or change between
    [`adadelta`][] and [`param_groups`][]. What is kept, wherever in the states it stands:

    * v and u of every parameter that has the same path and shape in both states, converted if the
      new state stores them otherwise. A parameter of another shape starts from zero, with a
      warning; so does one without v and u in ``old_state``, silently.
    * the step count: all counts of [`ScaleByAdadeltaState`][], of schedules, of
      `optax.inject_hyperparams` and of the gradient steps of `optax.MultiSteps` go on from the
      largest count of a [`ScaleByAdadeltaState`][] in ``old_state``, so that a schedule goes on
      too, also for parameters that are new.

    All else is as ``optimizer.init(params)`` makes it: the hyperparameters of
    `optax.inject_hyperparams` are those of ``optimizer``, the gradients that `optax.MultiSteps`
    has gathered are dropped, the states of other transformations start afresh.

    Args:
        optimizer: The transformation with which to go on.
        params: Its parameters.
        old_state: The state so far, or a tuple of states of which the first that holds a
            parameter's v and u counts. Freezing drops v and u: to bring them back with the thaw,
            pass ``(state, state_before_freezing)``.

    Returns:
        A state like ``optimizer.init(params)``. It shares the arrays that it keeps with
        ``old_state``, sharded as they are.

    Raises:
        ValueError: If there is no parameter whose v and u both states hold.

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
    _validation.check_optimizer(optimizer)
    _state_checks.check_accumulators("old_state", adadelta_states(old_state))
    new_state = optimizer.init(params)
    paths = {path for path, _ in jax.tree.leaves_with_path(params)}
    old, new = _accumulators_at(paths, old_state), _accumulators_at(paths, new_state)
    _state_checks.check_accumulators_in_common(old, new, _names(old_state), params)
    kept = {}
    for path in new:
        if path in old and _state_checks.accumulators_fit(
            path, *map(_accumulators.shapes, (old[path], new[path]))
        ):
            kept[path] = tuple(map(_accumulators.convert, old[path], new[path]))
    step = jnp.stack([state.count for state in adadelta_states(old_state)]).max()

    def carry_over(node):
        """A node of the new state, with what it and those under it keep of the old state."""
        if jax.tree_util.all_leaves([node]):
            return node
        field = STEP_COUNTS.get(type(node).__name__)
        if field is not None:
            # A sum, so that each count has a buffer of its own: one in two places can't be donated.
            node = node._replace(**{field: getattr(node, field) + step})
        if isinstance(node, ScaleByAdadeltaState):
            return node._replace(
                square_avg=_with({path: v for path, (v, _) in kept.items()}, node.square_avg),
                acc_delta=_with({path: u for path, (_, u) in kept.items()}, node.acc_delta),
            )
        return jax.tree.map(carry_over, node, is_leaf=lambda child: child is not node)

    return carry_over(new_state)


def adadelta_states(state: optax.OptState) -> list[ScaleByAdadeltaState]:
    """Every `ScaleByAdadeltaState` in a state, however deep."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ScaleByAdadeltaState))
    return [node for node in nodes if isinstance(node, ScaleByAdadeltaState)]


def _accumulators_at(paths: Container[Any], state: optax.OptState) -> dict[Any, tuple[Any, Any]]:
    """The v and u of the parameters at `paths`: the first that a state holds for each."""
    found = {}
    for node in adadelta_states(state):
        square_avgs = _nodes_at(paths, node.square_avg)
        acc_deltas = _nodes_at(paths, node.acc_delta)
        for path in square_avgs:
            found.setdefault(path, (square_avgs[path], acc_deltas[path]))
    return found


def _nodes_at(paths: Container[Any], tree: Any) -> dict[Any, Any]:
    """What stands at each of `paths` in a tree, leaf or not, unless it is empty, as if masked."""
    nodes = jax.tree.leaves_with_path(
        tree, is_leaf=lambda path, _: path in paths, is_leaf_takes_path=True
    )
    return {path: node for path, node in nodes if path in paths and jax.tree.leaves(node)}


def _with(nodes: dict[Any, Any], tree: Any) -> Any:
    """The tree with `nodes` at their paths, save where it is empty there, as if masked."""
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
