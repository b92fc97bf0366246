"""State shardings from PartitionSpecs, as Flax's partitioning metadata gives them."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from adadelta_jax import adadelta
from adadelta_jax.sharding import state_shardings
from tests.refusals import assert_refused, each_refusal

PARAMS = {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}
SPECS = {"kernel": P(None, "model"), "bias": P("model")}


def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def named(specs):
    is_spec = lambda node: isinstance(node, P)  # noqa: E731
    return jax.tree.map(lambda spec: NamedSharding(mesh(), spec), specs, is_leaf=is_spec)


@pytest.mark.parametrize("zero_axis", [None, "data"])
def test_partition_specs_with_a_mesh_are_named_shardings(zero_axis):
    expected = state_shardings(adadelta(), PARAMS, named(SPECS), zero_axis=zero_axis)
    chex.assert_trees_all_equal(
        state_shardings(adadelta(), PARAMS, SPECS, zero_axis=zero_axis, mesh=mesh()), expected
    )
    with jax.set_mesh(mesh()):
        found = state_shardings(adadelta(), PARAMS, SPECS, zero_axis=zero_axis)
    chex.assert_trees_all_equal(found, expected)


def test_one_partition_spec_serves_all_parameters():
    chex.assert_trees_all_equal(
        state_shardings(adadelta(), PARAMS, P(), mesh=mesh()),
        state_shardings(adadelta(), PARAMS, NamedSharding(mesh(), P())),
    )


class Network(nn.Module):
    """A layer with partitioning metadata in Linen."""

    @nn.compact
    def __call__(self, x):
        kernel = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(16, kernel_init=kernel)(x)


def test_a_linen_model_with_metadata_is_sharded_as_it_says():
    variables = Network().init(jax.random.key(0), jnp.ones((1, 8)))
    params, specs = nn.unbox(variables)["params"], nn.get_partition_spec(variables)["params"]
    shardings = state_shardings(adadelta(), params, specs, zero_axis="data", mesh=mesh())
    state = jax.jit(adadelta().init, out_shardings=shardings)(params)
    assert state[2].square_avg["Dense_0"]["kernel"].sharding.spec == P("data", "model")


def test_linens_boxed_parameters_train_as_they_are():
    optimizer = adadelta()
    boxed = Network().init(jax.random.key(0), jnp.ones((1, 8)))["params"]
    state = optimizer.init(boxed)
    grads = optax.tree.full_like(boxed, 0.5)
    updates, state = optimizer.update(grads, state, boxed)
    plain, _ = optimizer.update(nn.unbox(grads), optimizer.init(nn.unbox(boxed)), nn.unbox(boxed))
    chex.assert_trees_all_equal(nn.unbox(updates), plain)
    assert isinstance(state[2].square_avg["Dense_0"]["kernel"], nn.Partitioned)


class Layer(nnx.Module):
    """A layer with sharding metadata in NNX."""

    def __init__(self, rngs):
        kernel = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
        self.linear = nnx.Linear(8, 16, kernel_init=kernel, rngs=rngs)


def test_an_nnx_model_with_metadata_is_sharded_as_it_says():
    with jax.set_mesh(mesh()):
        params = nnx.to_pure_dict(nnx.state(Layer(nnx.Rngs(0)), nnx.Param))
        state = nnx.state(Layer(nnx.Rngs(0)), nnx.Param)
        specs = nnx.to_pure_dict(nnx.get_partition_spec(state))
        specs["linear"]["bias"] = specs["linear"]["bias"] or P()
        shardings = state_shardings(adadelta(), params, specs, zero_axis="data")
    assert shardings[2].square_avg["linear"]["kernel"].spec == P("data", "model")


def after_three_nnx_steps(zero_axis):
    """The model and its optimizer, whose state is split over that axis."""
    everywhere = NamedSharding(mesh(), P())
    model = Layer(nnx.Rngs(0))
    trainer = nnx.Optimizer(model, adadelta(), wrt=nnx.Param)
    shardings = jax.tree.leaves(
        state_shardings(trainer.tx, nnx.state(model, nnx.Param), everywhere, zero_axis=zero_axis)
    )

    def pin(model, trainer):
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.lax.with_sharding_constraint(params, everywhere))
        leaves, structure = jax.tree.flatten(trainer.opt_state)
        leaves = jax.lax.with_sharding_constraint(leaves, shardings)
        trainer.opt_state = structure.unflatten(leaves)

    @nnx.jit
    def step(model, trainer):
        trainer.update(
            model, nnx.grad(lambda model: jnp.mean(model.linear(jnp.ones((4, 8))) ** 2))(model)
        )
        pin(model, trainer)

    pin(model, trainer)
    for _ in range(3):
        step(model, trainer)
    return model, trainer


def test_zero_1_with_an_nnx_optimizer_trains_as_without():
    with jax.set_mesh(mesh()):
        (split, trainer), (whole, _) = map(after_three_nnx_steps, ("data", None))
    square_avg = trainer.opt_state[2].square_avg["linear"]["kernel"].get_value()
    assert square_avg.sharding.spec == P("data")
    assert split.linear.kernel.get_value().sharding.is_fully_replicated
    chex.assert_trees_all_close(
        *(nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in (split, whole)), rtol=1e-6
    )


REFUSALS = {
    "a PartitionSpec without a mesh": (
        lambda: state_shardings(adadelta(), PARAMS, SPECS),
        ValueError,
        "param_shardings has PartitionSpec('model',), which needs a mesh: "
        "pass mesh, or call state_shardings within jax.set_mesh(mesh)",
    ),
    "a mesh that is a list": (
        lambda: state_shardings(adadelta(), PARAMS, SPECS, mesh=[1]),
        TypeError,
        "mesh must be a jax.sharding.Mesh, got [1]",
    ),
}


@each_refusal(REFUSALS)
def test_a_wrong_mesh_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
