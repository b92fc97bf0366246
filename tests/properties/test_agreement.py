"""Steps are the same eagerly, compiled, in a batch, in a scan and in a tree.

With state in float32 and no weight decay they are the same to the bit, except that an eager sum of
parameter and update rounds γΔ first. Otherwise the compiler chooses in each program where a fused
multiply-add saves a rounding, and a step differs by a few units in the last place.
"""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies

from adadelta_jax import adadelta, scale_by_adadelta
from adadelta_jax._storage.formats import values
from tests.properties.strategies import COORDINATES, STEPS, examples, gradients, trees

FLOAT32_EPS = float(np.finfo(np.float32).eps)
TINY = 2.0**-125  # numbers below half of it may count as zero
FIRST = jnp.linspace(-2, 2, COORDINATES)

PLAIN = {
    "defaults": {},
    "scheduled": {"learning_rate": lambda count: 0.5 / (1 + count), "rho": 0.99},
    "climbing": {"learning_rate": 0.3, "eps": 1e-3, "maximize": True},
}
OTHERS = {
    "bfloat16": {"accumulator_dtype": "bfloat16"},
    "float16": {"accumulator_dtype": "float16"},
    "uint8": {"accumulator_dtype": "uint8"},
    "coupled": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
}


@functools.cache
def optimizer_of(name):
    return adadelta(**(PLAIN | OTHERS)[name])


def step(name, carry, grads):
    params, state = carry
    updates, state = optimizer_of(name).update(grads, state, params)
    return (optax.apply_updates(params, updates), state), updates


compiled_step = jax.jit(step, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def scan(name, carry, grads):
    return jax.lax.scan(functools.partial(step, name), carry, grads)


@functools.partial(jax.jit, static_argnums=0)
def batch(name, carries, grads):
    """One step of every model in a batch."""
    return jax.vmap(functools.partial(step, name))(carries, grads)


def steps_in_turn(take, name, carry, grads):
    updates = []
    for row in grads:
        carry, update = take(name, carry, row)
        updates.append(update)
    return carry, jnp.stack(updates)


def fresh(name, params=FIRST):
    return params, optimizer_of(name).init(params)


def accumulators(carry):
    return [values(optax.tree.get(carry[1], name)) for name in ("square_avg", "acc_delta")]


@pytest.mark.parametrize("name", PLAIN)
@hypothesis.given(grads=gradients())
@examples(25)
def test_a_scan_takes_the_same_steps_as_compiled_ones_in_turn_to_the_bit(name, grads):
    in_turn = steps_in_turn(compiled_step, name, fresh(name), grads)
    chex.assert_trees_all_equal(scan(name, fresh(name), grads), in_turn)


@pytest.mark.parametrize("name", PLAIN)
@hypothesis.given(grads=gradients())
@examples(15)
def test_a_model_in_a_batch_takes_the_same_steps_as_alone_to_the_bit(name, grads):
    params = jnp.stack([FIRST, 2 * FIRST, FIRST + 1])
    carries = params, jax.vmap(optimizer_of(name).init)(params)
    models_grads = jnp.stack([grads, -grads, grads[::-1]], axis=1)
    together, updates = steps_in_turn(batch, name, carries, models_grads)
    for i, own_params in enumerate(params):
        alone = steps_in_turn(compiled_step, name, fresh(name, own_params), models_grads[:, i])
        own = jax.tree.map(lambda x, i=i: x[i], together), updates[:, i]
        chex.assert_trees_all_equal(own, alone)


@pytest.mark.parametrize("name", PLAIN)
@hypothesis.given(grads=gradients())
@examples(15)
def test_eager_steps_give_the_same_updates_and_state_to_the_bit(name, grads):
    """And parameters to a unit in the last place of the largest sum, at every step."""
    eager, eager_updates = steps_in_turn(step, name, fresh(name), grads)
    compiled, updates = steps_in_turn(compiled_step, name, fresh(name), grads)
    chex.assert_trees_all_equal((eager_updates, eager[1]), (updates, compiled[1]))
    largest = np.abs(FIRST) + np.abs(updates).sum(axis=0, dtype=np.float64)
    _, difference = compared(eager[0], compiled[0])
    assert (difference <= STEPS * FLOAT32_EPS * largest).all()


@functools.partial(jax.jit, static_argnums=0)
def scan_and_remember(name, carry, grads):
    """The carry before each step of a scan, and the results of the step."""

    def remembering(carry, row):
        after, updates = step(name, carry, row)
        return after, (carry, (after, updates))

    return jax.lax.scan(remembering, carry, grads)[1]


@pytest.mark.parametrize("name", OTHERS)
@hypothesis.given(grads=gradients())
@examples(15)
def test_a_step_differs_by_at_most_four_units_in_the_last_place_of_what_it_adds_up(name, grads):
    """Accumulators in 8 or 16 bits may also be rounded to the other neighbour."""
    found, made = scan_and_remember(name, fresh(name), grads)
    for i, row in enumerate(grads):
        carry, scanned = jax.tree.map(lambda x, i=i: x[i], (found, made))
        in_batch = batch(name, jax.tree.map(lambda x: x[None], carry), row[None])
        for other in (
            step(name, carry, row),
            compiled_step(name, carry, row),
            jax.tree.map(lambda x: x[0], in_batch),
        ):
            assert_almost_the_same_step(name, other, scanned, carry[0], row)


def assert_almost_the_same_step(name, actual, expected, params, grads):
    """Where a sum cancels, its error stays as large as the summands' and the sum does not."""
    params, grads = np.asarray(params, np.float64), np.asarray(grads, np.float64)
    decay = 0.1 * params
    coupled = decay if name == "coupled" else 0 * decay
    summed, left = np.abs(grads) + np.abs(coupled), np.abs(grads + coupled)
    added_later = np.abs(decay) if name == "decoupled" else 0
    most = 4 * FLOAT32_EPS

    update, difference = compared(actual[1], expected[1])
    assert (difference * left <= most * (update * summed + added_later * left) + TINY * left).all()

    narrow = name if name in ("bfloat16", "float16", "uint8") else None
    (v, of_v), (u, of_u) = map(compared, accumulators(actual[0]), accumulators(expected[0]))
    assert (of_v <= most * (v + summed**2) + spacing(v, narrow)).all()
    assert (of_u * left <= most * (u * left + update**2 * summed) + spacing(u, narrow) * left).all()


def compared(actual, expected):
    """The size of the expected value, and the difference."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.abs(expected), np.abs(actual - expected)


def spacing(x, narrow):
    if narrow is None:
        return TINY
    if narrow == "uint8":  # four to an octave of the number plus the offset
        return (x + 1.5 * 2.0**-33) / 4
    info = jnp.finfo(narrow)
    return np.maximum(x, float(info.smallest_normal)) * 2.0**-info.nmant + TINY


ON_A_TREE = scale_by_adadelta()  # made once, so that a shape is compiled once


def is_shape(node):
    return isinstance(node, tuple)


@hypothesis.given(shapes=trees, seed=strategies.integers(0, 99))
@examples(40)
def test_a_leaf_in_a_tree_takes_the_same_steps_as_alone(shapes, seed):
    """Except where the state is rounded at random: the noise depends on the leaf's index."""
    rng = np.random.default_rng(seed)
    gradients = [
        jax.tree.map(
            lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
            shapes,
            is_leaf=is_shape,
        )
        for _ in range(3)
    ]
    state = ON_A_TREE.init(gradients[0])
    leaves = jax.tree.leaves(gradients[0])
    states_alone = [ON_A_TREE.init(leaf) for leaf in leaves]
    for grads in gradients:
        updates, state = ON_A_TREE.update(grads, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
        alone = [
            ON_A_TREE.update(leaf, own)
            for leaf, own in zip(jax.tree.leaves(grads), states_alone, strict=True)
        ]
        states_alone = [own for _, own in alone]
        chex.assert_trees_all_equal(jax.tree.leaves(updates), [update for update, _ in alone])
        for name in ("square_avg", "acc_delta"):
            chex.assert_trees_all_equal(
                jax.tree.leaves(getattr(state, name)), [getattr(own, name) for own in states_alone]
            )
    assert state.count == 3
