"""A sound problem to spoil, and a table of refusals: calls, errors and their words."""

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from adadelta_jax import adadelta, scale_by_adadelta
from adadelta_jax.torch_interop import LeafLayout, optimizer_from_torch
from tests.clear_errors import is_clear

PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
OPTIMIZER = adadelta()
STATE = OPTIMIZER.init(PARAMS)
SCALE_STATE = scale_by_adadelta().init(PARAMS)
EVERYWHERE = NamedSharding(AbstractMesh((8,), ("data",)), PartitionSpec())
MAPPING = {"fc.weight": LeafLayout("dense/kernel", axes=(1, 0)), "fc.bias": "dense/bias"}
WEIGHTS = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(2, np.float32)}


def optim_state_dict() -> dict[str, Any]:
    """The state_dict of a torch optimizer after a step."""
    entries = {
        index: {"step": 1.0, "square_avg": array.copy(), "acc_delta": array.copy()}
        for index, array in enumerate(WEIGHTS.values())
    }
    settings = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False}
    return {"state": entries, "param_groups": [settings | {"params": [0, 1]}]}


def load_after(damage: Callable[[dict, dict, dict], object]) -> Callable[[], object]:
    """A call that loads a state_dict after `damage(state_dict, first group, first entry)`."""
    state_dict = copy.deepcopy(optim_state_dict())
    damage(state_dict, state_dict["param_groups"][0], state_dict["state"][0])
    return lambda: optimizer_from_torch(state_dict, PARAMS, MAPPING)


def with_kernel(leaf: Any) -> dict[str, Any]:
    """The parameters, or their gradients, with another kernel."""
    return {"dense": PARAMS["dense"] | {"kernel": leaf}}


def cut(tree: Any) -> Any:
    """The tree with shorter arrays."""
    return jax.tree.map(lambda array: array[:1], tree)


def each_refusal(table: dict[str, tuple]) -> pytest.MarkDecorator:
    """Run a test for each row of a table: name to call, type of error, and message.

    A message is the whole text, or a regular expression for the whole text where JAX, NumPy or
    Python words a part of it.
    """
    return pytest.mark.parametrize(("call", "error", "message"), table.values(), ids=table)


def assert_refused(
    call: Callable[[], object], error: type[Exception], message: str | re.Pattern[str]
) -> None:
    """Raise unless this package itself refuses the call, in these words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy and JAX warn on the way to some refusals
        with pytest.raises(error) as raised:
            call()
    text = str(raised.value)
    if isinstance(message, str):
        assert text == message
    else:
        assert message.fullmatch(text), text
    assert is_clear(raised.value)
