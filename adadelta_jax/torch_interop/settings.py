"""The settings of a torch parameter group as those of `adadelta`, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._core.transform import adadelta_states
from adadelta_jax._storage.formats import values
from adadelta_jax.torch_interop.assembly import Layouts
from adadelta_jax.torch_interop.mapping import leaves_by_path
from adadelta_jax.torch_interop.tensors import read_flag, read_number

# The settings of a torch parameter group, and what `adadelta` calls them.
SETTINGS = {
    "lr": "learning_rate",
    "rho": "rho",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "maximize": "maximize",
}
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


def with_settings(
    groups: Sequence[Mapping[str, Any]],
    names: Sequence[Sequence[str]],
    layouts: Layouts,
    opt_state: optax.OptState,
) -> list[dict[str, Any]]:
    """The groups with all settings: those of the state win over given ones, these over torch's."""
    injected = _injected_settings(opt_state, layouts)
    counts = [leaf for s in adadelta_states(opt_state) for leaf in jax.tree.leaves(s.count)]
    completed = []
    for index, (group, in_group) in enumerate(zip(groups, names, strict=True)):
        held = {name: injected[name] for name in in_group if name in injected}
        settings = {**_TORCH_DEFAULTS, **group, **_in_common(index, group, held)}
        if callable(group.get("lr")):
            with jax.enable_x64(True):  # as exact as the numbers of torch
                lr = group["lr"](jnp.asarray(max(counts), jnp.int32))
                settings["lr"] = read_number(f"param_groups[{index}]: lr(count)", lr)
        settings_of(index, settings)
        completed.append(settings)
    return completed


def _in_common(
    index: int, group: Mapping[str, Any], held: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """The settings that the state holds for the names of a group; raise unless they agree."""
    common: dict[str, np.ndarray] = {}
    for name, settings in held.items():
        for key, value in settings.items():
            if value != common.setdefault(key, value):
                raise ValueError(
                    f"param_groups[{index}] has one {key}, but opt_state holds {common[key]:g} and "
                    f"{value:g} for its parameters: put {name} into another group"
                )
    # The state holds a rounded 0.1. If nobody has changed it, the given number is the exact one.
    return {
        key: given
        if isinstance(given := group.get(key), float) and np.asarray(given, value.dtype) == value
        else float(value)
        for key, value in common.items()
    }


def _injected_settings(
    opt_state: optax.OptState, layouts: Layouts
) -> dict[str, dict[str, np.ndarray]]:
    """By torch name, the settings that `optax.inject_hyperparams` keeps in the state."""
    types = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)
    found = {}
    for node in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, types)):
        # Other transformations may have injected settings too: they hold no accumulators.
        states = adadelta_states(node.inner_state) if isinstance(node, types) else []
        paths = {path for state in states for path in leaves_by_path(values(state.square_avg))}
        if not paths:
            continue
        settings = {}
        for key, argument in SETTINGS.items():
            if argument in node.hyperparams:
                value = node.hyperparams[argument]
                number = read_number(f"{argument} of opt_state", value)
                settings[key] = np.asarray(number, getattr(value, "dtype", None))
        # `entries_for_torch` has seen that a tensor's parts are in one group.
        found |= {name: settings for name, (first, *_) in layouts.items() if first.path in paths}
    return found
