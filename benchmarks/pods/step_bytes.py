"""What one step moves and keeps on a TPU and a GPU, per parameter, as their compilers say.

The step is compiled for the chip and not run: no TPU was at hand. Parameters and state are donated.
The floor is what the step cannot do without: to read gradients, parameters and state once, and to
write parameters and state once. Arrays are too large for a TPU's on-chip memory.
"""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

from adadelta_jax import adadelta
from benchmarks.common import measuring, reporting
from benchmarks.pods import compilers
from benchmarks.speed.step_time import works

CHIPS = ("v5e", "v6e", "h100")
OPTIMIZERS = ("adadelta_jax", "optax", "adam", "keras")


class Setting(NamedTuple):
    """What is compiled: optimizers by name, the dtypes of the step, and arrays read besides."""

    optimizers: dict[str, Any]
    params: str = "float32"
    grads: str = "float32"
    accumulators: str = "float32"
    leaves: str = "large"
    norm: bool = False  # which reads the gradients once more


def settings() -> dict[str, Setting]:
    """All settings, by name."""

    def both(**options):
        return {"adadelta_jax": adadelta(**options), "optax": optax.adadelta(1.0, **options)}

    def behind(clip):
        return {name: optax.chain(clip, inner) for name, inner in both().items()}

    def ours(**options):
        return {"adadelta_jax": adadelta(**options)}

    injected = {
        "adadelta_jax": optax.inject_hyperparams(adadelta)(learning_rate=1.0),
        "optax": optax.inject_hyperparams(optax.adadelta)(learning_rate=1.0),
    }
    half: dict[str, Any] = {"params": "bfloat16", "grads": "bfloat16"}
    adam = {"adam": optax.adam(1e-3)}
    return {
        "float32": Setting(both() | adam | {"keras": None}),
        "weight decay": Setting(both(weight_decay=0.1)),
        "decoupled weight decay": Setting(ours(weight_decay=0.1, decoupled_weight_decay=True)),
        "behind optax.clip": Setting(behind(optax.clip(1.0))),
        "behind optax.clip_by_global_norm": Setting(
            behind(optax.clip_by_global_norm(1.0)), norm=True
        ),
        "injected hyperparameters": Setting(injected),
        "148 leaves of GPT-2": Setting(both() | adam, leaves="gpt2"),
        "bfloat16 state": Setting(ours(accumulator_dtype="bfloat16"), accumulators="bfloat16"),
        "bfloat16 parameters": Setting(ours(), **half),
        "bfloat16 parameters, float32 gradients": Setting(ours(), params="bfloat16"),
        "bfloat16 parameters, float32 gradients, weight decay": Setting(
            ours(weight_decay=0.1), params="bfloat16"
        ),
        "bfloat16 parameters and state": Setting(
            {
                "adadelta_jax": adadelta(accumulator_dtype="bfloat16"),
                "optax": optax.adadelta(1.0),
                "adam": optax.adam(1e-3),
            },
            **half,
            accumulators="bfloat16",
        ),
        "bfloat16 parameters and state, float32 gradients": Setting(
            ours(accumulator_dtype="bfloat16"), params="bfloat16", accumulators="bfloat16"
        ),
        "uint8 state": Setting(ours(accumulator_dtype="uint8"), accumulators="uint8"),
        "uint8 state, weight decay": Setting(
            ours(accumulator_dtype="uint8", weight_decay=0.1), accumulators="uint8"
        ),
        "bfloat16 parameters, uint8 state, float32 gradients": Setting(
            ours(accumulator_dtype="uint8"), params="bfloat16", accumulators="uint8"
        ),
    }


def shapes(leaves: str, chip: str) -> list[tuple[int, ...]]:
    """Of the parameters: one leaf that no on-chip memory holds, or GPT-2's."""
    if leaves == "gpt2":
        return list(works(quick=False)["gpt2"])
    return [(2048, 2048)] * 8 if chip == "h100" else [(16384, 4096)]


def floor(setting: Setting) -> int:
    """The bytes per parameter that a step cannot do without."""
    bytes_of = {"float32": 4, "bfloat16": 2, "uint8": 1}
    reads = bytes_of[setting.grads] * (2 if setting.norm else 1)
    return reads + 2 * bytes_of[setting.params] + 4 * bytes_of[setting.accumulators]


def compile_step(chip: str, optimizer: Any, setting: Setting) -> tuple[compilers.Program, int]:
    """The program of a step, and the number of parameters."""
    leaves = shapes(setting.leaves, chip)
    params = [jax.ShapeDtypeStruct(shape, setting.params) for shape in leaves]
    grads = [jax.ShapeDtypeStruct(shape, setting.grads) for shape in leaves]
    state, step = _keras_step(params) if optimizer is None else _optax_step(optimizer, params)
    arguments = compilers.on_one_device(chip, (params, state, grads))
    compiled = compilers.compiled(step, arguments, chip, donate_argnums=(0, 1))
    return compiled, sum(map(math.prod, leaves))


def _optax_step(optimizer: Any, params: Any) -> tuple[Any, Callable]:
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.eval_shape(optimizer.init, params), step


def _keras_step(params: list[jax.ShapeDtypeStruct]) -> tuple[Any, Callable]:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    optimizer = keras.optimizers.Adadelta(learning_rate=1.0)
    optimizer.build([keras.Variable(jnp.zeros(param.shape, param.dtype)) for param in params])

    def step(params, state, grads):
        return optimizer.stateless_apply(state, grads, params)

    return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in optimizer.variables], step


COLUMNS = {
    "accessed, B/parameter": reporting.number("accessed_bytes_per_parameter", ".2f"),
    "floor": reporting.number("floor_bytes_per_parameter", ".0f"),
    "scratch": reporting.number("scratch_bytes_per_parameter", ".2f"),
    "passes": reporting.number("passes", "d"),
    "kernels": reporting.number("kernels", "d"),
    "copies": reporting.number("copies", "d"),
}


def measure(chip: str, name: str, setting: Setting, contenders: list[str]) -> list[reporting.Row]:
    """A row for every contender."""
    rows = []
    for contender in contenders:
        if contender not in setting.optimizers:
            continue
        program, parameters = compile_step(chip, setting.optimizers[contender], setting)
        rows.append(
            {
                "work": name,
                "chip": chip,
                "contender": contender,
                "floor_bytes_per_parameter": floor(setting),
                "accessed_bytes_per_parameter": program.accessed / parameters,
                "scratch_bytes_per_parameter": program.scratch / parameters,
                "passes": program.passes,
                "kernels": program.kernels,
                "copies": program.copies,
            }
        )
    return rows


def plot(path: Path, rows: list[reporting.Row]) -> None:
    """Draw what a step moves on a TPU v5e, beside what it must."""
    drawn = ("float32", "weight decay", "behind optax.clip", "148 leaves of GPT-2")
    names = {"adadelta_jax": "adadelta-jax", "optax": "optax.adadelta"}
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for shift, (contender, name) in enumerate(names.items()):
        of_one = {
            row["work"]: row["accessed_bytes_per_parameter"]
            for row in rows
            if row["chip"] == "v5e" and row["contender"] == contender
        }
        places = [place + 0.4 * shift for place in range(len(drawn))]
        bars = axes.barh(places, [of_one.get(each, 0) for each in drawn], 0.38, label=name)
        axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.axvline(28, color="black", linestyle=":", label="at least")
    axes.set_yticks([place + 0.2 for place in range(len(drawn))], drawn)
    axes.invert_yaxis()
    axes.set(xlabel="bytes of memory traffic per parameter, a step on a TPU v5e, compiled")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Compile every setting for every chip."""
    all_settings = settings()
    parser = measuring.argument_parser(__doc__, all_settings, OPTIMIZERS, rounds=None)
    parser.add_argument("--chips", nargs="+", default=CHIPS, metavar="CHIP", help="default: all")
    args = measuring.parse(parser)
    rows = []
    for chip in args.chips:
        if absent := compilers.missing(chip):
            sys.exit(f"{chip} needs {absent}: pip install '.[test-compiled]'")
        for name in args.only:
            found = measure(chip, name, all_settings[name], args.contenders)
            reporting.print_table(f"{name}, {chip}", found, COLUMNS)
            rows += found
    if args.json:
        reporting.write_json(args.json, "pods_step", args, rows)
    if args.plot:
        plot(args.plot, rows)


if __name__ == "__main__":
    main()
