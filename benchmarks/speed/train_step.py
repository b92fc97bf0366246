"""How long a whole training step takes: forward, backward and update, in one jitted function.

There the compiler may fuse the update with the backward pass, and the update's scratch memory adds
to the network's. Plain SGD is the floor: what the step costs with the cheapest of optimizers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.common import agreement, contenders, measuring, reporting
from benchmarks.common.networks import CNN, MLP, Transformer

# Of the parameters after one step, in units of the change that it made; see `agreement`. A second
# step would already pass on how the first was rounded.
TOLERANCE = 1e-4

COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "deviation": reporting.number("deviation", ".1e"),
}


def works(quick: bool) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """By name, a model and the shape of the batch that it gets."""
    if quick:
        return {
            "mlp_256": (MLP(16), (8, 16)),
            "mlp_1024": (MLP(24), (4, 24)),
            "mlp_2048": (MLP(32), (2, 32)),
            "cnn": (CNN(2), (2, 8, 8, 1)),
            "transformer": (Transformer(16, 1), (2, 8, 16)),
        }
    return {
        "mlp_256": (MLP(256), (64, 256)),
        "mlp_1024": (MLP(1024), (32, 1024)),
        "mlp_2048": (MLP(2048), (16, 2048)),
        "cnn": (CNN(16), (32, 28, 28, 1)),
        "transformer": (Transformer(256, 4), (4, 64, 256)),
    }


def optimizers() -> dict[str, optax.GradientTransformationExtraArgs]:
    """By name, the contenders: those that Optax can chain, and SGD."""
    return {**contenders.jax_optimizers(), "sgd": optax.sgd(1e-3)}


def make(
    names: list[str], model: nn.Module, batch_shape: tuple[int, ...]
) -> dict[str, contenders.JaxContender]:
    """By name, a training step of the model with each optimizer, all from the same parameters."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal(batch_shape, np.float32))
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    outputs = jax.eval_shape(model.apply, params, inputs)
    targets = jnp.asarray(rng.standard_normal(outputs.shape, np.float32))

    def contender(optimizer):
        step = training_step(model, optimizer)
        return contenders.JaxContender(step, params, optimizer.init(params), inputs, targets)

    return {name: contender(optimizers()[name]) for name in names}


def training_step(
    model: nn.Module, optimizer: optax.GradientTransformationExtraArgs
) -> Callable[..., tuple[Any, Any]]:
    """A step down the mean squared error."""

    def loss(params, inputs, targets):
        return jnp.mean((model.apply(params, inputs) - targets) ** 2)

    def step(params, state, inputs, targets):
        grads = jax.grad(loss)(params, inputs, targets)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def check(taking_part: Mapping[str, contenders.JaxContender]) -> dict[str, float]:
    """Let new contenders take a step; the deviation of each Adadelta from the first of them."""
    start = [leaf.copy() for leaf in next(iter(taking_part.values())).leaves()]
    for contender in taking_part.values():
        contender()
    adadeltas = {name: c.leaves() for name, c in taking_part.items() if name != "sgd"}
    expected = next(iter(adadeltas.values()), [])
    return agreement.check(adadeltas, expected, start, dict.fromkeys(adadeltas, TOLERANCE))


def measure(taking_part: Mapping[str, contenders.JaxContender], rounds: int) -> list[reporting.Row]:
    """A row for each contender, after the check that all Adadeltas computed the same numbers."""
    deviations = check(taking_part)
    seconds = measuring.time_in_turn(taking_part, rounds)
    rows: list[reporting.Row] = []
    for name, contender in taking_part.items():
        row: reporting.Row = {"contender": name, "parameters": contender.parameters()}
        row |= measuring.median_and_quartiles(seconds[name])
        if name in deviations:
            row["deviation"] = deviations[name]
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = measuring.argument_parser(__doc__, works(quick=False), optimizers())
    args = measuring.parse(parser)
    rows: list[reporting.Row] = []
    for work in args.only:
        model, batch_shape = works(args.quick)[work]
        table = measure(make(args.contenders, model, batch_shape), args.rounds)
        title = f"{work}: {table[0]['parameters']:,} parameters, batch of {batch_shape}"
        reporting.print_table(title, table, COLUMNS)
        rows += [{"work": work, "batch": batch_shape} | row for row in table]
    if args.json:
        reporting.write_json(args.json, "train_step", args, rows)
    if args.plot:
        reporting.plot_bars(
            args.plot, rows, panel=lambda row: row["work"], value="median_ms", label="ms a step"
        )


if __name__ == "__main__":
    main()
