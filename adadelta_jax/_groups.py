"""Several settings in one optimizer: `param_groups`, and labels by path."""

import functools
import inspect
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adadelta_jax._checks.groups import (
    broadcast_labels,
    check_groups,
    check_labels,
    check_partition_state,
    check_rules,
    check_rules_apply,
)
from adadelta_jax._checks.trees import (
    difference,
    is_leaf,
    leaves_with_path,
    only_arrays,
    path_name,
    tree_or_result,
)
from adadelta_jax._core.optimizer import adadelta


def param_groups(
    groups: Mapping[str, Mapping[str, Any] | None],
    labels: Any | Callable[[optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    """Adadelta with separate settings for each group of parameters, by `optax.partition`.

    Args:
        groups: For each label, the keyword arguments of [`adadelta`][] for its parameters, or None
            to freeze them: their updates are zero, and nothing is stored for them.
        labels: A pytree of labels like the parameters or a prefix of them, or a function that
            returns one for the parameters, such as [`label_by_path`][] makes. `update` calls it
            with the parameters, or with the gradients if it gets no parameters.

    Returns:
        An `optax.GradientTransformationExtraArgs`. A gradient of None gives a zero update and
        leaves v and u alone; in a frozen group, `update` needs ``params`` for that.

    Raises:
        ValueError: If a setting of a group is out of range. From `init`, if a label has no group, a
            group has no parameter, or the labels do not match the parameters. From `update`, if
            the labels do not match the gradients or the state belongs to other groups, and as from
            [`adadelta`][].
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
    check_groups(groups, tuple(inspect.signature(adadelta).parameters))
    groups = dict(groups)
    transforms: dict[Hashable, optax.GradientTransformation] = {
        label: _group(label, settings) for label, settings in groups.items()
    }

    def init_fn(params):
        label_tree = params  # the placeholder of `optax.tree.map_params` needs no labels
        if leaves_with_path(params):
            label_tree = broadcast_labels(tree_or_result(labels, params), params, "parameters")
        check_labels(label_tree, params, transforms)
        return optax.partition(transforms, lambda _: label_tree).init(params)

    def update_fn(updates, state, params=None, **extra_args):
        check_partition_state(state, groups)
        params = None if params is None else only_arrays(params)
        given = tree_or_result(labels, updates if params is None else params)
        label_tree = broadcast_labels(given, updates, "gradients")
        if params is not None:
            params = _only_labelled(label_tree, updates, params)
        partition = optax.partition(transforms, lambda _: label_tree)
        return partition.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _only_labelled(labels: Any, updates: optax.Updates, params: optax.Params) -> optax.Params:
    """The parameters with None where there is neither a label nor a gradient."""
    try:
        return jax.tree.map(
            lambda label, param: None if label is None else param, labels, params, is_leaf=is_leaf
        )
    except ValueError:
        raise ValueError(difference("gradients", updates, "parameters", params)) from None


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
    """Zeros."""
    # Like the parameters where these are known, because a gradient may be None.
    return jax.tree.map(jnp.zeros_like, updates if params is None else params)


def label_by_path(rules: Mapping[str, str], default: str) -> Callable[[optax.Params], Any]:
    """Label parameters by their paths: a function to pass to [`param_groups`][] as ``labels``.

    A path is the keys, indices and attributes that lead to the parameter, joined by slashes, as in
    ``encoder/layers/0/kernel``. Error messages name parameters by the same paths.

    Args:
        rules: Labels by regular expression. The first rule whose expression is found in the path
            (`re.search`) decides. Anchor an expression with ``^`` and ``$`` to match from the start
            and to the end.
        default: The label of parameters to which no rule applies.

    Returns:
        A function that returns a tree of labels for parameters or gradients. It raises a
        ValueError if a rule applies to no parameter.

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
    check_rules(rules, default)
    # No closure: Equinox's tools would make a pytree of it, which is taken for a tree of labels.
    return functools.partial(_labels_of, tuple(rules.items()), default)


def _labels_of(rules: tuple[tuple[str, str], ...], default: str, params: optax.Params) -> Any:
    """The label of every parameter, by the first rule that its path matches."""
    applied = set()

    def label_of(path, _):
        for regex, label in rules:
            if re.search(regex, path_name(path)):
                applied.add(regex)
                return label
        return default

    # None is a leaf here, so that gradients get the labels of their parameters.
    tree = jax.tree.map_with_path(label_of, params, is_leaf=is_leaf)
    check_rules_apply([regex for regex, _ in rules], applied, params)
    return tree
