"""What goes back to torch: which states are understood, which groups it can return to."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from adadelta_jax import adadelta, param_groups, scale_by_adadelta
from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
)

MAPPING = {"w": LeafLayout("dense/kernel", axes=(1, 0)), "b": "dense/bias"}
PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}


def stepped(optimizer, count=2):
    """The state of an optimizer after some steps with gradients of one."""
    state = optimizer.init(PARAMS)
    for _ in range(count):
        _, state = optimizer.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    return state


def averages(count=2):
    state = stepped(scale_by_adadelta(), count)
    kernel, bias = state.square_avg["dense"]["kernel"], state.square_avg["dense"]["bias"]
    return {0: np.asarray(kernel).T, 1: np.asarray(bias)}


def assert_loads_and_steps(optim_state, groups=1):
    """That torch takes the dict and makes a step with it."""
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
    given = parameters if groups == 1 else [{"params": [p]} for p in parameters]
    optimizer = torch.optim.Adadelta(given)
    steps = {index: entry["step"].item() for index, entry in optim_state["state"].items()}
    optimizer.load_state_dict(optim_state)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for index, parameter in enumerate(parameters):
        assert optimizer.state[parameter]["step"] == steps.get(index, 0) + 1
    return optimizer


@pytest.mark.parametrize(
    "optimizer",
    [
        adadelta(),
        scale_by_adadelta(),
        optax.chain(optax.clip_by_global_norm(100.0), adadelta(weight_decay=0.0)),
        optax.apply_if_finite(adadelta(), 3),
        optax.chain(adadelta(), optax.ema(0.9)),
        param_groups({"all": {}}, lambda params: jax.tree.map(lambda _: "all", params)),
        adadelta(lambda count: 1.0 / (count + 1)),
    ],
)
def test_the_averages_are_found_wherever_they_stand(optimizer):
    optim_state = optimizer_to_torch(stepped(optimizer), PARAMS, MAPPING)
    for index, expected in averages().items():
        assert optim_state["state"][index]["step"] == 2.0
        assert optim_state["state"][index]["step"].dtype == torch.float32
        np.testing.assert_array_equal(optim_state["state"][index]["square_avg"], expected)
    assert_loads_and_steps(optim_state)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_averages_in_half_precision_go_back_in_the_dtype_of_the_parameters(dtype):
    state = stepped(adadelta(accumulator_dtype=dtype))
    optim_state = optimizer_to_torch(state, PARAMS, MAPPING)
    for index, expected in averages().items():
        square_avg = optim_state["state"][index]["square_avg"]
        assert square_avg.dtype == torch.float32
        np.testing.assert_allclose(square_avg, expected, rtol=2**-7)
    assert_loads_and_steps(optim_state)


def test_where_torch_is_not_loaded_the_tensors_are_arrays(monkeypatch):
    state = stepped(adadelta())
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch")
        optim_state = optimizer_to_torch(state, PARAMS, MAPPING)
    for index, expected in averages().items():
        assert type(optim_state["state"][index]["step"]) is np.ndarray
        np.testing.assert_array_equal(optim_state["state"][index]["square_avg"], expected)


def test_without_groups_there_is_one_with_torchs_defaults():
    optim_state = optimizer_to_torch(stepped(adadelta()), PARAMS, MAPPING)
    parameters = {name: torch.nn.Parameter(torch.ones(1)) for name in MAPPING}
    expected = torch.optim.Adadelta(parameters.items()).state_dict()["param_groups"]
    assert optim_state["param_groups"] == expected


def test_injected_settings_go_back():
    inject = optax.inject_hyperparams(adadelta, static_args=("maximize",))
    optimizer = inject(learning_rate=0.5, rho=0.75, eps=2.0**-10, weight_decay=0.25)
    optim_state = optimizer_to_torch(stepped(optimizer), PARAMS, MAPPING)
    (group,) = optim_state["param_groups"]
    assert (group["lr"], group["rho"], group["eps"]) == (0.5, 0.75, 2.0**-10)
    assert group["weight_decay"] == 0.25
    assert_loads_and_steps(optim_state)


def test_the_settings_of_a_given_group_win_and_are_completed():
    given = [{"lr": 0.25, "initial_lr": 0.5}]
    (group,) = optimizer_to_torch(stepped(adadelta()), PARAMS, MAPPING, given)["param_groups"]
    assert (group["lr"], group["initial_lr"], group["rho"]) == (0.25, 0.5, 0.9)
    assert given == [{"lr": 0.25, "initial_lr": 0.5}]


def test_a_live_optimizers_groups_serve_as_groups():
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
    live = torch.optim.Adadelta([{"params": [p], "lr": 0.5} for p in parameters])
    state = stepped(param_groups({"0": {}, "1": {}}, {"dense": {"kernel": "0", "bias": "1"}}))
    optim_state = optimizer_to_torch(state, PARAMS, MAPPING, live.param_groups)
    assert [group["params"] for group in optim_state["param_groups"]] == [[0], [1]]
    optimizer = assert_loads_and_steps(optim_state, groups=2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_a_parameter_without_gradients_so_far_has_no_entry_as_in_torch():
    optimizer = adadelta()
    grads = {"dense": {"kernel": None, "bias": jnp.ones(2)}}
    _, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    optim_state = optimizer_to_torch(state, PARAMS, MAPPING)
    assert optim_state["state"].keys() == {1}
    assert_loads_and_steps(optim_state)


def test_frozen_parameters_may_be_missing_in_the_groups():
    labels = {"dense": {"kernel": "trained", "bias": "frozen"}}
    state = stepped(param_groups({"trained": {}, "frozen": None}, labels))
    for groups in (
        [{"params": [0]}],
        [{"params": [0, 1]}],
        [{"params": [9], "param_names": ["w"]}],
    ):
        optim_state = optimizer_to_torch(state, PARAMS, MAPPING, groups)
        assert optim_state["state"].keys() == {0}
        (group,) = optim_state["param_groups"]
        assert group["params"] == list(range(len(groups[0]["params"])))


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


TWO = param_groups({"0": {}, "1": {}}, {"dense": {"kernel": "0", "bias": "1"}})


@pytest.mark.parametrize(
    ("state", "groups", "error", "message"),
    [
        (
            stepped(TWO),
            None,
            ValueError,
            "opt_state has 2 groups of parameters: param_groups must be given",
        ),
        (
            stepped(TWO),
            [{}, {"params": [1]}],
            ValueError,
            "param_groups[0] lacks params",
        ),
        (
            stepped(adadelta()),
            {"lr": 1.0},
            TypeError,
            "param_groups must be a list of dicts, got {'lr': 1.0}",
        ),
        (
            stepped(adadelta()),
            [{"params": [0]}],
            ValueError,
            "the torch optimizer has 1 parameters, but mapping names 2 that are not frozen "
            "(none are left for b): name those that it does not train in frozen, or give every "
            "group its param_names",
        ),
        (
            stepped(adadelta()),
            [{"params": [0], "param_names": ["w"]}],
            ValueError,
            "the torch optimizer's groups and mapping do not match: "
            "in no group and not in frozen are b",
        ),
        (
            optax.sgd(0.1).init(PARAMS),
            None,
            ValueError,
            "opt_state holds no square_avg and acc_delta of these params",
        ),
        (
            stepped(optax.chain(scale_by_adadelta(), scale_by_adadelta())),
            [{}],
            ValueError,
            "opt_state holds more than one square_avg of w",
        ),
        (
            adadelta().init({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}}),
            None,
            ValueError,
            "square_avg of w has shape (2, 3), but dense/kernel (3, 2)",
        ),
    ],
)
def test_what_cannot_go_back_is_refused(state, groups, error, message):
    with pytest.raises(error) as raised:
        optimizer_to_torch(state, PARAMS, MAPPING, groups)
    assert str(raised.value) == message
