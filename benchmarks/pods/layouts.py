"""What a training step of GPT-2's widths takes and sends on each chip of a TPU pod, by layout.

One block of GPT-2 with its embeddings, 46 million parameters, compiled for 4 to 256 chips and not
run. Parameters and state are donated. Arguments, scratch and collectives are bytes per device, as
the compiler has them; a collective's bytes are those of its result.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings
from benchmarks.common import measuring, reporting
from benchmarks.pods import compilers


class Model(NamedTuple):
    """The sizes of GPT-2, its vocabulary padded to a multiple of 128."""

    vocabulary: int = 50304
    width: int = 768
    context: int = 256  # so that activations do not hide what the optimizer takes


GPT2 = Model()
HEAD_WIDTH = 64


class Layout(NamedTuple):
    """A mesh over the chips of a topology, and what is split along its axes."""

    topology: str
    data: int
    model: int = 1
    fsdp: bool = False
    zero_axis: str | None = None


LAYOUTS = {
    "data parallel, 4": Layout("v5e:2x2", 4),
    "ZeRO-1, 4": Layout("v5e:2x2", 4, zero_axis="data"),
    "ZeRO-1, 16": Layout("v5e:4x4", 16, zero_axis="data"),
    "FSDP, 16": Layout("v5e:4x4", 16, fsdp=True),
    "tensor parallel 4 x ZeRO-1 4": Layout("v5e:4x4", 4, 4, zero_axis="data"),
    "ZeRO-1, 256": Layout("v5e:16x16", 256, zero_axis="data"),
}
OPTIMIZERS = {
    "adadelta_jax": adadelta(),
    "adadelta_jax_bfloat16": adadelta(accumulator_dtype="bfloat16"),
    "optax": optax.adadelta(1.0),
    "adam": optax.adam(1e-3),
}


def parameters(model: Model) -> Any:
    """The shapes of the model's parameters."""
    width = model.width
    shapes = {
        "tokens": (model.vocabulary, width),
        "positions": (model.context, width),
        "query_key_value": (width, 3 * width),
        "attention_out": (width, width),
        "mlp_in": (width, 4 * width),
        "mlp_in_bias": (4 * width,),
        "mlp_out": (4 * width, width),
        "mlp_out_bias": (width,),
    }
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


# Of tensor parallelism: each layer's way in by columns, its way out by rows, the words by rows.
BY_MODEL = {
    "tokens": PartitionSpec("model"),
    "query_key_value": PartitionSpec(None, "model"),
    "attention_out": PartitionSpec("model"),
    "mlp_in": PartitionSpec(None, "model"),
    "mlp_in_bias": PartitionSpec("model"),
    "mlp_out": PartitionSpec("model"),
}


def loss(params: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """The mean cross entropy of the next token."""
    x = params["tokens"][tokens] + params["positions"]
    heads = (*tokens.shape, -1, HEAD_WIDTH)
    q, k, v = (
        part.reshape(heads) for part in jnp.split(_norm(x) @ params["query_key_value"], 3, axis=-1)
    )
    attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + attended.reshape(x.shape) @ params["attention_out"]
    hidden = jax.nn.gelu(_norm(x) @ params["mlp_in"] + params["mlp_in_bias"])
    x = x + hidden @ params["mlp_out"] + params["mlp_out_bias"]
    logits = _norm(x) @ params["tokens"].T
    targets = jnp.roll(tokens, -1, axis=1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def _norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


def compile_step(
    layout: Layout, optimizer: optax.GradientTransformation, model: Model = GPT2
) -> tuple[compilers.Program, int]:
    """The program of a training step on each device, and the bytes that `sharding` plans."""
    mesh = compilers.mesh(layout.topology, data=layout.data, model=layout.model)
    shapes = parameters(model)
    params_at = {name: _sharding(layout, mesh, name, each) for name, each in shapes.items()}
    state_at = state_shardings(optimizer, shapes, params_at, zero_axis=layout.zero_axis)
    state = jax.eval_shape(optimizer.init, shapes)
    tokens = jax.ShapeDtypeStruct((layout.data, model.context), jnp.int32)
    tokens_at = NamedSharding(mesh, PartitionSpec("data"))

    def step(params, state, tokens):
        grads = jax.grad(loss)(params, tokens)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    arguments = (placed(shapes, params_at), placed(state, state_at), placed(tokens, tokens_at))
    planned = bytes_per_device((shapes, state, tokens), (params_at, state_at, tokens_at))
    program = compilers.compiled(
        step,
        arguments,
        layout.topology,
        donate_argnums=(0, 1),
        out_shardings=(params_at, state_at),
    )
    return program, planned


def placed(tree: Any, shardings: Any) -> Any:
    """The shapes of a tree with their shardings."""
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings
    )


def _sharding(layout: Layout, mesh: Mesh, name: str, array: jax.ShapeDtypeStruct) -> NamedSharding:
    if layout.model > 1:
        return NamedSharding(mesh, BY_MODEL.get(name, PartitionSpec()))
    fits = array.shape[0] % layout.data == 0
    return NamedSharding(mesh, PartitionSpec("data") if layout.fsdp and fits else PartitionSpec())


COLUMNS = {
    "arguments, MB": lambda row: f"{row['argument_bytes'] / 1e6:.1f}",
    "scratch, MB": lambda row: f"{row['scratch_bytes'] / 1e6:.1f}",
    "collectives, MB": lambda row: ", ".join(
        f"{kind} {size / 1e6:.1f}" for kind, size in row["collective_bytes"].items()
    ),
}


def main() -> None:
    """Compile every layout with every optimizer."""
    parser = measuring.argument_parser(__doc__, LAYOUTS, OPTIMIZERS, rounds=None)
    args = measuring.parse(parser)
    if absent := compilers.missing("v5e"):
        sys.exit(f"this needs {absent}: pip install '.[test-compiled]'")
    rows = []
    for name in args.only:
        found = []
        for contender in args.contenders:
            if contender in ("optax", "adam") and LAYOUTS[name].zero_axis:
                continue  # which have nothing that splits their state
            program, planned = compile_step(LAYOUTS[name], OPTIMIZERS[contender])
            found.append(
                {
                    "work": name,
                    "contender": contender,
                    "planned_bytes": planned,
                    "argument_bytes": program.arguments,
                    "scratch_bytes": program.scratch,
                    "collective_bytes": program.collectives,
                }
            )
        reporting.print_table(name, found, COLUMNS)
        rows += found
    if args.json:
        reporting.write_json(args.json, "pods_layouts", args, rows)


if __name__ == "__main__":
    main()
