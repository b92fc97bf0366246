"""A run of torch that continues here is the run that continues in torch, and so on the way back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.torch_interop.models import MODELS, LinenRun, NNXRun, train_jax, train_torch

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with runs of it")

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
    returned_model.load_state_dict(weights, strict=False)
    returned_optimizer.load_state_dict(back)
    loss = train_torch(returned_model, returned_optimizer, batches[-AFTER:])
    loss_in_torch = train_torch(torch_model, torch_optimizer, batches[-AFTER:])
    np.testing.assert_allclose(loss, loss_in_torch, **compare)
    for returned, stayed in zip(returned_model.parameters(), torch_model.parameters(), strict=True):
        np.testing.assert_allclose(returned.detach(), stayed.detach(), **compare)
    for key in ("lr", "rho", "eps", "weight_decay", "maximize"):
        assert returned_optimizer.param_groups[0][key] == torch_optimizer.param_groups[0][key]


class TorchImages(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(2, 4, 3), torch.nn.LayerNorm(4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.norm(torch.tanh(self.conv(x)).mean((2, 3))))


class EquinoxImages(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    layers: list

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(2, 4, 3, key=key)
        self.norm = eqx.nn.LayerNorm(4)
        self.layers = [eqx.nn.Linear(4, 3, key=key), jax.nn.tanh]

    def __call__(self, x):
        return self.layers[0](self.norm(jnp.tanh(self.conv(x)).mean((1, 2))))


EQUINOX = {
    "conv.weight": "conv/weight",
    "conv.bias": LeafLayout("conv/bias", torch_shape=(4,), view=(4, 1, 1)),
    "norm.weight": "norm/weight",
    "norm.bias": "norm/bias",
    "out.weight": "layers/0/weight",
    "out.bias": "layers/0/bias",
}


def test_an_equinox_model_continues_alike_and_comes_back():
    torch.manual_seed(0)
    torch_model = TorchImages().double()
    optimizer = torch.optim.Adadelta(torch_model.parameters(), rho=0.95)
    images = np.random.default_rng(0).normal(size=(8, 4, 2, 5, 5))

    def steps_in_torch(model, optimizer, batches):
        for batch in batches:
            optimizer.zero_grad()
            model(torch.from_numpy(batch)).square().sum().backward()
            optimizer.step()

    steps_in_torch(torch_model, optimizer, images[:4])
    with jax.enable_x64(True):
        template, static = eqx.partition(EquinoxImages(jax.random.key(0)), eqx.is_inexact_array)
        params = params_from_torch(torch_model.state_dict(), template, EQUINOX)
        here, opt_state = optimizer_from_torch(optimizer.state_dict(), params, EQUINOX)

        @jax.jit
        def step(params, opt_state, batch):
            def loss(params):
                return (jax.vmap(eqx.combine(params, static))(batch) ** 2).sum()

            updates, opt_state = here.update(jax.grad(loss)(params), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        for batch in images[4:]:
            params, opt_state = step(params, opt_state, batch)
        steps_in_torch(torch_model, optimizer, images[4:])
        weights = params_to_torch(params, EQUINOX)
        groups = optimizer.state_dict()["param_groups"]
        back = optimizer_to_torch(opt_state, params, EQUINOX, groups)
    for name, tensor in torch_model.state_dict().items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-12, err_msg=name)
    for index, entry in optimizer.state_dict()["state"].items():
        assert back["state"][index]["square_avg"].shape == entry["square_avg"].shape
        np.testing.assert_allclose(
            back["state"][index]["square_avg"], entry["square_avg"], rtol=1e-12
        )


def test_an_nnx_optimizer_takes_the_state_and_gives_it_back():
    torch.manual_seed(0)
    torch_model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    named = list(torch_model.named_parameters())
    torch_optimizer = torch.optim.Adadelta(
        [{"params": named[:1], "lr": 0.5}, {"params": named[1:], "rho": 0.8}]
    )
    inputs = torch.randn(5, 3)

    def steps_in_torch():
        for _ in range(3):
            torch_optimizer.zero_grad()
            torch_model(inputs).square().mean().backward()
            torch_optimizer.step()

    steps_in_torch()
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    params = nnx.state(model, nnx.Param)
    mapping = match_flax_params(torch_model.named_parameters(), params)
    params = params_from_torch(torch_model.state_dict(), params, mapping)
    transformation, opt_state = optimizer_from_torch(torch_optimizer.state_dict(), params, mapping)

    nnx.update(model, params)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    structure = jax.tree.structure(optimizer.opt_state)
    optimizer.opt_state = nnx.data(structure.unflatten(jax.tree.leaves(opt_state)))
    for _ in range(3):
        grads = nnx.grad(lambda model: (model(jnp.asarray(inputs)) ** 2).mean())(model)
        optimizer.update(model, grads)

    steps_in_torch()
    groups = torch_optimizer.state_dict()["param_groups"]
    params = nnx.state(model, nnx.Param)
    for tree in (params, nnx.to_pure_dict(params)):
        back = optimizer_to_torch(optimizer.opt_state, tree, mapping, groups)
        for index, entry in torch_optimizer.state_dict()["state"].items():
            for key, tensor in entry.items():
                np.testing.assert_allclose(back["state"][index][key], tensor, rtol=2e-5, atol=1e-7)


def test_a_complex_model_continues_alike():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3, dtype=torch.complex128))
    optimizer = torch.optim.Adadelta([parameter], weight_decay=0.1)
    grads = torch.randn(5, 3, dtype=torch.complex128)

    def steps(grads):
        for grad in grads:
            parameter.grad = grad.conj()  # not yet conjugated in memory
            optimizer.step()

    steps(grads[:2])
    with jax.enable_x64(True):
        params = params_from_torch({"w": parameter}, {"w": jnp.zeros(3, complex)}, {"w": "w"})
        here, opt_state = optimizer_from_torch(optimizer.state_dict(), params, {"w": "w"})
        for grad in grads[2:]:
            grad = {"w": params_from_torch({"g": grad.conj()}, params["w"], {"g": "the parameter"})}
            updates, opt_state = here.update(grad, opt_state, params)
            params = optax.apply_updates(params, updates)
        steps(grads[2:])
        np.testing.assert_allclose(params["w"], parameter.detach(), rtol=1e-12)
