"""Flax NNX and Linen: labels and masks by path, whatever container holds the parameters."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState

from adadelta_jax import adadelta, label_by_path, param_groups

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True)


class Net(nnx.Module):
    """Two layers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(2, 4, rngs=rngs)
        self.second = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def after_nnx_training(optimizer, steps=5):
    model = Net(nnx.Rngs(0))
    trainer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model, trainer):
        trainer.update(model, nnx.grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model))

    for _ in range(steps):
        step(model, trainer)
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_an_nnx_model_trains_as_with_optax():
    chex.assert_trees_all_close(
        after_nnx_training(adadelta()),
        after_nnx_training(optax.adadelta(1.0)),
        rtol=1e-5,
        atol=1e-6,
    )


BY_PATH = {"first": "slow", "second": {"kernel": "decay", "bias": "slow"}}


def variables(tree):
    """The tree in the variables of an NNX state."""
    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    full = {"first": {"kernel": tree["first"], "bias": tree["first"]}, "second": tree["second"]}
    return jax.tree.map_with_path(lambda path, _: full[path[0].key][path[1].key], state)


LABELS = {
    "a dict": BY_PATH,
    "a FrozenDict": freeze(BY_PATH),
    "an NNX state of variables": variables(BY_PATH),
    "the values of an NNX state": nnx.to_pure_dict(variables(BY_PATH)),
    "a function": label_by_path({"second/kernel": "decay"}, default="slow"),
}
GROUPS = {"slow": {"learning_rate": 0.1}, "decay": {"weight_decay": 0.1}}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_an_nnx_model_pair_by_path(labels):
    expected = after_nnx_training(param_groups(GROUPS, LABELS["a function"]))
    chex.assert_trees_all_equal(after_nnx_training(param_groups(GROUPS, labels)), expected)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_a_linen_model_pair_by_path(labels):
    params = nnx.to_pure_dict(nnx.state(Net(nnx.Rngs(0)), nnx.Param))
    grads = optax.tree.full_like(params, 0.5)

    def updates(labels, container):
        optimizer = param_groups(GROUPS, labels)
        state = optimizer.init(container(params))
        return optimizer.update(container(grads), state, container(params))[0]

    expected = updates(LABELS["a function"], dict)
    chex.assert_trees_all_equal(updates(labels, dict), expected)
    chex.assert_trees_all_equal(updates(labels, freeze), freeze(expected))


MASKS = {
    name: jax.tree.map(lambda label: label == "decay", LABELS[name])
    for name in LABELS
    if name != "a function"
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_of_an_nnx_model_pairs_by_path(mask):
    def trained(mask):
        return after_nnx_training(adadelta(weight_decay=0.1, weight_decay_mask=mask))

    chex.assert_trees_all_equal(trained(mask), trained(MASKS["a dict"]))


def test_labels_that_lack_a_path_say_which():
    labels = {"first": "slow", "second": {"kernel": "decay"}, "third": "slow"}
    with pytest.raises(ValueError, match="they lack second/bias and they have third, which the"):
        after_nnx_training(param_groups(GROUPS, labels))


def test_a_linen_train_state_trains_as_with_optax():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)))

    def trained(optimizer):
        model = Network()
        params = model.init(jax.random.key(0), X)["params"]
        state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

        @jax.jit
        def step(state):
            def loss(params):
                return jnp.mean((state.apply_fn({"params": params}, X) - Y) ** 2)

            return state.apply_gradients(grads=jax.grad(loss)(state.params))

        for _ in range(5):
            state = step(state)
        return state.params

    chex.assert_trees_all_close(
        trained(adadelta()), trained(optax.adadelta(1.0)), rtol=1e-5, atol=1e-6
    )
