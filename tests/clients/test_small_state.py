"""That v and u in 8 bits train every kind of model in every loop, near the run in float32."""

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.core import freeze
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from adadelta_jax import ScaleByAdadeltaState, adadelta
from tests.clients import test_equinox, test_linen, test_nnx
from tests.clients.optax_wrappers import WRAPPERS
from tests.clients.optax_wrappers import trajectory as wrapped_trajectory

SMALL = adadelta(accumulator_dtype="uint8")


def assert_near(small, exact, start):
    """The two runs differ by a small part of the way that they have gone."""
    chex.assert_trees_all_equal_shapes_and_dtypes(small, exact)
    difference = optax.tree.norm(optax.tree.sub(small, exact))
    way = optax.tree.norm(optax.tree.sub(exact, start))
    assert way > 0
    assert difference < 0.15 * way


def assert_one_byte_per_number(state, params):
    """Every accumulator is a uint8 array of its parameter's shape."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ScaleByAdadeltaState))
    (found,) = [node for node in nodes if isinstance(node, ScaleByAdadeltaState)]
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    for accumulators in (found.square_avg, found.acc_delta):
        leaves = jax.tree.leaves(accumulators)
        assert [leaf.shape for leaf in leaves] == shapes
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("uint8")}


@pytest.mark.parametrize("model", [test_nnx.Plain, test_nnx.Normalised, test_nnx.Stacked])
@pytest.mark.parametrize("loop", test_nnx.LOOPS.values(), ids=test_nnx.LOOPS)
def test_an_nnx_model_trains_in_every_loop(loop, model):
    small = loop(model(nnx.Rngs(0)), SMALL)
    exact = loop(model(nnx.Rngs(0)), adadelta())
    assert_near(small[-1], exact[-1], exact[0])


@pytest.mark.parametrize("jit", [lambda step: step, nnx.jit], ids=["eager", "jitted"])
def test_the_state_in_an_nnx_optimizer_is_one_byte_per_number(jit):
    model = test_nnx.Stacked(nnx.Rngs(0))
    _, trainer = test_nnx.by_optimizer(model, SMALL, jit)
    assert_one_byte_per_number(trainer.opt_state, nnx.state(model, nnx.Param))


@pytest.mark.parametrize("kernel_init", test_nnx.SHARDED.values(), ids=test_nnx.SHARDED)
def test_layers_with_sharding_metadata_keep_it_in_the_state(kernel_init):
    mesh = jax.make_mesh((2,), ("model",), (AxisType.Auto,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        small, trainer = test_nnx.by_optimizer(test_nnx.Stacked(nnx.Rngs(0), kernel_init), SMALL)
        exact, _ = test_nnx.by_optimizer(test_nnx.Stacked(nnx.Rngs(0), kernel_init), adadelta())
    assert_near(small[-1], exact[-1], exact[0])
    square_avg = trainer.opt_state[2].square_avg["layers"]["kernel"].get_value()
    assert square_avg.dtype == jnp.uint8
    assert square_avg.sharding.spec == P(None, None, "model")


@pytest.mark.parametrize("model", test_linen.MODELS.values(), ids=test_linen.MODELS)
@pytest.mark.parametrize("container", [dict, freeze])
def test_a_linen_train_state_trains_with_scanned_and_boxed_layers(container, model):
    small, state = test_linen.trajectory(SMALL, model, container)
    exact, _ = test_linen.trajectory(adadelta(), model, container)
    assert_near(*(nn.unbox(each[0]) for each in (small[-1], exact[-1], exact[0])))
    assert_one_byte_per_number(state.opt_state, state.params)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
def test_a_whole_equinox_model_trains(jit):
    small, exact = (test_equinox.after_training(each, jit) for each in (SMALL, adadelta()))
    assert_near(small, exact, test_equinox.TRAINED)
    assert_one_byte_per_number(SMALL.init(test_equinox.TRAINED), test_equinox.TRAINED)


def test_an_ensemble_of_equinox_models_trains_under_vmap():
    @eqx.filter_vmap
    def trained(key):
        model = test_equinox.Model(key)
        state = SMALL.init(eqx.filter(model, eqx.is_inexact_array))
        updates, state = SMALL.update(test_equinox.gradients(model, test_equinox.X), state, model)
        return eqx.filter(eqx.apply_updates(model, updates), eqx.is_inexact_array), state

    keys = jax.random.split(jax.random.key(0), 3)
    models, state = trained(keys)
    assert_one_byte_per_number(state, models)
    alone, _ = trained(keys[1:2])
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], models), jax.tree.map(lambda leaf: leaf[0], alone)
    )


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_of_optax_trains(name):
    small = wrapped_trajectory(SMALL, [name], jit=True)
    exact = wrapped_trajectory(adadelta(), [name], jit=True)
    assert_near(small[-1], exact[-1], exact[0])
