"""Every way in which people run a step on eight devices gives the numbers of one device."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import adadelta
from adadelta_jax.sharding import state_shardings

P = PartitionSpec
STEPS = 5
WIDTH = 512
ACCUMULATOR_DTYPES = [None, "bfloat16", "int8"]

# By name: the shape of the mesh, the specs of the parameters, and the axis for ZeRO-1.
LAYOUTS = {
    "data parallel": ({"data": 8}, {"kernel": P(), "bias": P()}, None),
    "FSDP": ({"data": 8}, {"kernel": P("data"), "bias": P("data")}, None),
    "tensor parallel": ({"model": 8}, {"kernel": P(None, "model"), "bias": P("model")}, None),
    "2-D": ({"data": 4, "model": 2}, {"kernel": P("data", "model"), "bias": P("model")}, None),
    "ZeRO-1": ({"data": 8}, {"kernel": P(), "bias": P()}, "data"),
    "ZeRO-1, 2-D": (
        {"data": 4, "model": 2},
        {"kernel": P(None, "model"), "bias": P("model")},
        "data",
    ),
}


def initial_params(dtype="float32"):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((WIDTH, WIDTH)) / 32
    return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.zeros(WIDTH, dtype)}


@functools.cache
def gradients(step):
    """Gradients of many sizes, exact zeros among them."""
    rng = np.random.default_rng(step)

    def draw(param):
        sizes = np.exp(rng.uniform(-12, 1, param.shape)) * (rng.random(param.shape) > 0.1)
        return np.asarray(sizes * rng.standard_normal(param.shape), param.dtype)

    return jax.tree.map(draw, initial_params())


def step_of(optimizer):
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def mesh_of(axes, axis_type):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes))


def shardings_of(layout, optimizer, axis_type=AxisType.Auto):
    """The mesh, and the shardings of parameters and state."""
    axes, specs, zero_axis = LAYOUTS[layout]
    mesh = mesh_of(axes, axis_type)
    params = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    state = state_shardings(optimizer, initial_params(), params, zero_axis=zero_axis)
    return mesh, params, state


def assert_equal(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def assert_same_run(run, expected):
    """State bit for bit, parameters up to a last place a step.

    Whether a multiplication and an addition round once or twice is up to LLVM, which may fuse them
    in one program and not in another. An accumulator in few bits can then be rounded to the other
    neighbour, though hardly ever.
    """
    (params, state), (expected_params, expected_state) = jax.device_get((run, expected))
    few = 0
    for array, expected_array in zip(*map(jax.tree.leaves, (state, expected_state)), strict=True):
        few = max(few, 1e-4 if array.dtype.itemsize < 4 else 0)
        assert (array != expected_array).mean() <= few
    for key, param in expected_params.items():
        assert (~np.isclose(params[key], param, rtol=STEPS * 2**-23, atol=1e-8)).mean() <= few


@contextlib.contextmanager
def compilations():
    """A list that grows by an entry at every compilation."""
    found = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def assert_sharded(tree, shardings):
    jax.tree.map(lambda x, s: _assert_sharding(x, s), tree, shardings)


def _assert_sharding(array, sharding):
    assert array.sharding.is_equivalent_to(sharding, array.ndim), (array.sharding, sharding)


def single_device_run(accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    params = initial_params()
    state = optimizer.init(params)
    step = jax.jit(step_of(optimizer))
    for index in range(STEPS):
        params, state = step(params, state, gradients(index))
    return params, state


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sharded_run_is_that_of_one_device_and_every_array_stays_where_it_is(
    layout, axis_type, accumulator_dtype
):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    mesh, param_shardings, state_sharding = shardings_of(layout, optimizer, axis_type)
    with jax.set_mesh(mesh):
        params = jax.device_put(initial_params(), param_shardings)
        state = jax.device_put(optimizer.init(params), state_sharding)
        step = jax.jit(
            step_of(optimizer),
            donate_argnums=(0, 1),
            out_shardings=None
            if axis_type == AxisType.Explicit
            else (param_shardings, state_sharding),
        )
        for index in range(STEPS):
            before = jax.tree.leaves((params, state))
            grads = jax.device_put(gradients(index), param_shardings)
            with compilations() as compiled:
                params, state = step(params, state, grads)
            assert len(compiled) == (1 if index == 0 else 0)
            assert_sharded((params, state), (param_shardings, state_sharding))
            assert all(array.is_deleted() for array in before)
    assert_same_run((params, state), single_device_run(accumulator_dtype))


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("layout", ["FSDP", "tensor parallel", "2-D"])
def test_without_out_shardings_a_step_keeps_those_of_the_parameters(layout, accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    _, param_shardings, state_sharding = shardings_of(layout, optimizer)
    params = jax.device_put(initial_params(), param_shardings)
    state = jax.device_put(optimizer.init(params), state_sharding)
    step = jax.jit(step_of(optimizer), donate_argnums=(0, 1))
    for index in range(3):
        grads = jax.device_put(gradients(index), param_shardings)
        with compilations() as compiled:
            params, state = step(params, state, grads)
        assert len(compiled) == (1 if index == 0 else 0)
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


@pytest.mark.parametrize("accumulator_dtype", ["bfloat16", "int8"])
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


def loss(params, batch):
    """Its gradient is a mean over the batch that does not depend on the parameters."""
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
        assert_equal(train(optimizer, layout, "float64", batches, loss), expected)


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


def collectives(compiled):
    """The collectives of a compiled program, each as its name and the shapes of its result."""
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (.+?) ({names})(?:-start)?\(", compiled.as_text())
    return [(name, re.findall(r"\w+\[[\d,]*\]", result)) for result, name in found]


def compiled_training_step(layout, accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    mesh, param_shardings, state_sharding = shardings_of(layout, optimizer)

    def mean_loss(params, batch):
        return jnp.mean(jnp.tanh(batch @ params["kernel"] + params["bias"]) ** 2)

    def step(params, state, batch):
        return step_of(optimizer)(params, state, jax.grad(mean_loss)(params, batch))

    jitted = jax.jit(
        step,
        donate_argnums=(0, 1),
        in_shardings=(param_shardings, state_sharding, NamedSharding(mesh, P("data"))),
        out_shardings=(param_shardings, state_sharding),
    )
    params = jax.eval_shape(initial_params)
    batch = jax.ShapeDtypeStruct((64, WIDTH), jnp.float32)
    return jitted.lower(params, jax.eval_shape(optimizer.init, params), batch).compile()


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
def test_zero_sums_gradients_gathers_one_array_a_parameter_and_no_accumulator(accumulator_dtype):
    plain = collectives(compiled_training_step("data parallel", accumulator_dtype))
    zero = collectives(compiled_training_step("ZeRO-1", accumulator_dtype))
    shapes = [f"f32[{WIDTH},{WIDTH}]", f"f32[{WIDTH}]"]

    def results(found, names):
        return sorted(shape for name, result in found for shape in result if name in names)

    assert {name for name, _ in plain} == {"all-reduce"}
    assert results(plain, {"all-reduce"}) == sorted(shapes)
    assert {name for name, _ in zero} <= {"all-reduce", "reduce-scatter", "all-gather"}
    assert len(results(zero, {"all-reduce", "reduce-scatter"})) == len(shapes)
    # One gather for each parameter, of the updates or of the new parameters: v and u, as many
    # arrays again or 8-bit ones, are not among them.
    assert results(zero, {"all-gather"}) == sorted(shapes)


@pytest.mark.parametrize(("accumulator_dtype", "size"), [(None, 4), ("bfloat16", 2), ("int8", 1)])
def test_zero_divides_the_memory_that_the_compiled_step_needs_for_accumulators(
    accumulator_dtype, size
):
    plain = compiled_training_step("data parallel", accumulator_dtype).memory_analysis()
    zero = compiled_training_step("ZeRO-1", accumulator_dtype).memory_analysis()
    saved = plain.argument_size_in_bytes - zero.argument_size_in_bytes
    accumulators = 2 * size * WIDTH * WIDTH
    assert saved == pytest.approx(accumulators * 7 / 8, rel=0.03)  # biases and scales besides
    assert zero.temp_size_in_bytes <= plain.temp_size_in_bytes * 1.01
