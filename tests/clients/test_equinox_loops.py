"""Equinox's loops beyond the plain one: accumulated, frozen, stateful and ensembled."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True) + 1  # no parameter's gradient is zero
STEPS, WIDTH, MEMBERS = 6, 4, 3
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def network(key):
    """An MLP, two of whose leaves are functions."""
    return eqx.nn.MLP(2, 1, WIDTH, 2, activation=jnp.tanh, key=key)


def trained_part(model):
    return eqx.filter(model, eqx.is_inexact_array)


def mean_square(model):
    return jnp.mean((jax.vmap(model)(X) - Y) ** 2)


def have_all_moved(after):
    moved = jax.tree.map(lambda first, last: bool(jnp.any(first != last)), after[0], after[-1])
    return all(jax.tree.leaves(moved))


def one_step(optimizer, given=trained_part):
    """A step of the model and the optimizer's state, where ``given`` of the model is passed."""

    def step(model, state):
        loss, grads = eqx.filter_value_and_grad(mean_square)(model)
        updates, state = optimizer.update(grads, state, given(model))
        return eqx.apply_updates(model, updates), state, loss

    return step


def trajectory(step, model, state):
    """The parameters before the first and after every step, and the losses."""
    step, after, losses = eqx.filter_jit(step), [trained_part(model)], []
    for _ in range(STEPS):
        model, state, loss = step(model, state)
        after.append(trained_part(model))
        losses.append(loss)
    return after, losses


def accumulated(optimizer, given=trained_part):
    model, optimizer = network(jax.random.key(0)), optax.MultiSteps(optimizer, 2)
    return trajectory(one_step(optimizer, given), model, optimizer.init(trained_part(model)))


def test_accumulated_gradients_train_as_with_optax():
    after, losses = accumulated(adadelta())
    chex.assert_trees_all_close((after, losses), accumulated(optax.adadelta(1.0)), **CLOSE)
    assert have_all_moved(after)
    for before, now in zip(after[::2], after[1::2], strict=False):
        chex.assert_trees_all_equal(before, now)


def with_frozen_layers(optimizer, given):
    """The trajectory of a model of which the last layer alone is trained."""
    model = network(jax.random.key(0))
    is_trained = eqx.tree_at(
        lambda model: (model.layers[-1].weight, model.layers[-1].bias),
        jax.tree.map(lambda _: False, model),
        (True, True),
    )

    @eqx.filter_value_and_grad
    def loss_of(trained, frozen):
        return mean_square(eqx.combine(trained, frozen))

    def step(model, state):
        trained, frozen = eqx.partition(model, is_trained)
        loss, grads = loss_of(trained, frozen)
        updates, state = optimizer.update(grads, state, given(trained, model))
        return eqx.apply_updates(model, updates), state, loss

    return trajectory(step, model, optimizer.init(eqx.filter(model, is_trained)))


GIVEN = {
    "the trained part": lambda trained, model: trained,
    "all arrays": lambda trained, model: trained_part(model),
    "the whole model": lambda trained, model: model,
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_the_last_layer_alone_trains_as_with_optax(given):
    after, losses = with_frozen_layers(adadelta(), given)
    theirs = with_frozen_layers(optax.adadelta(1.0), given)
    chex.assert_trees_all_close((after, losses), theirs, **CLOSE)
    assert have_all_moved([model.layers[-1] for model in after])
    chex.assert_trees_all_equal(after[0].layers[:-1], after[-1].layers[:-1])


class Normalised(eqx.Module):
    """A network whose batch norm keeps its averages in a state beside the model."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    second: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        # Without a bias before the batch norm: its gradient would be rounding errors alone.
        self.first = eqx.nn.Linear(2, WIDTH, use_bias=False, key=first)
        self.norm = eqx.nn.BatchNorm(WIDTH, axis_name="batch", mode="batch")
        self.second = eqx.nn.Linear(WIDTH, 1, key=second)

    def __call__(self, x, averages):
        x, averages = self.norm(self.first(x), averages)
        return self.second(jnp.tanh(x)), averages


def stateful(optimizer):
    model, averages = eqx.nn.make_with_state(Normalised)(jax.random.key(0))

    @eqx.filter_value_and_grad(has_aux=True)
    def loss_of(model, averages):
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        predicted, averages = batched(X, averages)
        return jnp.mean((predicted - Y) ** 2), averages

    def step(model, state):
        averages, state = state
        (loss, averages), grads = loss_of(model, averages)
        updates, state = optimizer.update(grads, state, trained_part(model))
        model = eqx.apply_updates(model, updates)
        return model, (averages, state), (loss, averages)

    return trajectory(step, model, (averages, optimizer.init(trained_part(model))))


def test_a_model_with_batch_norm_trains_as_with_optax():
    after, losses_and_averages = stateful(adadelta())
    chex.assert_trees_all_close(
        (after, losses_and_averages), stateful(optax.adadelta(1.0)), **CLOSE
    )
    assert have_all_moved(after)
    assert have_all_moved([averages for _, averages in losses_and_averages])


def ensemble(optimizer):
    models = eqx.filter_vmap(network)(jax.random.split(jax.random.key(0), MEMBERS))
    state = eqx.filter_vmap(optimizer.init)(trained_part(models))
    return trajectory(eqx.filter_vmap(one_step(optimizer)), models, state)


WRAPPERS = {
    "alone": lambda optimizer: optimizer,
    "MultiSteps": lambda optimizer: optax.MultiSteps(optimizer, 2),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_an_ensemble_trains_as_with_optax(wrapper):
    after, losses = ensemble(wrapper(adadelta()))
    chex.assert_trees_all_close((after, losses), ensemble(wrapper(optax.adadelta(1.0))), **CLOSE)
    assert have_all_moved(after)
    assert losses[0].shape == (MEMBERS,)


def test_the_members_of_an_ensemble_train_as_they_would_alone():
    together, _ = ensemble(adadelta())
    alone = []
    for key in jax.random.split(jax.random.key(0), MEMBERS):
        model = network(key)
        after, _ = trajectory(one_step(adadelta()), model, adadelta().init(trained_part(model)))
        alone.append(after)
    chex.assert_trees_all_close(together, jax.tree.map(lambda *x: jnp.stack(x), *alone), **CLOSE)
