"""Derivatives through steps of training, against finite differences and against torch.

torch's `differentiable=True` gives those by the parameters, the gradients and ε; a learning rate,
ρ or weight decay that is differentiated it refuses with a TypeError.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from adadelta_jax import adadelta

SIZE = 3
SETTINGS = {"learning_rate": 0.7, "rho": 0.85, "eps": 1e-2, "weight_decay": 0.05}
RTOL = 1e-8  # of the largest derivative; measured: 8e-10


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def arguments(steps, seed=0):
    """Everything that a run of training is a function of."""
    rng = np.random.default_rng(seed)
    params = jnp.asarray(rng.standard_normal(SIZE))
    return params, jnp.asarray(rng.standard_normal((steps, SIZE))), SETTINGS


def after_given_gradients(params, grads, settings, **flags):
    """A number that depends on the parameters after every step."""
    optimizer = adadelta(**settings, **flags)

    def step(carry, grad):
        params, state = carry
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.sum(jnp.sin(params))

    return jnp.sum(jax.lax.scan(step, (params, optimizer.init(params)), grads)[1])


def after_training(params, targets, settings, **flags):
    """The final loss of training on a loss of its own at every step."""
    optimizer = adadelta(**settings, **flags)

    def loss(params, target):
        return jnp.sum(jnp.cosh(params - target)) + jnp.prod(jnp.cos(params))

    def step(carry, target):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, target), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), targets)
    return loss(params, jnp.zeros(SIZE))


def by_differences(function, at):
    """Its derivatives by every number of the tree `at`, to fourth order in steps of 0.0001.

    Those are relative to the number, or to 1 where it is a coordinate that may be zero.
    """
    flat, unflatten = ravel_pytree(at)
    sizes = jnp.where(flat >= 0.01, jnp.abs(flat), 1.0)
    values = jax.jit(jax.vmap(lambda x: ravel_pytree(function(*unflatten(x)))[0]))

    def difference(factor):
        steps = factor * 1e-4 * jnp.diag(sizes)
        return (values(flat + steps) - values(flat - steps)) / (2e-4 * factor * sizes[:, None])

    return (4 * difference(1) - difference(2)) / 3


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * np.abs(expected).max())


def derivatives(function, at):
    return ravel_pytree(jax.jit(jax.grad(lambda at: function(*at)))(at))[0]


RUNS = pytest.mark.parametrize("run", [after_given_gradients, after_training])


@RUNS
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_derivatives_by_everything_through_many_steps_equal_finite_differences(run, steps):
    at = arguments(steps)
    assert_close(derivatives(run, at), by_differences(run, at)[:, 0])


@pytest.mark.parametrize(
    "flags", [{"maximize": True}, {"decoupled_weight_decay": True}], ids=["maximize", "decoupled"]
)
def test_so_they_do_with_every_flag(flags):
    def run(*at):
        return after_given_gradients(*at, **flags)

    at = arguments(steps=5)
    assert_close(derivatives(run, at), by_differences(run, at)[:, 0])
    assert np.abs(derivatives(run, at) - derivatives(after_given_gradients, at)).max() > 0.1


@RUNS
def test_second_derivatives_equal_finite_differences_of_the_first(run):
    at = arguments(steps=3)
    flat, unflatten = ravel_pytree(at)
    hessian = jax.jit(jax.hessian(lambda x: run(*unflatten(x))))(flat)
    assert_close(hessian, by_differences(jax.grad(run, argnums=(0, 1, 2)), at))
    assert_close(hessian, hessian.T)


def test_derivatives_reach_through_the_state_that_a_run_starts_from():
    optimizer = adadelta(eps=1e-2)
    _, grads, _ = arguments(steps=5)
    start = optimizer.init(grads[0])
    averages = [jnp.asarray([0.5, 0.1, 2.0]), jnp.asarray([0.01, 0.3, 0.02])]

    def run(square_avg, acc_delta):
        state = optax.tree.set(start, square_avg=square_avg, acc_delta=acc_delta)
        total = 0.0
        for grad in grads:
            updates, state = optimizer.update(grad, state)
            total += jnp.sum(jnp.sin(updates))
        return total

    assert_close(derivatives(run, averages), by_differences(run, averages)[:, 0])


def torch_run(params, grads, settings, **flags):
    """The run of `after_given_gradients` in torch, in which parameters are no leaves."""
    import torch

    params = params.clone()
    optimizer = torch.optim.Adadelta([params], differentiable=True, **settings, **flags)
    total = 0.0
    for grad in grads:
        params.grad = grad.clone()
        optimizer.step()
        total = total + params.clone().sin().sum()
    return total


def as_torch(settings):
    return {"lr" if name == "learning_rate" else name: x for name, x in settings.items()}


@pytest.mark.torch
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("steps", [1, 50])
def test_derivatives_are_those_of_torch(steps, weight_decay, maximize):
    import torch

    params, grads, settings = arguments(steps)
    settings = settings | {"weight_decay": weight_decay}
    leaves = [
        torch.tensor(np.asarray(each), requires_grad=True)
        for each in (params, grads, settings["eps"])
    ]
    theirs = torch_run(
        leaves[0], leaves[1], as_torch(settings) | {"eps": leaves[2]}, maximize=maximize
    )
    expected = torch.autograd.grad(theirs, leaves)

    def ours(params, grads, eps):
        return after_given_gradients(params, grads, settings | {"eps": eps}, maximize=maximize)

    value, actual = jax.value_and_grad(ours, (0, 1, 2))(params, grads, settings["eps"])
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
    for own, their in zip(actual, expected, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-9, atol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["learning_rate", "rho", "weight_decay"])
def test_a_setting_that_torch_refuses_to_differentiate_has_its_derivative_here(name):
    import torch

    params, grads, settings = arguments(steps=5)
    tensor = torch.tensor(settings[name], dtype=torch.float64, requires_grad=True)
    tensors = [torch.tensor(np.asarray(each)) for each in (params, grads)]
    with pytest.raises(TypeError, match="must be Number, not Tensor"):
        torch_run(*tensors, as_torch(settings | {name: tensor}))

    def in_torch(value):
        return torch_run(*tensors, as_torch(settings | {name: value})).item()

    step = 1e-5 * settings[name]
    by_torch = (in_torch(settings[name] + step) - in_torch(settings[name] - step)) / (2 * step)
    actual = jax.grad(lambda x: after_given_gradients(params, grads, settings | {name: x}))(
        settings[name]
    )
    np.testing.assert_allclose(actual, by_torch, rtol=1e-6)


@pytest.mark.parametrize("eps", [1e-6, 1e-30])
def test_at_the_fresh_start_derivatives_are_finite_by_zero_gradients_too(eps):
    at = jnp.ones(2), jnp.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), SETTINGS | {"eps": eps}
    flat, unflatten = ravel_pytree(jax.tree.map(jnp.float32, at))

    def run(x):
        return after_given_gradients(*unflatten(x))

    assert np.isfinite(jax.grad(run)(flat)).all()
    if eps == 1e-6:  # else the second ones by ε go as ε to the power of -1.5, beyond float32
        assert np.isfinite(jax.hessian(run)(flat)).all()


@pytest.mark.parametrize("grad", [0.0, 1.0])
def test_with_eps_zero_an_update_that_stays_zero_has_a_derivative_of_zero(grad):
    """With ε = 0 and u = 0 the update is zero whatever the gradient."""

    def update(grad):
        optimizer = adadelta(eps=0.0)
        return optimizer.update(grad, optimizer.init(grad))[0]

    assert update(jnp.float32(grad)) == 0
    assert jax.grad(update)(jnp.float32(grad)) == 0
