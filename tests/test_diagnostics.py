"""The effective learning rate of every kind of state and accumulator."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, param_groups, scale_by_adadelta
from adadelta_jax.diagnostics import effective_learning_rate

PARAMS = {"body": {"kernel": jnp.ones((8, 512))}, "head": {"kernel": jnp.ones(3)}}


def gradients(params, step):
    def gradient(param):
        return jnp.cos(jnp.arange(param.size, dtype=param.dtype) + step).reshape(param.shape)

    return jax.tree.map(gradient, params)


def after_steps(optimizer, params=PARAMS, steps=3):
    state = optimizer.init(params)
    for step in range(steps):
        _, state = optimizer.update(gradients(params, step), state, params)
    return state


def expected_rate(state, eps=1e-6):
    return jax.tree.map(
        lambda u, v: np.sqrt((np.asarray(u, "f8") + eps) / (np.asarray(v, "f8") + eps)),
        state.acc_delta,
        state.square_avg,
    )


def assert_close(tree, expected, rtol=1e-6):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol), tree, expected)


@pytest.mark.parametrize(
    "wrapped",
    [
        adadelta(),
        optax.chain(optax.clip(1.0), adadelta()),
        optax.inject_hyperparams(adadelta)(learning_rate=0.5),
        optax.MultiSteps(adadelta(), 1),
    ],
)
def test_it_is_that_of_the_accumulators_wherever_the_state_is(wrapped):
    expected = expected_rate(after_steps(scale_by_adadelta()))
    assert_close(effective_learning_rate(after_steps(wrapped)), expected)


def test_it_has_the_eps_that_it_is_given():
    state = after_steps(scale_by_adadelta())
    assert_close(effective_learning_rate(state, eps=0.5), expected_rate(state, eps=0.5))


@pytest.mark.parametrize(
    "labels",
    [
        {"body": "one", "head": "other"},
        {"body": {"kernel": "one"}, "head": {"kernel": "other"}},
    ],
)
def test_the_groups_of_param_groups_are_put_together(labels):
    state = after_steps(param_groups({"one": {"rho": 0.5}, "other": {}}, labels))
    rates = effective_learning_rate(state)
    body = after_steps(scale_by_adadelta(rho=0.5))
    head = after_steps(scale_by_adadelta())
    assert_close(rates["body"], expected_rate(body)["body"])
    assert_close(rates["head"], expected_rate(head)["head"])


def test_a_frozen_parameter_has_none():
    labels = {"body": "frozen", "head": "trained"}
    state = after_steps(param_groups({"frozen": None, "trained": {}}, labels))
    rates = effective_learning_rate(state)
    assert rates["body"] == optax.MaskedNode()
    assert_close(rates["head"], expected_rate(after_steps(scale_by_adadelta()))["head"])


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 0.02), ("float16", 0.02), ("int8", 0.3)])
def test_accumulators_in_few_bits_have_one_too(dtype, rtol):
    state = after_steps(scale_by_adadelta(accumulator_dtype=dtype))
    rates = effective_learning_rate(state)
    expected = expected_rate(after_steps(scale_by_adadelta()))
    assert jax.tree.map(lambda r: r.dtype.name, rates) == jax.tree.map(lambda _: "float32", PARAMS)
    for rate, exact in zip(jax.tree.leaves(rates), jax.tree.leaves(expected), strict=True):
        assert np.median(np.abs(rate / exact - 1)) < rtol


def test_the_parts_of_a_complex_parameter_have_their_own():
    params = {"z": jnp.ones(4, jnp.complex64)}
    state = scale_by_adadelta().init(params)
    state = state._replace(
        square_avg={"z": jnp.array([1 + 4j, 0, 9, 1j])},
        acc_delta={"z": jnp.array([4 + 1j, 1, 0, 0])},
    )
    expected = [2 + 0.5j, 1e3 + 1j, 1e-3 / 3 + 1j, 1 + 1e-3j]
    np.testing.assert_allclose(effective_learning_rate(state)["z"], expected, rtol=1e-5)


def test_an_eps_of_zero_before_the_first_step_gives_zero_not_nan():
    state = scale_by_adadelta(eps=0.0).init(jnp.ones(2))
    np.testing.assert_array_equal(effective_learning_rate(state, eps=0.0), [0, 0])


def test_it_runs_under_jit():
    state = after_steps(adadelta())
    assert_close(jax.jit(effective_learning_rate)(state), effective_learning_rate(state))


def test_a_state_without_accumulators_is_refused():
    with pytest.raises(
        ValueError, match=r"^opt_state holds no ScaleByAdadeltaState: pass the state"
    ):
        effective_learning_rate(optax.sgd(0.1).init(PARAMS))


def test_a_wrong_eps_is_refused():
    with pytest.raises(ValueError, match=re.escape("eps must be >= 0, got -1")):
        effective_learning_rate(after_steps(adadelta()), eps=-1)
