"""Floats of 8 bits, without a sign and without a scale: one uint8 for each number.

A code c from 0 to 253 stands for ``((1 + (c + 2) % 4 / 4) * 2.0 ** ((c + 2) // 4) - 1.5) * UNIT``,
254 for infinity, which is never stored, and 255 for NaN. Near zero the values are 2.9e-11 apart,
above there are four to an octave, up to 1.9e9. A step reads v and u only as v + ε and u + ε, and
for every ε of at least 1e-9 the values of two codes, plus ε, differ by a quarter at most.
"""

import jax
import jax.numpy as jnp
from jax import lax

UNIT = 2.0**-33
LARGEST = 1.75 * 2.0**63 * UNIT
NAN = 255
SMALLEST_EPS = 1e-9

# Codes are the exponents and the two highest bits of the mantissas of float32 from FIRST to NaN.
DROPPED_BITS = 23 - 2
FIRST = 1.5 * 2.0**64
FIRST_CODE = (64 + 127) * 4 + 2


def encode(values: jax.Array, bits: jax.Array) -> jax.Array:
    """The codes of float32 `values` of at least 0: rounded up where `bits` are large, else down."""
    shifted = jnp.minimum(values, LARGEST) * (2.0**64 / UNIT) + FIRST
    pattern = lax.bitcast_convert_type(shifted, jnp.uint32)
    # The carry of the sum rounds up with a probability that equals the dropped fraction.
    codes = ((pattern + (bits >> (32 - DROPPED_BITS))) >> DROPPED_BITS) - FIRST_CODE
    return _small_integers_as_floats(jnp.minimum(codes, NAN)).astype(jnp.uint8)


def _small_integers_as_floats(integers: jax.Array) -> jax.Array:
    """uint32 below 2²³ as float32.

    XLA's TPU compiler fuses a conversion to uint8 with the step's other results if it is one from
    floats: a step moves 16 bytes per parameter instead of 22. A conversion from uint32 to float32
    is not fused either, so this is spelled in bits: the floats from 2²³ to 2²⁴ are the integers.
    """
    integers_from = lax.bitcast_convert_type(jnp.float32(2.0**23), jnp.uint32)
    return lax.bitcast_convert_type(integers + integers_from, jnp.float32) - 2.0**23


def decode(codes: jax.Array) -> jax.Array:
    """The values of codes, float32."""
    pattern = (codes.astype(jnp.uint32) + FIRST_CODE) << DROPPED_BITS
    return (lax.bitcast_convert_type(pattern, jnp.float32) - FIRST) * (UNIT / 2.0**64)
