"""`carry_over_state`: which accumulators and counts are kept, and in which form."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adadelta_jax import (
    adadelta,
    carry_over_state,
    param_groups,
)
from tests.grouped_parameters import (
    GRADS,
    LABELS,
    PARAMS,
    adadelta_states,
    group_states,
    steps,
    without_body,
)


def in_two_groups(labels=LABELS["prefix"], **keywords):
    return param_groups({"slow": keywords, "fast": keywords}, labels)


SCHEDULES = {
    "learning_rate": lambda count: 1 / (count + 1),
    "weight_decay": lambda count: 0.1 * count,
}
OPTIMIZERS = {
    "adadelta": adadelta(),
    "schedules": adadelta(**SCHEDULES),
    "decoupled": adadelta(**SCHEDULES, decoupled_weight_decay=True),
    "groups": in_two_groups(**SCHEDULES),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), in_two_groups(**SCHEDULES)),
    "hyperparameters": optax.inject_hyperparams(adadelta)(**SCHEDULES, rho=lambda count: 0.9),
    "several steps": optax.MultiSteps(adadelta(**SCHEDULES), lambda step: 1 + (step < 1)),
    "apply if finite": optax.apply_if_finite(adadelta(**SCHEDULES), 3),
    "mask": optax.masked(adadelta(**SCHEDULES), {"body": True, "head": False}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_own_state_as_if_nothing_had_happened(optimizer):
    step = jax.jit(optimizer.update)
    state = optimizer.init(PARAMS)
    for grads in GRADS[:4]:
        _, state = step(grads, state, PARAMS)
    carried = carry_over_state(optimizer, PARAMS, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, state)
    counts, expected = (optax.tree.get_all_with_path(tree, "count") for tree in (carried, state))
    assert counts == expected
    for grads in GRADS[4:]:
        expected, state = step(grads, state, PARAMS)
        updates, carried = step(grads, carried, PARAMS)
        chex.assert_trees_all_equal(updates, expected)


groupings = st.lists(st.sampled_from(["slow", "fast"]), min_size=4, max_size=4).filter(
    lambda labels: len(set(labels)) == 2
)


@settings(max_examples=10, deadline=None)
@given(regroupings=st.lists(groupings, min_size=1, max_size=2))
def test_a_parameter_that_changes_groups_goes_on_bit_for_bit(regroupings):
    structure = jax.tree.structure(PARAMS)
    optimizers = [in_two_groups(structure.unflatten(labels), **SCHEDULES) for labels in regroupings]
    whole = adadelta(**SCHEDULES)
    expected, last = steps(whole, whole.init(PARAMS), GRADS[:4])

    updates, state = steps(whole, whole.init(PARAMS), GRADS[:1])
    for grads, optimizer in zip(GRADS[1:], optimizers, strict=False):
        state = carry_over_state(optimizer, PARAMS, state)
        more, state = steps(optimizer, state, [grads])
        updates += more
    state = carry_over_state(whole, PARAMS, state)
    more, state = steps(whole, state, GRADS[len(updates) : 4])
    chex.assert_trees_all_equal((updates + more, state), (expected, last))


def test_a_layer_that_thaws_goes_on_as_if_its_accumulators_had_been_kept():
    whole, frozen = adadelta(), param_groups({"slow": None, "fast": {}}, LABELS["prefix"])
    start, before = steps(whole, whole.init(PARAMS), GRADS[:2])

    middle, state = steps(frozen, carry_over_state(frozen, PARAMS, before), GRADS[2:4])
    end, _ = steps(whole, carry_over_state(whole, PARAMS, (state, before)), GRADS[4:])

    kept = GRADS[:2] + [without_body(grads) for grads in GRADS[2:4]] + GRADS[4:]
    expected, _ = steps(whole, whole.init(PARAMS), kept)
    chex.assert_trees_all_equal(start + middle + end, expected)


def test_a_layer_that_is_first_trained_now_starts_from_zero_and_the_others_go_on():
    frozen, whole = param_groups({"slow": None, "fast": {}}, LABELS["prefix"]), adadelta()
    _, state = steps(frozen, frozen.init(PARAMS), GRADS[:2])
    updates, _ = steps(whole, carry_over_state(whole, PARAMS, state), GRADS[2:])
    fresh, _ = steps(whole, whole.init(PARAMS), GRADS[2:])
    uninterrupted, _ = steps(whole, whole.init(PARAMS), GRADS)
    for update, new, old in zip(updates, fresh, uninterrupted[2:], strict=True):
        chex.assert_trees_all_equal(update, {"body": new["body"], "head": old["head"]})


def test_schedules_go_on_for_new_parameters_too():
    old = adadelta(lambda count: 1 / (count + 1))
    _, state = steps(
        old,
        old.init({"head": PARAMS["head"]}),
        [{"head": g["head"]} for g in GRADS[:3]],
        {"head": PARAMS["head"]},
    )
    new = in_two_groups(learning_rate=lambda count: 1 / (count + 1))
    state = carry_over_state(new, PARAMS, state)
    counts = [count for _, count in optax.tree.get_all_with_path(state, "count")]
    assert [int(count) for count in counts] == [3, 3, 3, 3]
    (updates,), _ = steps(new, state, GRADS[3:4])
    (fresh,), _ = steps(adadelta(), adadelta().init(PARAMS), GRADS[3:4])
    expected = jax.tree.map(lambda u: u / 4, fresh["body"])
    chex.assert_trees_all_close(updates["body"], expected, rtol=1e-6)


def test_the_step_count_is_the_largest_where_groups_differ():
    _, state = steps(in_two_groups(), in_two_groups().init(PARAMS), GRADS[:1])
    fast = state.inner_states["fast"].inner_state
    fast = optax.tree.set(fast, count=jnp.array(7))
    states = {**state.inner_states, "fast": optax.MaskedState(fast)}
    (carried,) = adadelta_states(carry_over_state(adadelta(), PARAMS, optax.PartitionState(states)))
    assert carried.count == 7
    assert carried.count.dtype == jnp.int32


def test_accumulators_keep_their_buffers_and_no_buffer_is_used_twice():
    _, state = steps(adadelta(**SCHEDULES), adadelta(**SCHEDULES).init(PARAMS), GRADS[:1])
    carried = carry_over_state(in_two_groups(**SCHEDULES), PARAMS, state)
    (old,), (slow, fast) = adadelta_states(state), group_states(carried)
    now = [slow.square_avg, fast.square_avg, slow.acc_delta, fast.acc_delta]
    for x, y in zip(*map(jax.tree.leaves, (now, [*old[1:]])), strict=True):
        assert x is y
    leaves = jax.tree.leaves(carried)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_carrying_over_can_be_jitted_and_evaluated_for_its_shapes():
    _, state = steps(adadelta(**SCHEDULES), adadelta(**SCHEDULES).init(PARAMS), GRADS[:2])
    carry_over = functools.partial(carry_over_state, in_two_groups(**SCHEDULES))
    carried = carry_over(PARAMS, state)
    chex.assert_trees_all_equal(jax.jit(carry_over)(PARAMS, state), carried)
    shapes = jax.eval_shape(carry_over, PARAMS, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, carried)


def test_accumulators_are_converted_to_how_the_new_state_stores_them():
    params, huge = jnp.zeros(2), jnp.array([1e4, 0.1])
    _, state = adadelta().update(huge, adadelta().init(params), params)
    (exact,) = adadelta_states(state)
    half = adadelta(accumulator_dtype="float16")
    (converted,) = adadelta_states(carry_over_state(half, params, state))
    assert exact.square_avg[0] > jnp.finfo(jnp.float16).max  # where float16 saturates
    expected = jnp.array([65504.0, exact.square_avg[1]], jnp.float16)
    chex.assert_trees_all_equal(converted.square_avg, expected)
    chex.assert_trees_all_equal(converted.acc_delta, exact.acc_delta.astype(jnp.float16))
    (back,) = adadelta_states(carry_over_state(adadelta(), params, converted))
    chex.assert_trees_all_equal(back.square_avg, expected.astype(jnp.float32))


@pytest.mark.parametrize(
    ("param", "message"),
    [
        (
            jnp.zeros((2, 5)),
            "the accumulators of head/kernel start from zero: old_state holds float32[2,3], the "
            "parameter needs float32[2,5]",
        ),
        (
            jnp.zeros((2, 3), jnp.complex64),
            "the accumulators of head/kernel start from zero: old_state holds float32[2,3], the "
            "parameter needs complex64[2,3]",
        ),
    ],
)
def test_a_parameter_of_another_kind_starts_from_zero_with_a_warning(param, message):
    _, state = steps(adadelta(), adadelta().init(PARAMS), GRADS[:2])
    params = {**PARAMS, "head": {"kernel": param}}
    with pytest.warns(UserWarning, match="start from zero") as record:
        carried = carry_over_state(adadelta(), params, state)
    assert [(str(warning.message), warning.filename) for warning in record] == [(message, __file__)]
    (old,), (new,) = adadelta_states(state), adadelta_states(carried)
    chex.assert_trees_all_equal(new.square_avg["body"], old.square_avg["body"])
    chex.assert_trees_all_equal(new.square_avg["head"], {"kernel": jnp.zeros_like(param)})


def test_parameters_come_and_go_without_a_warning():
    _, state = steps(adadelta(), adadelta().init(PARAMS), GRADS[:2])
    params = {"body": PARAMS["body"], "neck": jnp.ones(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (new,) = adadelta_states(carry_over_state(adadelta(), params, state))
    chex.assert_trees_all_equal(new.acc_delta["neck"], jnp.zeros(3))
