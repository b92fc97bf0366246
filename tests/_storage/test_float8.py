"""8-bit floats: what each code stands for, how values become codes, and the state made of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adadelta_jax import adadelta, param_groups, scale_by_adadelta
from adadelta_jax._storage.float8 import decode, encode
from adadelta_jax._storage.formats import load, store, zeros
from adadelta_jax._storage.hash_bits import fold_in

KEY = fold_in(7, 3)
CODES = np.arange(256, dtype=np.uint8)
UNIT = 2.0**-33
INFINITY, NAN = 254, 255  # all codes below stand for finite numbers
EXTREME_BITS = [0, 1, (1 << 31) - 1, 1 << 31, 2**32 - 1]


def documented_value(code):
    """What the docstring of the module says that a code stands for."""
    code = int(code)
    if code >= INFINITY:
        return {INFINITY: math.inf, NAN: math.nan}[code]
    return ((1 + (code + 2) % 4 / 4) * 2.0 ** ((code + 2) // 4) - 1.5) * UNIT


FINITE = np.array([documented_value(code) for code in CODES[:INFINITY]])
LARGEST = FINITE[-1].astype(np.float32)
encoded = jax.jit(encode)


def bits_of(values, bits):
    return jnp.full(np.shape(values), bits, jnp.uint32)


def values_of_every_size(count):
    """From far below the first step to the largest, and next to what codes stand for."""
    sizes = np.exp2(np.random.default_rng(0).uniform(-60, 30.8, count)).astype(np.float32)
    exact = FINITE.astype(np.float32)
    nearby = np.nextafter(exact, np.float32(0)), np.nextafter(exact, np.float32(1e30))
    return np.minimum(np.concatenate([sizes, exact, *nearby]), LARGEST)


# --- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [decode, jax.jit(decode)], ids=["eager", "jitted"])
def test_each_of_the_256_codes_stands_for_what_is_documented(decode):
    expected = np.array([documented_value(code) for code in CODES]).astype(np.float32)
    decoded = decode(jnp.asarray(CODES))
    assert decoded.dtype == jnp.float32
    np.testing.assert_array_equal(decoded, expected)


def test_the_values_rise_from_zero_to_the_largest_evenly_at_first_and_then_by_a_quarter():
    decoded = np.asarray(decode(CODES[:INFINITY]), np.float64)
    steps = np.diff(decoded)
    assert decoded[0] == 0
    assert decoded[-1] == 1.75 * 2**30
    assert (steps > 0).all()
    assert steps[0] == 2.0**-35  # 2.9e-11
    assert steps.min() == steps[0]
    above = steps[32:] / decoded[32:-1]  # eight octaves above the first step
    assert above.min() > 1 / 7.1
    assert above.max() < 1 / 3.98


@pytest.mark.parametrize("eps", [1e-9, 1e-8, 1e-6, 1e-4])
def test_plus_eps_two_neighbours_differ_by_a_quarter_at_most(eps):
    """In all that a step reads: v + ε and u + ε."""
    read = np.asarray(decode(CODES[:INFINITY]), np.float64) + eps
    ratios = read[1:] / read[:-1]
    assert ratios.max() <= 1.25 * (1 + 2.0**-23)
    assert ratios.max() > 1.24  # no smaller bound holds


# --- rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", EXTREME_BITS)
def test_what_a_code_stands_for_becomes_that_code_whatever_the_bits(bits):
    stored = np.delete(CODES, INFINITY)
    again = encoded(decode(stored), bits_of(stored, bits))
    assert again.dtype == jnp.uint8
    np.testing.assert_array_equal(again, stored)


def test_a_value_becomes_one_of_its_two_neighbours_the_upper_one_for_large_bits():
    values = values_of_every_size(50_000)
    below = np.searchsorted(FINITE.astype(np.float32), values, side="right") - 1
    bits = np.random.default_rng(1).integers(0, 2**32, len(values), dtype=np.uint32)
    is_between = values != FINITE.astype(np.float32)[below]
    up = np.asarray(encoded(values, bits)).astype(int) - below
    assert set(up) == {0, 1}
    assert not up[~is_between].any()
    least, most = (
        np.asarray(encoded(values, bits_of(values, extreme))).astype(int) - below
        for extreme in (0, 2**32 - 1)
    )
    assert (least <= up).all()
    assert (up <= most).all()
    # In float32 the sum of a value and the offset may itself be that of a neighbour.
    share = ((values - FINITE[below]) / np.diff(FINITE, append=np.inf)[below])[is_between]
    assert not least[is_between][share < 0.999].any()
    assert most[is_between][share > 0.001].all()


@pytest.mark.parametrize(
    "value", [2.0**-47, 1e-12, 2.8e-11, 3e-11, 1e-9, 1.1e-6, 1 / 3, 1.0, 1.01, 7e4, 1.8e9]
)
def test_over_all_bits_the_mean_of_the_decoded_codes_is_the_value(value):
    """Exactly, but for what adding the offset in float32 rounds: 2⁻²¹ of a step."""
    value = np.float32(value)
    all_bits = jnp.arange(2**21, dtype=jnp.uint32) << 11
    codes = encoded(jnp.full(all_bits.shape, value), all_bits)
    lower, counts = np.unique(codes, return_counts=True)
    mean = FINITE[lower] @ counts / 2**21
    step = np.diff(FINITE)[lower[0]]
    assert abs(mean - float(value)) <= 2.0**-21 * step


@pytest.mark.parametrize("key", [None, *(fold_in(count, 1) for count in range(5))])
def test_zero_stays_zero_beside_large_and_tiny_values(key):
    values = np.zeros((4, 1000), np.float32)
    values[0, ::2], values[1, 5], values[2, 5] = 1.0, LARGEST, 1e-12
    codes = np.asarray(store(values, zeros(values, "uint8"), key))
    assert (codes[values == 0] == 0).all()
    assert (codes[:2][values[:2] > 0] > 0).all()


@pytest.mark.parametrize("bits", EXTREME_BITS)
def test_values_beyond_the_largest_saturate_and_infinity_is_never_stored(bits):
    largest = np.finfo(np.float32).max
    beyond = [LARGEST, np.nextafter(LARGEST, np.inf), LARGEST * 1.5, 2.0**31, 1e30, largest, np.inf]
    codes = encoded(np.float32(beyond), bits_of(beyond, bits))
    np.testing.assert_array_equal(codes, np.full(len(beyond), INFINITY - 1))
    np.testing.assert_array_equal(decode(codes), np.full(len(beyond), LARGEST))


@pytest.mark.parametrize("bits", EXTREME_BITS)
def test_nan_of_either_sign_and_any_payload_stays_nan_and_touches_no_other_number(bits):
    payloads = np.array([1 << 22, 1, (1 << 23) - 1, (1 << 22) + 12345, 77], np.uint32)
    patterns = np.concatenate([payloads | 0x7F800000, payloads | 0xFF800000]).astype(np.uint32)
    values = values_of_every_size(1000)
    broken = values.copy()
    places = np.arange(len(patterns)) * 37
    broken[places] = patterns.view(np.float32)
    codes, expected = (np.asarray(encoded(x, bits_of(x, bits))) for x in (broken, values))
    assert (codes[places] == NAN).all()
    assert np.isnan(decode(codes)[places]).all()
    np.testing.assert_array_equal(np.delete(codes, places), np.delete(expected, places))


@pytest.mark.parametrize("key", [None, KEY])
def test_values_in_float64_are_stored_as_those_in_float32(key):
    wide = np.concatenate([values_of_every_size(1000), [0.0, LARGEST, 1.0]]).astype(np.float64)
    beyond = [1e300, np.inf, np.nan, 5e-324, 1e-200]
    with jax.enable_x64(True):
        accumulator = zeros(jnp.asarray(wide), "uint8")
        from_wide, from_narrow = (
            store(jnp.asarray(wide, dtype), accumulator, key) for dtype in ("float64", "float32")
        )
        ends = store(jnp.asarray(beyond, jnp.float64), jnp.zeros(5, jnp.uint8), key)
        assert load(from_wide, "float64").dtype == jnp.float64
    np.testing.assert_array_equal(from_wide, from_narrow)
    np.testing.assert_array_equal(ends, [INFINITY - 1, INFINITY - 1, NAN, 0, 0])


def test_eager_jitted_batched_and_scanned_codes_are_the_same():
    values = values_of_every_size(300)[: 9 * 100].reshape(9, 100)
    accumulator = jnp.zeros(100, jnp.uint8)
    expected = np.stack([store(row, accumulator, KEY) for row in values])

    def round_trip(row):
        codes = store(row, accumulator, KEY)
        return codes, decode(codes)

    def body(carry, row):
        return carry, round_trip(row)

    for codes, decoded in (
        jax.vmap(round_trip)(values),
        jax.jit(jax.vmap(round_trip))(values),
        jax.lax.scan(body, None, values)[1],
    ):
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_array_equal(decoded, decode(expected))


# --- the state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4), (64, 65)])
def test_the_accumulators_of_a_real_parameter_are_one_uint8_array_of_its_shape(shape, dtype):
    optimizer = scale_by_adadelta(accumulator_dtype="uint8")
    params = jnp.ones(shape, dtype)
    state = optimizer.init(params)
    _, new_state = jax.jit(optimizer.update)(params, state)
    for each in (state, new_state):
        assert len(jax.tree.leaves(each)) == 3
        for accumulator in (each.square_avg, each.acc_delta):
            assert isinstance(accumulator, jax.Array)
            assert (accumulator.shape, accumulator.dtype) == (shape, jnp.uint8)
    assert not state.square_avg.any()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("shape", [(), (2, 3), (64, 65)])
def test_complex_parameters_are_stored_as_complex64(shape, dtype):
    with jax.enable_x64(True):
        state = scale_by_adadelta(accumulator_dtype="uint8").init(jnp.zeros(shape, dtype))
    for accumulator in (state.square_avg, state.acc_delta):
        assert (accumulator.shape, accumulator.dtype) == (shape, jnp.complex64)


def shapes_of_gpt2(width=768, depth=12):
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *depth * [*norm, *attention, *norm, *mlp], *norm]


MODELS = {
    "a matrix": [(1000, 1000)],
    "the paper's": [(784, 500), (500,), (500, 300), (300,), (300, 10), (10,)],
    "gpt2": shapes_of_gpt2(),
}


@pytest.mark.parametrize("shapes", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    ("param_dtype", "accumulator_dtype", "bytes_each"),
    [
        ("float32", None, 8),
        ("bfloat16", None, 8),
        ("float32", "bfloat16", 4),
        ("bfloat16", "float16", 4),
        ("float32", "uint8", 2),
        ("bfloat16", "uint8", 2),
    ],
)
def test_the_state_takes_8_or_4_or_2_bytes_a_parameter_and_4_for_the_count(
    shapes, param_dtype, accumulator_dtype, bytes_each
):
    params = [jax.ShapeDtypeStruct(shape, param_dtype) for shape in shapes]
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert size == bytes_each * sum(map(math.prod, shapes)) + 4


MAKES = {
    "adadelta": lambda eps: adadelta(eps=eps, accumulator_dtype="uint8"),
    "scale_by_adadelta": lambda eps: scale_by_adadelta(eps=eps, accumulator_dtype="uint8"),
    "param_groups": lambda eps: param_groups(
        {"a": {"eps": eps, "accumulator_dtype": "uint8"}}, "a"
    ),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("eps", [0.0, 1e-10, 9.9e-10])
def test_an_eps_below_the_spacing_is_refused_by_name(make, eps):
    message = f"eps must be at least 1e-09 with accumulators in uint8, got {eps:g}$"
    with pytest.raises(ValueError, match=message):
        make(eps)
    make(1e-9)
    adadelta(eps=eps, accumulator_dtype="bfloat16")
