"""Every transformation of Optax that takes another one, alone and in each other."""

import os

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta, scale_by_adadelta
from tests.clients.optax_wrappers import WRAPPERS, trajectory

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_optimizer_trains_as_with_optax(name):
    ours = trajectory(adadelta(), [name], jit=True)
    chex.assert_trees_all_close(ours, trajectory(optax.adadelta(1.0), [name], jit=True), **CLOSE)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), ours[0], ours[-1])))


def test_galore_trains_as_with_optax():
    """It gives its base no parameters, which `optax.adadelta` asks for."""

    def trained(inner):
        projected = optax.contrib.scale_by_galore(rank=1, update_proj_gap=2, base_optimizer=inner)
        return trajectory(optax.chain(projected, optax.scale(-1.0)))

    theirs = trained(optax.scale_by_adadelta())
    chex.assert_trees_all_close(trained(scale_by_adadelta()), theirs, **CLOSE)
    chex.assert_trees_all_close(trained(adadelta(maximize=True)), theirs, **CLOSE)


def test_complex_parameters_in_split_real_and_imaginary_train_as_with_optax():
    def loss(params):
        return jnp.sum(jnp.abs(params - (1 + 2j)) ** 2)

    def trained(inner):
        optimizer = optax.chain(
            optax.stateless(lambda grads, _: jnp.conj(grads)),
            optax.contrib.split_real_and_imaginary(inner),
        )
        return trajectory(optimizer, params=jnp.array([1j, -1.0]), loss=loss)

    chex.assert_trees_all_close(trained(adadelta()), trained(optax.adadelta(1.0)), **CLOSE)


# Wrappers that differ from others only in an option are left out of the pairs.
KINDS = [
    name
    for name in WRAPPERS
    if name
    not in {
        "masked by a tree",
        "partition, frozen",
        "inject_hyperparams, with state",
        "MultiSteps, skipping",
        "with_extra_args_support",
        "sam, adversary",
    }
]
# Each kind in four others at every run, each in each in `make long-runs`.
DISTANCES = range(len(KINDS)) if os.environ.get("ADADELTA_JAX_LONG_RUNS") else (0, 1, 3, 8)


@pytest.mark.parametrize("outer", KINDS)
def test_two_wrappers_train_as_with_optax_or_fail_as_with_it(outer):
    inners = [KINDS[(KINDS.index(outer) + distance) % len(KINDS)] for distance in DISTANCES]
    agreeing = 0
    # Conditions of Optax's wrappers are compiled at every eager step: without jit they just run.
    with jax.disable_jit():
        for inner in inners:
            ours, theirs = (
                trajectory_or_error(make(1.0), [inner, outer])
                for make in (adadelta, optax.adadelta)
            )
            if isinstance(theirs, Exception):
                assert type(ours) is type(theirs), f"{inner} in {outer}: {ours!r}"
            else:
                chex.assert_trees_all_close(ours, theirs, **CLOSE)
                agreeing += 1
    assert agreeing > 0


def trajectory_or_error(optimizer, wrappers):
    try:
        return trajectory(optimizer, wrappers, steps=3)
    except Exception as error:
        return error
