"""The update rule against exact arithmetic, with torch and Optax beside it.

XLA's CPU backend replaces subnormal numbers by zero. So where v + ε or u + ε is within a factor of
2²⁶ of the smallest normal number (below 7.9e-31 in float32), what is lost that way shows.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax._src.transform import ScaleByAdaDeltaState

from adadelta_jax._core.rule import update_rule
from tests.exact_arithmetic import (
    LONG_DOUBLE_SUFFICES,
    Step,
    errors_in_ulps,
    exact_step,
    is_normal,
    saturated,
)

POINTS = 400_000 if LONG_DOUBLE_SUFFICES else 4_000
USUAL_SETTINGS = [(0.9, 1e-6), (0.95, 1e-6), (0.99, 1e-8), (0.9, 0.0)]
ALL_SETTINGS = [*USUAL_SETTINGS, (0.0, 1e-6), (0.5, 1.0), (0.999, 1e-30), (0.999, 0.0), (1.0, 1e-6)]
# In units in the last place. Measured: 2.8 for Δ, 2.2 for v, 5.3 for u.
MOST = Step(delta=3.5, square_avg=2.5, acc_delta=7.0)


def our_step(grad, square_avg, acc_delta, rho, eps, compiler=jax.jit):
    rule = compiler(partial(update_rule, rho=rho, eps=eps))
    return Step(*map(np.asarray, rule(*map(jnp.asarray, (grad, square_avg, acc_delta)))))


def our_eager_step(*states_and_settings):
    return our_step(*states_and_settings, compiler=lambda rule: rule)


def optax_step(grad, square_avg, acc_delta, rho, eps):
    update = jax.jit(optax.scale_by_adadelta(rho, eps).update)
    delta, state = update(jnp.asarray(grad), ScaleByAdaDeltaState(square_avg, acc_delta))
    return Step(*map(np.asarray, (delta, state.e_g, state.e_x)))


def torch_step(grad, square_avg, acc_delta, rho, eps):
    import torch

    grad, square_avg, acc_delta = map(torch.tensor, (grad, square_avg, acc_delta))
    param = torch.zeros_like(grad)
    param.grad = grad
    optimizer = torch.optim.Adadelta([param], lr=1.0, rho=rho, eps=eps, foreach=False)
    optimizer.state[param] = {
        "step": torch.tensor(0.0),
        "square_avg": square_avg,
        "acc_delta": acc_delta,
    }
    optimizer.step()
    return Step(-param.numpy(), square_avg.numpy(), acc_delta.numpy())


def log_uniform(rng, low, high, size=POINTS, dtype=np.float32):
    return np.exp2(rng.uniform(np.log2(low), np.log2(high), size)).astype(dtype)


def either_sign(rng, sizes):
    return sizes * rng.choice(np.array([-1, 1], sizes.dtype), sizes.shape)


def training_states(seed):
    """Gradients of 1e-8 to 1e4, v within a factor of 64 of g², u from 1e-12 to 10."""
    rng = np.random.default_rng(seed)
    grad = either_sign(rng, log_uniform(rng, 1e-8, 1e4))
    square_avg = grad**2 * log_uniform(rng, 2**-6, 2**6)
    return grad, square_avg, log_uniform(rng, 1e-12, 10)


def any_states(seed, size=POINTS, dtype=np.float32):
    """Gradients and accumulators of any size that the dtype has, and zeros among them."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    states = [log_uniform(rng, float(info.tiny), float(info.max), size, dtype) for _ in range(3)]
    for values in states:
        values[rng.random(size) < 0.05] = 0
    return either_sign(rng, states[0]), states[1], states[2]


def reached_states(seed, rho, eps, size=POINTS, dtype=np.float32):
    """The states to which 64 gradients of any sizes, in any order, lead from a fresh start."""
    steps, coordinates = 64, size // 64 // 4
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    low, high = np.log2(info.tiny.astype(float)), np.log2(info.max.astype(float))
    shape = steps, coordinates
    start = rng.uniform(low, high, coordinates)
    exponents = [
        rng.uniform(low, high, shape),  # from nowhere to anywhere
        start + np.cumsum(rng.uniform(0, 20, coordinates) * rng.standard_normal(shape), 0),  # drift
        start + np.outer(np.arange(steps), rng.uniform(-5, 5, coordinates)),  # growth and decay
        start + rng.uniform(-3, 3, shape),  # steady
    ]
    sizes = np.exp2(np.clip(np.concatenate(exponents, axis=1), low, high - 1e-6)).astype(dtype)
    grads = either_sign(rng, sizes)
    grads[rng.random(grads.shape) < 0.05] = 0

    def step(state, grad):
        return update_rule(grad, *state, rho=rho, eps=eps)[1:], state

    zeros = jnp.zeros(grads.shape[1:], dtype)
    # With ε = 0, u would stay 0, and every update with it.
    first = zeros, zeros + (0 if eps > 0 else 1e-6)
    states = jax.jit(lambda: jax.lax.scan(step, first, grads)[1])()
    return grads.ravel(), *(np.asarray(accumulator).ravel() for accumulator in states)


def errors(step, states, rho, eps):
    """The errors of a step's results, wherever they are normal and nothing was lost on the way."""
    results = zip(
        step(*states, rho, eps),
        exact := exact_step(*states, rho, eps),
        where_nothing_is_lost(exact, states, eps),
        strict=True,
    )
    dtype = states[0].dtype
    judged = [(a, e, is_normal(e, dtype) & where) for a, e, where in results]
    return Step(*(errors_in_ulps(a[where], e[where], dtype) for a, e, where in judged))


def where_nothing_is_lost(exact, states, eps):
    """Where no term that becomes zero instead of subnormal could show in a result.

    For Δ, v + ε and u + ε must not be next to the smallest normal number; and for u above 4e6, g
    must not be so small that it is subnormal next to √(v + ε), though Δ is not.
    """
    info = np.finfo(states[0].dtype)
    tiny, unnoticed = info.tiny.astype(np.longdouble), 2.0 ** -(info.nmant + 3)
    square_avg, acc_delta = (each.astype(np.longdouble) for each in exact[1:])
    v_eps, u_eps = square_avg + max(eps, tiny * 2**22), states[2].astype(np.longdouble) + eps
    grad_is_safe = np.abs(states[0]) >= tiny * 2.0 ** (info.maxexp // 2 - 10)
    return Step(
        delta=(tiny <= unnoticed * np.minimum(v_eps, u_eps)) & (grad_is_safe | (u_eps <= 2**22)),
        square_avg=tiny <= unnoticed * square_avg,
        acc_delta=tiny * np.maximum(1, u_eps + u_eps / v_eps) <= unnoticed * acc_delta,
    )


@pytest.mark.torch
@pytest.mark.parametrize(("rho", "eps"), USUAL_SETTINGS)
def test_updates_are_more_exact_than_those_of_torch_and_optax(rho, eps):
    states = training_states(seed=0)
    ours = errors(our_step, states, rho, eps).delta
    assert ours.size == states[0].size
    assert ours.mean() <= 0.47
    assert ours.max() <= MOST.delta
    for peer_step in (torch_step, optax_step):
        peer = errors(peer_step, states, rho, eps).delta
        assert ours.mean() <= peer.mean()
        assert ours.max() <= peer.max()


def assert_exact(states, rho, eps, step=our_step):
    of_results = errors(step, states, rho, eps)
    assert of_results.delta.size >= states[0].size / 2
    for name, error, most in zip(Step._fields, of_results, MOST, strict=True):
        assert error.max(initial=0) <= most, name


@pytest.mark.parametrize(("rho", "eps"), ALL_SETTINGS)
def test_every_step_of_any_history_of_gradients_is_exact(rho, eps):
    states = reached_states(1, rho, eps)
    assert_exact(states, rho, eps)
    if eps > 0:  # then not one update is left out but those that are subnormal themselves
        exact = exact_step(*states, rho, eps)
        judged = is_normal(exact.delta, np.float32)
        assert np.all(where_nothing_is_lost(exact, states, eps).delta[judged])


@pytest.mark.parametrize(("rho", "eps"), ALL_SETTINGS)
def test_a_step_from_any_state_is_exact(rho, eps):
    assert_exact(any_states(2), rho, eps)


@pytest.mark.parametrize(("rho", "eps"), USUAL_SETTINGS)
def test_a_step_that_is_not_compiled_is_exact(rho, eps):
    assert_exact(training_states(7), rho, eps, our_eager_step)
    assert_exact(any_states(7), rho, eps, our_eager_step)


@pytest.mark.parametrize(("rho", "eps"), [(0.9, 1e-6), (0.95, 0.0), (0.999, 1e-30)])
def test_a_step_in_float64_is_exact(rho, eps):
    with jax.enable_x64(True):
        assert_exact(any_states(3, 3000, np.float64), rho, eps)
        assert_exact(reached_states(4, rho, eps, 3000, np.float64), rho, eps)


def test_an_update_is_exact_where_the_plain_quotient_of_the_averages_leaves_the_range():
    # v + ε near 1e36 and u + ε near 1e-12, then v + ε near 1e-29 and u + ε near 1e12.
    rng = np.random.default_rng(5)
    grad = np.concatenate(
        [log_uniform(rng, 1e17, 1e19, 1000), log_uniform(rng, 1e-15, 1e-14, 1000)]
    )
    square_avg = grad**2
    acc_delta = np.repeat(np.float32([1e-12, 1e12]), 1000)
    plain = jnp.asarray(acc_delta) / jnp.asarray(square_avg)
    assert np.all(plain[:1000] == 0)
    assert np.all(np.isinf(plain[1000:]))
    error = errors(our_step, (grad, square_avg, acc_delta), 0.9, 1e-32).delta
    assert error.size == grad.size
    assert error.max() <= MOST.delta


@pytest.mark.torch
def test_a_gradient_too_large_to_square_is_survived_where_torch_and_optax_are_not():
    grad = np.float32([1e20, -1e25, 3.4e38])
    states = grad, np.float32([0, 1e10, 3.4e38]), np.full(3, 1e-6, np.float32)
    ours = our_step(*states, 0.9, 1e-6)
    assert errors(our_step, states, 0.9, 1e-6).delta.max() <= MOST.delta
    for each, at_the_limit in zip(
        ours, our_step(saturated(grad), *states[1:], 0.9, 1e-6), strict=True
    ):
        np.testing.assert_array_equal(each, at_the_limit)
    for peer in (torch_step(*states, 0.9, 1e-6), optax_step(*states, 0.9, 1e-6)):
        assert np.all(np.isinf(peer.square_avg))  # for ever, and with it
        assert np.all(peer.delta == 0)


def test_the_averages_saturate_at_the_largest_number():
    largest = np.finfo(np.float32).max
    state = np.full(1, largest), np.full(1, largest), np.full(1, largest)
    for rho in (0.0, 0.1, 0.9, 0.99, 0.999, 1 - 1e-6, 1.0):
        after = our_step(*state, rho, 1e-6)
        assert np.all(np.isfinite(after.square_avg))
        assert np.all(np.isfinite(after.acc_delta))
    assert our_step(*state, 0.0, 1e-6).acc_delta == pytest.approx(largest, rel=1e-6)


@pytest.mark.skipif(not LONG_DOUBLE_SUFFICES, reason="mpmath is the reference on this machine")
def test_the_reference_in_long_doubles_agrees_with_mpmath():
    for rho, eps in ALL_SETTINGS:
        states = any_states(6, 1000)
        exact = exact_step(*states, rho, eps, in_mpmath=True)
        for actual, expected in zip(exact_step(*states, rho, eps), exact, strict=True):
            where = is_normal(expected, np.float32)
            error = errors_in_ulps(actual[where], expected[where], np.float32)
            assert error.max() <= 1e-8
