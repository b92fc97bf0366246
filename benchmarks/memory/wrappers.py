"""How much scratch a step takes when Optax wraps the optimizer, ours and Optax's.

Bytes per parameter of the compiled step, which adds the updates to the parameters, with parameters
and state donated. The numbers are the compiler's, so there is nothing to repeat.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import adadelta_jax
from benchmarks.common import measuring, reporting

LEAVES, SIDE = 4, 512

Optimizer = optax.GradientTransformation

COLUMNS = {
    "scratch, B/parameter": reporting.number("scratch_bytes_per_parameter", ".2f"),
    "accessed, B/parameter": reporting.number("accessed_bytes_per_parameter", ".1f"),
}


def injected(adadelta: Callable[..., Optimizer], **settings: Any) -> Optimizer:
    """Injected hyperparameters, in float32 as the documentation advises."""
    return optax.inject_hyperparams(adadelta, hyperparam_dtype=jnp.float32, **settings)(
        learning_rate=1.0
    )


# By name, what is made of an `adadelta` that takes the arguments of Optax's.
WRAPPERS: dict[str, Callable[[Callable[..., Optimizer]], Optimizer]] = {
    "alone": lambda adadelta: adadelta(1.0),
    "clip": lambda adadelta: optax.chain(optax.clip(1.0), adadelta(1.0)),
    "masked": lambda adadelta: optax.masked(adadelta(1.0), [True] * LEAVES),
    "weight decay": lambda adadelta: adadelta(1.0, weight_decay=0.1),
    "clip_by_global_norm": lambda adadelta: optax.chain(
        optax.clip_by_global_norm(1.0), adadelta(1.0)
    ),
    "inject_hyperparams": injected,
    "inject_hyperparams of the rate alone": lambda adadelta: injected(
        adadelta, static_args=("rho", "eps", "weight_decay")
    ),
    "apply_if_finite": lambda adadelta: optax.apply_if_finite(adadelta(1.0), 3),
    "MultiSteps": lambda adadelta: optax.MultiSteps(adadelta(1.0), 2).gradient_transformation(),
}
CONTENDERS = {"adadelta_jax": adadelta_jax.adadelta, "optax": optax.adadelta}


def footprint(optimizer: Optimizer) -> dict[str, float]:
    """The bytes per parameter that a step needs as scratch, and those that it reads and writes."""

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32)] * LEAVES
    state = jax.eval_shape(optimizer.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    analysis, parameters = compiled.memory_analysis(), LEAVES * SIDE * SIDE
    assert analysis is not None
    return {
        "scratch_bytes_per_parameter": analysis.temp_size_in_bytes / parameters,
        "accessed_bytes_per_parameter": (compiled.cost_analysis() or {})["bytes accessed"]
        / parameters,
    }


def main() -> None:
    """Compile, print, write."""
    args = measuring.parse(
        measuring.argument_parser(__doc__, WRAPPERS, list(CONTENDERS), rounds=None)
    )
    rows: list[reporting.Row] = []
    for work in args.only:
        table: list[reporting.Row] = [
            {"contender": name, **footprint(WRAPPERS[work](CONTENDERS[name]))}
            for name in args.contenders
        ]
        reporting.print_table(work, table, COLUMNS)
        rows += [{"work": work} | row for row in table]
    if args.json:
        reporting.write_json(args.json, "wrappers", args, rows)


if __name__ == "__main__":
    main()
