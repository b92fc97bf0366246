"""A small torch checkpoint, and checks of what loading it, sound or damaged, has given."""

import numbers
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    params_from_torch,
)

torch = pytest.importorskip("torch")

TEMPLATE = {
    "fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)},
    "norm": {"scale": jnp.zeros(2)},
}
MAPPING = {
    "fc.weight": LeafLayout("fc/kernel", axes=(1, 0)),
    "fc.bias": LeafLayout("fc/bias"),
    "norm.weight": LeafLayout("norm/scale"),
}
SHAPES = {"fc.weight": (2, 3), "fc.bias": (2,), "norm.weight": (2,)}


class AcceptedError(AssertionError):
    """A damaged value was accepted."""


def checkpoint(random: np.random.Generator) -> dict[str, Any]:
    """A sound checkpoint in tensors: the state_dicts of a model and of its optimizer."""

    def tensor(shape):
        return torch.tensor(random.uniform(0, 1, shape), dtype=torch.float32)

    settings = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False}
    groups = [
        {"params": [0, 1], "param_names": ["fc.weight", "fc.bias"]},
        {"params": [2], "param_names": ["norm.weight"]},
    ]
    if random.random() < 0.5:
        for group in groups:
            del group["param_names"]
    entries = {
        index: {
            "step": torch.tensor(7.0),
            "square_avg": tensor(shape),
            "acc_delta": tensor(shape),
        }
        for index, shape in enumerate(SHAPES.values())
    }
    return {
        "model": {name: tensor(shape) for name, shape in SHAPES.items()},
        "optimizer": {"state": entries, "param_groups": [settings | group for group in groups]},
    }


def load(model: Any, optimizer: Any, by_hand: bool) -> None:
    """Load a checkpoint; raise an AssertionError if it was accepted and the result is wrong."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loaded with NaN inside|.*: without state in the torch")
        mapping = MAPPING if by_hand else match_flax_params(model, TEMPLATE)
        params = params_from_torch(model, TEMPLATE, mapping)
        _, state = optimizer_from_torch(optimizer, params, mapping)
    for name in SHAPES:
        _assert_same(name, params, model[name])
    groups = optimizer["param_groups"]
    for group in groups:
        _assert_settings(group)
    ids = [id_ for group in groups for id_ in group["params"]]
    named = all("param_names" in group for group in groups)
    if any("param_names" in group for group in groups) and not named:
        raise AcceptedError("param_names")
    if len(set(ids)) < len(ids):
        raise AcceptedError("params")
    names = [name for group in groups for name in group["param_names"]] if named else list(mapping)
    steps = [0]
    for id_, name in zip(ids, names, strict=True):
        entry = optimizer["state"].get(id_, {})
        if not isinstance(entry, dict):
            raise AcceptedError("state")
        if entry:
            steps.append(min(int(_number("step", entry.get("step", 0))), 2**31 - 1))
        for key in ("square_avg", "acc_delta"):
            (_, _, path) = _place(name)
            (average,) = [
                tree[path[0]][path[1]]
                for _, tree in optax.tree.get_all_with_path(state, key)
                if not isinstance(tree[path[0]][path[1]], optax.MaskedNode)
            ]
            _assert_same(name, average, entry[key] if entry else np.zeros(SHAPES[name]))
            if np.any(np.asarray(average) < 0):
                raise AcceptedError(key)
    for _, count in optax.tree.get_all_with_path(state, "count"):
        assert count == max(steps), f"count {count} for steps {steps}"


def _place(name: str) -> tuple[str, LeafLayout, list[str]]:
    layout = MAPPING[name]
    return name, layout, layout.path.split("/")


def _assert_same(name: str, actual: Any, tensor: Any) -> None:
    """Raise unless a leaf, or the leaf of a tree of parameters, is the tensor in its layout."""
    _, layout, path = _place(name)
    for key in path if isinstance(actual, dict) else ():
        actual = actual[key]
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().to(torch.float64).numpy()
    expected = np.asarray(tensor, np.float64)
    expected = expected.T if layout.axes else expected
    np.testing.assert_array_equal(np.asarray(actual, np.float64), expected, err_msg=name)


def _assert_settings(group: dict[str, Any]) -> None:
    """Raise unless the settings that were accepted are numbers and a boolean."""
    for key in ("lr", "rho", "eps", "weight_decay"):
        _number(key, group[key])
    if _number("maximize", group.get("maximize", False)) not in (0, 1):
        raise AcceptedError("maximize")


def _number(key: str, value: Any) -> Any:
    """A number, or the one in a tensor or an array; raise if it is neither."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, numbers.Real):
        raise AcceptedError(key)
    return value
