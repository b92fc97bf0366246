"""`state_shardings` shards the state of every kind of optimizer like its parameters."""

import tracemalloc

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from adadelta_jax import ScaleByAdadeltaState, adadelta, param_groups, scale_by_adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings

MESH = AbstractMesh((4, 2), ("data", "model"))
PARAMS = {
    "body": {"kernel": jax.ShapeDtypeStruct((64, 512), jnp.float32)},
    "head": {
        "kernel": jax.ShapeDtypeStruct((512, 10), jnp.bfloat16),
        "bias": jax.ShapeDtypeStruct((10,), jnp.float32),
        "scale": jax.ShapeDtypeStruct((), jnp.float32),
    },
}
SPECS = {
    "body": {"kernel": PartitionSpec(None, "model")},
    "head": {
        "kernel": PartitionSpec("model"),
        "bias": PartitionSpec(),
        "scale": PartitionSpec(),
    },
}


def sharded(spec, mesh=MESH):
    return NamedSharding(mesh, PartitionSpec(*spec))


PARAM_SHARDINGS = jax.tree.map(sharded, SPECS, is_leaf=lambda x: isinstance(x, PartitionSpec))


def labelled_by_rank(params):
    return jax.tree.map(lambda p: "matrix" if len(p.shape) > 1 else "other", params)


def masked_by_rank(params):
    return jax.tree.map(lambda p: len(p.shape) > 1, params)


OPTIMIZERS = {
    "adadelta": adadelta(),
    "adadelta in 8 bits": adadelta(accumulator_dtype="uint8"),
    "decay with a mask": adadelta(weight_decay=0.1, weight_decay_mask=masked_by_rank),
    "a schedule": adadelta(optax.exponential_decay(1.0, 10, 0.9)),
    "scale_by_adadelta alone": scale_by_adadelta(),
    "chain": optax.chain(optax.clip(1.0), optax.trace(0.9), adadelta(), optax.ema(0.9)),
    "masked by a function": optax.masked(adadelta(), masked_by_rank),
    "masked by a prefix": optax.masked(adadelta(), {"body": True, "head": False}),
    "partition": optax.partition(
        {"matrix": adadelta(), "other": optax.sgd(0.1, momentum=0.9)}, labelled_by_rank
    ),
    "param_groups": param_groups(
        {"slow": {"learning_rate": 0.1}, "frozen": None}, {"body": "slow", "head": "frozen"}
    ),
    "inject_hyperparams": optax.inject_hyperparams(adadelta)(learning_rate=0.5),
    "MultiSteps": optax.MultiSteps(adadelta(), every_k_schedule=4),
    "apply_if_finite": optax.apply_if_finite(adadelta(), 3),
}


def by_path(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def padded(sharding, shape):
    return (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("zero_axis", [None, "data"])
def test_the_shardings_have_the_structure_of_the_state(name, zero_axis):
    optimizer = OPTIMIZERS[name]
    shardings = state_shardings(optimizer, PARAMS, PARAM_SHARDINGS, zero_axis=zero_axis)
    state = jax.eval_shape(optimizer.init, PARAMS)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    for array, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        sharding.shard_shape(array.shape)  # raises if it does not divide


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_arrays_like_a_parameter_are_sharded_like_it_and_all_others_are_replicated(name):
    optimizer = OPTIMIZERS[name]
    state = by_path(jax.eval_shape(optimizer.init, PARAMS))
    shardings = by_path(state_shardings(optimizer, PARAMS, PARAM_SHARDINGS))
    found = set()
    for path, sharding in shardings.items():
        owner = [each for each in by_path(PARAMS) if f"/{each}" in f"/{path}"]
        if owner and not path.endswith(("/codes", "/scale")):
            expected = by_path(PARAM_SHARDINGS)[owner[0]]
            assert padded(sharding, state[path].shape) == padded(expected, state[path].shape)
            found.add(owner[0])
        elif not owner:
            assert tuple(sharding.spec) == ()
    assert found or "8 bits" in name


def test_zero_shards_accumulators_over_the_first_dimension_that_divides():
    optimizer = adadelta()
    shardings = state_shardings(optimizer, PARAMS, PARAM_SHARDINGS, zero_axis="data")
    (state,) = [node for node in shardings if isinstance(node, ScaleByAdadeltaState)]
    expected = {
        "body": {"kernel": ("data", "model")},
        "head": {"kernel": (("model", "data"), None), "bias": (None,), "scale": ()},
    }
    for accumulators in (state.square_avg, state.acc_delta):
        specs = jax.tree.map(lambda s, p: padded(s, p.shape), accumulators, PARAMS)
        assert specs == expected
    assert tuple(state.count.spec) == ()


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((50304, 768), ("model", None), (("model", "data"), None)),  # further, in whole rows
        ((50304, 768), (None, "model"), ("data", "model")),
        ((6, 768), ("model", None), ("model", "data")),  # 6 rows cannot be split over both
        ((50257, 768), (None, "model"), (None, "model")),  # 96 columns would fit no tile
        ((50257, 1024), (None, "model"), (None, ("model", "data"))),  # 128 do
        ((50257, 768), (None, None), (None, "data")),
        ((8, 3, 5), ("model", None, None), (("model", "data"), None, None)),
        ((6, 4, 5), ("model", None, None), ("model", "data", None)),
        ((3072,), ("model",), (("model", "data"),)),
        ((768,), ("model",), ("model",)),
    ],
)
def test_zero_splits_whole_rows_where_it_can_and_no_row_into_parts_of_a_tile(shape, spec, expected):
    mesh = AbstractMesh((4, 2), ("data", "model"))
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    shardings = state_shardings(adadelta(), params, sharded(spec, mesh), zero_axis="data")
    assert padded(shardings[2].square_avg, shape) == expected


def test_zero_shards_nothing_but_accumulators():
    optimizer = optax.MultiSteps(adadelta(), every_k_schedule=4)
    plain = state_shardings(optimizer, PARAMS, PARAM_SHARDINGS)
    zero = state_shardings(optimizer, PARAMS, PARAM_SHARDINGS, zero_axis="data")
    assert zero.acc_grads == plain.acc_grads == PARAM_SHARDINGS
    assert zero.inner_opt_state != plain.inner_opt_state


def test_zero_divides_the_bytes_of_the_accumulators_by_the_devices_along_the_axis():
    params = {f"layer{i}": jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(3)}
    mesh = AbstractMesh((8,), ("data",))
    for accumulator_dtype, bytes_each in ((None, 4), ("bfloat16", 2), ("uint8", 1)):
        optimizer = adadelta(accumulator_dtype=accumulator_dtype)
        state = jax.eval_shape(optimizer.init, params)
        count = 4
        parameters = 3 * 512 * 512
        for zero_axis, share in ((None, 1), ("data", 8)):
            shardings = state_shardings(optimizer, params, sharded([], mesh), zero_axis=zero_axis)
            expected = 2 * bytes_each * parameters / share + count
            assert bytes_per_device(state, shardings) == expected


def test_one_sharding_stands_for_all_parameters():
    everywhere = sharded([])
    assert state_shardings(adadelta(), PARAMS, everywhere) == state_shardings(
        adadelta(), PARAMS, jax.tree.map(lambda _: everywhere, PARAMS)
    )


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_can_be_put_where_the_shardings_say(name, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    shardings = jax.tree.map(lambda s: sharded(s.spec, mesh), PARAM_SHARDINGS)
    with jax.set_mesh(mesh):
        params = jax.tree.map(
            lambda p, s: jax.device_put(jnp.ones(p.shape, p.dtype), s), PARAMS, shardings
        )
        wanted = state_shardings(OPTIMIZERS[name], params, shardings, zero_axis="data")
        state = jax.device_put(OPTIMIZERS[name].init(params), wanted)
    for array, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_init_puts_accumulators_where_their_parameters_are(accumulator_dtype, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = sharded(["data", "model"], mesh)
    optimizer = scale_by_adadelta(accumulator_dtype=accumulator_dtype)
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.ones((64, 512)), sharding)
        state = optimizer.init(params)
    for accumulator in (state.square_avg, state.acc_delta):
        array = jax.tree.leaves(accumulator)[0]
        assert array.sharding.is_equivalent_to(sharding, 2)


def test_seventy_billion_parameters_take_no_memory_to_plan():
    params = {f"layer{i}": jax.ShapeDtypeStruct((8192, 107_520), jnp.bfloat16) for i in range(80)}
    everywhere = sharded([], AbstractMesh((64,), ("data",)))
    tracemalloc.start()
    state = jax.eval_shape(adadelta().init, params)
    shardings = state_shardings(adadelta(), params, everywhere, zero_axis="data")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e9
    assert bytes_per_device(state, shardings) == 8 * 80 * 8192 * 107_520 / 64 + 4
