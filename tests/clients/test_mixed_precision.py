"""jmp's mixed precision: half-precision gradients, loss scales, and steps that are skipped."""

import chex
import jax
import jax.numpy as jnp
import jmp
import optax
import pytest

from adadelta_jax import adadelta

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True)
PARAMS = {
    "first": {"kernel": jnp.linspace(-1, 1, 8).reshape(2, 4), "bias": jnp.linspace(0, 0.3, 4)},
    "second": jnp.array([[0.5], [-0.5], [0.25], [-0.25]]),
}
STEPS = 8
# A parameter that differs in its last bit may be rounded to another number in half precision. Its
# gradient then differs by up to 2^-8 of itself in bfloat16, and the step by as much.
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


def predict(params, x):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]


def trajectory(optimizer, compute, loss_scale):
    """The parameters, the optimizer's state, the loss scale, and whether the step was taken."""
    policy = jmp.Policy(param_dtype=jnp.float32, compute_dtype=compute, output_dtype=jnp.float32)

    def scaled_loss(params, loss_scale):
        params, x = policy.cast_to_compute((params, X))
        predicted = policy.cast_to_output(predict(params, x))
        return loss_scale.scale(jnp.mean((predicted - Y) ** 2))

    @jax.jit
    def step(params, state, loss_scale):
        grads = jax.grad(scaled_loss)(params, loss_scale)
        grads = loss_scale.unscale(policy.cast_to_param(grads))
        finite = jmp.all_finite(grads)
        updates, new_state = optimizer.update(grads, state, params)
        new = optax.apply_updates(params, updates), new_state
        return jmp.select_tree(finite, new, (params, state)), loss_scale.adjust(finite), finite

    params = policy.cast_to_param(PARAMS)
    state = optimizer.init(params)
    after = []
    for _ in range(STEPS):
        (params, state), loss_scale, finite = step(params, state, loss_scale)
        after.append((params, state, loss_scale.loss_scale, finite))
    return list(zip(*after, strict=True))


LOSS_SCALES = {
    "none": jmp.NoOpLossScale(),
    "static": jmp.StaticLossScale(2.0**10),
    "dynamic": jmp.DynamicLossScale(jnp.asarray(2.0**18), period=2),
}
HALF = ["bfloat16", "float16"]


@pytest.mark.parametrize("loss_scale", LOSS_SCALES.values(), ids=LOSS_SCALES)
@pytest.mark.parametrize("compute", HALF)
def test_mixed_precision_trains_as_with_optax(compute, loss_scale):
    params, _, *scales = trajectory(adadelta(), compute, loss_scale)
    their_params, _, *their_scales = trajectory(optax.adadelta(1.0), compute, loss_scale)
    chex.assert_trees_all_close(params, their_params, **CLOSE)
    chex.assert_trees_all_equal(scales, their_scales)
    for before, after in zip(jax.tree.leaves(PARAMS), jax.tree.leaves(params[-1]), strict=True):
        assert jnp.max(jnp.abs(before - after)) > 5e-3


def test_steps_that_overflow_in_float16_are_skipped_and_not_counted():
    params, states, scales, finite = trajectory(adadelta(), "float16", LOSS_SCALES["dynamic"])
    assert not finite[0]
    assert scales[0] == 2.0**17
    assert 0 < sum(finite) < STEPS - 1
    before = PARAMS, adadelta().init(PARAMS)
    for *after, was_taken in zip(params, states, finite, strict=True):
        if not was_taken:
            chex.assert_trees_all_equal(tuple(after), before)
        before = tuple(after)
    assert optax.tree.get(states[-1], "count") == sum(finite)


def test_a_static_loss_scale_that_always_overflows_leaves_all_as_it_was():
    params, states, _, finite = trajectory(adadelta(), "float16", jmp.StaticLossScale(2.0**30))
    assert not any(finite)
    chex.assert_trees_all_equal((params[-1], states[-1]), (PARAMS, adadelta().init(PARAMS)))


@pytest.mark.parametrize("compute", HALF)
def test_the_parameters_and_the_accumulators_stay_float32(compute):
    params, states, *_ = trajectory(adadelta(), compute, LOSS_SCALES["none"])
    accumulators = [optax.tree.get(states[-1], name) for name in ("square_avg", "acc_delta")]
    chex.assert_tree_all_finite((params, accumulators))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((params[-1], accumulators))}
    assert dtypes == {jnp.dtype("float32")}
