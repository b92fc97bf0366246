"""`carry_over_state` from Optax's Adadelta, other containers, other names and other shapes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze

from adadelta_jax import ScaleByAdadeltaState, adadelta, carry_over_state, param_groups
from adadelta_jax._core.transform import adadelta_states
from tests.grouped_parameters import GRADS, PARAMS, steps
from tests.refusals import assert_refused, each_refusal

SCHEDULE = optax.exponential_decay(1.0, 10, 0.5)
THEIRS = {
    "alone": (optax.adadelta(1.0), adadelta()),
    "a schedule": (optax.adadelta(SCHEDULE), adadelta(SCHEDULE)),
    "a chain": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.adadelta(1.0)),
        optax.chain(optax.clip_by_global_norm(1.0), adadelta()),
    ),
    "masked": (
        optax.masked(optax.adadelta(1.0), {"body": True, "head": False}),
        optax.masked(adadelta(), {"body": True, "head": False}),
    ),
    "partition": (
        optax.partition(
            {"slow": optax.adadelta(0.1), "fast": optax.adadelta(1.0)},
            {"body": "slow", "head": "fast"},
        ),
        param_groups(
            {"slow": {"learning_rate": 0.1}, "fast": {}}, {"body": "slow", "head": "fast"}
        ),
    ),
    "injection": (
        optax.inject_hyperparams(optax.adadelta)(learning_rate=SCHEDULE),
        optax.inject_hyperparams(adadelta)(learning_rate=SCHEDULE),
    ),
    "MultiSteps": (
        optax.MultiSteps(optax.adadelta(SCHEDULE), 2),
        optax.MultiSteps(adadelta(SCHEDULE), 2),
    ),
}


@pytest.mark.parametrize(("theirs", "ours"), THEIRS.values(), ids=THEIRS)
def test_a_run_of_optaxs_adadelta_continues_here(theirs, ours):
    _, state = steps(theirs, theirs.init(PARAMS), GRADS[:4])
    carried = carry_over_state(ours, PARAMS, state)
    chex.assert_trees_all_equal_structs(carried, ours.init(PARAMS))
    updates, _ = steps(ours, carried, GRADS[4:])
    expected, _ = steps(theirs, state, GRADS[4:])
    chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-7)


def test_without_another_count_a_run_from_optax_counts_from_zero():
    theirs = optax.adadelta(1.0)
    _, state = steps(theirs, theirs.init(PARAMS), GRADS)
    assert optax.tree.get(carry_over_state(adadelta(), PARAMS, state), "count") == 0


class Net(nnx.Module):
    """A layer."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 3, rngs=rngs)


VARIABLES = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
CONTAINERS = {
    "variables": VARIABLES,
    "a dict": nnx.to_pure_dict(VARIABLES),
    "a FrozenDict": freeze(nnx.to_pure_dict(VARIABLES)),
}


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("new", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("old", CONTAINERS.values(), ids=CONTAINERS)
def test_a_state_moves_between_containers_and_takes_the_new_one(old, new, accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    _, state = optimizer.update(optax.tree.full_like(old, 0.5), optimizer.init(old), old)
    carried = carry_over_state(optimizer, new, state)
    chex.assert_trees_all_equal_structs(carried, optimizer.init(new))
    assert [leaf.tolist() for leaf in jax.tree.leaves(carried)] == [
        leaf.tolist() for leaf in jax.tree.leaves(state)
    ]
    optimizer.update(optax.tree.full_like(new, 0.5), carried, new)


def test_a_renamed_layer_keeps_its_accumulators():
    optimizer = adadelta()
    _, state = steps(optimizer, optimizer.init(PARAMS), GRADS)
    new_params = {"encoder": PARAMS["body"], "head": {"weight": PARAMS["head"]["kernel"]}}
    renamed = {"body": "encoder", "head/kernel": "head/weight"}
    carried = carry_over_state(optimizer, new_params, state, renamed=renamed)
    (old,), (new,) = adadelta_states(state), adadelta_states(carried)
    chex.assert_trees_all_equal(new.acc_delta["encoder"], old.acc_delta["body"])
    chex.assert_trees_all_equal(new.square_avg["head"]["weight"], old.square_avg["head"]["kernel"])


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
def test_a_widened_layer_keeps_the_accumulators_of_its_old_units(accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    narrow, wide = {"w": jnp.ones((64, 80))}, {"w": jnp.ones((96, 80))}
    _, state = optimizer.update(narrow, optimizer.init(narrow), narrow)
    carried = carry_over_state(optimizer, wide, state, pad=True)
    chex.assert_trees_all_equal_structs(carried, optimizer.init(wide))
    grads = {"w": wide["w"].at[:64].set(1.0)}
    updates, _ = optimizer.update(grads, carried, wide)
    expected, _ = optimizer.update(narrow, state, narrow)
    fresh, _ = optimizer.update(narrow, optimizer.init(narrow), narrow)
    rtol = 1e-6 if accumulator_dtype is None else 0.2
    np.testing.assert_allclose(updates["w"][:64], expected["w"], rtol=rtol)
    np.testing.assert_allclose(updates["w"][64:], fresh["w"][:32], rtol=rtol)


def test_a_layer_that_shrinks_starts_from_zero_even_with_pad():
    optimizer = adadelta()
    state = optimizer.init({"w": jnp.ones((4, 3))})
    with pytest.warns(UserWarning, match="the accumulators of w start from zero"):
        carried = carry_over_state(optimizer, {"w": jnp.ones((3, 3))}, state, pad=True)
    assert isinstance(carried[2], ScaleByAdadeltaState)


STATE = adadelta().init({"w": jnp.ones(3)})


def carry_over(**keywords):
    return lambda: carry_over_state(adadelta(), {"w": jnp.ones(3)}, STATE, **keywords)


REFUSALS = {
    "a renamed path that is not there": (
        carry_over(renamed={"v": "w"}),
        ValueError,
        "renamed: old_state has no 'v': it holds accumulators of w",
    ),
    "a list of renamed paths": (
        carry_over(renamed=["w"]),
        TypeError,
        "renamed must map old paths to new paths, got ['w']",
    ),
    "a renamed path that is a number": (
        carry_over(renamed={"w": 1}),
        TypeError,
        "renamed must map old paths to new paths, got {'w': 1}",
    ),
    "pad as a number": (carry_over(pad=1), TypeError, "pad must be True or False, got 1"),
}


@each_refusal(REFUSALS)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
