"""Everything works where users have JAX promote no dtype by itself, and gives the same."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from adadelta_jax import adadelta, carry_over_state, diagnostics, param_groups, torch_interop
from adadelta_jax.sharding import state_shardings

FORMATS = [None, "bfloat16", "uint8"]
LAYERS = {"weight": (16, 256), "bias": (3,)}


def layer(dtype, factor):
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(factor * rng.normal(size=shape), dtype) for name, shape in LAYERS.items()
    }


def assert_the_same_where_strict(function):
    """A function returns the same where promotion is strict."""
    expected = jax.tree.map(np.asarray, function())
    with jax.numpy_dtype_promotion("strict"):
        returned = jax.tree.map(np.asarray, function())
    chex.assert_trees_all_equal_shapes_and_dtypes(returned, expected)
    chex.assert_trees_all_equal(returned, expected)


def steps(optimizer, params):
    state = optimizer.init(params)
    for step in range(2):
        grads = jax.tree.map(lambda p, step=step: p * (step + 1), params)
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.1, "learning_rate": optax.constant_schedule(0.5), "maximize": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
)
def test_a_step_is_the_same_where_promotion_is_strict(dtype, format_, settings):
    optimizer = adadelta(**settings, accumulator_dtype=format_)
    assert_the_same_where_strict(functools.partial(steps, optimizer, layer(dtype, 0.1)))


def test_a_step_in_float64_is_the_same_where_promotion_is_strict():
    with jax.enable_x64(True):
        for format_ in (*FORMATS, "float32"):
            optimizer = adadelta(accumulator_dtype=format_)
            assert_the_same_where_strict(functools.partial(steps, optimizer, layer("float64", 0.1)))


# Optax multiplies updates by the learning rate, so strict promotion wants both in one dtype.
@pytest.mark.filterwarnings("ignore:.* is bfloat16, which rounds")
def test_injected_hyperparameters_step_where_promotion_is_strict():
    optimizer = optax.inject_hyperparams(adadelta, static_args="accumulator_dtype")(
        rho=0.75, accumulator_dtype="uint8"
    )
    assert_the_same_where_strict(functools.partial(steps, optimizer, layer("bfloat16", 0.1)))


@pytest.mark.parametrize("old", FORMATS)
def test_a_state_is_carried_over_where_promotion_is_strict(old):
    params, state = steps(adadelta(accumulator_dtype=old), layer("bfloat16", 0.1))
    for new in FORMATS:
        groups = param_groups({"all": {"accumulator_dtype": new}}, {"weight": "all", "bias": "all"})
        assert_the_same_where_strict(lambda groups=groups: carry_over_state(groups, params, state))


@pytest.mark.parametrize("format_", FORMATS)
def test_everything_else_works_where_promotion_is_strict(format_):
    optimizer = adadelta(accumulator_dtype=format_)
    params, state = steps(optimizer, layer("bfloat16", 0.1))
    assert_the_same_where_strict(
        lambda: diagnostics.summary(diagnostics.effective_learning_rate(state))
    )
    sharding = NamedSharding(jax.make_mesh((1,), ("data",)), PartitionSpec())
    assert_the_same_where_strict(
        lambda: jax.device_put(state, state_shardings(optimizer, params, sharding))
    )
    shapes = {"weight": (256, 16), "bias": (3,)}
    names = {"kernel": params["weight"], "bias": params["bias"]}
    with jax.numpy_dtype_promotion("strict"):
        assert torch_interop.match_flax_params(shapes, names).keys() == shapes.keys()
    mapping = {"weight": "weight", "bias": "bias"}

    def weights_to_torch_and_back():
        weights = torch_interop.params_to_torch(params, mapping)
        return torch_interop.params_from_torch(weights, params, mapping)

    def state_to_torch_and_back():
        saved = torch_interop.optimizer_to_torch(state, params, mapping)
        return torch_interop.optimizer_from_torch(saved, params, mapping)[1]

    assert_the_same_where_strict(weights_to_torch_and_back)
    assert_the_same_where_strict(state_to_torch_and_back)
