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
from adadelta_jax._storage.hash_bits import fold_in, hash_bits
from adadelta_jax._storage.rounding import round_to_dtype


def zeros(param: jax.typing.ArrayLike, accumulator_dtype: jax.typing.DTypeLike | None) -> jax.Array:
    """An accumulator of zeros for `param`, sharded like it."""
    return jnp.zeros_like(param, dtype=storage_dtype(jnp.result_type(param), accumulator_dtype))


def storage_dtype(
    param_dtype: jax.typing.DTypeLike, accumulator_dtype: jax.typing.DTypeLike | None
) -> jnp.dtype:
    """The dtype of an accumulator for a parameter of `param_dtype`; uint8 holds codes."""
    if accumulator_dtype is None:
        return promote(param_dtype, jnp.float32)
    if jnp.issubdtype(param_dtype, jnp.complexfloating):
        return promote(accumulator_dtype, jnp.complex64)  # JAX has no narrower complex dtype
    return jnp.dtype(accumulator_dtype)


def promote(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that JAX promotes these to, under strict promotion too."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def values(accumulators: Any) -> Any:
    """A tree of accumulators as a tree of floating-point or complex arrays."""
    return jax.tree.map(_value, accumulators)


def is_rounded(accumulator: jax.Array, values: jax.typing.ArrayLike) -> bool:
    """Whether `store` rounds what a step computes from such values, in float32 at least."""
    return accumulator.dtype.itemsize < max(4, jnp.result_type(values).itemsize)


def load(accumulator: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The accumulator's values in the `dtype` of the step's arithmetic."""
    return _value(accumulator).astype(dtype)


def store(values: jax.Array, previous: jax.Array, key: jax.Array | None) -> jax.Array:
    """`values` in the format of the accumulator `previous`, and within its range.

    Args:
        values: What to store, of the shape of `previous`; at least 0, as is each part of a complex
            number. NaN stays NaN.
        previous: The accumulator before the step.
        key: That of `hash_bits`, to round at random. None: round to nearest.
    """
    if jnp.iscomplexobj(values):
        part_dtype = jnp.finfo(previous.dtype).dtype
        real, imag = (
            _store_real(part, part_dtype, None if key is None else fold_in(key, index))
            for index, part in enumerate((jnp.real(values), jnp.imag(values)))
        )
        return lax.complex(real, imag)
    return _store_real(values, previous.dtype, key)


def convert(accumulator: jax.Array, target: jax.Array) -> jax.Array:
    """The accumulator in the format of `target`, rounded to nearest; itself if it has that."""
    if accumulator.dtype == target.dtype:
        return accumulator
    return store(_value(accumulator), target, None)


def _value(accumulator: jax.Array) -> jax.Array:
    return float8.decode(accumulator) if accumulator.dtype == jnp.uint8 else accumulator


def _store_real(values: jax.Array, dtype: jnp.dtype, key: jax.Array | None) -> jax.Array:
    """Real values in `dtype`, rounded where it has fewer bits."""
    if dtype == jnp.uint8:
        return float8.encode(values.astype(jnp.float32), _rounding_bits(values.shape, key))
    if jnp.finfo(dtype).nmant >= jnp.finfo(values.dtype).nmant:
        return values.astype(dtype)
    return round_to_dtype(values, dtype, _rounding_bits(values.shape, key))


def _rounding_bits(shape: tuple[int, ...], key: jax.Array | None) -> jax.Array:
    """The bits by which `store` rounds; half of the range rounds to nearest."""
    return jnp.full(shape, 1 << 31, jnp.uint32) if key is None else hash_bits(shape, key)
