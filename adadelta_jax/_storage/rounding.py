"""Rounding to fewer bits, up or down at random, so that the mean over all bits is exact."""

import jax
import jax.numpy as jnp
from jax import lax


def round_to_dtype(values: jax.Array, dtype: jax.typing.DTypeLike, bits: jax.Array) -> jax.Array:
    """Real `values` in a narrower `dtype`; what exceeds its largest number becomes that number."""
    info = jnp.finfo(dtype)
    values = jnp.minimum(values, float(info.max))
    rounded = round_mantissa(
        values, bits, mantissa_bits=info.nmant, smallest_normal=float(info.smallest_normal)
    )
    # Differentiation takes rounding for the identity, which it is on average.
    return (lax.stop_gradient(rounded) + (values - lax.stop_gradient(values))).astype(dtype)


def round_mantissa(
    values: jax.Array, bits: jax.Array, *, mantissa_bits: int, smallest_normal: float
) -> jax.Array:
    """`values` with `mantissa_bits` bits of mantissa: rounded up where `bits` are large, else down.

    Below `smallest_normal` the results are evenly spaced, as subnormal numbers are.
    """
    info = jnp.finfo(values.dtype)
    unsigned = f"uint{info.bits}"
    dropped = info.nmant - mantissa_bits
    noise = bits.astype(unsigned)
    noise = noise >> (32 - dropped) if dropped <= 32 else noise << (dropped - 32)
    pattern = lax.bitcast_convert_type(values, unsigned)
    # The carry of the sum rounds up with a probability that equals the dropped fraction.
    rounded = lax.bitcast_convert_type((pattern + noise) >> dropped << dropped, values.dtype)

    if smallest_normal > info.smallest_normal:
        # Processors flush subnormal float32 to zero, so steps are at least the least normal number.
        step = max(smallest_normal * 2.0**-mantissa_bits, 2.0**-126)
        below = jnp.floor(values / step)
        up = (~bits >> 8).astype(values.dtype) * 2.0**-24 < values / step - below
        evenly_spaced = (below + up.astype(values.dtype)) * step
        rounded = jnp.where(values < smallest_normal, evenly_spaced, rounded)
    return jnp.where(jnp.isnan(values), values, rounded)
