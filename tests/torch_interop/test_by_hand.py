"""A mapping written by hand carries a run over to any pytree: here Equinox, and a bare array."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from adadelta_jax import adadelta
from adadelta_jax.torch_interop import (
    LeafLayout,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)


class TorchModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(2, 4, 3), torch.nn.LayerNorm(4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.norm(torch.tanh(self.conv(x)).mean((2, 3))))


class EquinoxModel(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    layers: list

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(2, 4, 3, key=key)
        self.norm = eqx.nn.LayerNorm(4)
        self.layers = [eqx.nn.Linear(4, 3, key=key), jax.nn.tanh]

    def __call__(self, x):
        return self.layers[0](self.norm(jnp.tanh(self.conv(x)).mean((1, 2))))


MAPPING = {
    "conv.weight": "conv/weight",
    "conv.bias": LeafLayout("conv/bias", torch_shape=(4,), view=(4, 1, 1)),
    "norm.weight": "norm/weight",
    "norm.bias": "norm/bias",
    "out.weight": "layers/0/weight",
    "out.bias": "layers/0/bias",
}


def test_an_equinox_model_goes_on_and_comes_back():
    torch.manual_seed(0)
    torch_model = TorchModel().double()
    optimizer = torch.optim.Adadelta(torch_model.parameters(), rho=0.95)
    images = np.random.default_rng(0).normal(size=(8, 4, 2, 5, 5))

    def steps_in_torch(model, optimizer, batches):
        for batch in batches:
            optimizer.zero_grad()
            model(torch.from_numpy(batch)).square().sum().backward()
            optimizer.step()

    steps_in_torch(torch_model, optimizer, images[:4])
    with jax.enable_x64(True):
        template, static = eqx.partition(EquinoxModel(jax.random.key(0)), eqx.is_inexact_array)
        params = params_from_torch(torch_model.state_dict(), template, MAPPING)
        here, opt_state = optimizer_from_torch(optimizer.state_dict(), params, MAPPING)

        @jax.jit
        def step(params, opt_state, batch):
            def loss(params):
                return (jax.vmap(eqx.combine(params, static))(batch) ** 2).sum()

            updates, opt_state = here.update(jax.grad(loss)(params), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        for batch in images[4:]:
            params, opt_state = step(params, opt_state, batch)
        steps_in_torch(torch_model, optimizer, images[4:])
        weights = params_to_torch(params, MAPPING)
        groups = optimizer.state_dict()["param_groups"]
        back = optimizer_to_torch(opt_state, params, MAPPING, groups)
    for name, tensor in torch_model.state_dict().items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-12, err_msg=name)
    for index, entry in optimizer.state_dict()["state"].items():
        assert back["state"][index]["square_avg"].shape == entry["square_avg"].shape
        np.testing.assert_allclose(
            back["state"][index]["square_avg"], entry["square_avg"], rtol=1e-12
        )


def test_a_bare_array_is_called_the_parameter():
    params = params_from_torch({"w": np.ones(3, "f")}, jnp.zeros(3), {"w": "the parameter"})
    np.testing.assert_array_equal(params, np.ones(3))
    state = adadelta().init(params)
    assert optimizer_to_torch(state, params, {"w": "the parameter"})["state"] == {}


def test_a_tree_with_running_statistics_goes_on_where_they_are_frozen():
    norm = torch.nn.BatchNorm1d(3)
    norm.weight.requires_grad_(False)
    optimizer = torch.optim.Adadelta(norm.parameters())
    norm(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    mapping = {
        "weight": "params/scale",
        "bias": "params/bias",
        "running_mean": "batch_stats/mean",
        "running_var": "batch_stats/var",
    }
    zeros = jnp.zeros(3)
    variables = {
        "params": {"scale": zeros, "bias": zeros},
        "batch_stats": {"mean": zeros, "var": zeros},
    }
    variables = params_from_torch(norm.state_dict(), variables, mapping)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], norm.running_var)
    frozen = ["weight", "running_mean", "running_var"]
    _, opt_state = optimizer_from_torch(optimizer.state_dict(), variables, mapping, frozen=frozen)
    back = optimizer_to_torch(opt_state, variables, mapping)
    assert back["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert torch.equal(back["state"][1]["square_avg"], optimizer.state[norm.bias]["square_avg"])


def test_none_leaves_a_tensor_out_of_the_model_and_of_the_optimizer():
    tied = torch.nn.Parameter(torch.ones(2))
    model_state = {"embed.weight": tied, "head.weight": tied}
    mapping = {"embed.weight": "embed", "head.weight": None}
    params = params_from_torch(model_state, {"embed": jnp.zeros(2)}, mapping)
    optimizer = torch.optim.Adadelta([tied])
    tied.grad = torch.ones(2)
    optimizer.step()
    _, opt_state = optimizer_from_torch(optimizer.state_dict(), params, mapping)
    back = optimizer_to_torch(opt_state, params, mapping)
    assert torch.equal(back["state"][0]["square_avg"], optimizer.state[tied]["square_avg"])
    assert params_to_torch(params, mapping).keys() == {"embed.weight"}


@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        (
            {"w": "dense/kernel", "x": "nowhere", "y": "dense/kernel"},
            ValueError,
            "mapping and params do not match: params lacks nowhere; mapping lacks bias; "
            "mapping has more than once dense/kernel",
        ),
        (
            {"w": "dense/kernel", "b": ("bias", None)},
            TypeError,
            "mapping['b'] must be a path, a LeafLayout or None, got ('bias', None)",
        ),
        (
            [("w", "dense/kernel")],
            TypeError,
            "mapping must be a dict from torch names to paths, as match_flax_params makes it, "
            "got list",
        ),
        *(
            (
                {"w": layout, "b": "bias"},
                ValueError,
                f"mapping['w'] does not fit a leaf of shape (2, 3): {layout}",
            )
            for layout in (
                LeafLayout("dense/kernel", axes=(0,)),
                LeafLayout("dense/kernel", axes=(0, 0)),
                LeafLayout("dense/kernel", flip=(2,)),
                LeafLayout("dense/kernel", view=(6,)),
                LeafLayout("dense/kernel", torch_shape=(6,)),
                LeafLayout("dense/kernel", torch_shape=(7,), view=(7,)),
                LeafLayout("dense/kernel", torch_shape=(6,), view=(3, 3)),
            )
        ),
    ],
)
def test_a_mapping_that_does_not_fit_the_parameters_is_refused(mapping, error, message):
    params = {"dense": {"kernel": jnp.zeros((2, 3))}, "bias": jnp.zeros(3)}
    tensors = {"w": np.ones((2, 3), "f"), "b": np.ones(3, "f")}
    optim_state = {"state": {}, "param_groups": []}
    for call in (
        lambda: params_from_torch(tensors, params, mapping),
        lambda: params_to_torch(params, mapping),
        lambda: optimizer_from_torch(optim_state, params, mapping),
        lambda: optimizer_to_torch(adadelta().init(params), params, mapping),
    ):
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == message
