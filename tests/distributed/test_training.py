"""Training on a sharded batch gives the parameters and state of one device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from adadelta_jax import adadelta
from tests.distributed.layouts import STEPS, WIDTH, P, initial_params, shardings_of, step_of


def loss(params, batch):
    """A loss whose gradient is a mean over the batch and does not depend on the parameters."""
    return jnp.mean(batch @ params["kernel"] @ jnp.ones(WIDTH, batch.dtype) + params["bias"][0])


def train(optimizer, layout, dtype, batches, gradient_loss):
    """Parameters and state after training, on one device for a layout of None."""
    params = initial_params(dtype)
    state = optimizer.init(params)

    def step(params, state, batch):
        grads = jax.grad(gradient_loss)(params, batch)
        return step_of(optimizer)(params, state, grads)

    if layout is None:
        step = jax.jit(step, donate_argnums=(0, 1))
    else:
        mesh, param_shardings, state_sharding = shardings_of(layout, optimizer)
        params = jax.device_put(params, param_shardings)
        state = jax.device_put(state, state_sharding)
        batches = jax.device_put(batches, NamedSharding(mesh, P(None, "data")))
        step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(param_shardings, state_sharding))
    for batch in batches:
        params, state = step(params, state, batch)
    return params, state


@pytest.mark.parametrize("layout", ["data parallel", "FSDP", "2-D", "ZeRO-1", "ZeRO-1, 2-D"])
def test_in_float64_with_exact_data_training_is_exactly_that_of_one_device(layout):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batches = jnp.asarray(rng.integers(-8, 9, (STEPS, 64, WIDTH)), jnp.float64)
        optimizer = adadelta()
        expected = train(optimizer, None, "float64", batches, loss)
        chex.assert_trees_all_equal(train(optimizer, layout, "float64", batches, loss), expected)


@pytest.mark.parametrize("layout", ["data parallel", "FSDP", "2-D", "ZeRO-1", "ZeRO-1, 2-D"])
def test_in_float32_training_differs_by_the_order_of_summation_alone(layout):
    def regression(params, batch):
        inputs = batch / 8
        return jnp.mean((jnp.tanh(inputs @ params["kernel"] + params["bias"]) - inputs) ** 2)

    rng = np.random.default_rng(0)
    batches = jnp.asarray(rng.integers(-8, 9, (STEPS, 64, WIDTH)), jnp.float32)
    optimizer = adadelta()
    params, _ = train(optimizer, layout, "float32", batches, regression)
    expected, _ = train(optimizer, None, "float32", batches, regression)
    # A gradient near zero has a sign that the order of summation decides, so that a coordinate can
    # be off by a whole first step, √ε / √(1 - ρ) = 0.003; most agree to the last places.
    moved = jax.tree.map(lambda p, q: jnp.abs(p - q), expected, initial_params())
    for key in expected:
        error = jnp.abs(params[key] - expected[key])
        assert jnp.max(error) < 0.003 * STEPS
        assert jnp.median(error) < 1e-5 * jnp.median(moved[key])
