"""Adadelta with each accumulator format: in four dtypes, rounded at random or to nearest.

Rounding to nearest has no public option. There the package's random bits are replaced while the
step is traced.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import adadelta_jax
from adadelta_jax._core import transform
from adadelta_jax._storage import formats
from benchmarks.paper import network as paper_network

RandomBits = Callable[[tuple[int, ...], jax.Array], jax.Array]  # as `hash_bits` of the package

DTYPES = ("float32", "bfloat16", "float16", "int8")
TO_NEAREST = "_to_nearest"
VARIANTS = ("float32", *(dtype + how for dtype in DTYPES[1:] for how in ("", TO_NEAREST)))

RHO, EPS = paper_network.RHO, paper_network.EPS

package_step = inspect.unwrap(transform._step)  # themselves, while they are replaced
package_bits = formats.hash_bits


def to_nearest(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """The bits that round to nearest, whatever the key."""
    del key
    return jnp.full(shape, 1 << 31, jnp.uint32)


@contextlib.contextmanager
def rounding_with(bits: RandomBits) -> Iterator[None]:
    """A context in which what is traced rounds with these bits."""
    # The package traces its step once for all optimizers. Another function is traced anew.
    step = jax.jit(lambda *operands: package_step(*operands))
    with mock.patch.object(formats, "hash_bits", bits), mock.patch.object(transform, "_step", step):
        yield


def optimizer(variant: str) -> optax.GradientTransformationExtraArgs:
    """The paper's setting of Adadelta, with accumulators in the format of one of `VARIANTS`."""
    dtype = variant.removesuffix(TO_NEAREST)
    at_random = adadelta_jax.adadelta(1.0, RHO, EPS, accumulator_dtype=dtype)
    if dtype == variant:
        return at_random

    def update(updates, state, params=None, **extra_args):
        with rounding_with(to_nearest):
            return at_random.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(at_random.init, update)
