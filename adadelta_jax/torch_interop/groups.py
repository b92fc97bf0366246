"""The parameter groups of a torch optimizer: their settings, and which parameters each one has."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from adadelta_jax._checks.trees import path_name
from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._core.transform import adadelta_states
from adadelta_jax._groups import param_groups
from adadelta_jax.torch_interop.checks import check_list, is_tensor, raise_if_any
from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.mapping import is_running_statistic
from adadelta_jax.torch_interop.tensors import read_flag, read_number

# The settings of a torch parameter group, and what `adadelta` calls them.
SETTINGS = {
    "lr": "learning_rate",
    "rho": "rho",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "maximize": "maximize",
}
# What else a group may hold: how torch runs the step, and the notes of its schedulers.
_NO_SETTINGS = (
    *("params", "param_names", "foreach", "capturable", "differentiable"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr"),
)
_TORCH_DEFAULTS = {
    "lr": 1.0,
    "rho": 0.9,
    "eps": 1e-6,
    "weight_decay": 0,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
}


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
    ids = [id_ for group in groups for id_ in group["params"] if isinstance(id_, int | str)]
    repeated = [str(id_) for id_, count in Counter(ids).items() if count > 1]
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
        raise_if_any(
            f"param_groups[{index}] is not of torch.optim.Adadelta",
            {
                # Old checkpoints have no `maximize`.
                "it lacks": [key for key in SETTINGS if key not in (*group, "maximize")],
                "it has": [key for key in group if key not in (*SETTINGS, *_NO_SETTINGS)],
            },
        )


def names_in_groups(
    groups: Sequence[Mapping[str, Any]],
    mapping: Mapping[str, Any],
    layouts: Collection[str],
    frozen: Collection[str],
) -> list[list[str]]:
    """The torch names in each group; raise unless each one that is not frozen is in one group."""
    names = _names_in_groups(groups, layouts, frozen)
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
    groups: Sequence[Mapping[str, Any]], layouts: Collection[str], frozen: Collection[str]
) -> list[list[str]]:
    """The names that the groups hold, or else those of `layouts` in order."""
    ids = [list(group["params"]) for group in groups]
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    if all(isinstance(id_, str) for in_group in ids for id_ in in_group):
        return ids
    count = sum(map(len, ids))
    in_order = [name for name in layouts if not is_running_statistic(name)]
    # The torch optimizer may have frozen parameters too, or have been made without them.
    names = in_order if count == len(in_order) else [n for n in in_order if n not in frozen]
    if count != len(names):
        uncovered = f" (none are left for {', '.join(names[count:])})" if names[count:] else ""
        raise ValueError(
            f"the torch optimizer has {count} parameters, but mapping names {len(names)} that are "
            f"not frozen{uncovered}: name those that it does not train in frozen, or give every "
            "group its param_names"
        )
    remaining = iter(names)
    return [[next(remaining) for _ in in_group] for in_group in ids]


def optimizer_of(
    groups: Sequence[Mapping[str, Any]],
    names: Sequence[Sequence[str]],
    layouts: Mapping[str, LeafLayout],
    frozen: Collection[str],
) -> optax.GradientTransformationExtraArgs:
    """`adadelta` with the settings of one group, or `param_groups` with those of several."""
    settings = {str(index): settings_of(index, group) for index, group in enumerate(groups)}
    label_of = {name: str(index) for index, in_group in enumerate(names) for name in in_group}
    labels = {
        layout.path: "frozen" if name in frozen else label_of[name]
        for name, layout in layouts.items()
    }
    settings = {label: settings.get(label) for label in sorted(set(labels.values()))}
    first, *others = settings.values()
    if others or first is None:
        return param_groups(settings, _labelling(labels))
    return adadelta(**first)


def _labelling(labels: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function that labels parameters or gradients by path."""

    def label(path, _):
        return labels.get(path_name(path), "unknown to the torch optimizer")

    # A tree of labels would not do: `nnx.Optimizer` makes its state for a tree of variables, but
    # updates a tree of their values.
    return lambda tree: jax.tree.map_with_path(label, tree, is_leaf=lambda node: node is None)


def settings_of(index: int, group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `adadelta` for a group; raise unless `adadelta` takes them."""
    where = f"param_groups[{index}]"
    settings: dict[str, Any] = {
        argument: read_number(f"{where}: {key}", group[key])
        for key, argument in SETTINGS.items()
        if key != "maximize"
    }
    settings["maximize"] = read_flag(f"{where}: maximize", group.get("maximize", False))
    try:
        adadelta(**settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return settings


def groups_for_torch(
    given: Sequence[Mapping[str, Any]] | None, layouts: Collection[str], opt_state: optax.OptState
) -> list[dict[str, Any]]:
    """The groups to return to, with all settings; by default one group of all parameters."""
    groups = [{}] if given is None else given
    check_list("param_groups", groups, Mapping, "a list of dicts")
    if len(groups) == 1 and "params" not in groups[0]:
        names = [name for name in layouts if not is_running_statistic(name)]
        groups = [{**groups[0], "params": names, "param_names": names}]
    check_groups(groups)
    known = _TORCH_DEFAULTS | _injected_settings(opt_state)
    groups = [{**known, **group} for group in groups]
    for index, group in enumerate(groups):
        settings_of(index, group)
    return groups


def _injected_settings(opt_state: optax.OptState) -> dict[str, float]:
    """The settings of Adadelta that `optax.inject_hyperparams` keeps in a state, if it does."""
    types = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, types))
    # Another transformation of a chain may have injected settings of its own.
    injected = [
        node for node in nodes if isinstance(node, types) and adadelta_states(node.inner_state)
    ]
    hyperparams = injected[0].hyperparams if len(injected) == 1 else {}
    return {
        key: read_number(f"{name} of opt_state", hyperparams[name])
        for key, name in SETTINGS.items()
        if name in hyperparams
    }
