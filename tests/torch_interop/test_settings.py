"""Every setting of a torch optimizer has the same effect here, shown on the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax.torch_interop import (
    LeafLayout,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with its optimizer")

SHAPES = {"first": (3, 2), "second": (4,), "third": (2, 5)}
MAPPING = {
    "first": LeafLayout("a/kernel", axes=(1, 0)),
    "second": "b",
    "third": LeafLayout("c", axes=(1, 0), flip=(0,)),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def torch_parameters(dtype=torch.float64):
    torch.manual_seed(1)
    return {name: torch.nn.Parameter(torch.randn(SHAPES[name], dtype=dtype)) for name in SHAPES}


def gradients(count, names=tuple(SHAPES), seed=0):
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(size=SHAPES[name]) for name in names} for _ in range(count)]


def step_torch(parameters, optimizer, grads):
    for grad in grads:
        for name, parameter in parameters.items():
            parameter.grad = None
            if name in grad:
                parameter.grad = torch.from_numpy(grad[name]).to(parameter.dtype)
        optimizer.step()


def template():
    return {
        "a": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float64)},
        "b": jax.ShapeDtypeStruct((4,), jnp.float64),
        "c": jax.ShapeDtypeStruct((5, 2), jnp.float64),
    }


def as_params(arrays):
    return params_from_torch(arrays, template(), MAPPING)


def step_here(optimizer, opt_state, params, grads):
    dtypes = jax.tree.map(lambda p: p.dtype, params)
    for grad in grads:
        grad = jax.tree.map(lambda g, d: g.astype(d), as_params(grad), dtypes)
        updates, opt_state = optimizer.update(grad, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def assert_continues_alike(parameters, optimizer, *, frozen=(), mapping=None, rtol=1e-12):
    """Three steps in torch, then four on each side with the same gradients; returns our state."""
    mapping = MAPPING if mapping is None else mapping
    trained = tuple(name for name in SHAPES if name not in frozen)
    step_torch(parameters, optimizer, gradients(3, trained))
    optim_state = optimizer.state_dict()
    params = as_params(parameters)
    here, opt_state = optimizer_from_torch(optim_state, params, mapping, frozen=frozen)
    grads = gradients(4, seed=1)
    params, opt_state = step_here(here, opt_state, params, grads)
    step_torch(parameters, optimizer, [{name: g[name] for name in trained} for g in grads])

    weights = params_to_torch(params, mapping)
    back = optimizer_to_torch(opt_state, params, mapping, optim_state["param_groups"])
    compare = {"rtol": rtol, "atol": rtol * 1e-2}
    for name, parameter in parameters.items():
        np.testing.assert_allclose(weights[name], parameter.detach(), **compare, err_msg=name)
    expected = optimizer.state_dict()
    assert back["param_groups"] == expected["param_groups"]
    assert back["state"].keys() == expected["state"].keys()
    for index, entry in expected["state"].items():
        for key, tensor in entry.items():
            np.testing.assert_allclose(back["state"][index][key], tensor, **compare)
    optimizer.load_state_dict(back)
    return opt_state


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 0.01},
        {"rho": 0.95, "weight_decay": 0.9},
        {"maximize": True},
        {"weight_decay": 0.1, "maximize": True},
        {"eps": 1e-3},
        {"lr": torch.tensor(0.25), "foreach": False},
        {"lr": torch.tensor([0.25]), "foreach": False},
    ],
    ids=str,
)
def test_a_group_keeps_its_settings(settings):
    parameters = torch_parameters()
    optimizer = torch.optim.Adadelta(parameters.values(), **settings)
    assert_continues_alike(parameters, optimizer)


def test_a_group_with_a_scheduler_continues_at_the_rate_that_it_has_reached():
    parameters = torch_parameters()
    optimizer = torch.optim.Adadelta(parameters.values(), lr=0.8)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    step_torch(parameters, optimizer, gradients(1))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.4
    assert "initial_lr" in optimizer.param_groups[0]
    with pytest.warns(UserWarning, match=r"that of the checkpoint, 0\.4\."):
        assert_continues_alike(parameters, optimizer)


@pytest.mark.parametrize("named", [True, False])
def test_several_groups_keep_their_settings(named):
    parameters = torch_parameters()
    entries = list(parameters.items() if named else parameters.values())
    optimizer = torch.optim.Adadelta(
        [
            {"params": [entries[0]], "lr": 0.5, "rho": 0.5},
            {"params": entries[1:], "weight_decay": 0.1, "maximize": True, "eps": 1e-4},
        ]
    )
    assert_continues_alike(parameters, optimizer)


def test_several_groups_pass_over_a_missing_gradient_without_the_parameters():
    parameters = torch_parameters()
    tensors = list(parameters.values())
    optimizer = torch.optim.Adadelta([{"params": tensors[:1]}, {"params": tensors[1:], "lr": 0.5}])
    step_torch(parameters, optimizer, gradients(3))
    here, opt_state = optimizer_from_torch(optimizer.state_dict(), as_params(parameters), MAPPING)
    (grad,) = gradients(1, seed=1)
    grads = as_params(grad) | {"b": None}
    updates, _ = here.update(grads, opt_state)
    before = parameters["first"].detach().clone()
    step_torch(parameters, optimizer, [{name: grad[name] for name in ("first", "third")}])
    np.testing.assert_array_equal(updates["b"], np.zeros(4))
    change = (parameters["first"].detach() - before).T
    np.testing.assert_allclose(updates["a"]["kernel"], change, rtol=1e-9)


def test_groups_in_another_order_are_found_by_their_names():
    parameters = torch_parameters()
    entries = list(parameters.items())
    optimizer = torch.optim.Adadelta(
        [{"params": entries[2:], "lr": 0.5}, {"params": entries[:2], "rho": 0.5}]
    )
    assert_continues_alike(parameters, optimizer)


def test_groups_in_another_order_without_names_are_found_by_the_order_of_the_mapping():
    parameters = torch_parameters()
    tensors = list(parameters.values())
    optimizer = torch.optim.Adadelta(
        [{"params": tensors[2:], "lr": 0.5}, {"params": tensors[:2], "rho": 0.5}]
    )
    mapping = {name: MAPPING[name] for name in ("third", "first", "second")}
    assert_continues_alike(parameters, optimizer, mapping=mapping)


@pytest.mark.parametrize("in_group", [True, False])
def test_a_frozen_parameter_stays_as_it_is(in_group):
    parameters = torch_parameters()
    parameters["second"].requires_grad_(False)
    given = [p for p in parameters.values() if in_group or p.requires_grad]
    optimizer = torch.optim.Adadelta(given, weight_decay=0.1)
    before = parameters["second"].clone()
    opt_state = assert_continues_alike(parameters, optimizer, frozen=["second"])
    assert torch.equal(parameters["second"], before)
    assert sum(leaf.size for leaf in jax.tree.leaves(opt_state)) == 1 + 2 * (6 + 10)


def test_a_parameter_without_state_starts_from_zero():
    parameters = torch_parameters()
    optimizer = torch.optim.Adadelta(parameters.values())
    step_torch(parameters, optimizer, gradients(3, ["first", "third"]))
    optim_state = optimizer.state_dict()
    assert 1 not in optim_state["state"]
    params = as_params(parameters)
    with pytest.warns(UserWarning, match="^second: without state"):
        here, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
    assert optimizer_to_torch(opt_state, params, MAPPING)["state"].keys() == {0, 2}
    grads = gradients(4, seed=1)
    params, opt_state = step_here(here, opt_state, params, grads)
    step_torch(parameters, optimizer, grads)
    for name, weight in params_to_torch(params, MAPPING).items():
        np.testing.assert_allclose(weight, parameters[name].detach(), rtol=1e-12)


def test_an_optimizer_before_its_first_step_starts_from_zero():
    parameters = torch_parameters()
    optimizer = torch.optim.Adadelta(parameters.values())
    params = as_params(parameters)
    here, opt_state = optimizer_from_torch(optimizer.state_dict(), params, MAPPING)
    assert optimizer_to_torch(opt_state, params, MAPPING)["state"] == {}
    jax.tree.map(np.testing.assert_array_equal, opt_state, here.init(params))


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Adagrad"])
def test_the_state_of_another_optimizer_is_refused(name):
    parameters = torch_parameters()
    optimizer = getattr(torch.optim, name)(parameters.values(), lr=0.1)
    params = as_params(parameters)
    with pytest.raises(ValueError, match=r"^param_groups\[0\] is not of torch.optim.Adadelta: "):
        optimizer_from_torch(optimizer.state_dict(), params, MAPPING)


def test_a_bfloat16_model_continues_with_its_state_in_float32():
    parameters = torch_parameters(torch.bfloat16)
    optimizer = torch.optim.Adadelta(parameters.values(), lr=0.5)
    step_torch(parameters, optimizer, gradients(3))
    wide = {name: torch.nn.Parameter(p.detach().float()) for name, p in parameters.items()}
    wide_optimizer = torch.optim.Adadelta(wide.values())
    wide_optimizer.load_state_dict(optimizer.state_dict())

    params = as_params(parameters)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    here, opt_state = optimizer_from_torch(optimizer.state_dict(), params, MAPPING)
    square_avg = optax.tree.get(opt_state, "square_avg")
    assert {leaf.dtype for leaf in jax.tree.leaves(square_avg)} == {jnp.dtype("float32")}

    # One step from one state: what torch computes in float32, rounded to bfloat16's 8 bits: of the
    # gradient, of the update and of the parameter.
    grads = [{name: np.round(g * 8) / 8 for name, g in grad.items()} for grad in gradients(4)]
    after_one, _ = step_here(here, opt_state, params, grads[:1])
    step_torch(wide, wide_optimizer, grads[:1])
    for name, weight in params_to_torch(after_one, MAPPING).items():
        np.testing.assert_allclose(weight.float(), wide[name].detach(), rtol=2**-8, atol=2**-16)

    # torch rounds its state to 8 bits in every step, which we do not.
    params, opt_state = step_here(here, opt_state, params, grads)
    step_torch(parameters, optimizer, grads)
    back = optimizer_to_torch(opt_state, params, MAPPING)
    for name, weight in params_to_torch(params, MAPPING).items():
        np.testing.assert_allclose(
            weight.float(), parameters[name].detach().float(), rtol=2**-7, atol=2**-12
        )
    for index, entry in optimizer.state_dict()["state"].items():
        assert back["state"][index]["square_avg"].dtype == torch.bfloat16
        np.testing.assert_allclose(
            back["state"][index]["square_avg"].float(), entry["square_avg"].float(), rtol=2**-5
        )
