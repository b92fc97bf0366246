"""Optimistix's minimiser, which makes pytrees of an optimizer's closures and passes it the loss."""

import chex
import jax
import jax.numpy as jnp
import optax
import optimistix
import pytest

from adadelta_jax import adadelta, label_by_path, param_groups, scale_by_adadelta, with_step_hooks

START = {"point": jnp.array([-1.2, 1.0]), "offset": jnp.array(0.5)}
MAX_STEPS = (1, 2, 5)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def rosenbrock(y, scale):
    a, b = y["point"]
    return (1 - a) ** 2 + scale * (b - a**2) ** 2 + y["offset"] ** 2


def solution(optimizer, max_steps, start=START, *, tolerance=0.0, scale=100.0):
    """The solution after the last step, which the number of steps alone decides by default."""
    solver = optimistix.OptaxMinimiser(optimizer, rtol=tolerance, atol=tolerance)
    return optimistix.minimise(
        rosenbrock, solver, start, args=scale, max_steps=max_steps, throw=False
    )


MASK = {"point": True, "offset": False}
LABELS = {"point": "slow", "offset": "fast"}
GROUPS = {"slow": {"learning_rate": 0.1}, "fast": {"rho": 0.95}}
THEIR_GROUPS = {"slow": optax.adadelta(0.1), "fast": optax.adadelta(1.0, rho=0.95)}
SCHEDULE = optax.linear_schedule(1.0, 0.5, 3)

# Each with what Optax makes of its own parts to the same effect.
PAIRS = {
    "alone": (adadelta(), optax.adadelta(1.0)),
    "the part in a chain": (
        optax.chain(scale_by_adadelta(), optax.scale(-1.0)),
        optax.adadelta(1.0),
    ),
    "settings": (adadelta(0.5, 0.95, 1e-3, 0.1), optax.adadelta(0.5, 0.95, 1e-3, 0.1)),
    "a mask": (
        adadelta(weight_decay=0.1, weight_decay_mask=MASK),
        optax.adadelta(1.0, weight_decay=0.1, weight_decay_mask=MASK),
    ),
    "maximize": (adadelta(maximize=True), optax.adadelta(-1.0)),
    "hooks": (with_step_hooks(adadelta(), pre_step=lambda *_: None), optax.adadelta(1.0)),
    "behind a clip": (
        optax.chain(optax.clip_by_global_norm(0.1), adadelta()),
        optax.chain(optax.clip_by_global_norm(0.1), optax.adadelta(1.0)),
    ),
    "groups": (param_groups(GROUPS, LABELS), optax.partition(THEIR_GROUPS, LABELS)),
    "a schedule": (adadelta(SCHEDULE), optax.adadelta(SCHEDULE)),
    "decoupled weight decay": (
        adadelta(weight_decay=0.1, decoupled_weight_decay=True),
        optax.chain(optax.scale_by_adadelta(), optax.add_decayed_weights(0.1), optax.scale(-1.0)),
    ),
    "groups by path": (
        param_groups(GROUPS, label_by_path({"^point$": "slow"}, default="fast")),
        optax.partition(THEIR_GROUPS, lambda params: {name: LABELS[name] for name in params}),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
def test_a_minimisation_goes_through_the_values_of_optax(ours, theirs):
    for max_steps in MAX_STEPS:
        found, expected = solution(ours, max_steps), solution(theirs, max_steps)
        assert found.stats["num_steps"] == expected.stats["num_steps"] == max_steps
        chex.assert_trees_all_close(found.value, expected.value, **CLOSE)
    for name, start in START.items():
        assert jnp.min(jnp.abs(found.value[name] - start)) > 5e-4


def test_a_tolerance_ends_the_minimisation_where_it_does_with_optax():
    found, expected = (
        solution(optimizer, 1000, tolerance=1e-3, scale=1.0)
        for optimizer in (adadelta(), optax.adadelta(1.0))
    )
    assert found.result == expected.result == optimistix.RESULTS.successful
    # Rounding may move the step at which the change falls below the tolerance.
    steps, their_steps = (int(ended.stats["num_steps"]) for ended in (found, expected))
    assert steps == pytest.approx(their_steps, rel=0.02)
    chex.assert_trees_all_close(found.value, expected.value, atol=1e-3)


def test_many_minimisations_at_once_are_those_of_optax():
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, -leaf]), START)

    def values(optimizer):
        return jax.vmap(lambda start: solution(optimizer, 5, start).value)(starts)

    chex.assert_trees_all_close(values(adadelta()), values(optax.adadelta(1.0)), **CLOSE)
