"""Small torch checkpoints of many kinds, and checks of what loading them, also damaged, gives."""

import numbers
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import optax
import pytest

from adadelta_jax.torch_interop import match_flax_params, optimizer_from_torch, params_from_torch
from adadelta_jax.torch_interop.schedules import schedules_from_torch
from tests.fuzz.architectures import Architecture, Leaf, Node, finished, tree_of

torch = pytest.importorskip("torch")

SETTINGS = ("lr", "rho", "eps", "weight_decay")
AVERAGES = ("square_avg", "acc_delta")
STEP = 7


class AcceptedError(AssertionError):
    """A damaged value was accepted."""


class Model(NamedTuple):
    """A torch model: its tensors, the leaves of its twin, a tree to fill, and a sound mapping."""

    shapes: Mapping[str, tuple[int, ...]]
    leaves: tuple[Leaf, ...]
    template: Any
    mapping: Mapping[str, Any]


def _model(**layers: Node) -> Model:
    built = finished(Architecture("linen", "", (), Node("modules", {}, tuple(layers.items()))))
    tensors = {name: tensor.numpy() for name, tensor in built.module.state_dict().items()}
    empty = {leaf.path: np.zeros_like(leaf.value(tensors)) for leaf in built.leaves}
    template = tree_of(empty, "linen")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Model(shapes, built.leaves, template, match_flax_params(shapes, template))


_LINEAR = Node("linear", {"inputs": 3, "outputs": 2})
_NORM = Node("norm", {"kind": "layer", "size": 2})
MODELS = (
    _model(fc=_LINEAR, norm=_NORM),
    _model(attn=Node("attention", {"size": 2, "heads": 2, "bias": True}), norm=_NORM),
    _model(layers=Node("stack", {}, (("0", _LINEAR), ("1", _LINEAR))), norm=_NORM),
)


def checkpoint(
    random: np.random.Generator, model: Model | None = None
) -> tuple[Model, dict[str, Any]]:
    """A model and a sound checkpoint: the state_dicts of model, optimizer and perhaps scheduler."""
    model = model or MODELS[random.integers(len(MODELS))]

    def tensor(shape):
        return torch.tensor(random.uniform(0, 1, shape), dtype=torch.float32)

    settings = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False}
    scheduler = None
    if random.random() < 0.3:
        scheduler = {"step_size": 3, "gamma": 0.5, "base_lrs": [2.0] * 2, "last_epoch": STEP}
        scheduler |= {"_step_count": STEP + 1, "_last_lr": [0.5] * 2}
        settings["initial_lr"] = 2.0
    names = list(model.shapes)
    groups = [settings | {"params": of_group} for of_group in (names[:-1], names[-1:])]
    entries = {
        name: {"step": torch.tensor(float(STEP)), **{key: tensor(shape) for key in AVERAGES}}
        for name, shape in model.shapes.items()
    }
    forms = (_numbered, _numbered, _named, _as_strings, _by_name, _flattened)
    form = forms[random.integers(len(forms) - (scheduler is not None))]
    root = {
        "model": {name: tensor(shape) for name, shape in model.shapes.items()},
        "optimizer": form(groups, entries),
    }
    return model, root | ({"lr_scheduler": scheduler} if scheduler else {})


def _numbered(groups: Any, entries: Any, as_id: Callable[[int], Any] = int) -> dict[str, Any]:
    """As `torch.optim.Optimizer.state_dict` has it."""
    ids = {name: as_id(index) for index, name in enumerate(entries)}
    return {
        "state": {ids[name]: entry for name, entry in entries.items()},
        "param_groups": [group | {"params": [ids[n] for n in group["params"]]} for group in groups],
    }


def _named(groups: Any, entries: Any) -> dict[str, Any]:
    """With the names that an optimizer of `named_parameters()` saves."""
    numbered = _numbered(groups, entries)
    for group, named in zip(numbered["param_groups"], groups, strict=True):
        group["param_names"] = list(named["params"])
    return numbered


def _as_strings(groups: Any, entries: Any) -> dict[str, Any]:
    return _numbered(groups, entries, str)


def _by_name(groups: Any, entries: Any) -> dict[str, Any]:
    return {"state": entries, "param_groups": groups}


def _flattened(groups: Any, entries: Any) -> dict[str, Any]:
    """As after `flatten_optimizer_state_dict`."""
    of_state = {f"state.{n}.{key}": each for n, e in entries.items() for key, each in e.items()}
    return of_state | {
        f"param_groups.{name}.{key}": setting
        for group in groups
        for name in group["params"]
        for key, setting in group.items()
        if key != "params"
    }


def load(model: Model, root: Mapping[str, Any], by_hand: bool) -> None:
    """Load a checkpoint; raise an AssertionError if it was accepted and the result is wrong."""
    state_dict, optimizer, scheduler = (root.get(k) for k in ("model", "optimizer", "lr_scheduler"))
    with warnings.catch_warnings():
        accepted = "loaded with NaN inside|.*: without state in the torch|lr_scheduler has stepped"
        warnings.filterwarnings("ignore", accepted)
        mapping = model.mapping if by_hand else match_flax_params(state_dict, model.template)
        params = params_from_torch(state_dict, model.template, mapping)
        _, state = optimizer_from_torch(optimizer, params, mapping, lr_scheduler=scheduler)
        entries, groups = _by_names(optimizer, mapping)
        steps = [0, *(_step(entry) for entry in entries.values() if entry)]
        for group in groups:
            _assert_settings(group)
        if scheduler is not None:
            _assert_schedules(scheduler, groups, max(steps))
    _assert_same(model, [params], state_dict)
    for key in AVERAGES:
        averages = {
            name: entries[name][key] if entries.get(name) else np.zeros(shape)
            for name, shape in model.shapes.items()
        }
        if any(np.any(_read(average) < 0) for average in averages.values()):
            raise AcceptedError(key)
        trees = [tree for _, tree in optax.tree.get_all_with_path(state, key)]
        _assert_same(model, trees, averages)
    for _, count in optax.tree.get_all_with_path(state, "count"):
        assert count == max(steps), f"count {count} for steps {steps}"


def _by_names(optimizer: Any, mapping: Collection[str]) -> tuple[dict[str, Any], list[Any]]:
    """The entry of each parameter by its name, and the groups, from a dict of any form."""
    if "param_groups" not in optimizer:
        names = dict.fromkeys(key[13:].rpartition(".")[0] for key in optimizer if key[0] == "p")
        prefixes = [f"param_groups.{name}." for name in names]
        found = {
            name: {key: optimizer.get(f"state.{name}.{key}") for key in ("step", *AVERAGES)}
            for name in names
            if f"state.{name}.{AVERAGES[0]}" in optimizer
        }
        settings = (*SETTINGS, "maximize")
        groups = [{k: optimizer[p + k] for k in settings if p + k in optimizer} for p in prefixes]
        return found, groups
    groups = optimizer["param_groups"]
    ids = [_number_of(id_) for group in groups for id_ in group["params"]]
    if len(set(ids)) < len(ids):
        raise AcceptedError("params")
    named = ["param_names" in group for group in groups]
    if any(named) and not all(named):
        raise AcceptedError("param_names")
    names = [name for group in groups for name in group.get("param_names", ())]
    if not names:
        names = ids if all(isinstance(id_, str) for id_ in ids) else list(mapping)
    state = {_number_of(id_): entry for id_, entry in optimizer["state"].items()}
    if not all(isinstance(entry, dict) for entry in state.values()):
        raise AcceptedError("state")
    return {name: state.get(id_) for id_, name in zip(ids, names, strict=True)}, groups


def _number_of(id_: Any) -> Any:
    return int(id_) if isinstance(id_, str) and id_.isdecimal() else id_


def _step(entry: Mapping[str, Any]) -> int:
    return min(int(_number("step", entry.get("step") or 0)), 2**31 - 1)


def _assert_same(model: Model, trees: list[Any], tensors: Mapping[str, Any]) -> None:
    """Raise unless each leaf, in the only tree that has it, is what the tensors become."""
    arrays = {name: _read(tensors[name]) for name in model.shapes}
    for leaf in model.leaves:
        found = [reduce(operator.getitem, leaf.path, tree) for tree in trees]
        (array,) = [each for each in found if not isinstance(each, optax.MaskedNode)]
        expected = leaf.value(arrays)
        np.testing.assert_array_equal(np.asarray(array, np.float64), expected, err_msg=str(leaf))


def _read(tensor: Any) -> np.ndarray:
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().to(torch.float64).numpy()
    return np.asarray(tensor, np.float64)


def _assert_settings(group: dict[str, Any]) -> None:
    """Raise unless the settings that were accepted are numbers and a boolean."""
    for key in SETTINGS:
        _number(key, group[key])
    if _number("maximize", group.get("maximize", False)) not in (0, 1):
        raise AcceptedError("maximize")


def _assert_schedules(scheduler: Mapping[str, Any], groups: Any, step: int) -> None:
    """Raise unless the rates go on from those of the groups as torch's do."""
    settings = {key: _number(key, scheduler.get(key, 1)) for key in ("gamma", "step_size")}
    epoch = int(_number("last_epoch", scheduler["last_epoch"]))
    schedules = schedules_from_torch(scheduler, groups, step, 1)
    for schedule, group, base_lr in zip(schedules, groups, scheduler["base_lrs"], strict=True):
        for later in range(min(2, 2**31 - step)):
            factor = settings["gamma"] ** ((epoch + later) // settings["step_size"])
            rate = _number("base_lr", base_lr) * factor
            np.testing.assert_allclose(schedule(step + later), rate, rtol=1e-5)
            if not later:
                np.testing.assert_allclose(_number("lr", group["lr"]), rate, rtol=1e-5)


def _number(key: str, value: Any) -> Any:
    """A number, or the one in a tensor or an array; raise if it is neither."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, numbers.Real):
        raise AcceptedError(key)
    return value
