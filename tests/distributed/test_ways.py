"""Every way to run a step on eight devices gives the numbers of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from adadelta_jax import adadelta
from tests.distributed.layouts import (
    ACCUMULATOR_DTYPES,
    STEPS,
    P,
    assert_same_run,
    assert_sharded,
    gradients,
    initial_params,
    mesh_of,
    shardings_of,
    single_device_run,
    step_of,
)

ON_EIGHT_DEVICES = [
    "data parallel",
    "FSDP",
    "tensor parallel",
    "2-D",
    "ZeRO-1",
    "ZeRO-1, 2-D",
]


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("layout", ON_EIGHT_DEVICES)
def test_a_sharded_run_is_that_of_one_device_and_every_array_stays_where_it_is(
    layout, axis_type, accumulator_dtype
):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    mesh, param_shardings, state_sharding = shardings_of(layout, optimizer, axis_type)
    with jax.set_mesh(mesh):
        params = jax.device_put(initial_params(), param_shardings)
        state = jax.device_put(optimizer.init(params), state_sharding)
        grads = [jax.device_put(gradients(index), param_shardings) for index in range(STEPS)]
        jitted = jax.jit(
            step_of(optimizer),
            donate_argnums=(0, 1),
            out_shardings=None
            if axis_type == AxisType.Explicit
            else (param_shardings, state_sharding),
        )
        # A compiled step refuses arrays that are sharded otherwise than the first ones.
        step = jitted.lower(params, state, grads[0]).compile()
        for index in range(STEPS):
            before = jax.tree.leaves((params, state))
            params, state = step(params, state, grads[index])
            assert_sharded((params, state), (param_shardings, state_sharding))
            assert all(array.is_deleted() for array in before)
    assert_same_run((params, state), single_device_run(accumulator_dtype))


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("layout", ["FSDP", "tensor parallel", "2-D"])
def test_without_out_shardings_a_step_keeps_the_shardings_of_the_parameters(
    layout, accumulator_dtype
):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    _, param_shardings, state_sharding = shardings_of(layout, optimizer)
    params = jax.device_put(initial_params(), param_shardings)
    state = jax.device_put(optimizer.init(params), state_sharding)
    grads = jax.device_put(gradients(0), param_shardings)
    jitted = jax.jit(step_of(optimizer), donate_argnums=(0, 1))
    step = jitted.lower(params, state, grads).compile()
    for _ in range(3):
        params, state = step(params, state, grads)
        assert_sharded((params, state), (param_shardings, state_sharding))


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
def test_pmap_with_pmean_keeps_replicas_alike_and_gives_the_run_on_the_mean_gradient(
    accumulator_dtype,
):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    signs = jnp.array([3.0, -1, 1, 1, 1, 1, 1, 1])  # of mean 1, and every sum of them is exact

    def step(params, state, grads):
        grads = jax.lax.pmean(grads, "devices")
        return step_of(optimizer)(params, state, grads)

    parallel = jax.pmap(step, axis_name="devices", donate_argnums=(0, 1))

    def on_all(tree):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (8, *jnp.shape(x))), tree)

    params, state = on_all(initial_params()), on_all(optimizer.init(initial_params()))
    exact = jax.tree.map(lambda g: g.astype("bfloat16").astype("float32"), gradients(0))
    of_devices = jax.tree.map(lambda g: jnp.einsum("d,...->d...", signs, g), exact)
    for _ in range(STEPS):
        params, state = parallel(params, state, of_devices)
    expected_params = initial_params()
    expected_state = optimizer.init(expected_params)
    for _ in range(STEPS):
        expected_params, expected_state = jax.jit(step_of(optimizer))(
            expected_params, expected_state, exact
        )
    assert_same_run((params, state), on_all((expected_params, expected_state)))


@pytest.mark.parametrize("accumulator_dtype", [None, "float64"])
def test_shard_map_over_the_parameters_gives_the_run_of_one_device(accumulator_dtype):
    with jax.enable_x64(accumulator_dtype == "float64"):
        optimizer = adadelta(accumulator_dtype=accumulator_dtype)
        mesh = mesh_of({"data": 8}, AxisType.Auto)
        state = optimizer.init(initial_params())
        specs = jax.tree.map(lambda x: P("data") if x.ndim else P(), (initial_params(), state))
        step = jax.jit(
            jax.shard_map(
                step_of(optimizer), mesh=mesh, in_specs=(*specs, specs[0]), out_specs=specs
            )
        )
        params = initial_params()
        for index in range(STEPS):
            params, state = step(params, state, gradients(index))
        assert_same_run((params, state), single_device_run(accumulator_dtype))


@pytest.mark.parametrize("accumulator_dtype", ["bfloat16", "uint8"])
def test_shard_map_rounds_at_random_by_the_place_in_the_shard(accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    mesh = mesh_of({"data": 8}, AxisType.Auto)
    params = jnp.ones((64, 512))
    grads = jnp.tile(gradients(0)["kernel"][:8], (8, 1))  # alike on all devices
    state = optimizer.init(params)
    specs = jax.tree.map(lambda x: P("data") if x.ndim else P(), (params, state))
    step = jax.shard_map(
        step_of(optimizer), mesh=mesh, in_specs=(*specs, P("data")), out_specs=specs
    )
    params, state = jax.jit(step)(params, state, grads)
    for leaf in jax.tree.leaves((params, state)):
        if leaf.ndim:
            shards = np.split(np.asarray(leaf), 8)
            np.testing.assert_array_equal(shards, [shards[0]] * 8)
