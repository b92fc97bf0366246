"""ZeRO-1 sends no accumulator between devices, and divides the memory for accumulators."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from adadelta_jax import adadelta
from tests.distributed.layouts import (
    ACCUMULATOR_DTYPES,
    WIDTH,
    P,
    initial_params,
    shardings_of,
    step_of,
)


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
def test_zero_sums_gradients_and_gathers_one_array_per_parameter_and_no_accumulator(
    accumulator_dtype,
):
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


@pytest.mark.parametrize(("accumulator_dtype", "size"), [(None, 4), ("bfloat16", 2), ("uint8", 1)])
def test_zero_divides_the_memory_that_the_compiled_step_needs_for_accumulators(
    accumulator_dtype, size
):
    plain = compiled_training_step("data parallel", accumulator_dtype).memory_analysis()
    zero = compiled_training_step("ZeRO-1", accumulator_dtype).memory_analysis()
    saved = plain.argument_size_in_bytes - zero.argument_size_in_bytes
    accumulators = 2 * size * WIDTH * WIDTH
    assert saved == pytest.approx(accumulators * 7 / 8, rel=0.03)  # biases and scales besides
    assert zero.temp_size_in_bytes <= plain.temp_size_in_bytes * 1.01
