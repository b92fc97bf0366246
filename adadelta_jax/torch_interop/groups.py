"""The parameter groups of a torch optimizer: which parameters each one has."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from adadelta_jax._checks.trees import path_name
from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._groups import param_groups
from adadelta_jax.torch_interop.assembly import Layouts, layouts_by_path
from adadelta_jax.torch_interop.checks import check_list, is_tensor, raise_if_any
from adadelta_jax.torch_interop.mapping import is_running_statistic
from adadelta_jax.torch_interop.prefixes import aligned
from adadelta_jax.torch_interop.settings import SETTINGS, settings_of

# What else a group of torch holds. It may have notes of its user and of schedulers as well.
_OTHER_KEYS = ("params", "param_names", "foreach", "capturable", "differentiable")


def check_groups(groups: Any) -> None:
    """Raise unless these are torch parameter groups, each with its parameters."""
    check_list("param_groups", groups, Mapping, "a list of dicts")
    for index, group in enumerate(groups):
        if "params" not in group:
            raise ValueError(f"param_groups[{index}] lacks params")
        ids = group["params"]
        if not isinstance(ids, (list, tuple)) or not all(map(_is_id, ids)):
            raise TypeError(
                f"params of param_groups[{index}] must be a list of numbers or names, got {ids!r}"
            )
        if "param_names" not in group:
            continue
        names = group["param_names"]
        check_list(f"param_names of param_groups[{index}]", names, str, "a list of torch names")
        if len(names) != len(ids):
            raise ValueError(
                f"param_groups[{index}] has {len(ids)} params, but {len(names)} param_names"
            )
    ids = [str(id_) for group in groups for id_ in group["params"] if isinstance(id_, int | str)]
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"param_groups have {', '.join(repeated)} more than once")
    named = ["param_names" in group for group in groups]
    if any(named) and not all(named):
        raise ValueError(
            f"param_groups[{named.index(True)}] has param_names, "
            f"but param_groups[{named.index(False)}] has none"
        )


def _is_id(value: Any) -> bool:
    """Whether torch can list a parameter as `value`: its number, its name or the tensor itself."""
    return isinstance(value, (int, np.integer, str)) or is_tensor(value)


def check_groups_of_adadelta(groups: Any) -> None:
    """Raise unless the groups are those that a saved `torch.optim.Adadelta` has."""
    check_groups(groups)
    for index, group in enumerate(groups):
        # Old checkpoints have no `maximize`.
        lacking = [key for key in SETTINGS if key not in (*group, "maximize")]
        others = [key for key in group if lacking and key not in (*SETTINGS, *_OTHER_KEYS)]
        raise_if_any(
            f"param_groups[{index}] is not of torch.optim.Adadelta",
            {"it lacks": lacking, "it has": others},
        )


def names_in_groups(
    groups: Sequence[Mapping[str, Any]],
    mapping: Mapping[str, Any],
    layouts: Collection[str],
    frozen: Collection[str],
) -> list[list[str]]:
    """The torch names in each group; raise unless each one that is not frozen is in one group."""
    names = _names_in_groups(groups, mapping, layouts, frozen)
    uses = Counter(name for in_group in names for name in in_group)
    problems = {
        "mapping lacks": [name for name in (*uses, *frozen) if name not in mapping],
        "in no group and not in frozen are": [
            name for name in layouts if name not in uses and name not in frozen
        ],
        "more than once in a group are": [name for name in uses if uses[name] > 1],
    }
    raise_if_any("the torch optimizer's groups and mapping do not match", problems)
    return names


def _names_in_groups(
    groups: Sequence[Mapping[str, Any]],
    mapping: Collection[str],
    layouts: Collection[str],
    frozen: Collection[str],
) -> list[list[str]]:
    """The names that the groups hold, or else those of `mapping` in order."""
    ids = [list(group["params"]) for group in groups]
    if all("param_names" in group for group in groups):
        ids = [list(group["param_names"]) for group in groups]
    if all(isinstance(id_, str) for in_group in ids for id_ in in_group):
        known = aligned([id_ for in_group in ids for id_ in in_group], mapping)
        return [[known[id_] for id_ in in_group] for in_group in ids]
    count = sum(map(len, ids))
    in_order = [name for name in mapping if not is_running_statistic(name)]
    # The torch optimizer may have frozen parameters too, or have been made without them.
    possible = [
        [name for name in in_order if name in layouts or name in frozen],
        [name for name in in_order if name in layouts],
        [name for name in in_order if name in layouts and name not in frozen],
    ]
    names = next((each for each in possible if len(each) == count), possible[-1])
    if count != len(names):
        left_out = [name for name in in_order if name not in layouts and name not in frozen]
        raise ValueError(
            f"the torch optimizer has {count} parameters, but mapping names {len(names)} that are "
            f"not frozen{_why_not_as_many(names, left_out, count)}, or give every group its "
            "param_names"
        )
    remaining = iter(names)
    return [[next(remaining) for _ in in_group] for in_group in ids]


def _why_not_as_many(names: Sequence[str], left_out: Sequence[str], count: int) -> str:
    """Which parameters a torch optimizer of `count` lacks or has beyond `names`, and what to do."""
    in_doubt = ", ".join(left_out)
    if len(names) < count <= len(names) + len(left_out):
        more = count - len(names)
        trains = in_doubt if more == len(left_out) else f"{more} of {in_doubt}"
        return (
            f". torch trains {trains}, which mapping maps to None: give what it trains a leaf, "
            "name in frozen what is to stay behind"
        )
    uncovered = f" (none are left for {', '.join(names[count:])})" if names[count:] else ""
    return f"{uncovered}: name those that it does not train in frozen"


def check_trained_names(
    names: Sequence[Sequence[str]],
    layouts: Collection[str],
    frozen: Collection[str],
    entries: Collection[str],
) -> None:
    """Raise if torch trains what has no leaf; warn of what it does not train, but has one."""
    has_steps = bool(entries)
    in_groups = [name for in_group in names for name in in_group if name not in frozen]
    lost = [n for n in in_groups if n not in layouts and (n in entries or not has_steps)]
    if lost:
        raise ValueError(
            f"the torch optimizer trains {', '.join(lost)}, which mapping maps to None: give them "
            "a leaf, or name them in frozen to leave their state behind"
        )
    untrained = [n for n in in_groups if n in layouts and n not in entries]
    if untrained and has_steps:
        warnings.warn(
            f"{', '.join(untrained)}: without state in the torch optimizer, so that they have had "
            "no gradient there. They start from zero, and will be trained here. Name in frozen "
            "those that torch does not train",
            stacklevel=3,
        )


def optimizer_of(
    groups: Sequence[Mapping[str, Any]],
    names: Sequence[Sequence[str]],
    layouts: Layouts,
    frozen: Collection[str],
    schedules: Sequence[optax.Schedule] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`adadelta` with the settings of one group, or `param_groups` with those of several."""
    settings = {str(index): settings_of(index, group) for index, group in enumerate(groups)}
    for index, schedule in enumerate(schedules or ()):
        settings[str(index)]["learning_rate"] = schedule
    label_of = {name: str(index) for index, in_group in enumerate(names) for name in in_group}
    labels = {}
    for path, parts in layouts_by_path(layouts).items():
        of_names = {name: "frozen" if name in frozen else label_of[name] for name, _ in parts}
        if len(set(of_names.values())) > 1:
            described = ", ".join(
                f"{name} (frozen)" if label == "frozen" else f"{name} (in group {label})"
                for name, label in of_names.items()
            )
            raise ValueError(
                f"{path} is one leaf, which must be in one group as a whole or be frozen as a "
                f"whole, but it is made of {described}"
            )
        labels[path] = next(iter(of_names.values()))
    settings = {label: settings.get(label) for label in sorted(set(labels.values()))}
    first, *others = settings.values()
    if others or first is None:
        return param_groups(settings, _labelling(labels))
    return adadelta(**first)


def _labelling(labels: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function that labels parameters or gradients by path."""
    of_none = next(iter(labels.values()))  # Equinox has None where a model has a function

    def label(path, leaf):
        unknown = of_none if leaf is None else "unknown to the torch optimizer"
        return labels.get(path_name(path), unknown)

    # A tree of labels would not do: `nnx.Optimizer` makes its state for a tree of variables, but
    # updates a tree of their values.
    return lambda tree: jax.tree.map_with_path(label, tree, is_leaf=lambda node: node is None)


def groups_for_torch(
    given: Sequence[Mapping[str, Any]] | None, layouts: Collection[str]
) -> list[dict[str, Any]]:
    """The groups to return to, as given; by default one group of all parameters."""
    groups = [{}] if given is None else given
    check_list("param_groups", groups, Mapping, "a list of dicts")
    if len(groups) == 1 and "params" not in groups[0]:
        names = [name for name in layouts if not is_running_statistic(name)]
        groups = [{**groups[0], "params": names, "param_names": names}]
    check_groups(groups)
    return [dict(group) for group in groups]
