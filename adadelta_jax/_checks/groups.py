"""Checks of groups, labels and rules."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import optax

from adadelta_jax._checks.states import CARRY_OVER, check_state
from adadelta_jax._checks.trees import broadcast_by_path, leaves_with_path, listed, path_name


def check_groups(groups: Any, keywords: tuple[str, ...]) -> None:
    """Raise unless `groups` maps each label to a mapping with some of `keywords`, or to None."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups must be a mapping from labels to settings, got {groups!r}")
    if not groups:
        raise ValueError("groups must have a label at least, got {}")
    for label, settings in groups.items():
        if not isinstance(label, str):
            raise TypeError(f"groups: a label must be a string, got {label!r}")
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise TypeError(
                f"group {label!r} must be a mapping of adadelta's keywords to values, "
                f"or None to freeze it, got {settings!r}"
            )
        unknown = [repr(keyword) for keyword in settings if keyword not in keywords]
        if unknown:
            raise TypeError(
                f"group {label!r} has {', '.join(unknown)}, which adadelta does not take: "
                f"it takes {', '.join(keywords)}"
            )


def broadcast_labels(labels: Any, tree: Any, tree_name: str) -> Any:
    """The label of every leaf of a tree; raise unless `labels` is a tree of strings like it."""
    for path, label in jax.tree.leaves_with_path(labels):
        if not isinstance(label, str):
            raise TypeError(f"the label of {path_name(path)} must be a string, got {label!r}")
    return broadcast_by_path("labels", labels, tree_name, tree)


def check_labels(labels: Any, params: Any, groups: Collection[Any]) -> None:
    """Raise unless every parameter's label has a group, and every group a parameter."""
    labelled: dict[str, list[str]] = {}
    for path, label in jax.tree.leaves_with_path(labels):
        labelled.setdefault(label, []).append(path_name(path))
    for label, paths in labelled.items():
        if label not in groups:
            raise ValueError(
                f"no group for the label {label!r} of {listed(paths)}: "
                f"the groups are {listed(map(repr, groups))}"
            )
    for label in groups:
        if label not in labelled and not _may_hide_parameters(params):
            raise ValueError(
                f"group {label!r} has no parameter: "
                f"the parameters' labels are {listed(map(repr, labelled))}"
            )


def check_partition_state(state: Any, groups: Mapping[str, Any]) -> None:
    """Raise unless a state has a part for each group, and an empty one for a frozen group."""
    check_state("param_groups", state, isinstance(state, optax.PartitionState))
    held = state.inner_states
    if held.keys() != groups.keys():
        raise ValueError(
            f"state must be that of the groups {listed(map(repr, groups))}, "
            f"got one of {listed(map(repr, held))} ({CARRY_OVER})"
        )
    for label, settings in groups.items():
        if settings is None and jax.tree.leaves(held[label]):
            raise ValueError(
                f"state must be that of these groups, of which {label!r} is frozen, "
                f"got one that holds accumulators for it ({CARRY_OVER})"
            )


def check_rules(rules: Any, default: Any) -> None:
    """Raise unless `rules` maps regular expressions to labels, and `default` is a label."""
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules must map regular expressions to labels, got {rules!r}")
    if not isinstance(default, str):
        raise TypeError(f"default must be a label, a string, got {default!r}")
    for regex, label in rules.items():
        if not isinstance(regex, str):
            raise TypeError(f"rules: a regular expression must be a string, got {regex!r}")
        if not isinstance(label, str):
            raise TypeError(f"rules: the label of {regex!r} must be a string, got {label!r}")
        try:
            re.compile(regex)
        except RecursionError:
            raise ValueError(f"rules: {regex!r} is nested too deeply") from None
        except (re.error, OverflowError) as error:
            raise ValueError(f"rules: {regex!r} is not a regular expression: {error}") from None


def check_rules_apply(rules: Any, applied: set[str], params: Any) -> None:
    """Raise unless every rule is among the `applied` ones, which label a parameter."""
    if _may_hide_parameters(params):
        return
    paths = [path_name(path) for path, _ in leaves_with_path(params)]
    for regex in rules:
        if regex in applied:
            continue
        if any(re.search(regex, path) for path in paths):
            raise ValueError(
                f"rules: {regex!r} only matches parameters that an earlier rule has labelled: "
                "put the more specific rule first"
            )
        raise ValueError(f"rules: {regex!r} matches no parameter: there are {listed(paths)}")


def _may_hide_parameters(tree: Any) -> bool:
    """Whether a tree may show only some of the parameters, as a masked one does."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return not nodes or any(isinstance(node, optax.MaskedNode) for node in nodes)
