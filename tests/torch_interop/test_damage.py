"""Each kind of damage to a checkpoint has one clear error, and nothing is loaded."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from adadelta_jax.torch_interop import (
    LeafLayout,
    optimizer_from_torch,
    params_from_torch,
)

MAPPING = {"fc.weight": LeafLayout("fc/kernel", axes=(1, 0)), "fc.bias": "fc/bias"}
TEMPLATE = {"fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)


def model_and_optimizer(optimizer_type=torch.optim.Adadelta, **settings):
    torch.manual_seed(0)
    model = Net()
    optimizer = optimizer_type(model.parameters(), **settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def damaged(state_dict, damage):
    state_dict = copy.deepcopy(state_dict)
    damage(state_dict)
    return state_dict


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda state: state.pop("fc.bias"),
            ValueError,
            "the model's state_dict and mapping do not match: the state_dict lacks fc.bias",
        ),
        (
            lambda state: state.update({"head.weight": torch.ones(1), "head.bias": torch.ones(1)}),
            ValueError,
            "the model's state_dict and mapping do not match: mapping lacks head.weight, head.bias",
        ),
        (
            lambda state: state.update({"fc.weight": torch.ones(3, 2)}),
            ValueError,
            "fc.weight has shape (3, 2), but fc/kernel of shape (3, 2) needs (2, 3)",
        ),
        (
            lambda state: state.update({"fc.weight": torch.ones(3)}),
            ValueError,
            "fc.weight has shape (3,), but fc/kernel of shape (3, 2) needs (2, 3)",
        ),
        (
            lambda state: state.update({"fc.bias": torch.ones(2, dtype=torch.int32)}),
            TypeError,
            "fc.bias is int32, but fc/bias is float32",
        ),
        (
            lambda state: state.update({"fc.bias": torch.ones(2, dtype=torch.complex64)}),
            TypeError,
            "fc.bias is complex64, but fc/bias is float32",
        ),
        (
            lambda state: state.update({"fc.bias": torch.ones(2, dtype=torch.float64)}),
            ValueError,
            "fc.bias is float64, which JAX keeps only after "
            "jax.config.update('jax_enable_x64', True)",
        ),
        (
            lambda state: state.update({"fc.bias": [1.0, 2.0]}),
            TypeError,
            "fc.bias must be a tensor or an array, got list",
        ),
        (
            lambda state: state.update({"fc.bias": torch.ones(2).to_sparse()}),
            TypeError,
            "fc.bias of dtype torch.float32 cannot become an array: can't convert Sparse layout "
            "tensor to numpy. Use Tensor.to_dense() first.",
        ),
    ],
)
def test_a_damaged_model_is_refused(damage, error, message):
    model, _ = model_and_optimizer()
    with pytest.raises(error) as raised:
        params_from_torch(damaged(model.state_dict(), damage), TEMPLATE, MAPPING)
    assert str(raised.value) == message


def test_a_model_in_place_of_its_state_dict_is_refused():
    model, optimizer = model_and_optimizer()
    with pytest.raises(TypeError) as raised:
        params_from_torch(model, TEMPLATE, MAPPING)
    assert str(raised.value) == (
        "model_state_dict must be a dict, as model.state_dict() gives, got Net"
    )
    with pytest.raises(TypeError) as raised:
        optimizer_from_torch(optimizer, TEMPLATE, MAPPING)
    assert str(raised.value) == (
        "optim_state_dict must be a dict, as optimizer.state_dict() gives, got Adadelta"
    )


def entry(state_dict, index=0):
    return state_dict["state"][index]


def group(state_dict):
    return state_dict["param_groups"][0]


UNMATCHED = "the torch optimizer's groups and mapping do not match: "


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda state: state.pop("state"),
            ValueError,
            "optim_state_dict lacks state: it is not that of a torch optimizer",
        ),
        (
            lambda state: state.update(param_groups={"lr": 1.0}),
            TypeError,
            "param_groups must be a list of dicts, got {'lr': 1.0}",
        ),
        (
            lambda state: entry(state).pop("acc_delta"),
            ValueError,
            "the state of fc.weight is not of torch.optim.Adadelta: it lacks acc_delta",
        ),
        (
            lambda state: entry(state, 1).update(exp_avg=torch.ones(2), momentum=None),
            ValueError,
            "the state of fc.bias is not of torch.optim.Adadelta: it has exp_avg, momentum",
        ),
        (
            lambda state: state["state"].update({7: entry(state)}),
            ValueError,
            "the torch optimizer's state does not match its groups: no group has 7",
        ),
        (
            lambda state: entry(state).update(square_avg=torch.ones(3, 2)),
            ValueError,
            "square_avg of fc.weight has shape (3, 2), but fc/kernel of shape (3, 2) needs (2, 3) "
            "(torch numbers its state, and without param_names mapping must be in its order)",
        ),
        (
            lambda state: entry(state).update(square_avg=torch.ones(2, 3).double()),
            ValueError,
            "square_avg of fc.weight is float64, which an accumulator of float32 cannot hold: "
            "pass the params that params_from_torch returns",
        ),
        (
            lambda state: entry(state).update(step=torch.tensor(torch.nan)),
            ValueError,
            "step of fc.weight must be a whole number of at least 0, got nan",
        ),
        (
            lambda state: entry(state).update(step=-1),
            ValueError,
            "step of fc.weight must be a whole number of at least 0, got -1",
        ),
        (
            lambda state: entry(state).update(step="5th"),
            TypeError,
            "step of fc.weight must be a number, got '5th'",
        ),
        (
            lambda state: group(state).pop("rho"),
            ValueError,
            "param_groups[0] is not of torch.optim.Adadelta: it lacks rho",
        ),
        (
            lambda state: group(state).update(momentum=0.9, nesterov=True),
            ValueError,
            "param_groups[0] is not of torch.optim.Adadelta: it has momentum, nesterov",
        ),
        (
            lambda state: group(state).update(rho=1.5),
            ValueError,
            "param_groups[0]: rho must lie in [0, 1], got 1.5",
        ),
        (
            lambda state: group(state).update(lr=torch.ones(2)),
            TypeError,
            "param_groups[0]: lr must be a number, got array([1., 1.], dtype=float32)",
        ),
        (
            lambda state: group(state).update(params=[0]) or state["state"].pop(1),
            ValueError,
            "the torch optimizer has 1 parameters, but mapping names 2 that are not frozen "
            "(none are left for fc.bias): name those that it does not train in frozen, or give "
            "every group its param_names",
        ),
        (
            lambda state: group(state).update(params=[0, 1, 2]),
            ValueError,
            "the torch optimizer has 3 parameters, but mapping names 2 that are not frozen: name "
            "those that it does not train in frozen, or give every group its param_names",
        ),
        (
            lambda state: (
                group(state).update(params=[0], param_names=["fc.weight"]) or state["state"].pop(1)
            ),
            ValueError,
            UNMATCHED + "in no group and not in frozen are fc.bias",
        ),
        (
            lambda state: group(state).update(param_names=["fc.weight", "fc.offset"]),
            ValueError,
            UNMATCHED + "mapping lacks fc.offset; in no group and not in frozen are fc.bias",
        ),
        (
            lambda state: group(state).update(param_names=["fc.bias", "fc.bias"]),
            ValueError,
            UNMATCHED + "in no group and not in frozen are fc.weight; "
            "more than once in a group are fc.bias",
        ),
        (
            lambda state: group(state).update(param_names=["fc.weight"]),
            ValueError,
            "param_groups[0] has 2 params, but 1 param_names",
        ),
    ],
)
def test_a_damaged_optimizer_is_refused(damage, error, message):
    model, optimizer = model_and_optimizer()
    params = params_from_torch(model.state_dict(), TEMPLATE, MAPPING)
    with pytest.raises(error) as raised:
        optimizer_from_torch(damaged(optimizer.state_dict(), damage), params, MAPPING)
    assert str(raised.value) == message


@pytest.mark.parametrize("stepped", [True, False])
@pytest.mark.parametrize(
    ("optimizer_type", "message"),
    [
        (torch.optim.Adam, "it lacks rho; it has betas, amsgrad, fused, decoupled_weight_decay"),
        (torch.optim.SGD, "it lacks rho, eps; it has momentum, dampening, nesterov, fused"),
        (torch.optim.RMSprop, "it lacks rho; it has momentum, alpha, centered"),
        (torch.optim.Adagrad, "it lacks rho; it has lr_decay, initial_accumulator_value, fused"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(optimizer_type, message, stepped):
    model, optimizer = model_and_optimizer(optimizer_type, lr=0.1)
    if not stepped:
        optimizer = optimizer_type(model.parameters(), lr=0.1)
    params = params_from_torch(model.state_dict(), TEMPLATE, MAPPING)
    with pytest.raises(ValueError, match="it lacks rho") as raised:
        optimizer_from_torch(optimizer.state_dict(), params, MAPPING)
    assert str(raised.value) == f"param_groups[0] is not of torch.optim.Adadelta: {message}"


def test_a_frozen_name_that_does_not_exist_is_refused():
    model, optimizer = model_and_optimizer()
    params = params_from_torch(model.state_dict(), TEMPLATE, MAPPING)
    with pytest.raises(ValueError, match="mapping lacks") as raised:
        optimizer_from_torch(optimizer.state_dict(), params, MAPPING, frozen=["fc.offset"])
    assert str(raised.value) == f"{UNMATCHED}mapping lacks fc.offset"


def test_a_truncated_file_is_refused_where_it_is_read(tmp_path):
    model, optimizer = model_and_optimizer()
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, whole)
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(RuntimeError, match="PytorchStreamReader failed"):
        torch.load(cut, weights_only=True)

    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    safetensors.numpy.save_file({name: t.numpy() for name, t in model.state_dict().items()}, whole)
    cut.write_bytes(whole.read_bytes()[:-4])
    with pytest.raises(safetensors.SafetensorError, match="incomplete metadata"):
        safetensors.numpy.load_file(cut)


def test_what_a_damaged_checkpoint_was_to_fill_is_as_it_was():
    model, optimizer = model_and_optimizer()
    params = params_from_torch(model.state_dict(), TEMPLATE, MAPPING)
    before = jax.tree.map(np.array, params)
    model_state = damaged(
        model.state_dict(), lambda state: state.update({"fc.bias": torch.ones(3)})
    )
    optim_state = damaged(optimizer.state_dict(), lambda state: entry(state, 1).pop("square_avg"))
    kept = copy.deepcopy(optim_state)
    with pytest.raises(ValueError, match=r"fc\.bias has shape"):
        params_from_torch(model_state, params, MAPPING)
    with pytest.raises(ValueError, match="it lacks square_avg"):
        optimizer_from_torch(optim_state, params, MAPPING)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert optim_state["param_groups"] == kept["param_groups"]
    assert optim_state["state"][0].keys() == kept["state"][0].keys()
