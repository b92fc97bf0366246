"""A training step on a pod, by the TPU's compiler: what each chip holds, and what it sends."""

import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings
from benchmarks.pods import compilers, layouts

pytestmark = pytest.mark.skipif(
    compilers.missing("v5e") is not None,
    reason="needs libtpu: run make test-compiled, which installs it",
)
ROOT = Path(__file__).parents[2]
MODEL = layouts.Model(vocabulary=4096, width=512, context=128)
PARAMETER_BYTES = sum(4 * math.prod(each.shape) for each in layouts.parameters(MODEL).values())
ACTIVATION_BYTES = 5e6  # at most, that are gathered in a step
PADDING = 4096  # of small arrays to a tile


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_each_chip_holds_what_bytes_per_device_says_and_gathers_no_accumulator(
    name, accumulator_dtype
):
    layout = layouts.LAYOUTS[name]
    program, planned = layouts.compile_step(
        layout, adadelta(accumulator_dtype=accumulator_dtype), MODEL
    )
    # A tile of uint8 is four times as high as one of float32.
    padding = PADDING * (8 if accumulator_dtype == "uint8" else 1)
    assert planned <= program.arguments < planned + padding
    assert program.aliased >= program.arguments - layout.data * MODEL.context * 4 - padding

    # Parameters once, where they or their updates are split, and neither of v and u besides.
    is_split = layout.fsdp or layout.zero_axis is not None
    parameters = is_split * PARAMETER_BYTES / layout.model
    assert program.collectives.get("all-gather", 0) < parameters + ACTIVATION_BYTES
    assert PARAMETER_BYTES / layout.model > ACTIVATION_BYTES


def test_a_topology_of_several_hosts_is_compiled_for():
    hosts = {device.process_index for device in compilers.topology("v5e:4x4").devices}
    assert len(hosts) == 4


def test_what_the_example_plans_is_what_is_compiled():
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "compile_for_pod.py", "--width", "512"],
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = dict(re.findall(r"^  (\w[\w ,]*?) +([\d.]+)$", result.stdout, re.MULTILINE))
    planned = sum(float(numbers[name]) for name in ("parameters", "v and u", "batch"))
    assert planned > 33
    assert float(numbers["in all, compiled"]) == pytest.approx(planned, abs=0.05)
    assert "all-gather              8 of 8.4 million numbers in all" in result.stdout


def step_of(optimizer):
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def test_under_shard_map_a_step_sends_nothing():
    mesh = compilers.mesh("v5e:4x4", data=16)
    optimizer = adadelta()
    params = {"kernel": jax.ShapeDtypeStruct((8192, 512), jnp.float32)}
    params_at = {"kernel": NamedSharding(mesh, P("data"))}
    state_at = state_shardings(optimizer, params, params_at)
    state = jax.eval_shape(optimizer.init, params)
    specs = jax.tree.map(lambda at: at.spec, (params_at, state_at))
    step = jax.shard_map(
        step_of(optimizer), mesh=mesh, in_specs=(*specs, specs[0]), out_specs=specs
    )
    arguments = (
        layouts.placed(params, params_at),
        layouts.placed(state, state_at),
        layouts.placed(params, params_at),
    )
    program = compilers.compiled(step, arguments, "v5e:4x4", donate_argnums=(0, 1))
    assert program.collectives == {}
    assert program.arguments < PADDING + bytes_per_device(
        (params, state, params), (params_at, state_at, params_at)
    )
    assert program.accessed < 28.5 * 8192 * 512 / 16


def test_under_pmap_a_step_sends_the_gradients_alone():
    optimizer = adadelta()

    def step(params, state, grads):
        return step_of(optimizer)(params, state, jax.lax.pmean(grads, "devices"))

    devices = compilers.topology("v5e:4x4").devices
    params = jax.ShapeDtypeStruct((len(devices), 1024, 512), jnp.float32)
    state = jax.eval_shape(jax.vmap(optimizer.init), params)
    replicated = jax.pmap(step, axis_name="devices", devices=devices, donate_argnums=(0, 1))
    program = compilers.program(replicated.lower(params, state, params).compile())
    assert program.collectives == {"all-reduce": 4 * 1024 * 512}
    assert program.arguments < 4 * 4 * 1024 * 512 + PADDING
    assert program.scratch == 0
