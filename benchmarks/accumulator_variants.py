"""Adadelta with each way to store v and u: in four dtypes, rounded at random or to nearest.

Rounding to nearest has no public option: there the package's `random_bits` is replaced, while the
step is traced, by one that ignores its seeds and gives the bits that round to nearest.
"""

from collections.abc import Callable
from unittest import mock

import jax
import optax
import paper_network

import adadelta_jax
from adadelta_jax._storage import formats as _accumulators

RandomBits = Callable[..., jax.Array]  # as `_accumulators.random_bits`

DTYPES = ("float32", "bfloat16", "float16", "int8")
TO_NEAREST = "_to_nearest"
VARIANTS = ("float32", *(dtype + how for dtype in DTYPES[1:] for how in ("", TO_NEAREST)))

RHO, EPS = paper_network.RHO, paper_network.EPS


def to_nearest(shape: tuple[int, ...], seeds: tuple | None) -> jax.Array:
    """The package's bits for rounding to nearest, whatever the seeds."""
    del seeds
    return package_bits(shape, None)


package_bits = _accumulators.random_bits  # itself, while it is replaced


def rounding_with(bits: RandomBits):
    """A context in which what is traced rounds with these bits."""
    return mock.patch.object(_accumulators, "random_bits", bits)


def optimizer(variant: str) -> optax.GradientTransformationExtraArgs:
    """The paper's setting of Adadelta, with accumulators as one of `VARIANTS` has them."""
    dtype = variant.removesuffix(TO_NEAREST)
    at_random = adadelta_jax.adadelta(1.0, RHO, EPS, accumulator_dtype=dtype)
    if dtype == variant:
        return at_random

    def update(updates, state, params=None, **extra_args):
        with rounding_with(to_nearest):
            return at_random.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(at_random.init, update)
