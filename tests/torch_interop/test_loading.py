"""torch loads what comes back, weights and optimizer state, and takes a step with it."""

import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta, param_groups
from adadelta_jax.torch_interop import (
    LeafLayout,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="loads what comes back")

MAPPING = {"weight": LeafLayout("kernel", axes=(1, 0)), "bias": "bias"}
PARAMS = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_and_its_optimizer_load_what_they_gave(dtype):
    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2, dtype=getattr(torch, dtype)) for _ in range(2)]
    optimizers = [torch.optim.Adadelta(model.parameters(), lr=0.3) for model in models]
    for parameter in models[0].parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers[0].step()

    with jax.enable_x64(dtype in ("float64", "complex128")):
        template = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
        params = params_from_torch(models[0].state_dict(), template, MAPPING)
        _, opt_state = optimizer_from_torch(optimizers[0].state_dict(), params, MAPPING)
        models[1].load_state_dict(params_to_torch(params, MAPPING))
        groups = optimizers[0].param_groups  # those of a live optimizer, which hold its parameters
        optimizers[1].load_state_dict(optimizer_to_torch(opt_state, params, MAPPING, groups))

    assert optimizers[1].state_dict()["param_groups"] == optimizers[0].state_dict()["param_groups"]
    for returned, given in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.equal(returned, given)
        for key, tensor in optimizers[0].state[given].items():
            assert optimizers[1].state[returned][key].dtype == tensor.dtype
            assert torch.equal(optimizers[1].state[returned][key], tensor)


TWO_GROUPS = param_groups({"0": {}, "1": {}}, {"kernel": "0", "bias": "1"})
NO_KERNEL = {"kernel": None, "bias": PARAMS["bias"]}


@pytest.mark.parametrize(
    ("optimizer", "grads", "groups"),
    [
        (adadelta(), PARAMS, None),
        (adadelta(accumulator_dtype="bfloat16"), PARAMS, None),
        (optax.inject_hyperparams(adadelta, static_args="maximize")(0.5), PARAMS, None),
        (adadelta(), NO_KERNEL, [{"lr": 0.5}]),
        (TWO_GROUPS, PARAMS, [{"params": [0], "lr": 0.5}, {"params": [1]}]),
    ],
    ids=["plain", "accumulators in bfloat16", "injected", "one without a gradient", "two groups"],
)
def test_an_optimizer_takes_a_step_after_the_last_one_here(optimizer, grads, groups):
    _, opt_state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    optim_state = optimizer_to_torch(opt_state, PARAMS, MAPPING, groups)
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
    in_groups = [{"params": [p]} for p in parameters] if optimizer is TWO_GROUPS else parameters
    torch_optimizer = torch.optim.Adadelta(in_groups)
    torch_optimizer.load_state_dict(optim_state)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch_optimizer.step()
    for parameter, grad in zip(parameters, (grads["kernel"], grads["bias"]), strict=True):
        assert torch_optimizer.state[parameter]["step"] == (1 if grad is None else 2)
