"""`scale_by_adadelta` over trees, dtypes and JAX's transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import ScaleByAdadeltaState, scale_by_adadelta
from adadelta_jax._core.rule import update_rule


def random_tree(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "scalar": jax.random.normal(keys[0], (), dtype),
        "empty": jnp.zeros((0, 3), dtype),
        "nested": [
            jax.random.normal(keys[1], (3,), dtype),
            jax.random.normal(keys[2], (2, 4), dtype),
        ],
    }


def run(optimizer, params, gradients):
    """The updates of each of `gradients` in turn, and the last state."""
    state, updates = optimizer.init(params), []
    for grads in gradients:
        update, state = optimizer.update(grads, state, params)
        updates.append(update)
    return updates, state


GRADIENTS = [random_tree(seed) for seed in (1, 2, 3)]


def test_the_state_starts_at_zero_and_like_the_parameters():
    params = random_tree(0)
    state = scale_by_adadelta().init(params)
    assert isinstance(state, ScaleByAdadeltaState)
    assert state.count.dtype == jnp.int32
    assert state.count == 0
    for accumulator in (state.square_avg, state.acc_delta):
        chex.assert_trees_all_equal(accumulator, jax.tree.map(jnp.zeros_like, params))


def test_every_leaf_takes_the_update_rule():
    params = random_tree(0)
    state = scale_by_adadelta().init(params)
    rule = jax.tree.map(
        lambda g, v, u: update_rule(g, v, u, rho=0.9, eps=1e-6),
        GRADIENTS[0],
        state.square_avg,
        state.acc_delta,
    )
    updates, state = scale_by_adadelta().update(GRADIENTS[0], state)
    result = jax.tree.map(lambda *three: three, updates, state.square_avg, state.acc_delta)
    chex.assert_trees_all_equal(result, rule)
    assert state.count == 1


def test_the_defaults_do_as_optax_does_to_a_few_units_in_the_last_place():
    params = random_tree(0)
    ours, state = run(scale_by_adadelta(), params, GRADIENTS)
    theirs, their_state = run(optax.scale_by_adadelta(), params, GRADIENTS)
    chex.assert_trees_all_close(ours, theirs, rtol=2e-6)
    chex.assert_trees_all_close(state.square_avg, their_state.e_g, rtol=2e-6)
    chex.assert_trees_all_close(state.acc_delta, their_state.e_x, rtol=4e-6)


def test_jit_vmap_and_scan_take_the_same_steps():
    params, optimizer = random_tree(0), scale_by_adadelta()
    expected, expected_state = run(optimizer, params, GRADIENTS)

    jitted, jitted_state = run(
        optimizer._replace(update=jax.jit(optimizer.update)), params, GRADIENTS
    )
    chex.assert_trees_all_close(jitted, expected, rtol=1e-6)
    chex.assert_trees_all_close(jitted_state, expected_state, rtol=1e-6)

    def body(state, grads):
        updates, state = optimizer.update(grads, state, params)
        return state, updates

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *GRADIENTS)
    scanned_state, scanned = jax.lax.scan(body, optimizer.init(params), stacked)
    chex.assert_trees_all_close(
        scanned, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected), rtol=1e-6
    )
    chex.assert_trees_all_close(scanned_state, expected_state, rtol=1e-6)

    batched, _ = jax.vmap(lambda g: optimizer.update(g, optimizer.init(params)))(stacked)
    for i, grads in enumerate(GRADIENTS):
        alone, _ = optimizer.update(grads, optimizer.init(params))
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], batched), alone, rtol=1e-6)


def test_the_step_is_differentiable_in_everything_it_is_given():
    grad, v, u = (
        jnp.array([0.3, -2.0, 0.0]),
        jnp.array([0.1, 0.0, 0.0]),
        jnp.array([1e-3, 0.0, 0.0]),
    )

    def loss(grad, v, u, rho, eps):
        state = ScaleByAdadeltaState(jnp.int32(0), v, u)
        updates, state = scale_by_adadelta(rho, eps).update(grad, state)
        return jnp.sum(updates) + jnp.sum(state.square_avg) + jnp.sum(state.acc_delta)

    derivatives = jax.grad(loss, argnums=range(5))(grad, v, u, 0.9, 1e-6)
    chex.assert_tree_all_finite(derivatives)
    assert all(jnp.any(derivative != 0) for derivative in derivatives)


def test_the_second_step_does_not_recompile():
    params, optimizer = random_tree(0), scale_by_adadelta()
    step = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    state = optimizer.init(params)
    for grads in GRADIENTS:
        _, state = step(grads, state)
    assert state.count == 3


def test_init_takes_abstract_parameters_and_holds_no_memory():
    params = {"w": jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.bfloat16)}
    state = jax.eval_shape(scale_by_adadelta().init, params)
    assert state.square_avg["w"].shape == (1 << 20, 1 << 20)
    assert state.square_avg["w"].dtype == jnp.float32


def test_tree_map_params_reaches_the_accumulators_and_not_the_count():
    params, optimizer = random_tree(0), scale_by_adadelta()
    state = optimizer.init(params)
    state = optax.tree.map_params(optimizer, lambda leaf: leaf + 1, state)
    assert state.count == 0
    chex.assert_trees_all_equal(state.square_avg, jax.tree.map(jnp.ones_like, params))
    chex.assert_trees_all_equal(state.acc_delta, jax.tree.map(jnp.ones_like, params))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_updates_have_the_dtype_of_the_gradients(dtype):
    grads = random_tree(1, dtype)
    updates, state = scale_by_adadelta().update(grads, scale_by_adadelta().init(grads))
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
    again, _ = scale_by_adadelta().update(updates, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(again, grads)


def test_float16_survives_a_zero_gradient_at_an_eps_that_float16_cannot_hold():
    grads = jnp.zeros(3, jnp.float16)
    optimizer = scale_by_adadelta(eps=1e-8)
    updates, state = optimizer.update(grads, optimizer.init(grads))
    np.testing.assert_array_equal(updates, 0)
    np.testing.assert_array_equal(state.square_avg, 0)


def test_the_real_and_imaginary_parts_of_a_complex_parameter_are_two_coordinates():
    grads = [random_tree(seed, jnp.complex64) for seed in (1, 2)]
    updates, state = run(scale_by_adadelta(), grads[0], grads)
    for part in (jnp.real, jnp.imag):
        parts, part_state = run(
            scale_by_adadelta(), jax.tree.map(part, grads[0]), jax.tree.map(part, grads)
        )
        chex.assert_trees_all_equal(jax.tree.map(part, updates), parts)
        chex.assert_trees_all_equal(jax.tree.map(part, state.square_avg), part_state.square_avg)
        chex.assert_trees_all_equal(jax.tree.map(part, state.acc_delta), part_state.acc_delta)


@pytest.mark.parametrize("given_params", [False, True])
def test_a_gradient_of_none_gives_a_zero_update_and_keeps_the_accumulators(given_params):
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    optimizer = scale_by_adadelta()
    _, state = optimizer.update(params, optimizer.init(params))
    updates, new_state = optimizer.update(
        {"a": None, "b": params["b"]}, state, params if given_params else None
    )
    chex.assert_trees_all_equal(updates["a"], jnp.zeros(2, updates["a"].dtype))
    if given_params:
        assert updates["a"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(new_state.square_avg["a"], state.square_avg["a"])
    chex.assert_trees_all_equal(new_state.acc_delta["a"], state.acc_delta["a"])
    assert jnp.all(new_state.square_avg["b"] > state.square_avg["b"])


def test_none_among_the_parameters_stays_none():
    params = {"frozen": None, "free": jnp.ones(2)}
    updates, state = run(scale_by_adadelta(), params, [params, params])
    assert [update["frozen"] for update in updates] == [None, None]
    assert state.square_avg["frozen"] is None
    assert optax.apply_updates(params, updates[0])["frozen"] is None


def test_the_count_stays_at_its_largest_value():
    optimizer = scale_by_adadelta()
    largest = jnp.iinfo(jnp.int32).max
    state = optimizer.init(jnp.ones(1))._replace(count=jnp.int32(largest))
    _, state = optimizer.update(jnp.ones(1), state)
    assert state.count == largest


def test_a_tree_without_parameters_is_fine():
    updates, state = run(scale_by_adadelta(), {}, [{}, {}])
    assert updates == [{}, {}]
    assert state.count == 2


def test_updates_and_state_keep_explicit_shardings_that_are_not_the_same():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(axis)) for axis in (None, "data"))
    optimizer = scale_by_adadelta()
    with jax.set_mesh(mesh):
        grads = jax.device_put(jnp.ones(16), everywhere)
        count, *averages = optimizer.init(grads)
        state = ScaleByAdadeltaState(count, *jax.device_put(averages, split))
        updates, state = jax.jit(optimizer.update)(grads, state)
    assert updates.sharding.is_equivalent_to(everywhere, 1)
    for average in (state.square_avg, state.acc_delta):
        assert average.sharding.is_equivalent_to(split, 1)


def test_half_precision_throughout_is_computed_in_float32():
    optimizer = scale_by_adadelta(accumulator_dtype="bfloat16")
    grads = jnp.array([0.3, -0.7], jnp.bfloat16)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(grads))
    zeros = jnp.zeros(2)
    expected, _, _ = update_rule(grads.astype(jnp.float32), zeros, zeros, rho=0.9, eps=1e-6)
    np.testing.assert_array_equal(updates, expected.astype(jnp.bfloat16))


def test_accumulators_in_float64_are_computed_in_float64():
    with jax.enable_x64(True):
        optimizer = scale_by_adadelta(rho=0.5, accumulator_dtype="float64")
        grads = jnp.array([0.3, -0.7], jnp.float32)
        _, state = optimizer.update(grads, optimizer.init(grads))
        np.testing.assert_array_equal(state.square_avg, 0.5 * np.float64(grads) ** 2)
