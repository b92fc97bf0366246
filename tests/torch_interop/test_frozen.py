"""What torch does not train is not trained here, or a warning says that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax.torch_interop import (
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.refusals import MAPPING, PARAMS, assert_refused, each_refusal, optim_state_dict

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with runs of it")

NAMES = ("body", "unused", "head")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in NAMES:
            setattr(self, name, torch.nn.Linear(2, 2, dtype=torch.float64))

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def torch_run(named=False):
    torch.manual_seed(0)
    model = Model()
    model.body.requires_grad_(False)
    parameters = model.named_parameters() if named else model.parameters()
    return model, torch.optim.Adadelta(parameters, weight_decay=0.1)


def step_torch(model, optimizer, inputs):
    for batch in inputs:
        optimizer.zero_grad()
        model(torch.from_numpy(batch)).square().sum().backward()
        optimizer.step()


def loss(params, batch):
    hidden = jnp.tanh(batch @ params["body"]["kernel"] + params["body"]["bias"])
    return jnp.sum((hidden @ params["head"]["kernel"] + params["head"]["bias"]) ** 2)


INPUTS = np.random.default_rng(0).normal(size=(8, 5, 2))
NOT_TRAINED = ["body.weight", "body.bias", "unused.weight", "unused.bias"]
TEMPLATE = {
    name: {
        "kernel": jax.ShapeDtypeStruct((2, 2), "float64"),
        "bias": jax.ShapeDtypeStruct((2,), "float64"),
    }
    for name in NAMES
}


@pytest.mark.parametrize("named", [False, True])
def test_what_torch_does_not_train_stays_as_it_is_if_it_is_frozen(named):
    model, optimizer = torch_run(named)
    step_torch(model, optimizer, INPUTS[:4])
    saved = optimizer.state_dict()
    with jax.enable_x64(True):
        mapping = match_flax_params(model, TEMPLATE, untransposed=[])
        params = params_from_torch(model.state_dict(), TEMPLATE, mapping)
        here, opt_state = optimizer_from_torch(saved, params, mapping, frozen=NOT_TRAINED)
        for batch in INPUTS[4:]:
            updates, opt_state = here.update(jax.grad(loss)(params, batch), opt_state, params)
            params = optax.apply_updates(params, updates)
        back = optimizer_to_torch(opt_state, params, mapping, saved["param_groups"])
        weights = params_to_torch(params, mapping)
    step_torch(model, optimizer, INPUTS[4:])
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-9, err_msg=name)
    assert back["state"].keys() == optimizer.state_dict()["state"].keys() == {4, 5}
    optimizer.load_state_dict(back)


def test_what_torch_does_not_train_is_named_in_one_warning():
    model, optimizer = torch_run()
    step_torch(model, optimizer, INPUTS[:1])
    with jax.enable_x64(True):
        mapping = match_flax_params(model, TEMPLATE, untransposed=[])
        params = params_from_torch(model.state_dict(), TEMPLATE, mapping)
        with pytest.warns(UserWarning, match="Name in frozen") as warned:
            optimizer_from_torch(optimizer.state_dict(), params, mapping, frozen=["body.bias"])
    (warning,) = warned
    assert str(warning.message) == (
        "body.weight, unused.weight, unused.bias: without state in the torch optimizer, so that "
        "they have had no gradient there. They start from zero, and will be trained here. Name in "
        "frozen those that torch does not train"
    )
    assert warning.filename == __file__


def test_a_torch_optimizer_before_its_first_step_is_not_warned_of():
    model, optimizer = torch_run()
    with jax.enable_x64(True):
        mapping = match_flax_params(model, TEMPLATE, untransposed=[])
        params = params_from_torch(model.state_dict(), TEMPLATE, mapping)
        optimizer_from_torch(optimizer.state_dict(), params, mapping)


NO_BIAS = {"dense": {"kernel": PARAMS["dense"]["kernel"]}}
WITHOUT_BIAS = MAPPING | {"fc.bias": None}


def with_names(optim_state):
    optim_state["param_groups"][0]["param_names"] = list(MAPPING)
    return optim_state


@pytest.mark.parametrize("named", [False, True])
def test_what_torch_trains_may_stay_behind_if_it_is_named_in_frozen(named):
    optim_state = with_names(optim_state_dict()) if named else optim_state_dict()
    _, opt_state = optimizer_from_torch(optim_state, NO_BIAS, WITHOUT_BIAS, frozen=["fc.bias"])
    back = optimizer_to_torch(opt_state, NO_BIAS, WITHOUT_BIAS, optim_state["param_groups"])
    assert back["state"].keys() == {0}
    assert back["param_groups"] == [
        optim_state["param_groups"][0]
        | {"params": [0, 1], "foreach": None, "capturable": False, "differentiable": False}
    ]


def test_what_is_left_out_and_has_no_state_in_torch_stays_behind():
    optim_state = with_names(optim_state_dict())
    del optim_state["state"][1]
    _, opt_state = optimizer_from_torch(optim_state, NO_BIAS, WITHOUT_BIAS)
    back = optimizer_to_torch(opt_state, NO_BIAS, WITHOUT_BIAS, optim_state["param_groups"])
    assert back["state"].keys() == {0}


def load(optim_state, mapping=WITHOUT_BIAS):
    return lambda: optimizer_from_torch(optim_state, NO_BIAS, mapping)


LEFT_OUT = (
    "the torch optimizer trains fc.bias, which mapping maps to None: give them a leaf, or name "
    "them in frozen to leave their state behind"
)
REFUSALS = {
    "by number": (
        load(optim_state_dict()),
        ValueError,
        "the torch optimizer has 2 parameters, but mapping names 1 that are not frozen. torch "
        "trains fc.bias, which mapping maps to None: give what it trains a leaf, name in frozen "
        "what is to stay behind, or give every group its param_names",
    ),
    "by number, with a buffer too": (
        load(optim_state_dict(), WITHOUT_BIAS | {"table": None}),
        ValueError,
        "the torch optimizer has 2 parameters, but mapping names 1 that are not frozen. torch "
        "trains 1 of fc.bias, table, which mapping maps to None: give what it trains a leaf, name "
        "in frozen what is to stay behind, or give every group its param_names",
    ),
    "by name": (load(with_names(optim_state_dict())), ValueError, LEFT_OUT),
    "by name, before the first step": (
        load(with_names(optim_state_dict()) | {"state": {}}),
        ValueError,
        LEFT_OUT,
    ),
}


@each_refusal(REFUSALS)
def test_what_torch_trains_and_the_mapping_leaves_out_is_named(call, error, message):
    assert_refused(call, error, message)
