"""Bits that are as good as random, without a key: a hash of each element's place."""

import math

import jax
import jax.numpy as jnp
from jax import lax


def hash_bits(shape: tuple[int, ...], seeds: tuple[jax.typing.ArrayLike, ...]) -> jax.Array:
    """32 bits per element, as uint32: a hash of the element's place and of integer `seeds`.

    Source: the constants of [lowbias32](https://github.com/skeeto/hash-prospector).
    """
    key = jnp.uint32(0)
    for seed in seeds:
        if jnp.ndim(seed) > 0:  # the counts of the members, in a state that `jax.vmap` made
            seed = jnp.max(seed)
        key = _hash(key + jnp.asarray(seed).astype(jnp.uint32))
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
