"""Adadelta with each accumulator format: in four dtypes, rounded at random or otherwise.

Rounding to nearest, and v and u by bits of their own, have no public option. There the package's
functions are replaced while the step is traced.
"""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import adadelta_jax
from adadelta_jax._core import transform
from adadelta_jax._storage import formats
from adadelta_jax._storage.hash_bits import fold_in
from benchmarks.paper import network as paper_network

RandomBits = Callable[[tuple[int, ...], jax.Array], jax.Array]  # as `hash_bits` of the package

DTYPES = ("float32", "bfloat16", "float16", "uint8")
TO_NEAREST = "_to_nearest"
APART = "_apart"  # v and u are rounded by bits of their own
VARIANTS = ("float32", *(dtype + how for dtype in DTYPES[1:] for how in ("", TO_NEAREST)))

RHO, EPS = paper_network.RHO, paper_network.EPS


class Setting(NamedTuple):
    """What a network is trained with, beside the variant."""

    rho: float = RHO
    eps: float = EPS
    gradient_scale: float = 1.0


PAPERS = Setting()


package_step = inspect.unwrap(transform._step)  # themselves, while they are replaced
package_bits = formats.hash_bits
package_store = formats.store


def to_nearest(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """The bits that round to nearest, whatever the key."""
    del key
    return jnp.full(shape, 1 << 31, jnp.uint32)


@contextlib.contextmanager
def rounding_with(bits: RandomBits) -> Iterator[None]:
    """A context in which what is traced rounds with these bits."""
    with _tracing_with("hash_bits", bits):
        yield


@contextlib.contextmanager
def rounding_apart() -> Iterator[None]:
    """A context in which what is traced rounds v and u by bits of their own."""
    calls = itertools.count()

    def store(values, previous, key):
        return package_store(values, previous, fold_in(key, next(calls)))

    with _tracing_with("store", store):
        yield


@contextlib.contextmanager
def _tracing_with(name: str, replacement: Callable[..., jax.Array]) -> Iterator[None]:
    """A context in which one function of the package's formats is replaced in what is traced."""
    # The package traces its step once for all optimizers. Another function is traced anew.
    step = jax.jit(lambda *operands: package_step(*operands))
    replaced = mock.patch.object(formats, name, replacement)
    with replaced, mock.patch.object(transform, "_step", step):
        yield


def optimizer(variant: str, setting: Setting = PAPERS) -> optax.GradientTransformationExtraArgs:
    """Adadelta with a setting, and with accumulators in the format of one of `VARIANTS`."""
    dtype = variant.removesuffix(TO_NEAREST).removesuffix(APART)
    own = adadelta_jax.adadelta(1.0, setting.rho, setting.eps, accumulator_dtype=dtype)
    if setting.gradient_scale != 1:
        own = optax.chain(optax.scale(setting.gradient_scale), own)
    if dtype == variant:
        return own

    def update(updates, state, params=None, **extra_args):
        otherwise = rounding_apart() if variant.endswith(APART) else rounding_with(to_nearest)
        with otherwise:
            return own.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(own.init, update)
