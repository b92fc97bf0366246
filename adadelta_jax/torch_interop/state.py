"""The parts of a torch optimizer's state_dict: its groups, their settings, and its state."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from adadelta_jax._storage import formats as _accumulators
from adadelta_jax._checks import states as _state_checks
from adadelta_jax._core.optimizer import adadelta
from adadelta_jax.torch_interop.tensors import read_flag, read_number, write, write_average
from adadelta_jax.torch_interop.checks import check_dict, check_list, raise_if_any
from adadelta_jax.torch_interop.layouts import LeafLayout, is_running_statistic, leaves_by_path
from adadelta_jax._core.transform import ScaleByAdadeltaState

AVERAGES = ("square_avg", "acc_delta")
# The settings of a torch parameter group, and what `adadelta` calls them.
SETTINGS = {
    "lr": "learning_rate",
    "rho": "rho",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "maximize": "maximize",
}
# What else a group may hold: how torch runs the step, and what its schedulers note down.
_NO_SETTINGS = (
    *("params", "param_names", "foreach", "capturable", "differentiable"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr"),
)
TORCH_DEFAULTS = {
    "lr": 1.0,
    "rho": 0.9,
    "eps": 1e-6,
    "weight_decay": 0,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
}


def groups_and_state(optim_state_dict: Any) -> tuple[Sequence[Any], Mapping[Any, Any]]:
    """The two parts of a torch optimizer's state_dict."""
    check_dict("optim_state_dict", optim_state_dict, "a dict, as optimizer.state_dict() gives")
    lacking = [key for key in ("state", "param_groups") if key not in optim_state_dict]
    if lacking:
        raise ValueError(
            f"optim_state_dict lacks {', '.join(lacking)}: it is not that of a torch optimizer"
        )
    check_groups(optim_state_dict["param_groups"])
    for index, group in enumerate(optim_state_dict["param_groups"]):
        raise_if_any(
            f"param_groups[{index}] is not of torch.optim.Adadelta",
            {
                "it lacks": [key for key in SETTINGS if key not in (*group, "maximize")],
                "it has": [key for key in group if key not in (*SETTINGS, *_NO_SETTINGS)],
            },
        )
    check_dict("state", optim_state_dict["state"], "a dict of dicts")
    return optim_state_dict["param_groups"], optim_state_dict["state"]


def settings_of(index: int, group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `adadelta` for a torch parameter group."""
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


def entries_by_name(
    groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any], names: Sequence[Sequence[str]]
) -> dict[str, Mapping[str, Any]]:
    """Torch's state of each parameter that has any."""
    ids = [id_ for group in groups for id_ in group["params"]]
    name_of = dict(zip(ids, (name for in_group in names for name in in_group), strict=True))
    unknown = [id_ for id_ in state if id_ not in name_of]
    raise_if_any("the torch optimizer's state does not match its groups", {"no group has": unknown})
    entries = {name_of[id_]: entry for id_, entry in state.items()}
    for name, entry in entries.items():
        check_dict(f"the state of {name}", entry)
        raise_if_any(
            f"the state of {name} is not of torch.optim.Adadelta",
            {
                "it lacks": [key for key in AVERAGES if entry and key not in entry],
                "it has": [key for key in entry if key not in ("step", *AVERAGES)],
            },
        )
    return {name: entry for name, entry in entries.items() if entry}


def check_groups(param_groups: Any) -> None:
    """Raise unless these are torch parameter groups, each with its parameters."""
    check_list("param_groups", param_groups, Mapping, "a list of dicts")
    for index, group in enumerate(param_groups):
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
    ids = [id_ for group in param_groups for id_ in group["params"] if isinstance(id_, int | str)]
    repeated = [str(id_) for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"param_groups have {', '.join(repeated)} more than once")
    named = ["param_names" in group for group in param_groups]
    if any(named) and not all(named):
        raise ValueError(
            f"param_groups[{named.index(True)}] has param_names, "
            f"but param_groups[{named.index(False)}] has none"
        )


def _is_id(value: Any) -> bool:
    """Whether torch can know a parameter by `value`: by its number, its name or, alive, itself."""
    return isinstance(value, (int, np.integer, str)) or hasattr(value, "detach")


def names_in_groups(
    groups: Sequence[Mapping[str, Any]], layouts: Collection[str], frozen: Collection[str]
) -> list[list[str]]:
    """The torch names of the parameters of each torch parameter group.

    They are the groups' own names if there are any, or else the names of `layouts` in their order,
    of which the torch optimizer may lack those in `frozen`.
    """
    ids = [list(group["params"]) for group in groups]
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    if all(isinstance(id_, str) for in_group in ids for id_ in in_group):
        return ids
    count = sum(map(len, ids))
    in_order = [name for name in layouts if not is_running_statistic(name)]
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


def check_coverage(
    names: Iterable[Iterable[str]],
    mapping: Mapping[str, Any],
    layouts: Collection[str],
    frozen: Collection[str],
) -> None:
    """Raise unless every parameter that is not frozen is in one group, and no unknown one is."""
    uses = Counter(name for in_group in names for name in in_group)
    problems = {
        "mapping lacks": [name for name in (*uses, *frozen) if name not in mapping],
        "in no group and not in frozen are": [
            name for name in layouts if name not in uses and name not in frozen
        ],
        "more than once in a group are": [name for name in uses if uses[name] > 1],
    }
    raise_if_any("the torch optimizer's groups and mapping do not match", problems)


def entries_for_torch(
    states: Sequence[ScaleByAdadeltaState],
    layouts: Mapping[str, LeafLayout],
    leaves: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Torch's state of each parameter that has accumulators; an empty one if they are all zero."""
    _state_checks.check_accumulators("opt_state", states)
    found: dict[str, dict[str, Any]] = {}
    for state in states:
        (count,) = jax.tree.leaves(state.count)  # which NNX keeps in a variable
        held = {key: leaves_by_path(_accumulators.values(getattr(state, key))) for key in AVERAGES}
        for name, layout in layouts.items():
            if layout.path not in held["square_avg"]:
                continue
            if name in found:
                raise ValueError(f"opt_state holds more than one square_avg of {name}")
            leaf = leaves[layout.path]
            entry = {
                key: write_average(f"{key} of {name}", held[key][layout.path], layout, leaf)
                for key in AVERAGES
            }
            has_had_gradient = any(array.any() for array in entry.values())
            entry["step"] = np.array(count, np.float32)
            found[name] = {key: write(entry[key]) for key in entry if has_had_gradient}
    if not found:
        raise ValueError("opt_state holds no square_avg and acc_delta of these params")
    return found


def groups_to_return_to(
    param_groups: Sequence[Mapping[str, Any]] | None, layouts: Collection[str]
) -> Sequence[Mapping[str, Any]]:
    """The groups given, or one of all parameters."""
    groups = [{}] if param_groups is None else param_groups
    check_list("param_groups", groups, Mapping, "a list of dicts")
    if len(groups) == 1 and "params" not in groups[0]:
        names = [name for name in layouts if not is_running_statistic(name)]
        groups = [{**groups[0], "params": names, "param_names": names}]
    check_groups(groups)
    return groups


def injected_settings(opt_state: optax.OptState) -> dict[str, float]:
    """The settings that `optax.inject_hyperparams` keeps in a state, if it does."""
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "hyperparams")
    hyperparams = found[0][1] if len(found) == 1 else {}
    return {
        key: read_number(f"{name} of opt_state", hyperparams[name])
        for key, name in SETTINGS.items()
        if name in hyperparams
    }
