"""Bits that are as good as random, without state: a hash of each element's place."""

import math

import jax
import jax.numpy as jnp
from jax import lax


def fold_in(key: jax.typing.ArrayLike, data: jax.typing.ArrayLike) -> jax.Array:
    """A key, uint32, from a key and an integer, as of `jax.random.fold_in`; or many from many."""
    return _hash(jnp.asarray(key, jnp.uint32) + jnp.asarray(data).astype(jnp.uint32))


def hash_bits(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """32 bits per element, as uint32: a hash of the element's place and of the key.

    Source: the constants of [lowbias32](https://github.com/skeeto/hash-prospector).
    """
    # The place, not a counter of a generator: two multiplications per element, and the same bits
    # however the array is sharded.
    place = key
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        if isinstance(stride, int):  # else a symbolic size of `jax.export`, which wraps by itself
            stride %= 2**32
        place += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.asarray(stride, jnp.uint32)
    return _hash(place)


def _hash(x: jax.Array) -> jax.Array:
    """Mix uint32 so that every output bit depends on every input bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
