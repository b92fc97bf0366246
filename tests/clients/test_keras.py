"""Keras on its JAX backend: a model trained statelessly, as by the Adadelta of Keras."""

import os

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it once, at its import
import keras

from adadelta_jax import adadelta

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True) + 1  # no parameter's gradient is zero
STEPS = 6
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def network():
    """A model with variables that are not trained: the averages of a batch normalisation."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, use_bias=False),  # its gradient would be rounding errors
            keras.layers.BatchNormalization(),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(1),
        ]
    )


def of_keras(optimizer, model):
    """The initial state and the step of an optimizer of Keras."""
    optimizer.build(model.trainable_variables)

    def step(grads, state, trained):
        return optimizer.stateless_apply(state, grads, trained)

    return [variable.value for variable in optimizer.variables], step


def of_optax(optimizer, model):
    """The same of a gradient transformation."""

    def step(grads, state, trained):
        updates, state = optimizer.update(grads, state, trained)
        return optax.apply_updates(trained, updates), state

    return optimizer.init([variable.value for variable in model.trainable_variables]), step


def trajectory(made_by, optimizer):
    """The variables before the first and after every step, those that are not trained too."""
    model = network()
    state, apply = made_by(optimizer, model)

    @jax.jit
    def step(trained, other, state):
        def loss(trained):
            predicted, new_other = model.stateless_call(trained, other, X, training=True)
            return jnp.mean((predicted - Y) ** 2), new_other

        grads, other = jax.grad(loss, has_aux=True)(trained)
        return *apply(grads, state, trained), other

    trained = [variable.value for variable in model.trainable_variables]
    other = [variable.value for variable in model.non_trainable_variables]
    after = [(trained, other)]
    for _ in range(STEPS):
        trained, state, other = step(trained, other, state)
        after.append((trained, other))
    return after


def moved(after):
    """Whether every trained variable went much farther than the tolerance."""
    return all(
        jnp.max(jnp.abs(first - last)) > 1e-3
        for first, last in zip(after[0][0], after[-1][0], strict=True)
    )


def is_matrix(variables):
    return [variable.ndim > 1 for variable in variables]


# Always with a rate: at the default of Keras, 0.001, float32 would show no difference.
SETTINGS = {
    "our defaults": ({"rho": 0.9, "epsilon": 1e-6}, adadelta),
    "the paper's": ({"rho": 0.95, "epsilon": 1e-6}, lambda: adadelta(1.0, 0.95, 1e-6)),
    "the averages of Keras": ({}, lambda: adadelta(1.0, 0.95, 1e-7)),
    "a lower rate": ({"learning_rate": 0.5}, lambda: adadelta(0.5, 0.95, 1e-7)),
    "weight decay": (
        {"weight_decay": 0.1},
        lambda: adadelta(1.0, 0.95, 1e-7, 0.1, decoupled_weight_decay=True),
    ),
    "a clip": (
        {"global_clipnorm": 0.1},
        lambda: optax.chain(optax.clip_by_global_norm(0.1), adadelta(1.0, 0.95, 1e-7)),
    ),
}


@pytest.mark.parametrize(("theirs", "ours"), SETTINGS.values(), ids=SETTINGS)
def test_a_keras_model_trains_as_with_the_adadelta_of_keras(theirs, ours):
    expected = trajectory(of_keras, keras.optimizers.Adadelta(**{"learning_rate": 1.0} | theirs))
    found = trajectory(of_optax, ours())
    chex.assert_trees_all_close(found, expected, **CLOSE)
    assert moved(found)


def test_a_keras_model_trains_as_with_optax():
    expected = trajectory(of_optax, optax.adadelta(1.0))
    found = trajectory(of_optax, adadelta())
    chex.assert_trees_all_close(found, expected, **CLOSE)
    assert moved(found)


def test_what_keras_excludes_from_weight_decay_is_a_mask():
    optimizer = keras.optimizers.Adadelta(1.0, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    ours = adadelta(1.0, 0.95, 1e-7, 0.1, is_matrix, decoupled_weight_decay=True)
    found = trajectory(of_optax, ours)
    chex.assert_trees_all_close(found, trajectory(of_keras, optimizer), **CLOSE)
    assert moved(found)
