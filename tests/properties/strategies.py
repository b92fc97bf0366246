"""Gradients, settings, formats and trees over which properties are tested, and their runs.

`ADADELTA_JAX_EXAMPLES=20` tries 20 times as many examples, others at every run.
"""

import functools
import os
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies
from hypothesis.extra import numpy as numpy_strategies

from adadelta_jax import scale_by_adadelta
from adadelta_jax._storage import formats

TIMES = int(os.environ.get("ADADELTA_JAX_EXAMPLES", "1"))
STEPS, COORDINATES = 12, 5

# A parameter's dtype, and how its accumulators are stored.
STORAGES = [
    *(("float32", each) for each in (None, "float32", "float64", "bfloat16", "float16", "uint8")),
    ("float16", None),
    ("float16", "float16"),
    ("bfloat16", None),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "uint8"),
    ("float64", "uint8"),
    ("float64", None),
    ("float64", "float32"),
    ("complex64", None),
    ("complex64", "float64"),
]


def examples(number):
    """Settings of Hypothesis for that many examples, the same at every run unless TIMES is set."""
    return hypothesis.settings(
        max_examples=number * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


def needs_float64(storage):
    return bool({"float64", "complex128"} & set(storage))


def _float32(number):
    """Settings are float32, so that a test knows what a step computes with."""
    return float(np.float32(number))


rhos = strategies.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1 - 2.0**-24]).map(
    _float32
) | strategies.floats(0, 1, exclude_max=True, width=32, allow_subnormal=False)
positive_epss = strategies.just(_float32(1e-6)) | strategies.floats(_float32(1e-30), 1, width=32)
epss = positive_epss | strategies.just(0.0)
SMALLEST_EPS = float(np.nextafter(np.float32(1e-9), np.float32(1)))  # of 8 bits
epss_of_8_bits = strategies.just(_float32(1e-6)) | strategies.floats(SMALLEST_EPS, 1, width=32)


def epss_for(storage):
    """Every ε that goes with accumulators stored so."""
    return epss_of_8_bits if storage[1] == "uint8" else epss


def gradients(dtype="float32"):
    """Finite gradients of every size and sign, many of them zero, [steps, coordinates]."""
    info = jnp.finfo(dtype)
    width = 64 if info.bits == 64 and dtype != "complex64" else 32
    largest = float(info.max)
    whatever = strategies.floats(-largest, largest, width=width, allow_subnormal=False)
    usual = strategies.floats(-100, 100, width=width, allow_subnormal=False)
    special = strategies.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0, largest, -largest])
    parts = numpy_strategies.arrays(
        f"float{width}",
        (STEPS, COORDINATES),
        elements=special | usual | whatever,
        fill=strategies.nothing(),  # each drawn by itself
    )
    if dtype == "complex64":
        return strategies.tuples(parts, parts).map(lambda two: two[0] + 1j * two[1])
    return parts.map(lambda array: array.astype(info.dtype))


shapes = strategies.sampled_from([(), (0,), (3, 0), (1,), (7,), (2, 3, 4), (5000,), (80, 70)])
trees = strategies.recursive(
    shapes,
    lambda below: (
        strategies.lists(below, max_size=3)
        | strategies.dictionaries(strategies.sampled_from("abc"), below, max_size=3)
    ),
    max_leaves=4,
)


class Run(NamedTuple):
    """The results of each step, [steps, numbers], float64; a complex number is two numbers."""

    grads: np.ndarray
    updates: np.ndarray
    square_avg: np.ndarray
    acc_delta: np.ndarray

    def before(self, name):
        """The accumulator of that name before each step."""
        after = getattr(self, name)
        return np.concatenate([np.zeros_like(after[:1]), after[:-1]])


def run(grads, storage, rho, eps, first_acc_delta=0.0, *, in_scan=False):
    """One step for each row of `grads`, from a fresh state.

    They are taken in turn: in a scan, XLA may compute the last of five coordinates by itself, with
    a fused multiply-add in another place. A scan is for long runs.
    """
    dtype, accumulator_dtype = storage
    with jax.enable_x64(needs_float64(storage)):
        grads = jnp.asarray(grads, dtype)
        first, step, scan = _compiled(accumulator_dtype)
        state = first(grads[0], first_acc_delta)
        if in_scan:
            results = scan(state, grads, rho, eps)
        else:
            rows = []
            for grad in np.asarray(grads):
                state, results = step(state, grad, rho, eps)
                rows.append(results)
            results = [np.stack(column) for column in zip(*rows, strict=True)]
        return Run(*map(_real_numbers, (grads, *results)))


@functools.cache
def _compiled(accumulator_dtype):
    """A first state, a step, and a scan over steps."""

    @jax.jit
    def first(params, first_acc_delta):
        state = scale_by_adadelta(accumulator_dtype=accumulator_dtype).init(params)
        acc_delta = formats.values(state.acc_delta) + first_acc_delta
        return state._replace(acc_delta=formats.store(acc_delta, state.acc_delta, None))

    @jax.jit
    def step(state, grad, rho, eps):
        optimizer = scale_by_adadelta(rho, eps, accumulator_dtype=accumulator_dtype)
        updates, state = optimizer.update(grad, state)
        return state, (updates, *map(formats.values, (state.square_avg, state.acc_delta)))

    @jax.jit
    def scan(state, grads, rho, eps):
        return jax.lax.scan(lambda state, grad: step(state, grad, rho, eps), state, grads)[1]

    return first, step, scan


def _real_numbers(array):
    array = np.asarray(array)
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], -1)
    return array.astype(np.float64).reshape(len(array), -1)
