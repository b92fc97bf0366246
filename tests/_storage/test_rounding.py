"""What is stored in fewer bits is rounded to one of its neighbours, and is right on average."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adadelta_jax import ScaleByAdadeltaState, scale_by_adadelta
from adadelta_jax._storage.formats import load, store, zeros
from adadelta_jax._storage.hash_bits import fold_in

COPIES = 100_000  # of every value
KEY = fold_in(7, 3)


class Format(NamedTuple):
    """A format, and what is computed in before."""

    computed_in: str
    mantissa_bits: int
    smallest_normal: float
    largest: float
    least: float  # of the values that are tried here, save zero
    offset: float = 0.0  # what is added to a value before its mantissa is cut

    def spacing(self, values):
        """The distance between the two neighbours of each value, float64."""
        values = values + self.offset
        exponents = np.frexp(np.maximum(values, self.smallest_normal))[1] - 1
        spacing = np.ldexp(1.0, exponents - self.mantissa_bits)
        # Numbers below 2⁻¹²⁶ are taken for zero: after it comes 2⁻¹²⁶.
        even_steps = np.maximum(spacing, 2.0**-126)
        return np.where(values < self.smallest_normal, even_steps, spacing)

    def below(self, values):
        """The largest number that is at most the value."""
        spacing = self.spacing(values)
        return np.floor((values + self.offset) / spacing) * spacing - self.offset

    def as_read(self, numbers):
        """The numbers that codes stand for as they are read: 8-bit ones are rounded to float32."""
        return numbers.astype(np.float32).astype(np.float64) if self.offset else numbers


FORMATS = {
    "bfloat16": Format("float32", 7, 2.0**-126, float(jnp.finfo(jnp.bfloat16).max), 2.0**-126),
    "float16": Format("float32", 10, 2.0**-14, 65504.0, 2.0**-32),
    "float32": Format("float64", 23, 2.0**-126, float(np.finfo(np.float32).max), 2.0**-134),
    # Without subnormal numbers: what is added to a value is normal.
    "uint8": Format("float32", 2, 2.0**-33, 1.75 * 2.0**30, 2.0**-46, 1.5 * 2.0**-33),
}


@pytest.fixture(params=FORMATS)
def dtype(request):
    with jax.enable_x64(request.param == "float32"):
        yield request.param


def some_values(dtype, count=60):
    """Values of every size that the format can hold, and near its ends, float64."""
    format_ = FORMATS[dtype]
    highest = format_.largest * (1 - 2.0**-10)
    exponents = np.random.default_rng(0).uniform(np.log2(format_.least), np.log2(highest), count)
    step = float(format_.spacing(np.float64(0)))
    special = [0.0, step, 1.0, 1 / 3, step * 1.01, step * 3.99, highest, format_.largest]
    special += [format_.smallest_normal * factor for factor in (1.0, 1.001, 1.999)]
    values = np.append(2.0**exponents, special).astype(format_.computed_in).astype(np.float64)
    return values[(values == 0) | (values >= format_.least)]


@functools.partial(jax.jit, static_argnames="dtype")
def stored_copies(values, dtype):
    """Copies of every value as they are read after being stored, one row for each."""
    copies = jnp.broadcast_to(values[:, None], (len(values), COPIES))
    return load(store(copies, zeros(copies, dtype), KEY), jnp.float32)


@functools.cache
def values_and_stored_copies(dtype):
    values = some_values(dtype)
    copies = stored_copies(jnp.asarray(values, FORMATS[dtype].computed_in), dtype)
    return values, np.asarray(copies, np.float64)


def test_every_copy_is_stored_as_one_of_its_two_neighbours(dtype):
    values, stored = values_and_stored_copies(dtype)
    below = FORMATS[dtype].below(values)
    above = FORMATS[dtype].as_read(below + FORMATS[dtype].spacing(values))
    below = FORMATS[dtype].as_read(below)
    assert ((stored == below[:, None]) | (stored == above[:, None])).all()


def test_the_mean_of_many_stored_copies_is_the_value(dtype):
    """To 4 standard errors, those of as many coins that come up heads with probability p.

    Where fewer than one copy is expected to go the other way, one may still do.
    """
    values, stored = values_and_stored_copies(dtype)
    below, spacing = FORMATS[dtype].below(values), FORMATS[dtype].spacing(values)
    p = (values - below) / spacing
    excess = (stored > FORMATS[dtype].as_read(below)[:, None]).sum(axis=1) - COPIES * p
    standard_error = np.sqrt(COPIES * p * (1 - p))
    assert (np.abs(excess) <= 4 * standard_error + np.minimum(1, standard_error)).all()
    # All values together show a bias that is too small to be seen in one of them.
    seen = standard_error > 3
    assert abs(np.mean(excess[seen] / standard_error[seen])) < 4 / np.sqrt(seen.sum())


@pytest.fixture(params=[0, 1, 1 << 31, 2**32 - 1])
def extreme_bits(request, monkeypatch):
    """Instead of random bits, those with which rounding down or up is most likely."""
    monkeypatch.setattr(
        "adadelta_jax._storage.formats.hash_bits",
        lambda shape, key: jnp.full(shape, request.param, jnp.uint32),
    )


@pytest.mark.usefixtures("extreme_bits")
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_number_of_a_dtype_is_stored_as_itself(name):
    info = jnp.finfo(name)
    infinity = ((1 << (15 - info.nmant)) - 1) << info.nmant
    numbers = np.arange(infinity, dtype=np.uint16).view(jnp.dtype(name))
    if name == "bfloat16":  # those below are taken for zero
        numbers = numbers[(numbers == 0) | (numbers >= info.smallest_normal)]
    stored = jax.jit(lambda x: store(x, zeros(x, name), KEY))(numbers.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(stored).view(np.uint16), numbers.view(np.uint16))


@pytest.mark.usefixtures("extreme_bits")
def test_a_float64_that_is_a_float32_is_stored_as_itself():
    patterns = np.random.default_rng(0).integers(1 << 23, 0x7F800000, 10_000, dtype=np.uint32)
    numbers = np.append(patterns, [0, 1 << 23, 0x7F7FFFFF]).astype(np.uint32).view(np.float32)
    with jax.enable_x64(True):
        stored = store(jnp.asarray(numbers, jnp.float64), jnp.zeros(len(numbers)), KEY)
    np.testing.assert_array_equal(stored, numbers)


@pytest.mark.parametrize(("bits", "up"), [(0, False), (2**32 - 1, True)])
def test_below_the_smallest_normal_number_too_the_largest_bits_round_up(bits, up, monkeypatch):
    monkeypatch.setattr(
        "adadelta_jax._storage.formats.hash_bits",
        lambda shape, key: jnp.full(shape, bits, jnp.uint32),
    )
    steps = store(jnp.float32([0.5, 1.25, 7.75]) * 2.0**-24, jnp.zeros(3, "float16"), KEY)
    np.testing.assert_array_equal(steps.astype(jnp.float32) * 2.0**24, np.array([0, 1, 7]) + up)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_float64_that_is_a_float32_is_rounded_to_half_precision_as_that_is(name, key):
    exponents = np.random.default_rng(0).uniform(-100, 20, 10_000)
    numbers = np.exp2(exponents).astype(np.float32)
    with jax.enable_x64(True):
        wide, narrow = (
            store(jnp.asarray(numbers, dtype), jnp.zeros(len(numbers), name), key)
            for dtype in ("float64", "float32")
        )
    np.testing.assert_array_equal(wide, narrow)


def test_without_key_a_value_is_rounded_to_nearest(dtype):
    format_ = FORMATS[dtype]
    values = some_values(dtype, count=10_000)
    computed = jnp.asarray(values, format_.computed_in)
    stored = jax.jit(lambda x: load(store(x, zeros(x, dtype), None), jnp.float32))(computed)
    below, spacing = format_.below(values), format_.spacing(values)
    p = (values - below) / spacing
    nearest = format_.as_read(below + spacing * (p > 0.5))
    if dtype != "uint8":  # NumPy thinks so too
        of_numpy = values.astype(format_.computed_in).astype(jnp.dtype(dtype)).astype(np.float64)
        normal = values >= 2.0**-126
        np.testing.assert_array_equal(nearest[normal & (p != 0.5)], of_numpy[normal & (p != 0.5)])
    # In 8 bits the sum with the offset is rounded first, to float32.
    decided = np.abs(p - 0.5) > (2.0**-20 if dtype == "uint8" else 0)
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(stored)[decided], nearest[decided])


@pytest.mark.parametrize("key", [None, KEY])
def test_a_value_beyond_the_largest_saturates_and_nan_stays_nan(dtype, key):
    largest = FORMATS[dtype].largest
    values = [1.0, largest, largest * (1 + 2.0**-11), np.inf, np.nan, 0.0]
    if dtype == "float32":
        values[2] = 1e300
    computed = jnp.asarray(values, FORMATS[dtype].computed_in)
    stored = store(computed, zeros(computed, dtype), key)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(load(stored, computed.dtype)), [1.0, largest, largest, largest, np.nan, 0.0]
    )


@pytest.mark.parametrize("part", ["real", "imag"])
def test_the_parts_of_a_complex_number_are_rounded_as_real_ones(part):
    with jax.enable_x64(True):
        values = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 1000)))
        stored = store(jax.lax.complex(*values), jnp.zeros(1000, jnp.complex64), KEY)
        index = ["real", "imag"].index(part)
        alone = store(values[index], jnp.zeros(1000, jnp.float32), fold_in(KEY, index))
    np.testing.assert_array_equal(getattr(jnp, part)(stored), alone)
    assert stored.dtype == jnp.complex64


def test_to_differentiation_rounding_is_the_identity():
    values = jnp.asarray(some_values("bfloat16")[:20], jnp.float32)

    def total(values):
        return jnp.sum(store(values, zeros(values, "bfloat16"), KEY).astype(jnp.float32))

    np.testing.assert_array_equal(jax.grad(total)(values), jnp.ones(20))


SLOW_AVERAGES = {
    # accumulator_dtype, rho, steps and elements; the mean over these has 0.3 % of noise at most
    "bfloat16": (0.9999, 10_000, 1024),
    "uint8": (0.999, 1_000, 16384),
}


@pytest.mark.parametrize(
    ("before", "grad"), [(0.0, 1.0), (1.0, 0.5), (1.0, 2.0)], ids=["start", "smaller", "larger"]
)
@pytest.mark.parametrize("dtype", SLOW_AVERAGES)
def test_a_slow_average_that_nearest_rounding_stops_goes_on(dtype, before, grad, monkeypatch):
    rho, steps, elements = SLOW_AVERAGES[dtype]
    grads = jnp.full(elements, grad)

    def mean_after_the_steps(accumulator_dtype):
        optimizer = scale_by_adadelta(rho, accumulator_dtype=accumulator_dtype)
        start = store(jnp.full(elements, before, "float32"), zeros(grads, accumulator_dtype), None)
        state = ScaleByAdadeltaState(jnp.int32(0), start, zeros(grads, accumulator_dtype))
        step = jax.jit(
            lambda state: jax.lax.scan(
                lambda state, _: (optimizer.update(grads, state)[1], None), state, length=steps
            )[0]
        )
        return float(jnp.mean(load(step(state).square_avg, jnp.float32)))

    exact = mean_after_the_steps("float32")
    at_random = mean_after_the_steps(dtype)
    monkeypatch.setattr(
        "adadelta_jax._storage.formats.hash_bits",
        lambda shape, key: jnp.full(shape, 1 << 31, jnp.uint32),
    )
    jax.clear_caches()  # the step of the package is compiled once for all optimizers
    to_nearest = mean_after_the_steps(dtype)
    jax.clear_caches()
    assert at_random == pytest.approx(exact, rel=0.01)
    assert to_nearest != pytest.approx(exact, rel=0.1)
