"""How v and u are kept between steps: in which dtype, and how they get into it and out of it.

What is stored in fewer bits than it was computed in is rounded at random, up or down, so that it is
right on average. Rounding to nearest would stop an average whose step is smaller than half a
spacing: v in bfloat16, for one, would not decay with ρ = 0.999.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

BLOCK = 256
SMALLEST_IN_BLOCKS = 4096  # elements; parameters with fewer stay in float32


class Int8Blocks(NamedTuple):
    """An accumulator in 8 bits an element: numbers of 5 exponent and 3 mantissa bits, no sign.

    A code c stands for ``(1 + c % 8 / 8) * 2.0 ** (c // 8 - 31)`` times the scale of its block, and
    for ``c * 2.0 ** -33`` times that where c is below 8: eight codes to each of 31 octaves, and
    even steps from the lowest of them down to zero.

    A block is 256 elements along the last dimension; where that is shorter, along as many of the
    last dimensions as it takes, seen as one. What is left at the end is a block too.

    Attributes:
        codes: uint8, of the parameter's shape.
        scale: float32, one power of two for each block, of shape ``(..., blocks)``.
    """

    codes: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the values."""
        return self.codes.shape

    @property
    def dtype(self) -> jnp.dtype:
        """That of the values."""
        return jnp.dtype(jnp.float32)


def zeros(param: jax.typing.ArrayLike, accumulator_dtype: jax.typing.DTypeLike | None) -> Any:
    """An accumulator of zeros for `param`, laid out and sharded like it."""
    if accumulator_dtype is not None and jnp.dtype(accumulator_dtype) == jnp.int8:
        if not jnp.iscomplexobj(param) and jnp.size(param) >= SMALLEST_IN_BLOCKS:
            codes = jnp.zeros_like(param, dtype=jnp.uint8)
            return Int8Blocks(codes, _reduced(codes, lax.max).astype(jnp.float32))
        accumulator_dtype = jnp.float32
    return jnp.zeros_like(param, dtype=storage_dtype(jnp.result_type(param), accumulator_dtype))


def storage_dtype(
    param_dtype: jax.typing.DTypeLike, accumulator_dtype: jax.typing.DTypeLike | None
) -> jnp.dtype:
    """The dtype of an accumulator that is one array, for a parameter of `param_dtype`.

    Without an `accumulator_dtype` it is the parameter's own, but at least float32. A complex
    parameter has complex accumulators of at least the asked-for precision: complex64 is the
    narrowest there is.
    """
    if accumulator_dtype is None:
        return promoted(param_dtype, jnp.float32)
    if jnp.issubdtype(param_dtype, jnp.complexfloating):
        return promoted(accumulator_dtype, jnp.complex64)
    return jnp.dtype(accumulator_dtype)


def promoted(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that JAX promotes these to, also for users who let it promote nothing unasked."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def shardings(blocks: Int8Blocks, sharding: NamedSharding) -> Any:
    """The shardings of an accumulator in blocks whose parameter is sharded so.

    The scale is sharded like the codes in the dimensions that both have, and in the last where
    devices hold whole blocks of it.
    """
    shape = blocks.codes.shape
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    own = spec[: blocks.scale.ndim - 1]
    shard_shape = sharding.shard_shape(shape)
    if blocks.scale.ndim == len(shape) and shard_shape[-1] % BLOCK == 0:
        own = spec
    return blocks._replace(codes=sharding, scale=sharding.update(spec=PartitionSpec(*own)))


def is_accumulator(node: Any) -> bool:
    """Whether a node of a state is one parameter's accumulator, though JAX would look inside."""
    return isinstance(node, Int8Blocks)


def values(accumulators: Any) -> Any:
    """A tree of accumulators as a tree of arrays, each like its parameter."""
    return jax.tree.map(lambda node: load(node, node.dtype), accumulators, is_leaf=is_accumulator)


def shapes(accumulators: Any) -> Any:
    """The shapes and dtypes of `values`, as a tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda node: jax.ShapeDtypeStruct(node.shape, node.dtype),
        accumulators,
        is_leaf=is_accumulator,
    )


def load(accumulator: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The accumulator's values in `dtype`, in which the step is computed."""
    if not isinstance(accumulator, Int8Blocks):
        return accumulator.astype(dtype)
    codes, scale = accumulator
    return (_decoded(codes) * _spread(scale, codes.shape)).astype(dtype)


def largest_in_blocks(x: Any) -> jax.Array:
    """The largest magnitude in each block of an array, or of an accumulator in blocks.

    It is read off what is in memory: XLA's CPU backend would write what it has to compute first to
    memory, for it does not fuse into a reduction.
    """
    if isinstance(x, Int8Blocks):
        return _decoded(_reduced(x.codes, lax.max)) * x.scale
    if x.dtype.itemsize == 2:
        # That backend is slow to compare half precision; bit patterns without a sign compare alike.
        patterns = lax.bitcast_convert_type(x, jnp.uint16) & 0x7FFF
        largest = lax.bitcast_convert_type(_reduced(patterns, lax.max), x.dtype)
    else:
        largest = _reduced(lax.stop_gradient(x), lambda a, b: lax.max(lax.abs(a), lax.abs(b)))
    return largest.astype(jnp.float32)


def store(
    values: jax.Array,
    like: Any,
    seeds: tuple[jax.typing.ArrayLike, ...] | None,
    at_most: jax.Array | None = None,
) -> Any:
    """`values` as the successor of the accumulator `like`: in its format, and within its range.

    Args:
        values: What to store, at least 0 (each part of a complex number is), of the shape of
            `like`. NaN stays NaN, and in 8 bits makes NaN of its block.
        like: The accumulator before.
        seeds: What `random_bits` takes, to round at random. None: to nearest.
        at_most: For 8 bits, what the values of each block do not exceed, float32. The nearer it is
            to the largest of them the better; None stands for that itself.
    """
    if isinstance(like, Int8Blocks):
        values = values.astype(jnp.float32)
        at_most = largest_in_blocks(values) if at_most is None else at_most
        return _store_in_blocks(values, at_most, seeds)
    if jnp.iscomplexobj(values):
        part_dtype = jnp.finfo(like.dtype).dtype
        parts = (jnp.real(values), jnp.imag(values))
        real, imag = (
            _round(part, part_dtype, None if seeds is None else (*seeds, index))
            for index, part in enumerate(parts)
        )
        return lax.complex(real, imag)
    return _round(values, like.dtype, seeds)


def convert(old: Any, like: Any) -> Any:
    """The accumulator `old` in the format of `like`, rounded to nearest; itself if it has that."""
    dtypes = [jax.tree.map(lambda leaf: leaf.dtype, node) for node in (old, like)]
    return old if dtypes[0] == dtypes[1] else store(load(old, old.dtype), like, None)


def random_bits(
    shape: tuple[int, ...], seeds: tuple[jax.typing.ArrayLike, ...] | None
) -> jax.Array:
    """uint32 for every element, each bit of which is as good as random. None: the middle one.

    A hash of the element's place and of the seeds: it needs no key, takes two multiplications an
    element, and is the same however the array is sharded.

    Source: the constants of [lowbias32](https://github.com/skeeto/hash-prospector).
    """
    if seeds is None:
        return jnp.full(shape, 1 << 31, jnp.uint32)
    key = jnp.uint32(0)
    for seed in seeds:
        key = _hash(key + jnp.asarray(seed).astype(jnp.uint32))
    strides = [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]
    place = key
    for axis, stride in enumerate(strides):
        place += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return _hash(place)


def _hash(x: jax.Array) -> jax.Array:
    """Each bit of the result depends on all bits of `x`, uint32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _store_in_blocks(values: jax.Array, at_most: jax.Array, seeds: tuple | None) -> Int8Blocks:
    # The power of two of which `at_most` is at most 1.875: the carry of the mantissa tells.
    pattern = lax.bitcast_convert_type(at_most, jnp.uint32)
    scale = lax.bitcast_convert_type((pattern + 0xFFFFF) & 0x7F800000, jnp.float32)
    # Within these bounds the scale's inverse and its least number are normal numbers.
    scale = jnp.where(jnp.isnan(at_most), jnp.nan, jnp.clip(scale, 2.0**-93, 2.0**126))

    values = jnp.minimum(values / _spread(scale, values.shape), 1.875)
    bits = random_bits(values.shape, seeds)
    values = _round_in_steps(values, bits, mantissa_bits=3, smallest_normal=2.0**-30)
    large = (lax.bitcast_convert_type(values, jnp.uint32) >> 20) - (96 << 3)
    small = (values * 2.0**33).astype(jnp.uint32)
    return Int8Blocks(jnp.where(values < 2.0**-30, small, large).astype(jnp.uint8), scale)


def _rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which blocks lie along the last dimension."""
    axis = len(shape) - 1
    while axis > 0 and math.prod(shape[axis:]) < BLOCK:
        axis -= 1
    return (*shape[:axis], math.prod(shape[axis:]))


def _reduced(x: jax.Array, larger: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The largest element of each block, by `larger`, to which zero is no larger."""
    shape = _rows(x.shape)
    sharding = jax.typeof(x).sharding  # of what is sharded explicitly; else none
    if any(sharding.spec[len(shape) - 1 :]):
        # JAX neither merges dimensions that are sharded nor reduces blocks that devices share.
        whole_rows = PartitionSpec(*sharding.spec[: len(shape) - 1])
        x = jax.sharding.reshard(x, sharding.update(spec=whole_rows))
    rows = x.reshape(shape)
    window = (1,) * (rows.ndim - 1) + (BLOCK,)
    padding = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % BLOCK)]
    return lax.reduce_window(rows, rows.dtype.type(0), larger, window, window, padding)


def _decoded(codes: jax.Array) -> jax.Array:
    """What codes stand for, float32, in units of their block's scale."""
    exponent_and_mantissa = (codes.astype(jnp.uint32) + (96 << 3)) << 20
    large = lax.bitcast_convert_type(exponent_and_mantissa, jnp.float32)
    return jnp.where(codes < 8, codes.astype(jnp.float32) * 2.0**-33, large)


def _spread(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The scale of every element of an array of that shape."""
    rows = _rows(shape)
    spread = jnp.broadcast_to(scale[..., None], (*scale.shape, BLOCK))
    spread = spread.reshape(*rows[:-1], -1)
    if spread.shape != rows:
        spread = lax.slice_in_dim(spread, 0, rows[-1], axis=-1)
    return spread.reshape(shape)


def _round(values: jax.Array, dtype: jnp.dtype, seeds: tuple | None) -> jax.Array:
    """Real values in `dtype`: rounded up or down, and at most its largest number."""
    info, wider = jnp.finfo(dtype), jnp.finfo(values.dtype)
    if info.nmant >= wider.nmant:
        return values.astype(dtype)
    values = jnp.minimum(values, float(info.max))
    bits = random_bits(values.shape, seeds)
    rounded = _round_in_steps(
        values, bits, mantissa_bits=info.nmant, smallest_normal=float(info.smallest_normal)
    )
    # To differentiation rounding is the identity, as it is on average.
    return (lax.stop_gradient(rounded) + (values - lax.stop_gradient(values))).astype(dtype)


def _round_in_steps(
    values: jax.Array, bits: jax.Array, *, mantissa_bits: int, smallest_normal: float
) -> jax.Array:
    """`values` with so few bits of mantissa: the number above for large `bits`, else that below.

    As many of all `bits` count as large as make the mean over them the value itself. Below
    `smallest_normal`, if that is not where the dtype of `values` ends, numbers lie in even steps,
    as far apart as those above it, or by the least number that is normal in float32: processors
    take those below for zero.
    """
    info = jnp.finfo(values.dtype)
    unsigned = f"uint{info.bits}"
    dropped = info.nmant - mantissa_bits
    noise = bits.astype(unsigned)
    noise = noise >> (32 - dropped) if dropped <= 32 else noise << (dropped - 32)
    pattern = lax.bitcast_convert_type(values, unsigned)
    rounded = lax.bitcast_convert_type((pattern + noise) >> dropped << dropped, values.dtype)

    if smallest_normal > info.smallest_normal:
        step = max(smallest_normal * 2.0**-mantissa_bits, 2.0**-126)
        below = jnp.floor(values / step)
        up = (~bits >> 8).astype(values.dtype) * 2.0**-24 < values / step - below
        in_steps = (below + up.astype(values.dtype)) * step
        rounded = jnp.where(values < smallest_normal, in_steps, rounded)
    return jnp.where(jnp.isnan(values), values, rounded)
