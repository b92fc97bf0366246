"""Steps in torch, and a check that weights and state move there and back exactly."""

import numpy as np
import pytest

from adadelta_jax.torch_interop import (
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)

torch = pytest.importorskip("torch", reason="compares with its modules")

GENERATOR = np.random.default_rng(0)


def random_array(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


def as_torch(array):
    return torch.from_numpy(np.array(array))


def stepped(module, loss, steps=2):
    """A torch optimizer that has taken some steps."""
    optimizer = torch.optim.Adadelta(module.parameters(), weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()
    return optimizer


def assert_moves_exactly(module, optimizer, params, mapping):
    """Weights and state go there and back, bit for bit; the moved weights."""
    weights, state = module.state_dict(), optimizer.state_dict()
    moved = params_from_torch(weights, params, mapping)
    back = params_to_torch(moved, mapping)
    assert back.keys() == {name for name, layout in mapping.items() if layout is not None}
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, weights[name])
    _, opt_state = optimizer_from_torch(state, moved, mapping)
    returned = optimizer_to_torch(opt_state, moved, mapping, state["param_groups"])
    assert returned["state"].keys() == state["state"].keys()
    for index, entry in state["state"].items():
        for key, tensor in entry.items():
            np.testing.assert_array_equal(returned["state"][index][key], tensor)
    return moved
