"""A run of torch that goes on here is the run that went on in torch, and so on the way back."""

import jax
import numpy as np
import pytest
import torch

from adadelta_jax.torch_interop import (
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.torch_interop.models import MODELS, LinenRun, NNXRun, train_jax, train_torch

BEFORE, HERE, AFTER = 4, 4, 3  # steps in torch, in JAX, and in torch again
STATISTICS = {"bn.running_mean": "bn/mean", "bn.running_var": "bn/var"}
# float64 shows that both sides compute the same; float32 rounds otherwise in each matrix product.
TOLERANCES = {"float64": {"rtol": 1e-12, "atol": 1e-14}, "float32": {"rtol": 2e-5, "atol": 2e-6}}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("run_type", [LinenRun, NNXRun])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_steps_in_torch_then_here_then_in_torch_are_as_many_in_torch(model, run_type, dtype):
    torch.manual_seed(0)
    torch_model = model.torch().to(getattr(torch, dtype))
    torch_optimizer = torch.optim.Adadelta(torch_model.parameters(), lr=0.7, weight_decay=0.01)
    batches = list(model.batches(BEFORE + HERE + AFTER, dtype))
    train_torch(torch_model, torch_optimizer, batches[:BEFORE])

    with jax.enable_x64(dtype == "float64"):
        run = run_type(model, dtype)
        mapping = match_flax_params(torch_model.named_parameters(), run.params)
        model_state, optim_state = torch_model.state_dict(), torch_optimizer.state_dict()
        params = params_from_torch(model_state, run.params, mapping)
        optimizer, opt_state = optimizer_from_torch(optim_state, params, mapping)
        statistics = {name: path for name, path in STATISTICS.items() if name in model_state}
        stats = params_from_torch(
            {name: model_state[name] for name in statistics}, run.stats, statistics
        )
        params, opt_state, stats, loss = train_jax(
            run, optimizer, params, opt_state, stats, batches[BEFORE:-AFTER]
        )
        weights = params_to_torch(params, mapping) | params_to_torch(stats, statistics)
        back = optimizer_to_torch(opt_state, params, mapping, optim_state["param_groups"])

    loss_in_torch = train_torch(torch_model, torch_optimizer, batches[BEFORE:-AFTER])
    compare = TOLERANCES[dtype]
    np.testing.assert_allclose(loss, loss_in_torch, **compare)
    for name, parameter in torch_model.named_parameters():
        np.testing.assert_allclose(weights[name], parameter.detach(), **compare, err_msg=name)
    for index, entry in torch_optimizer.state_dict()["state"].items():
        for key, tensor in entry.items():
            np.testing.assert_allclose(back["state"][index][key], tensor, **compare, err_msg=key)
    if "bn.running_mean" in weights:
        # torch averages n / (n - 1) times the batch's variance, Flax the variance itself.
        mean = torch_model.bn.running_mean
        np.testing.assert_allclose(weights["bn.running_mean"], mean, **compare)

    returned_model = model.torch().to(getattr(torch, dtype))
    returned_optimizer = torch.optim.Adadelta(returned_model.parameters())
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    returned_model.load_state_dict(tensors, strict=False)
    returned_optimizer.load_state_dict(back)
    loss = train_torch(returned_model, returned_optimizer, batches[-AFTER:])
    loss_in_torch = train_torch(torch_model, torch_optimizer, batches[-AFTER:])
    np.testing.assert_allclose(loss, loss_in_torch, **compare)
    for returned, stayed in zip(returned_model.parameters(), torch_model.parameters(), strict=True):
        np.testing.assert_allclose(returned.detach(), stayed.detach(), **compare)
    for key in ("lr", "rho", "eps", "weight_decay", "maximize"):
        assert returned_optimizer.param_groups[0][key] == torch_optimizer.param_groups[0][key]
