"""Accumulators in 8 bits: blocks of unsigned floats, with a scale for each block."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from adadelta_jax._storage.rounding import round_mantissa

BLOCK = 256
SMALLEST_IN_BLOCKS = 4096  # elements; parameters with fewer keep float32


class Int8Blocks(NamedTuple):
    """An accumulator in 8 bits per element: floats of 5 exponent and 3 mantissa bits, no sign.

    A code c stands for ``(1 + c % 8 / 8) * 2.0 ** (c // 8 - 31)`` times the scale of its block, or,
    below 8, for ``c * 2.0 ** -33`` times the scale: eight codes for each of 31 octaves, then even
    steps down to zero.

    A block is 256 elements along the last dimension. Where the last dimension is shorter, the last
    dimensions are merged until they hold 256. The remainder at the end is a block too.

    Attributes:
        codes: uint8, of the parameter's shape.
        scale: float32, one power of two for each block, of shape ``(..., blocks)``.
    """

    codes: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.codes.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the values."""
        return jnp.dtype(jnp.float32)


def zeros(param: jax.typing.ArrayLike) -> Int8Blocks:
    """An accumulator of zeros for `param`, sharded like it."""
    codes = jnp.zeros_like(param, dtype=jnp.uint8)
    return Int8Blocks(codes, _reduce_blocks(codes, lax.max).astype(jnp.float32))


def quantize(values: jax.Array, upper_bound: jax.Array, bits: jax.Array) -> Int8Blocks:
    """`values` in blocks, none of which exceeds its `upper_bound`; rounded by random `bits`."""
    # The largest power of two of which the bound is at most 1.875: the carry of the mantissa tells.
    pattern = lax.bitcast_convert_type(upper_bound, jnp.uint32)
    scale = lax.bitcast_convert_type((pattern + 0xFFFFF) & 0x7F800000, jnp.float32)
    # Within these limits the scale's inverse and its least number are normal numbers.
    scale = jnp.where(jnp.isnan(upper_bound), jnp.nan, jnp.clip(scale, 2.0**-93, 2.0**126))

    values = jnp.minimum(values / _scale_of_elements(scale, values.shape), 1.875)
    values = round_mantissa(values, bits, mantissa_bits=3, smallest_normal=2.0**-30)
    large = (lax.bitcast_convert_type(values, jnp.uint32) >> 20) - (96 << 3)
    small = (values * 2.0**33).astype(jnp.uint32)
    return Int8Blocks(jnp.where(values < 2.0**-30, small, large).astype(jnp.uint8), scale)


def dequantize(blocks: Int8Blocks) -> jax.Array:
    """The values of an accumulator in blocks, float32."""
    return _decode(blocks.codes) * _scale_of_elements(blocks.scale, blocks.codes.shape)


def block_maxima(x: jax.Array | Int8Blocks) -> jax.Array:
    """The largest magnitude in each block of an array or of an accumulator in blocks, float32."""
    # XLA's CPU backend does not fuse into a reduction, so every case reduces what is in memory.
    if isinstance(x, Int8Blocks):
        return _decode(_reduce_blocks(x.codes, lax.max)) * x.scale
    if x.dtype.itemsize == 2:
        # That backend compares half precision slowly; bit patterns without a sign compare alike.
        patterns = lax.bitcast_convert_type(x, jnp.uint16) & 0x7FFF
        largest = lax.bitcast_convert_type(_reduce_blocks(patterns, lax.max), x.dtype)
    else:
        largest = _reduce_blocks(lax.stop_gradient(x), lambda a, b: lax.max(lax.abs(a), lax.abs(b)))
    return largest.astype(jnp.float32)


def shardings(blocks: Int8Blocks, sharding: NamedSharding) -> Int8Blocks:
    """The shardings of an accumulator in blocks, from the sharding of its parameter."""
    shape = blocks.codes.shape
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    # The scale follows the codes in the dimensions that both have, and in the last one where every
    # device holds whole blocks of it.
    scale_spec = spec[: blocks.scale.ndim - 1]
    shard_shape = sharding.shard_shape(shape)
    if blocks.scale.ndim == len(shape) and shard_shape[-1] % BLOCK == 0:
        scale_spec = spec
    return blocks._replace(codes=sharding, scale=sharding.update(spec=PartitionSpec(*scale_spec)))


def _decode(codes: jax.Array) -> jax.Array:
    """The values of codes in units of the scale, float32."""
    exponent_and_mantissa = (codes.astype(jnp.uint32) + (96 << 3)) << 20
    large = lax.bitcast_convert_type(exponent_and_mantissa, jnp.float32)
    return jnp.where(codes < 8, codes.astype(jnp.float32) * 2.0**-33, large)


def _merged_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the last dimensions merged so that blocks lie along the last one."""
    axis = len(shape) - 1
    while axis > 0 and math.prod(shape[axis:]) < BLOCK:
        axis -= 1
    return (*shape[:axis], math.prod(shape[axis:]))


def _reduce_blocks(x: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Each block reduced by `combine`, which must have 0 as its identity."""
    shape = _merged_shape(x.shape)
    sharding = jax.typeof(x).sharding  # empty unless the array is sharded explicitly
    if any(sharding.spec[len(shape) - 1 :]):
        # JAX neither merges sharded dimensions nor reduces blocks that devices share.
        unsplit_blocks = PartitionSpec(*sharding.spec[: len(shape) - 1])
        x = jax.sharding.reshard(x, sharding.update(spec=unsplit_blocks))
    x = x.reshape(shape)
    window = (1,) * (x.ndim - 1) + (BLOCK,)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % BLOCK)]
    return lax.reduce_window(x, x.dtype.type(0), combine, window, window, padding)


def _scale_of_elements(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The scale of each element of an array of that shape."""
    merged = _merged_shape(shape)
    repeated = jnp.broadcast_to(scale[..., None], (*scale.shape, BLOCK))
    repeated = repeated.reshape(*merged[:-1], -1)
    if repeated.shape != merged:
        repeated = lax.slice_in_dim(repeated, 0, merged[-1], axis=-1)
    return repeated.reshape(shape)
