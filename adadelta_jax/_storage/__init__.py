"""How accumulators are kept between steps.

Read `formats` first: which format, and how a step loads and stores it. Then `float8`, the 8-bit
one, `rounding`, to fewer bits, and `hash_bits`, the bits that decide where to round.
"""
