"""The bits with which accumulators are rounded: random enough, and the same everywhere."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adadelta_jax import adadelta, scale_by_adadelta
from adadelta_jax._storage.formats import store, values
from adadelta_jax._storage.hash_bits import fold_in, hash_bits

SHAPE = (128, 512)
ELEMENTS = SHAPE[0] * SHAPE[1]
SEEDS = (5, 3, 0)  # count, leaf, part of a complex number


def key_of(*seeds):
    return functools.reduce(fold_in, seeds, 0)


KEY = key_of(*SEEDS)


def lowbias32(x):
    """The hash of that name, uint32, as its source has it."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 2), (3, 0)])
def test_the_bits_are_the_hash_of_the_place_added_to_that_of_the_seeds(shape):
    key = np.zeros(1, np.uint32)
    for seed in (2**31 - 1, 3, 1):
        key = lowbias32(key + np.uint32(seed))
    places = np.arange(np.prod(shape, dtype=int), dtype=np.uint32).reshape(shape)
    bits = hash_bits(shape, key_of(2**31 - 1, 3, 1))
    np.testing.assert_array_equal(bits, lowbias32(key + places))


def test_places_beyond_the_largest_uint32_go_round():
    """Of arrays of more than 2³² elements the first three of each row are computed, and no more."""

    @jax.jit
    def last():
        return hash_bits((5, 1 << 31), KEY)[:, :3], hash_bits((2, 1 << 32), KEY)[:, :3]

    halves, wholes = last()
    np.testing.assert_array_equal(halves[::2], np.broadcast_to(halves[0], (3, 3)))
    np.testing.assert_array_equal(halves[1::2], np.broadcast_to(halves[1], (2, 3)))
    assert (np.asarray(halves[0]) != np.asarray(halves[1])).all()
    np.testing.assert_array_equal(wholes, np.broadcast_to(halves[0], (2, 3)))


def signs(bits):
    """Minus or plus one for each of the 32 bits, one row for each number."""
    ones = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8)).reshape(-1, 32)
    return ones.astype(np.float32) * 2 - 1


def over_counts():
    """The bits of one element over as many steps."""
    counts = jnp.arange(ELEMENTS)
    return jax.vmap(lambda count: hash_bits((1,), key_of(count, *SEEDS[1:])))(counts).ravel()


SAMPLES = {
    "elements": lambda: hash_bits(SHAPE, KEY),
    "elements of the first step": lambda: hash_bits(SHAPE, key_of(0, 0, 0)),
    "one element": lambda: hash_bits((ELEMENTS,), KEY),
    "steps": over_counts,
    "leaves": lambda: jax.vmap(lambda leaf: hash_bits((1,), key_of(5, leaf, 0)))(
        jnp.arange(ELEMENTS)
    ),
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_each_bit_is_set_half_of_the_time(sample):
    ones = (signs(sample()) > 0).sum(axis=0)
    assert (np.abs(ones - ELEMENTS / 2) < 4 * np.sqrt(ELEMENTS) / 2).all()


def shifted(axis, by):
    """The bits of every element, and those of the element so many places further."""
    bits = np.asarray(hash_bits(SHAPE, KEY))
    return np.delete(bits, range(-by, 0), axis), np.delete(bits, range(by), axis)


def for_other_seeds(*seeds):
    return hash_bits(SHAPE, KEY), hash_bits(SHAPE, key_of(*seeds))


def successive_steps():
    bits = np.asarray(over_counts())
    return bits[:-1], bits[1:]


PAIRS = {
    "neighbours in the last dimension": lambda: shifted(1, 1),
    "neighbours in the first dimension": lambda: shifted(0, 1),
    "elements 256 places apart": lambda: shifted(1, 256),
    "successive counts": lambda: for_other_seeds(6, 3, 0),
    "successive steps of one element": successive_steps,
    "successive leaves": lambda: for_other_seeds(5, 4, 0),
    "the parts of a complex number": lambda: for_other_seeds(5, 3, 1),
    "count and leaf swapped": lambda: for_other_seeds(3, 5, 0),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_bits_of_a_pair_are_uncorrelated(pair):
    """Each bit of the one with each bit of the other, as signs: 1024 mean products.

    Of independent bits each is normal with the standard error 1 / sqrt(n). None may be further from
    zero than 5 of them, nor the sum of their squares further than 4 from its mean of 1024.
    """
    first, second = (signs(bits) for bits in pair())
    deviations = first.T @ second / np.sqrt(len(first))
    assert np.abs(deviations).max() < 5
    assert abs(np.square(deviations).sum() - 1024) < 4 * np.sqrt(2 * 1024)


def test_the_bits_of_one_number_are_uncorrelated():
    of_number = signs(hash_bits(SHAPE, KEY))
    deviations = (of_number.T @ of_number / np.sqrt(ELEMENTS))[~np.eye(32, dtype=bool)]
    assert np.abs(deviations).max() < 5


@pytest.mark.parametrize("seeds", [(6, 3, 0), (5, 4, 0), (5, 3, 1), (3, 5, 0)])
def test_the_same_seeds_give_the_same_bits_and_others_give_others(seeds):
    bits = np.asarray(hash_bits(SHAPE, KEY))
    assert bits.dtype == np.uint32
    assert len(np.unique(bits)) > 0.999 * ELEMENTS
    np.testing.assert_array_equal(hash_bits(SHAPE, KEY), bits)
    assert (np.asarray(hash_bits(SHAPE, key_of(*seeds))) == bits).sum() < 4


def test_jit_vmap_and_scan_give_the_same_bits():
    counts = jnp.arange(4)
    expected = np.stack([hash_bits((3, 50), key_of(int(count), 7, 1)) for count in counts])

    def bits(count):
        return hash_bits((3, 50), key_of(count, 7, 1))

    np.testing.assert_array_equal([jax.jit(bits)(count) for count in counts], expected)
    np.testing.assert_array_equal(jax.vmap(bits)(counts), expected)
    _, scanned = jax.lax.scan(lambda carry, count: (carry, bits(count)), None, counts)
    np.testing.assert_array_equal(scanned, expected)


# --- whole steps ----------------------------------------------------------------------------------


def params_and_gradients():
    """Two leaves, which eight devices divide in any dimension."""
    shapes = {"even": (64, 2048), "odd": (16, 1000)}
    draw = np.random.default_rng(0).standard_normal
    params, *gradients = [
        {name: draw(shape, np.float32) for name, shape in shapes.items()} for _ in range(3)
    ]
    return params, gradients


def jitted_steps(optimizer, params, gradients):
    """Parameters and state after a step with each of `gradients`."""

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for grads in gradients:
        params, state = step(params, state, grads)
    return params, state


@functools.cache
def steps_on_one_device(accumulator_dtype):
    return jitted_steps(adadelta(accumulator_dtype=accumulator_dtype), *params_and_gradients())


DTYPES = ["bfloat16", "float16", "uint8"]


@pytest.mark.parametrize("accumulator_dtype", DTYPES)
def test_two_runs_from_one_start_are_the_same_bit_for_bit(accumulator_dtype):
    again = jitted_steps(adadelta(accumulator_dtype=accumulator_dtype), *params_and_gradients())
    chex.assert_trees_all_equal(again, steps_on_one_device(accumulator_dtype))


@pytest.mark.parametrize("accumulator_dtype", DTYPES)
def test_elements_leaves_and_steps_are_each_rounded_in_their_own_way(accumulator_dtype):
    params = {"a": jnp.full((64, 64), 0.3), "b": jnp.full((64, 64), 0.3)}
    optimizer = scale_by_adadelta(accumulator_dtype=accumulator_dtype)
    step, state = jax.jit(optimizer.update), optimizer.init(params)
    for name in ("square_avg", "acc_delta"):
        rounded_up = []
        for count in (0, 1):
            _, new_state = step(params, state._replace(count=jnp.int32(count)))
            leaves = jax.tree.leaves(values(getattr(new_state, name)))
            rounded_up += [np.asarray(leaf > leaf.min()) for leaf in leaves]
        assert len(rounded_up) == 4
        assert all(0.05 < up.mean() < 0.95 for up in rounded_up)
        for one, other in itertools.combinations(rounded_up, 2):
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)


@pytest.mark.parametrize("accumulator_dtype", DTYPES)
def test_the_seeds_are_the_count_and_the_leaf_and_are_those_of_v_and_of_u(accumulator_dtype):
    grads = [jnp.linspace(0.1, 1, 4096), jnp.linspace(1, 3, 8192).reshape(2, 4096)]
    optimizer = scale_by_adadelta(accumulator_dtype=accumulator_dtype)
    start = optimizer.init(grads)._replace(count=jnp.int32(41))
    update, exact = jax.jit(optimizer.update), jax.jit(scale_by_adadelta().update)
    _, state = update(grads, start)
    _, expected = exact(grads, scale_by_adadelta().init(grads))
    for leaf in (0, 1):
        for name in ("square_avg", "acc_delta"):
            unrounded, like = getattr(expected, name)[leaf], getattr(start, name)[leaf]
            of_seeds = store(unrounded, like, key_of(41, leaf))
            np.testing.assert_array_equal(getattr(state, name)[leaf], of_seeds)


def test_the_parts_of_a_complex_number_are_rounded_by_bits_of_their_own():
    with jax.enable_x64(True):
        grads = jnp.full(4096, 0.3 + 0.3j, jnp.complex128)
        optimizer = scale_by_adadelta(accumulator_dtype="float32")
        _, state = jax.jit(optimizer.update)(grads, optimizer.init(grads))
    real, imag = (np.asarray(part(state.square_avg)) for part in (jnp.real, jnp.imag))
    ups = [part > part.min() for part in (real, imag)]
    assert all(0.05 < up.mean() < 0.95 for up in ups)
    assert abs(np.corrcoef(*ups)[0, 1]) < 4 / np.sqrt(4096)


def over_devices(*spec):
    """A sharding over eight devices, in a line or in pairs."""
    devices = np.array(jax.devices()[:8]).reshape(
        (8, 1) if len(spec) < 2 or None in spec else (4, 2)
    )
    return NamedSharding(Mesh(devices, ("a", "b")), PartitionSpec(*spec))


SPECS = {"first": ("a",), "last": (None, "a"), "both": ("a", "b")}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_sharded_arrays_get_the_same_bits_as_those_on_one_device(spec):
    def bits():
        return hash_bits(SHAPE, KEY)

    sharded = jax.jit(bits, out_shardings=over_devices(*spec))()
    assert {shard.data.size for shard in sharded.addressable_shards} == {ELEMENTS // 8}
    np.testing.assert_array_equal(sharded, bits())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("accumulator_dtype", ["bfloat16", "uint8"])
def test_sharded_parameters_get_the_same_accumulators_as_on_one_device(accumulator_dtype, spec):
    start = jax.device_put(params_and_gradients(), over_devices(*spec))
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    new_params, state = jitted_steps(optimizer, *start)
    expected_params, expected_state = steps_on_one_device(accumulator_dtype)
    assert len(new_params["even"].sharding.device_set) == 8
    chex.assert_trees_all_equal(state, expected_state)
    # XLA may contract the products and sums of an update otherwise.
    chex.assert_trees_all_close(new_params, expected_params, rtol=1e-6, atol=1e-6)
