"""`optax.apply_if_finite` skips the steps whose gradients are not finite."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, scale_by_adadelta


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
def test_apply_if_finite_skips_a_step_whose_gradient_is_not_and_leaves_state_and_count(
    accumulator_dtype, bad
):
    params = {"kernel": jnp.ones((70, 80)), "bias": jnp.ones(3)}
    optimizer = optax.apply_if_finite(
        adadelta(accumulator_dtype=accumulator_dtype), max_consecutive_errors=3
    )
    good = jax.tree.map(jnp.sin, params)
    _, state = optimizer.update(good, optimizer.init(params), params)
    broken = good | {"bias": good["bias"].at[1].set(bad)}
    updates, after = jax.jit(optimizer.update)(broken, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)
    assert after.notfinite_count == 1
    assert not after.last_finite


def test_a_loss_scaled_float16_loop_goes_on_after_steps_that_overflow():
    """Float32 parameters, float16 gradients, and a scale that adapts itself."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((64, 8)), jnp.float16)
    targets = jnp.asarray(np.tanh(inputs @ rng.standard_normal((8, 1))), jnp.float16)
    optimizer = optax.apply_if_finite(adadelta(), max_consecutive_errors=20)

    def loss(params, scale):
        half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
        hidden = jnp.tanh(inputs @ half["hidden"])
        errors = (hidden @ half["out"] - targets).astype(jnp.float32)
        return scale * jnp.mean(errors**2)

    @jax.jit
    def step(params, state, scale, steps_since):
        scaled_grads = jax.grad(loss)(params, scale)
        grads = jax.tree.map(lambda g: g / scale, scaled_grads)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        steps_since = jnp.where(state.last_finite, steps_since + 1, 0)
        grow = steps_since == 50
        scale = jnp.where(state.last_finite, jnp.where(grow, 2 * scale, scale), scale / 2)
        return params, state, scale, jnp.where(grow, 0, steps_since)

    params = {
        "hidden": jnp.asarray(rng.standard_normal((8, 16)) / 3, jnp.float32),
        "out": jnp.asarray(rng.standard_normal((16, 1)) / 4, jnp.float32),
    }
    first_loss = loss(params, 1.0)
    state, scale, steps_since = optimizer.init(params), jnp.float32(2.0**24), jnp.int32(0)
    for _ in range(1000):
        params, state, scale, steps_since = step(params, state, scale, steps_since)
    skipped = int(state.total_notfinite)
    assert skipped >= 3  # at the start, and again whenever the scale has grown too far
    assert optax.tree.get(state, "count") == 1000 - skipped
    chex.assert_tree_all_finite((params, state))
    assert loss(params, 1.0) < first_loss / 20


def test_without_apply_if_finite_an_overflow_to_infinity_is_a_step_and_nan_is_not_undone():
    """Why the loop above needs it: infinity would count as 1.8e19, and v decays slowly."""
    optimizer = scale_by_adadelta()
    _, state = optimizer.update(jnp.array([jnp.inf, jnp.nan]), optimizer.init(jnp.zeros(2)))
    updates, _ = optimizer.update(jnp.ones(2), state)
    assert 0 < updates[0] < 1e-20
    assert jnp.isnan(updates[1])
