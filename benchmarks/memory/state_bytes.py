"""What each device holds and sends when GPT-2, GPT-2 XL or Llama 3 70B is trained on many.

Parameters, gradients and optimizer state in bytes a device, for every layout and every way to store
v and u, as `adadelta_jax.sharding` plans them from shapes alone: no array is made, and there is
nothing to repeat. Gradients are counted whole, all at once, sharded like the parameters.

What a device sends in a step is a formula, not a measurement: that of ring collectives over the N
devices of the data axis. Of the B bytes of parameters that a device has, but for their sharding
over that axis, an all-gather sends (N - 1) / N, and so does a reduce-scatter of as many gradients:

- replicated: an all-reduce of the gradients, which is a reduce-scatter and an all-gather: 2.
- ZeRO-1: a reduce-scatter of the gradients, an all-gather of what was updated: 2.
- FSDP: an all-gather of the parameters, forward and again backward, and a reduce-scatter: 3.

What tensor parallelism sends besides over the model axis depends on the batch, and is not counted.
"""

import math
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings
from benchmarks.common import measuring, reporting
from benchmarks.speed import step_time

ACCUMULATOR_DTYPES = ("float32", "bfloat16", "uint8")
DEVICES = (8, 64)


class Layout(NamedTuple):
    """How parameters and state are sharded, and what that costs."""

    axis: str | None  # of the mesh, over which the parameters are
    zero_axis: str | None
    sweeps: int  # how often all parameters or gradients go round the data axis in a step


LAYOUTS = {
    "replicated": Layout(None, None, 2),
    "ZeRO-1": Layout(None, "data", 2),
    "FSDP": Layout("data", None, 3),
    "tensor parallel x ZeRO-1": Layout("model", "data", 2),
}

COLUMNS = {
    f"{name}, GB": lambda row, key=key: f"{row[key] / 1e9:.4g}"
    for name, key in {
        "parameters": "parameter_bytes",
        "gradients": "gradient_bytes",
        **{f"state in {name}": f"state_bytes_{name}" for name in ACCUMULATOR_DTYPES},
        "sent a step": "sent_bytes",
    }.items()
}
COLUMNS |= {
    "planned in, s": reporting.number("planning_s", ".2f"),
    "peak, MB": lambda row: f"{row['planning_peak_bytes'] / 1e6:.1f}",
}


def works(quick: bool) -> dict[str, Any]:
    """By name, the parameters of a model as shapes and dtypes."""
    gpt2 = {"vocabulary": 50257, "context": 1024}
    small = {"width": 64, "depth": 1, "vocabulary": 101, "context": 64}
    return {
        "gpt2": float32(
            step_time.gpt2_shapes(**(small if quick else {"width": 768, "depth": 12, **gpt2}))
        ),
        "gpt2_xl": float32(
            step_time.gpt2_shapes(**(small if quick else {"width": 1600, "depth": 48, **gpt2}))
        ),
        "llama_70b": llama(width=64, key_width=64, hidden=128, depth=1, vocabulary=128)
        if quick
        else llama(width=8192, key_width=1024, hidden=28672, depth=80, vocabulary=128256),
    }


def float32(shapes: step_time.Shapes) -> list[jax.ShapeDtypeStruct]:
    """Parameters of those shapes."""
    return [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]


def llama(*, width: int, key_width: int, hidden: int, depth: int, vocabulary: int) -> Any:
    """The bfloat16 parameters of Llama: attention with grouped queries, MLP with a gate."""

    def weights(*shape):
        return jax.ShapeDtypeStruct(shape, "bfloat16")

    layer = {
        "query": weights(width, width),
        "key": weights(width, key_width),
        "value": weights(width, key_width),
        "out": weights(width, width),
        "gate": weights(width, hidden),
        "up": weights(width, hidden),
        "down": weights(hidden, width),
        "attention_norm": weights(width),
        "mlp_norm": weights(width),
    }
    ends = {
        "embedding": weights(vocabulary, width),
        "norm": weights(width),
        "unembedding": weights(width, vocabulary),
    }
    return {f"layer{index}": layer for index in range(depth)} | ends


def mesh_of(layout: Layout, devices: int) -> AbstractMesh:
    """All devices along "data", or 4 of 8 and 8 of 64 along "model"."""
    model = min(8, devices // 2) if layout.axis == "model" else 1
    return AbstractMesh((devices // model, model), ("data", "model"))


def over(axis: str | None, mesh: AbstractMesh, shape: Sequence[int]) -> NamedSharding:
    """Over "data" on the first dimension that it divides, over "model" on a matrix's largest."""
    divided = [d for d, size in enumerate(shape) if axis and size % mesh.shape[axis] == 0]
    if not divided or (axis == "model" and len(shape) < 2):
        return NamedSharding(mesh, PartitionSpec())
    dimension = divided[0] if axis == "data" else max(divided, key=lambda d: shape[d])
    return NamedSharding(mesh, PartitionSpec(*(None,) * dimension, axis))


def plan(params: Any, layout: Layout, devices: int) -> reporting.Row:
    """The bytes of every kind that each device holds, and that it sends in a step."""
    mesh = mesh_of(layout, devices)
    shardings = jax.tree.map(lambda x: over(layout.axis, mesh, x.shape), params)
    held = bytes_per_device(params, shardings)
    row: reporting.Row = {"parameter_bytes": held, "gradient_bytes": held}
    for dtype in ACCUMULATOR_DTYPES:
        optimizer = adadelta(accumulator_dtype=dtype)
        state = jax.eval_shape(optimizer.init, params)
        wanted = state_shardings(optimizer, params, shardings, zero_axis=layout.zero_axis)
        row[f"state_bytes_{dtype}"] = bytes_per_device(state, wanted)
    along_data = mesh.shape["data"]
    of_all = held * along_data if layout.axis == "data" else held
    row["sent_bytes"] = layout.sweeps * (along_data - 1) / along_data * of_all
    return row


def measure(name: str, params: Any, devices: int) -> reporting.Row:
    """A row: the plan, and what it took to make it, in time and in Python's memory."""
    start = time.perf_counter()
    row = plan(params, LAYOUTS[name], devices)
    seconds = time.perf_counter() - start
    tracemalloc.start()  # it slows everything down: hence once more
    plan(params, LAYOUTS[name], devices)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    row |= {"planning_s": seconds, "planning_peak_bytes": peak}
    row["total_bytes_float32"] = 2 * row["parameter_bytes"] + row["state_bytes_float32"]
    return {"contender": name, **row}


def main() -> None:
    """Plan, print, write."""
    args = measuring.parse(
        measuring.argument_parser(__doc__, works(quick=False), LAYOUTS, rounds=None)
    )
    rows: list[reporting.Row] = []
    for work in args.only:
        params = works(args.quick)[work]
        leaves = jax.tree.leaves(params)
        parameters = sum(math.prod(leaf.shape) for leaf in leaves)
        dtype = leaves[0].dtype.name
        for devices in DEVICES:
            table = [measure(name, params, devices) for name in args.contenders]
            title = f"{work}: {parameters:,} {dtype} parameters on {devices} devices, on each"
            reporting.print_table(title, table, COLUMNS)
            of_all = {"work": work, "parameters": parameters, "leaves": len(leaves)}
            of_all |= {"dtype": dtype, "devices": devices}
            rows += [of_all | row for row in table]
    if args.json:
        reporting.write_json(args.json, "state_bytes", args, rows)
    if args.plot:
        reporting.plot_bars(
            args.plot,
            rows,
            panel=lambda row: f"{row['work']} on {row['devices']} devices",
            value="total_bytes_float32",
            label="bytes a device: parameters, gradients, float32 state",
            columns=len(DEVICES),
        )


if __name__ == "__main__":
    main()
