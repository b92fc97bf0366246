"""The running statistics of batch norms, matched into a mapping of their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adadelta_jax.torch_interop import (
    match_flax_params,
    match_flax_statistics,
    params_from_torch,
    params_to_torch,
)

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with the outputs of its batch norms")

INPUTS = np.random.default_rng(0).normal(size=(6, 4)).astype("f")


def torch_model():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 3), "bn": torch.nn.BatchNorm1d(3)})
    for _ in range(3):
        model["bn"](model["fc"](torch.from_numpy(INPUTS)))
    return model.eval()


def outputs(model):
    return model["bn"](model["fc"](torch.from_numpy(INPUTS))).detach().numpy()


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="fc")(x)
        return nn.BatchNorm(True, name="bn")(x)


class Nnx(nnx.Module):
    def __init__(self):
        self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.bn = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.state_dict()])
def test_a_linen_model_with_batch_norm_gives_the_outputs_of_torch(of):
    model, module = torch_model(), Linen()
    variables = module.init(jax.random.key(0), INPUTS)
    params, statistics = variables["params"], variables["batch_stats"]
    mapping = match_flax_params(of(model), params)
    of_statistics = match_flax_statistics(of(model), statistics)
    weights = model.state_dict()
    params = params_from_torch(weights, params, mapping)
    kept = {name: weights[name] for name in of_statistics}
    statistics = params_from_torch(kept, statistics, of_statistics)
    found = module.apply({"params": params, "batch_stats": statistics}, INPUTS)
    np.testing.assert_allclose(found, outputs(model), rtol=1e-5, atol=1e-6)
    back = params_to_torch(statistics, of_statistics)
    assert set(back) == {"bn.running_mean", "bn.running_var"}
    for name, tensor in back.items():
        assert torch.equal(tensor, weights[name])


def test_an_nnx_model_with_batch_norm_gives_the_outputs_of_torch():
    model, module = torch_model(), Nnx()
    weights = model.state_dict()
    params, statistics = nnx.state(module, nnx.Param), nnx.state(module, nnx.BatchStat)
    params = params_from_torch(weights, params, match_flax_params(model, params))
    of_statistics = match_flax_statistics(model, statistics)
    kept = {name: weights[name] for name in of_statistics}
    nnx.update(module, params, params_from_torch(kept, statistics, of_statistics))
    found = module.bn(module.fc(jnp.asarray(INPUTS)))
    np.testing.assert_allclose(found, outputs(model), rtol=1e-5, atol=1e-6)


def test_statistics_without_a_counterpart_are_listed():
    statistics = {"norm": {"mean": jnp.zeros(3)}}
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_statistics({"bn.running_mean": (3,), "bn.running_var": (3,)}, statistics)
    for line in ("bn.running_mean (3,) has no counterpart", "norm/mean (3,) has no counterpart"):
        assert line in str(error.value)


def test_statistics_pair_by_hand_too():
    statistics = {"norm": {"mean": jnp.zeros(3), "var": jnp.zeros(3)}}
    names = {"bn.running_mean": (3,), "bn.running_var": (3,), "bn.num_batches_tracked": ()}
    mapping = match_flax_statistics(names, statistics, pairs={"bn": "norm"})
    assert {name: layout.path for name, layout in mapping.items()} == {
        "bn.running_mean": "norm/mean",
        "bn.running_var": "norm/var",
    }
