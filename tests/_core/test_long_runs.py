"""A million steps, against the textbook's formula in float64; and what long idleness leaves.

`make long-runs` takes a million steps, the other tests 20,000. With `-s` the numbers are printed.
"""

import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adadelta_jax import ScaleByAdadeltaState, scale_by_adadelta
from adadelta_jax._storage.formats import values
from adadelta_jax._storage.hash_bits import fold_in, hash_bits
from tests.results import record

STEPS = 1_000_000 if os.environ.get("ADADELTA_JAX_LONG_RUNS") == "1" else 20_000
STREAMS = ("stationary", "drifting", "sparse", "adversarial")
COORDINATES = 8  # of each stream
EPS = 1e-6


def gradients(t):
    """Those of step `t`, float32 [streams, coordinates].

    Normal ones; ones with a mean, that shrink a thousandfold as training goes on; ones of which 99
    in 100 are zero; and ones of either sign whose size is anything from 1e-15 to 1e15.
    """
    bits = hash_bits((3, len(STREAMS), COORDINATES), fold_in(0, t)) >> 8
    a, b, c = (bits.astype(jnp.float32) + 0.5) * 2.0**-24
    normal = jnp.sqrt(-2 * jnp.log(a)) * jnp.cos(2 * jnp.pi * b)
    stationary, drifting, sparse, _ = normal
    return jnp.stack(
        [
            stationary,
            (drifting + 1) * 1e-3 ** (t / STEPS).astype(jnp.float32),
            jnp.where(c[2] < 0.01, sparse, 0),
            jnp.sign(b[3] - 0.5) * 10 ** (30 * a[3] - 15),
        ]
    )


class Worst(NamedTuple):
    """Over all steps, [streams, coordinates]."""

    square_avg: jax.Array  # relative error
    acc_delta: jax.Array  # relative error
    path: jax.Array  # error
    distance: jax.Array  # of the parameter from where it started


def relative_error(actual, exact):
    """Zero where the exact value is so small that a subnormal number may lack from it."""
    judged = exact > 2.0**-100
    return jnp.where(judged, jnp.abs(actual - exact) / jnp.where(judged, exact, 1), 0)


@partial(jax.jit, static_argnums=(0, 1))
def long_run(accumulator_dtype, rho):
    optimizer = scale_by_adadelta(rho, EPS, accumulator_dtype=accumulator_dtype)

    def exact_step(params, v, u, grads):
        v = rho * v + (1 - rho) * grads**2
        delta = jnp.sqrt(u + EPS) / jnp.sqrt(v + EPS) * grads
        return params - delta, v, rho * u + (1 - rho) * delta**2

    def step(carry, t):
        params, state, exact, worst = carry
        grads = gradients(t)
        updates, state = optimizer.update(grads, state)
        params -= updates
        exact = exact_step(*exact, grads.astype(jnp.float64))
        now = Worst(
            relative_error(state.square_avg.astype(jnp.float64), exact[1]),
            relative_error(state.acc_delta.astype(jnp.float64), exact[2]),
            jnp.abs(params - exact[0]),
            jnp.abs(exact[0]),
        )
        return (params, state, exact, jax.tree.map(jnp.maximum, worst, now)), None

    zeros = jnp.zeros((len(STREAMS), COORDINATES))
    params = zeros.astype(jnp.float32)
    carry = params, optimizer.init(params), (zeros,) * 3, Worst(*(zeros,) * 4)
    (_, state, _, worst), _ = jax.lax.scan(step, carry, jnp.arange(STEPS, dtype=jnp.int32))
    return worst, state.count


class Bounds(NamedTuple):
    """Of v's and u's relative error, and of the path's in units of the distance gone."""

    square_avg: float
    acc_delta: float
    path: float


@pytest.mark.parametrize(
    ("accumulator_dtype", "rho", "bounds"),
    [
        (None, 0.9, Bounds(4e-5, 4e-5, 1e-4)),
        (None, 0.99, Bounds(4e-5, 4e-5, 1e-4)),
        ("bfloat16", 0.9, Bounds(0.4, 0.3, 0.1)),
        ("bfloat16", 0.99, Bounds(0.4, 2.0, 1.0)),
    ],
)
def test_errors_do_not_grow_without_bound_in_a_long_run(accumulator_dtype, rho, bounds):
    with jax.enable_x64(True):
        worst, count = jax.tree.map(np.asarray, long_run(accumulator_dtype, rho))
    assert count == STEPS
    errors = Bounds(worst.square_avg, worst.acc_delta, worst.path / worst.distance)
    errors = Bounds(*(np.max(error, axis=1) for error in errors))
    print(f"\n{STEPS} steps, {accumulator_dtype or 'float32'}, rho = {rho}")
    for index, stream in enumerate(STREAMS):
        of_stream = {name: float(error[index]) for name, error in errors._asdict().items()}
        print(f"  {stream:12}", *(f"{name} {error:.1e}  " for name, error in of_stream.items()))
        run = {"steps": STEPS, "accumulators": accumulator_dtype or "float32", "rho": rho}
        record("long_runs", run | {"stream": stream} | of_stream)
    for name, error, bound in zip(Bounds._fields, errors, bounds, strict=True):
        assert np.all(error < bound), name


def test_the_count_stays_at_its_largest_value_through_a_scan():
    optimizer = scale_by_adadelta()
    largest = jnp.iinfo(jnp.int32).max
    state = optimizer.init(jnp.ones(1))._replace(count=jnp.int32(largest - 10))

    def step(state, _):
        state = optimizer.update(jnp.ones(1), state)[1]
        return state, state.count

    counts = jax.lax.scan(step, state, length=20)[1]
    np.testing.assert_array_equal(counts, np.minimum(np.arange(-9, 11), 0) + largest)


IDLE_STEPS = 10_000


def is_subnormal(x):
    """By the bits: a processor that takes such a number for zero would compare it so."""
    x = jnp.asarray(x)
    info = jnp.finfo(x.dtype)
    pattern = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{info.bits}"))
    exponent = pattern >> info.nmant & (1 << info.nexp) - 1
    return (exponent == 0) & ((pattern & (1 << info.nmant) - 1) != 0)


@pytest.mark.parametrize(
    ("dtype", "accumulator_dtype"),
    [
        ("float32", None),
        ("float32", "bfloat16"),
        ("float32", "float16"),
        ("float32", "uint8"),
        ("float64", None),
    ],
)
def test_averages_that_get_no_gradient_come_to_zero_and_are_never_subnormal(
    dtype, accumulator_dtype
):
    """So no step is ever slow for it: they are loaded as normal numbers or zero."""
    with jax.enable_x64(dtype == "float64"):
        optimizer = scale_by_adadelta(accumulator_dtype=accumulator_dtype)
        first = jnp.asarray(np.random.default_rng(0).standard_normal(4096), dtype)
        nothing = jnp.zeros_like(first)

        @jax.jit
        def idle(state):
            def step(state, _):
                updates, state = optimizer.update(nothing, state)
                averages = map(values, (state.square_avg, state.acc_delta))
                loaded = jnp.stack([average.astype(dtype) for average in averages])
                return state, (jnp.any(is_subnormal(loaded)), jnp.all(updates == 0))

            return jax.lax.scan(step, state, length=IDLE_STEPS)

        updates, state = optimizer.update(first, optimizer.init(first))
        state, (subnormal, still) = idle(state)
        assert not subnormal.any()
        assert still.all()
        for average in (state.square_avg, state.acc_delta):
            np.testing.assert_array_equal(values(average), 0)
        again, _ = optimizer.update(first, state)
    np.testing.assert_array_equal(again, updates)  # as if it had never had a gradient


@pytest.mark.parametrize("compiler", [jax.jit, lambda step: step], ids=["compiled", "eager"])
def test_an_average_below_the_smallest_normal_number_is_zero_after_one_step(compiler):
    optimizer = scale_by_adadelta(rho=0.9)
    smallest = jnp.full(3, jnp.finfo(jnp.float32).tiny)
    state = ScaleByAdadeltaState(jnp.int32(0), smallest, smallest)
    _, state = compiler(optimizer.update)(jnp.zeros(3), state)
    for average in (state.square_avg, state.acc_delta):
        np.testing.assert_array_equal(np.asarray(average).view(np.uint32), 0)


def test_what_is_taken_for_subnormal_is():
    values = np.array([0, 1, 0x7FFFFF, 0x800000, 0x3F800000], np.uint32).view(np.float32)
    np.testing.assert_array_equal(is_subnormal(values), [False, True, True, False, False])
