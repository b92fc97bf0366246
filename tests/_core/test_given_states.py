"""Which states `update` goes on from, and the words with which it refuses the others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, carry_over_state, param_groups, scale_by_adadelta

PARAMS = {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(3)}
GRADS = optax.tree.full_like(PARAMS, 0.5)
SCHEDULE = optax.exponential_decay(1.0, 10, 0.9)

OF_OTHERS = {
    "a constant learning rate's, with a schedule": (
        adadelta(),
        adadelta(SCHEDULE),
        "its part for learning_rate must be ScaleByScheduleState, got EmptyState",
    ),
    "a schedule's, with a constant learning rate": (
        adadelta(SCHEDULE),
        adadelta(),
        "its part for learning_rate must be EmptyState, got ScaleByScheduleState",
    ),
    "a constant weight decay's, with a schedule": (
        adadelta(weight_decay=0.1),
        adadelta(weight_decay=SCHEDULE),
        "its part for weight_decay must be WeightDecaySchedule, got EmptyState",
    ),
    "a scheduled weight decay's, with a constant": (
        adadelta(weight_decay=SCHEDULE),
        adadelta(weight_decay=0.1),
        "its part for weight_decay must be EmptyState, got WeightDecaySchedule",
    ),
    "coupled weight decay's, with decoupled": (
        adadelta(weight_decay=0.1),
        adadelta(weight_decay=0.1, decoupled_weight_decay=True),
        "its part for scale_by_adadelta must be ScaleByAdadeltaState, got EmptyState",
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), OF_OTHERS.values(), ids=OF_OTHERS.keys())
def test_a_state_made_with_other_settings_is_refused_until_it_is_carried_over(old, new, words):
    _, state = old.update(GRADS, old.init(PARAMS), PARAMS)
    with pytest.raises(TypeError) as error:
        new.update(GRADS, state, PARAMS)
    assert str(error.value) == (
        f"state must be that of adadelta, as init makes it: {words} "
        "(carry_over_state makes a state for this optimizer from that of another)"
    )
    carried = carry_over_state(new, PARAMS, state)
    _, after = new.update(GRADS, carried, PARAMS)
    assert (
        optax.tree.get(after, "square_avg")["bias"][0]
        > optax.tree.get(state, "square_avg")["bias"][0]
    )


OTHER_THINGS = {
    "nothing": (None, "None"),
    "an empty state": ((), "()"),
    "a list": ([1, 2], "list"),
    "the state of another optimizer": (optax.sgd(1.0).init(PARAMS), "tuple"),
    "the state of the part alone": (scale_by_adadelta().init(PARAMS), "ScaleByAdadeltaState"),
}


@pytest.mark.parametrize(("state", "got"), OTHER_THINGS.values(), ids=OTHER_THINGS.keys())
def test_what_is_no_state_of_adadelta_is_refused_by_its_type(state, got):
    with pytest.raises(TypeError, match="state must be that of adadelta") as error:
        adadelta().update(GRADS, state, PARAMS)
    assert str(error.value).endswith(f", got {got}")


def test_the_state_of_other_groups_is_refused_by_their_labels():
    labels = {"kernel": "a", "bias": "b"}
    old = param_groups({"a": {}, "b": {}}, labels)
    renamed = param_groups({"a": {}, "c": {}}, {"kernel": "a", "bias": "c"})
    with pytest.raises(ValueError, match=r"the groups 'a', 'c', got one of 'a', 'b' \(carry_over"):
        renamed.update(GRADS, old.init(PARAMS), PARAMS)


def test_the_state_of_a_group_that_has_been_frozen_is_refused():
    labels = {"kernel": "a", "bias": "b"}
    state = param_groups({"a": {}, "b": {}}, labels).init(PARAMS)
    frozen = param_groups({"a": {}, "b": None}, labels)
    with pytest.raises(ValueError, match="'b' is frozen, got one that holds accumulators for it"):
        frozen.update(GRADS, state, PARAMS)
    with pytest.raises(TypeError, match="state must be that of adadelta"):
        param_groups({"a": {}, "b": {}}, labels).update(GRADS, frozen.init(PARAMS), PARAMS)


INT32_MAX = 2**31 - 1
COUNTS = {
    "a Python int": (5, 6),
    "a NumPy int64": (np.int64(5), 6),
    "a 0-d NumPy array": (np.array(5), 6),
    "an unsigned integer": (np.uint32(5), 6),
    "a large Python int": (2**40, INT32_MAX),
    "a large NumPy int64": (np.array(2**40), INT32_MAX),
    "the largest int32": (jnp.int32(INT32_MAX), INT32_MAX),
}


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize(("count", "expected"), COUNTS.values(), ids=COUNTS.keys())
def test_a_count_of_any_integer_type_goes_on_as_an_int32(count, expected, jitted):
    optimizer = scale_by_adadelta()
    state = optimizer.init(PARAMS)._replace(count=count)

    def step(state):
        return optimizer.update(GRADS, state)[1]

    after = (jax.jit(lambda: step(state)) if jitted else lambda: step(state))()
    assert after.count.dtype == jnp.int32
    assert after.count == expected


def test_an_int64_count_of_jaxs_goes_on_as_an_int32():
    with jax.enable_x64(True):
        optimizer = scale_by_adadelta()
        for count, expected in ((7, 8), (2**40, INT32_MAX)):
            state = optimizer.init(PARAMS)._replace(count=jnp.int64(count))
            for step in (optimizer.update, jax.jit(optimizer.update)):
                _, after = step(GRADS, state)
                assert after.count.dtype == jnp.int32
                assert after.count == expected


def test_an_ensemble_whose_state_was_made_by_vmap_has_a_count_for_each_member():
    stacked = jnp.ones((3, 5))
    optimizer = adadelta(accumulator_dtype="bfloat16")
    state = jax.vmap(optimizer.init)(stacked)
    _, together = optimizer.update(stacked, state, stacked)
    _, apart = jax.vmap(optimizer.update)(stacked, state, stacked)
    np.testing.assert_array_equal(together[2].count, apart[2].count)


@pytest.mark.parametrize("count", [3.0, True, -1, None, "3", np.int64(-2), jnp.float32(3)], ids=str)
def test_a_count_that_counts_nothing_is_refused_by_name(count):
    optimizer = scale_by_adadelta()
    state = optimizer.init(PARAMS)._replace(count=count)
    with pytest.raises(ValueError, match="the count of state must be an integer of at least 0"):
        optimizer.update(GRADS, state)


@pytest.mark.parametrize("wrap", [jnp.asarray, np.float64, np.float32], ids=["JAX", "64", "32"])
@pytest.mark.parametrize(
    ("dtype", "accumulator_dtype"),
    [
        *(("float64", stored) for stored in (None, "bfloat16", "uint8")),
        *(("bfloat16", stored) for stored in ("float64", "uint8")),
        *(("complex64", stored) for stored in (None, "uint8")),
    ],
)
def test_settings_of_any_dtype_serve_parameters_and_accumulators_of_any(
    dtype, accumulator_dtype, wrap
):
    with jax.enable_x64(True):
        params = optax.tree.cast(PARAMS, dtype)
        grads = optax.tree.full_like(params, 0.5)
        results = []
        for rho, eps in ((0.875, 2.0**-20), (wrap(0.875), wrap(2.0**-20))):
            optimizer = adadelta(1.0, rho, eps, accumulator_dtype=accumulator_dtype)
            updates, state = optimizer.update(grads, optimizer.init(params), params)
            results.append((updates, state))
        jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_8_bit_state_serves_injected_settings_of_the_parameters_dtype(dtype):
    with jax.enable_x64(True):
        params = optax.tree.cast(PARAMS, dtype)
        optimizer = optax.inject_hyperparams(
            lambda rho, eps: adadelta(rho=rho, eps=eps, accumulator_dtype="uint8")
        )(rho=0.9, eps=1e-6)
        state = optimizer.init(params)
        updates, _ = optimizer.update(optax.tree.full_like(params, 0.5), state, params)
        assert all(jnp.isfinite(update).all() for update in jax.tree.leaves(updates))
