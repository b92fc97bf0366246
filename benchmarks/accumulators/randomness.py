"""What random bits cost and whether they are good."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adadelta_jax._storage import formats
from adadelta_jax._storage.hash_bits import fold_in
from benchmarks.accumulators.variants import RandomBits, package_bits, rounding_with, to_nearest
from benchmarks.common import measuring, reporting

RANDOMNESS_COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "scratch, B/value": reporting.number("scratch_bytes_per_value", ".2f"),
    "in one array, standard errors": reporting.number("deviation_in_one_array", ".2f"),
    "over steps, standard errors": reporting.number("deviation_over_steps", ".2f"),
}


def jax_bits(implementation: str, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Bits of one of JAX's generators, for a key of the package's."""
    own_key = jax.random.fold_in(jax.random.key(0, impl=implementation), key)
    return jax.random.bits(own_key, shape)


SOURCES: dict[str, RandomBits] = {
    "hash": package_bits,
    **{
        implementation: functools.partial(jax_bits, implementation)
        for implementation in ("threefry2x32", "rbg", "unsafe_rbg")
    },
    "nearest": to_nearest,
}


def stored(bits: RandomBits, values: jax.Array, count: jax.Array) -> jax.Array:
    """The values in bfloat16, as the package stores v at a step."""
    with rounding_with(bits):
        return formats.store(values, jnp.empty(values.shape, jnp.bfloat16), fold_in(0, count))


class StoringContender:
    """Rounds an array of float32 to bfloat16 at every call, over what the last call left."""

    def __init__(self, bits: RandomBits, values: jax.Array):
        def step(last, count, values):
            del last  # donated, and so overwritten
            return stored(bits, values, count), count + 1

        self.count, self.last = jnp.int32(0), jnp.zeros(values.shape, jnp.bfloat16)
        self.values = values
        jitted = jax.jit(step, donate_argnums=0, keep_unused=True)
        self.compiled = jitted.lower(self.last, self.count, values).compile()

    def __call__(self) -> None:
        """Round once, and wait until it is done."""
        self.last, self.count = self.compiled(self.last, self.count, self.values)
        jax.block_until_ready(self.last)

    def scratch_bytes(self) -> int:
        """What XLA allocates at every call."""
        analysis = self.compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes


def measure_randomness(quick: bool, rounds: int) -> list[reporting.Row]:
    """A row for each source of random bits: what it costs, and how far means stay from the value.

    Each of some values is stored many times, the copies side by side in one array, then one copy at
    each of as many steps. The deviation is that of the mean of the copies from the value, in units
    of the standard error that independent rounding at random has; the largest over the values.
    """
    size, copies = (1 << 10, 1_000) if quick else (1 << 25, 100_000)
    draws = np.random.default_rng(0)
    values = jnp.asarray(draws.standard_normal(size, np.float32) ** 2)
    taking_part = {name: StoringContender(bits, values) for name, bits in SOURCES.items()}
    for contender in taking_part.values():
        contender()
    seconds = measuring.time_in_turn(taking_part, rounds)

    spacing = float(jnp.finfo(jnp.bfloat16).eps)
    several = draws.uniform(1, 2, 50).astype(np.float32)
    up = (several - 1) / spacing % 1
    standard_errors = spacing * np.sqrt(up * (1 - up) / copies)

    def largest_deviation(copies_last: jax.Array) -> float:
        means = np.asarray(copies_last, np.float64).mean(axis=-1)
        return float(np.max(np.abs(means - several) / standard_errors))

    rows: list[reporting.Row] = []
    for name, bits in SOURCES.items():
        in_one_array = jax.jit(functools.partial(stored, bits))(
            jnp.tile(several[:, None], copies), jnp.int32(0)
        )
        over_steps = jax.jit(
            lambda values, counts, bits=bits: lax.map(lambda n: stored(bits, values, n), counts)
        )(several, jnp.arange(copies))
        rows.append(
            {
                "contender": name,
                "values": size,
                **measuring.median_and_quartiles(seconds[name]),
                "scratch_bytes_per_value": taking_part[name].scratch_bytes() / size,
                "copies": copies,
                "deviation_in_one_array": largest_deviation(in_one_array),
                "deviation_over_steps": largest_deviation(over_steps.T),
            }
        )
    title = f"randomness: {size:,} values of float32 rounded to bfloat16"
    reporting.print_table(title, rows, RANDOMNESS_COLUMNS)
    return rows
