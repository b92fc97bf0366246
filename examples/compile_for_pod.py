r"""What a training step holds and sends on each chip of a TPU pod, before you rent one.

The step is compiled by the TPU's own compiler, which needs no TPU (`pip install libtpu` in the
version that `jax[tpu]` names), for a network of residual layers. Put your own in `parameters`,
`loss` and `LAYOUTS`, and compare layouts::

    python examples/compile_for_pod.py --topology v5e:4x4 --layout data
    python examples/compile_for_pod.py --topology v5e:16x16 --layout zero
    python examples/compile_for_pod.py --topology v5p:4x4x4 --layout fsdp
    python examples/compile_for_pod.py --topology v6e:4x4 --layout tensor
"""

import argparse
import math
import os
import re
from collections.abc import Sequence
from typing import Any

# JAX reads these when it is imported: it is to use the CPU, and libtpu is to look for no TPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings

# By name: how many chips of 16 share a layer, how the layers' two kernels are split, and over which
# axis v and u are split besides.
LAYOUTS = {
    "data": (1, {"up": P(), "down": P()}, None),
    "zero": (1, {"up": P(), "down": P()}, "data"),
    "fsdp": (1, {"up": P("data"), "down": P("data")}, None),
    "tensor": (4, {"up": P(None, "model"), "down": P("model")}, "data"),
}
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def parameters(width: int, depth: int) -> Any:
    """The shapes of the network's parameters."""
    up = jax.ShapeDtypeStruct((width, 4 * width), jnp.float32)
    down = jax.ShapeDtypeStruct((4 * width, width), jnp.float32)
    return [{"up": up, "down": down}] * depth


def loss(params: Any, batch: jax.Array) -> jax.Array:
    """The mean square of what residual layers make of a batch, [examples, width]."""
    for layer in params:
        batch = batch + jax.nn.gelu(batch @ layer["up"]) @ layer["down"]
    return jnp.mean(batch**2)


def compile_step(flags: argparse.Namespace) -> tuple[Any, dict[str, int]]:
    """The compiled step, and the bytes on each chip of what is passed to it, as planned."""
    model, specs, zero_axis = LAYOUTS[flags.layout]
    pod = topologies.get_topology_desc(platform="tpu", topology_name=flags.topology)
    mesh = jax.make_mesh(
        (len(pod.devices) // model, model),
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=pod.devices,
    )
    optimizer = adadelta(accumulator_dtype=flags.accumulator_dtype)

    params = parameters(flags.width, flags.depth)
    state = jax.eval_shape(optimizer.init, params)
    examples = flags.batch_per_chip * len(pod.devices)
    batch = jax.ShapeDtypeStruct((examples, flags.width), jnp.float32)
    params_at = [{name: NamedSharding(mesh, spec) for name, spec in specs.items()}] * flags.depth
    state_at = state_shardings(optimizer, params, params_at, zero_axis=zero_axis)
    batch_at = NamedSharding(mesh, P("data"))

    def step(params, state, batch):
        grads = jax.grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    arguments = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        (params, state, batch),
        (params_at, state_at, batch_at),
    )
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(params_at, state_at))
    compiled = jitted.trace(*arguments).lower(lowering_platforms=("tpu",)).compile()
    planned = {
        "parameters": bytes_per_device(params, params_at),
        "v and u": bytes_per_device(state, state_at),
        "batch": bytes_per_device(batch, batch_at),
    }
    return compiled, planned


def collectives(text: str) -> dict[str, list[int]]:
    """The elements in the result of every collective of XLA's text, by kind."""
    found = {}
    for shapes, kind, rest in re.findall(rf"= (.*?) ({COLLECTIVES})(?:-start)?\((.*)", text):
        channel = re.search(r"channel_id=\d+", rest)  # one that stands there twice runs once
        arrays = re.findall(r"\[([\d,]+)\]", shapes)
        elements = sum(math.prod(map(int, each.split(","))) for each in arrays)
        found[kind, channel.group() if channel else rest] = elements
    by_kind: dict[str, list[int]] = {}
    for (kind, _), elements in found.items():
        by_kind.setdefault(kind, []).append(elements)
    return by_kind


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the step, and print what each chip holds and sends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--topology", default="v5e:4x4", help="chip and grid, as libtpu names them (%(default)s)")
    add("--layout", choices=LAYOUTS, default="zero", help="of LAYOUTS (%(default)s)")
    add("--width", type=int, default=2048, help="numbers in an example (%(default)s)")
    add("--depth", type=int, default=4, help="residual layers (%(default)s)")
    add("--batch-per-chip", type=int, default=64, help="examples (%(default)s)")
    add("--accumulator-dtype", help="of v and u (that of the parameters, float32 at least)")
    flags = parser.parse_args(argv)

    compiled, planned = compile_step(flags)
    memory = compiled.memory_analysis()
    print(f"{flags.layout} on {flags.topology}, megabytes on each chip")
    for name, size in planned.items():
        print(f"  {name:<20} {size / 1e6:10.2f}")
    print(f"  {'in all, compiled':<20} {memory.argument_size_in_bytes / 1e6:10.2f}")
    print(f"  {'scratch':<20} {memory.temp_size_in_bytes / 1e6:10.2f}")
    for kind, sizes in collectives(compiled.as_text()).items():
        print(f"  {kind:<20} {len(sizes):4} of {sum(sizes) / 1e6:.1f} million numbers in all")


if __name__ == "__main__":
    main()
