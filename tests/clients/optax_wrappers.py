"""Every transformation of Optax that takes another one, and a run of training inside of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PARAMS = {
    "first": {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.array([0.0, 0.1, 0.2])},
    "second": jnp.array([0.5, -0.5, 0.25]),
}
X = jnp.linspace(-1, 1, 16).reshape(8, 2)
STEPS = 4


def loss(params):
    hidden = jnp.tanh(X @ params["first"]["kernel"] + params["first"]["bias"])
    return jnp.mean((hidden @ params["second"] - X.sum(1)) ** 2)


def every_second(step, **_):
    return step % 2 == 0


def is_matrix(params):
    return jax.tree.map(lambda param: jnp.ndim(param) > 1, params)


def by_rank(params):
    return jax.tree.map(lambda param: "matrix" if jnp.ndim(param) > 1 else "vector", params)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "chain, before": lambda inner: optax.chain(inner, optax.scale(0.5), optax.trace(0.9)),
    "chain, behind": lambda inner: optax.chain(optax.clip_by_global_norm(0.1), inner),
    "named_chain": lambda inner: optax.named_chain(
        ("clip", optax.clip(0.1)), ("scale", inner), ("ema", optax.ema(0.9))
    ),
    "masked": lambda inner: optax.masked(inner, is_matrix),
    "masked by a tree": lambda inner: optax.masked(inner, is_matrix(PARAMS)),
    "partition": lambda inner: optax.partition(
        {"matrix": inner, "vector": optax.sgd(0.1)}, by_rank
    ),
    "partition, frozen": lambda inner: optax.partition(
        {"matrix": optax.set_to_zero(), "vector": inner}, by_rank(PARAMS)
    ),
    "selective_transform": lambda inner: optax.selective_transform(
        inner, freeze_mask=is_matrix(PARAMS)
    ),
    "inject_hyperparams": lambda inner: optax.inject_hyperparams(
        lambda scale: optax.chain(inner, optax.scale(scale))
    )(scale=optax.linear_schedule(1.0, 0.5, 3)),
    "inject_hyperparams, with state": lambda inner: optax.inject_hyperparams(
        lambda scale: optax.chain(inner, optax.scale(scale))
    )(scale=optax.schedules.WrappedSchedule(optax.linear_schedule(1.0, 0.5, 3))),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 2).gradient_transformation(),
    "MultiSteps, skipping": lambda inner: optax.MultiSteps(
        inner, 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 2),
    "conditionally_mask": lambda inner: optax.conditionally_mask(inner, every_second),
    "conditionally_transform": lambda inner: optax.conditionally_transform(inner, every_second),
    "flatten": optax.flatten,
    "with_extra_args_support": optax.with_extra_args_support,
    "reduce_on_plateau": lambda inner: optax.chain(
        inner, optax.contrib.reduce_on_plateau(patience=1, rtol=0.9)
    ),
    "line search": lambda inner: optax.chain(
        inner, optax.scale_by_backtracking_linesearch(max_backtracking_steps=3)
    ),
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
    "mechanize": lambda inner: optax.contrib.mechanize(inner, num_betas=2),
    "schedule_free": lambda inner: optax.contrib.schedule_free(inner, learning_rate=1.0),
    "sam": lambda inner: optax.contrib.sam(
        inner, optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    ),
    "sam, adversary": lambda inner: optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), inner)
    ),
    "lookahead": lambda inner: optax.lookahead(inner, sync_period=2, slow_step_size=0.5),
}


# What a training loop passes to `update` for some of them.
EXTRA_ARGS = {
    "reduce_on_plateau": {"value": 1.0},
    "line search": {"value": 1.0, "grad": PARAMS, "value_fn": loss},
}


def trajectory(optimizer, wrappers=(), *, jit=False, params=PARAMS, loss=loss, steps=STEPS):
    """The parameters after every step, with the optimizer in the wrappers of these names."""
    extra_args = {}
    for name in wrappers:
        optimizer = WRAPPERS[name](optimizer)
        extra_args |= EXTRA_ARGS.get(name, {})
    if extra_args:
        optimizer = optax.with_extra_args_support(optimizer)
    if "lookahead" in wrappers:
        params = optax.LookaheadParams.init_synced(params)

    def step(params, state):
        fast = params.fast if isinstance(params, optax.LookaheadParams) else params
        updates, state = optimizer.update(jax.grad(loss)(fast), state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    state = optimizer.init(params)
    after = []
    for _ in range(steps):
        params, state = step(params, state)
        after.append(params)
    return after
