"""Flax Linen: scanned layers, boxed parameters, and a TrainState with more than parameters."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax.core import FrozenDict, freeze
from flax.training.train_state import TrainState
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from adadelta_jax import adadelta

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True) + 1  # no parameter's gradient is zero
STEPS, WIDTH = 6, 4


class Layer(nn.Module):
    """A residual layer that a scan can run, with logical names for its axes if asked."""

    names: bool = False

    @nn.compact
    def __call__(self, x):
        kernel = nn.initializers.lecun_normal()
        if self.names:
            kernel = nn.with_logical_partitioning(kernel, ("embed", "hidden"))
        return x + nn.tanh(nn.Dense(WIDTH, kernel_init=kernel)(x)), None


class Scanned(nn.Module):
    """Layers whose parameters are stacked along a first axis."""

    names: bool = False

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = layers(self.names, name="layers")(nn.Dense(WIDTH)(x))
        return nn.Dense(1)(x)


class Normalised(nn.Module):
    """A network with batch norm and dropout."""

    @nn.compact
    def __call__(self, x):
        # Without a bias before the batch norm: its gradient would be rounding errors alone.
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(WIDTH, use_bias=False)(x))
        return nn.Dense(1)(nn.Dropout(0.25, deterministic=False)(nn.tanh(x)))


class Training(TrainState):
    """A state that carries the averages of the batch norms."""

    batch_stats: dict | FrozenDict


def trajectory(optimizer, model, container=lambda variables: variables):
    """The parameters and averages before the first and after every step, and the last state."""
    init_rng, *rngs = jax.random.split(jax.random.key(0), 1 + STEPS)
    variables = container(model.init({"params": init_rng, "dropout": init_rng}, X))
    state = Training.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optimizer,
        batch_stats=variables.get("batch_stats", container({})),
    )

    @jax.jit
    def step(state, rng):
        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            predicted, changed = state.apply_fn(
                variables, X, rngs={"dropout": rng}, mutable=["batch_stats"]
            )
            return jnp.mean((predicted - Y) ** 2), changed.get("batch_stats", {})

        grads, batch_stats = jax.grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=container(batch_stats))

    after = [(state.params, state.batch_stats)]
    for rng in rngs:
        state = step(state, rng)
        after.append((state.params, state.batch_stats))
    return after, state


def have_all_moved(after):
    moved = jax.tree.map(lambda first, last: bool(jnp.any(first != last)), after[0], after[-1])
    return all(jax.tree.leaves(moved))


WRAPPERS = {
    "alone": lambda optimizer: optimizer,
    "MultiSteps": lambda optimizer: optax.MultiSteps(optimizer, 2),
}
MODELS = {
    "scanned layers": Scanned(),
    "boxed scanned layers": Scanned(names=True),
    "batch norm": Normalised(),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("container", [dict, freeze])
def test_a_linen_train_state_with_batch_stats_trains_as_with_optax(container, wrapper, model):
    ours, state = trajectory(wrapper(adadelta()), model, container)
    theirs, _ = trajectory(wrapper(optax.adadelta(1.0)), model, container)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert have_all_moved(ours)
    assert isinstance(state.params, FrozenDict) == (container is freeze)


def test_accumulated_gradients_move_linen_parameters_every_second_step():
    after, _ = trajectory(optax.MultiSteps(adadelta(), 2), Scanned())
    for before, now in zip(after[::2], after[1::2], strict=False):
        chex.assert_trees_all_equal(before, now)


def mesh():
    return jax.make_mesh((2,), ("model",), (AxisType.Auto,), devices=jax.devices()[:2])


RULES = (("embed", None), ("hidden", "model"), ("layers", None))


def after_sharded_training(optimizer, container):
    with jax.set_mesh(mesh()), nn.logical_axis_rules(RULES):
        return trajectory(optimizer, Scanned(names=True), container)


@pytest.mark.parametrize("container", [dict, nn.unbox], ids=["boxed", "unboxed"])
def test_parameters_with_logical_names_train_as_with_optax_boxed_or_not(container):
    ours, state = after_sharded_training(adadelta(), container)
    theirs, _ = after_sharded_training(optax.adadelta(1.0), container)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert have_all_moved(ours)
    accumulator = state.opt_state[2].square_avg["layers"]["Dense_0"]["kernel"]
    if container is dict:
        assert isinstance(accumulator, nn.LogicallyPartitioned)
        assert accumulator.names == ("layers", "embed", "hidden")


def test_boxes_change_nothing_in_the_training():
    boxed, unboxed = (after_sharded_training(adadelta(), box)[0] for box in (dict, nn.unbox))
    chex.assert_trees_all_close(nn.unbox(boxed), unboxed, rtol=1e-6)


def test_the_state_of_boxed_parameters_is_laid_out_by_their_logical_names():
    params = Scanned(names=True).init(jax.random.key(0), X)["params"]
    specs = nn.get_partition_spec(jax.eval_shape(adadelta().init, params))
    shardings = nn.logical_to_mesh_sharding(specs, mesh(), RULES)
    state = jax.jit(adadelta().init, out_shardings=shardings)(params)
    kernel = state[2].square_avg["layers"]["Dense_0"]["kernel"].value
    assert kernel.sharding.spec == P(None, None, "model")
