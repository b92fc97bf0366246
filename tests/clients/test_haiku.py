"""Haiku's documented training loop, without and with network state, and its names in paths."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta, label_by_path, param_groups

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True) + 1  # no parameter's gradient is zero
STEPS = 6
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def plain(x):
    return hk.nets.MLP([4, 1], activation=jnp.tanh)(x)


def normalised(x):
    """A network whose state is the averages of a BatchNorm and a count of calls."""
    # Without a bias before the BatchNorm: its gradient would be rounding errors alone.
    calls = hk.get_state("calls", (), jnp.int32, init=jnp.zeros)
    hk.set_state("calls", calls + 1)
    hidden = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(
        hk.Linear(4, with_bias=False)(x), is_training=True
    )
    return hk.Linear(1)(jnp.tanh(hidden))


MODELS = {
    "transform": hk.with_empty_state(hk.transform(plain)),
    "transform_with_state": hk.transform_with_state(normalised),
}


def trajectory(optimizer, model=MODELS["transform"], *, jit=True, container=dict):
    """The parameters and the network's state before the first and after every step."""
    params, network_state = model.init(jax.random.key(0), X)
    params = container(params)

    def loss(params, network_state, rng):
        predicted, network_state = model.apply(params, network_state, rng, X)
        return jnp.mean((predicted - Y) ** 2), network_state

    def step(params, network_state, optimizer_state, rng):
        grads, network_state = jax.grad(loss, has_aux=True)(params, network_state, rng)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return optax.apply_updates(params, updates), network_state, optimizer_state

    step = jax.jit(step) if jit else step
    optimizer_state = optimizer.init(params)
    after = [(params, network_state)]
    for rng in jax.random.split(jax.random.key(1), STEPS):
        params, network_state, optimizer_state = step(params, network_state, optimizer_state, rng)
        after.append((params, network_state))
    return after


def has_moved(after):
    """Whether any parameter of each module is no longer what it was at first."""
    first, last = after[0][0], after[-1][0]
    return all(
        any(jnp.any(first[module][name] != last[module][name]) for name in first[module])
        for module in first
    )


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_haiku_network_trains_as_with_optax(model, jit):
    ours = trajectory(adadelta(), model, jit=jit)
    theirs = trajectory(optax.adadelta(1.0), model, jit=jit)
    chex.assert_trees_all_close(ours, theirs, **CLOSE)
    assert has_moved(ours)


def test_the_network_state_of_haiku_is_left_to_haiku():
    (_, before), *_, (_, after) = trajectory(adadelta(), MODELS["transform_with_state"])
    assert (before["~"]["calls"], after["~"]["calls"]) == (0, STEPS)


GROUPS = {"weight": {"weight_decay": 0.1}, "bias": {"learning_rate": 0.5, "rho": 0.95}}
THEIR_GROUPS = {
    "weight": optax.adadelta(1.0, weight_decay=0.1),
    "bias": optax.adadelta(0.5, rho=0.95),
}
BY_NAME = label_by_path({"/b$": "bias"}, default="weight")


def test_groups_by_the_names_of_haiku_train_as_in_a_partition_of_optax():
    def labels(params):
        names = {"w": "weight", "b": "bias"}
        return hk.data_structures.map(lambda _module, name, _param: names[name], params)

    ours = trajectory(param_groups(GROUPS, BY_NAME))
    chex.assert_trees_all_close(ours, trajectory(optax.partition(THEIR_GROUPS, labels)), **CLOSE)
    assert has_moved(ours)


def test_a_layer_frozen_by_the_path_of_its_module_stays():
    frozen, trained = "mlp/~/linear_0", "mlp/~/linear_1"
    labels = label_by_path({f"^{frozen}/": "frozen"}, default="trained")
    (before, _), *_, (after, _) = trajectory(param_groups({"frozen": None, "trained": {}}, labels))
    chex.assert_trees_all_equal(after[frozen], before[frozen])
    assert jnp.any(after[trained]["w"] != before[trained]["w"])


LAYERS = ("mlp/~/linear_0", "mlp/~/linear_1")
MASKS = {
    "each parameter": {layer: {"w": True, "b": False} for layer in LAYERS},
    "whole layers": {LAYERS[0]: True, LAYERS[1]: False},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_weight_decay_mask_by_the_names_of_haiku_masks_as_with_optax(mask):
    ours = trajectory(adadelta(weight_decay=0.1, weight_decay_mask=mask))
    theirs = trajectory(optax.adadelta(1.0, weight_decay=0.1, weight_decay_mask=mask))
    chex.assert_trees_all_close(ours, theirs, **CLOSE)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(ours, trajectory(adadelta(weight_decay=0.1)), **CLOSE)


def test_the_immutable_dict_of_haiku_trains_as_its_dict():
    immutable = hk.data_structures.to_immutable_dict
    mask = MASKS["each parameter"]
    ours = trajectory(
        adadelta(weight_decay=0.1, weight_decay_mask=immutable(mask)), container=immutable
    )
    expected = trajectory(adadelta(weight_decay=0.1, weight_decay_mask=mask))
    mutable = [(hk.data_structures.to_mutable_dict(params), state) for params, state in ours]
    chex.assert_trees_all_close(mutable, expected, **CLOSE)
