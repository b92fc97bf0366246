"""The format of an accumulator: which dtype, how a step loads it, and how it stores the next.

What is stored in fewer bits than it was computed in is rounded at random, up or down, so that it is
right on average. Rounding to nearest would stop an average whose step is smaller than half a
spacing: in bfloat16, for one, v would not decay with ρ = 0.999.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from adadelta_jax._storage import float8
from adadelta_jax._storage.float8 import Int8Blocks
from adadelta_jax._storage.hash_bits import fold_in, hash_bits
from adadelta_jax._storage.rounding import round_to_dtype


def zeros(param: jax.typing.ArrayLike, accumulator_dtype: jax.typing.DTypeLike | None) -> Any:
    """An accumulator of zeros for `param`, sharded like it."""
    if accumulator_dtype is not None and jnp.dtype(accumulator_dtype) == jnp.int8:
        if not jnp.iscomplexobj(param) and jnp.size(param) >= float8.SMALLEST_IN_BLOCKS:
            return float8.zeros(param)
        accumulator_dtype = jnp.float32
    return jnp.zeros_like(param, dtype=storage_dtype(jnp.result_type(param), accumulator_dtype))


def storage_dtype(
    param_dtype: jax.typing.DTypeLike, accumulator_dtype: jax.typing.DTypeLike | None
) -> jnp.dtype:
    """The dtype of an accumulator that is one array, for a parameter of `param_dtype`."""
    if accumulator_dtype is None:
        return promote(param_dtype, jnp.float32)
    if jnp.issubdtype(param_dtype, jnp.complexfloating):
        return promote(accumulator_dtype, jnp.complex64)  # JAX has no narrower complex dtype
    return jnp.dtype(accumulator_dtype)


def promote(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that JAX promotes these to, under strict promotion too."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def is_accumulator(node: Any) -> bool:
    """Use as `is_leaf`: treats an accumulator as one leaf."""
    return isinstance(node, Int8Blocks)


def is_accumulator_or_none(node: Any) -> bool:
    """Use as `is_leaf`: treats an accumulator, or None in the place of one, as one leaf."""
    return node is None or isinstance(node, Int8Blocks)


def values(accumulators: Any) -> Any:
    """A tree of accumulators as a tree of arrays, each of its parameter's shape."""
    return jax.tree.map(lambda node: load(node, node.dtype), accumulators, is_leaf=is_accumulator)


def shapes(accumulators: Any) -> Any:
    """The shapes and dtypes of `values`, as a tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda node: jax.ShapeDtypeStruct(node.shape, node.dtype),
        accumulators,
        is_leaf=is_accumulator,
    )


def is_rounded(accumulator: Any, values: jax.typing.ArrayLike) -> bool:
    """Whether `store` rounds what a step computes from such values, in float32 at least."""
    itemsize = max(4, jnp.result_type(values).itemsize)
    return is_accumulator(accumulator) or accumulator.dtype.itemsize < itemsize


def load(accumulator: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The accumulator's values in the `dtype` of the step's arithmetic."""
    if isinstance(accumulator, Int8Blocks):
        accumulator = float8.dequantize(accumulator)
    return accumulator.astype(dtype)


def store(
    values: jax.Array, previous: Any, key: jax.Array | None, upper_bound: jax.Array | None = None
) -> Any:
    """`values` in the format of the accumulator `previous`, and within its range.

    Args:
        values: What to store, of the shape of `previous`; at least 0, as is each part of a complex
            number. NaN stays NaN, and in 8 bits makes its block NaN.
        previous: The accumulator before the step.
        key: That of `hash_bits`, to round at random. None: round to nearest.
        upper_bound: In 8 bits, what the values of each block do not exceed, float32; the closer to
            the largest of them, the finer the rounding. None: the largest of them.
    """
    if isinstance(previous, Int8Blocks):
        values = values.astype(jnp.float32)
        upper_bound = float8.block_maxima(values) if upper_bound is None else upper_bound
        return float8.quantize(values, upper_bound, _rounding_bits(values.shape, key))
    if jnp.iscomplexobj(values):
        part_dtype = jnp.finfo(previous.dtype).dtype
        real, imag = (
            _store_real(part, part_dtype, None if key is None else fold_in(key, index))
            for index, part in enumerate((jnp.real(values), jnp.imag(values)))
        )
        return lax.complex(real, imag)
    return _store_real(values, previous.dtype, key)


def convert(accumulator: Any, target: Any) -> Any:
    """The accumulator in the format of `target`, rounded to nearest; itself if it has that."""
    dtypes = [jax.tree.map(lambda leaf: leaf.dtype, node) for node in (accumulator, target)]
    if dtypes[0] == dtypes[1]:
        return accumulator
    return store(load(accumulator, accumulator.dtype), target, None)


def _store_real(values: jax.Array, dtype: jnp.dtype, key: jax.Array | None) -> jax.Array:
    """Real values in `dtype`, rounded where it has fewer bits."""
    if jnp.finfo(dtype).nmant >= jnp.finfo(values.dtype).nmant:
        return values.astype(dtype)
    return round_to_dtype(values, dtype, _rounding_bits(values.shape, key))


def _rounding_bits(shape: tuple[int, ...], key: jax.Array | None) -> jax.Array:
    """The bits by which `store` rounds; half of the range rounds to nearest."""
    return jnp.full(shape, 1 << 31, jnp.uint32) if key is None else hash_bits(shape, key)
