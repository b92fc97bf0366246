"""How v and u are kept between steps: in which dtype, and how they get into it and out of it."""

import jax
import jax.numpy as jnp


def zeros(param: jax.typing.ArrayLike, accumulator_dtype: jax.typing.DTypeLike | None) -> jax.Array:
    """An accumulator of zeros for `param`, laid out and sharded like it."""
    return jnp.zeros_like(param, dtype=storage_dtype(jnp.result_type(param), accumulator_dtype))


def storage_dtype(
    param_dtype: jax.typing.DTypeLike, accumulator_dtype: jax.typing.DTypeLike | None
) -> jnp.dtype:
    """The dtype in which the accumulators of a parameter of `param_dtype` are stored.

    Without an `accumulator_dtype` it is the parameter's own, but at least float32. A complex
    parameter has complex accumulators of at least the asked-for precision: complex64 is the
    narrowest there is.
    """
    if accumulator_dtype is None:
        return jnp.promote_types(param_dtype, jnp.float32)
    if jnp.issubdtype(param_dtype, jnp.complexfloating):
        return jnp.promote_types(accumulator_dtype, jnp.complex64)
    return jnp.dtype(accumulator_dtype)


def load(accumulator: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The accumulator's values in `dtype`, in which the step is computed."""
    return accumulator.astype(dtype)


def store(values: jax.Array, accumulator: jax.Array) -> jax.Array:
    """`values` as the accumulator's successor: in its dtype, saturated at its largest number."""
    dtype = accumulator.dtype
    if jnp.finfo(dtype).max < jnp.finfo(values.dtype).max:
        values = jnp.minimum(values, jnp.finfo(dtype).max)
    return values.astype(dtype)
