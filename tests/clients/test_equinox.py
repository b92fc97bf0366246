"""Equinox's documented training loop, which passes the whole model to `update`."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta, label_by_path, param_groups, scale_by_adadelta, with_step_hooks


class Model(eqx.Module):
    """A network with a counter and a function among its leaves."""

    mlp: eqx.nn.MLP
    steps: jax.Array
    head: eqx.nn.Linear
    activation: object

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.mlp = eqx.nn.MLP(2, 4, 8, 2, key=first)
        self.steps = jnp.array(3)
        self.head = eqx.nn.Linear(4, 1, key=second)
        self.activation = jax.nn.tanh

    def __call__(self, x):
        return self.head(self.activation(self.mlp(x)))


MODEL = Model(jax.random.key(0))
TRAINED = eqx.filter(MODEL, eqx.is_inexact_array)
X = jnp.linspace(-1, 1, 16).reshape(8, 2)


@eqx.filter_grad
def gradients(model, x):
    return jnp.mean((jax.vmap(model)(x) - x.sum(1, keepdims=True)) ** 2)


def after_training(optimizer, jit, steps=5):
    def step(model, state):
        updates, state = optimizer.update(gradients(model, X), state, model)
        return eqx.apply_updates(model, updates), state

    step = eqx.filter_jit(step) if jit else step
    model, state = MODEL, optimizer.init(TRAINED)
    for _ in range(steps):
        model, state = step(model, state)
    return eqx.filter(model, eqx.is_inexact_array)


def is_matrix(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


PAIRS = {
    "alone": (adadelta(), optax.adadelta(1.0)),
    "weight decay": (adadelta(weight_decay=0.1), optax.adadelta(1.0, weight_decay=0.1)),
    "in a chain": (
        optax.chain(optax.clip_by_global_norm(0.1), adadelta()),
        optax.chain(optax.clip_by_global_norm(0.1), optax.adadelta(1.0)),
    ),
    "the part in a chain": (
        optax.chain(scale_by_adadelta(), optax.scale(-1.0)),
        optax.adadelta(1.0),
    ),
    "hooks": (
        with_step_hooks(adadelta(), pre_step=lambda *_: None, post_step=lambda *_: None),
        optax.adadelta(1.0),
    ),
    "one group": (param_groups({"all": {}}, "all"), optax.adadelta(1.0)),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
def test_a_whole_model_trains_as_with_optax(ours, theirs, jit):
    chex.assert_trees_all_close(
        after_training(ours, jit), after_training(theirs, jit), rtol=1e-5, atol=1e-6
    )


LINEAR = {"weight": True, "bias": False}
MASKS = {
    "a module of booleans": is_matrix(TRAINED),
    "a function": is_matrix,
    "a dict of paths": {"mlp": {"layers": dict.fromkeys(range(3), LINEAR)}, "head": LINEAR},
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_a_mask_may_be_a_module_a_function_or_a_tree_by_path(decoupled, jit):
    def trained(mask):
        return after_training(
            adadelta(weight_decay=0.1, weight_decay_mask=mask, decoupled_weight_decay=decoupled),
            jit,
        )

    by_module, by_function, by_path = map(trained, MASKS.values())
    chex.assert_trees_all_equal(by_module, by_function)
    chex.assert_trees_all_equal(by_module, by_path)
    chex.assert_trees_all_equal_comparator(
        lambda a, b: not jnp.array_equal(a, b), lambda *_: "equal", trained(None), by_module
    )


LABELS = {
    "a module of labels": jax.tree.map(lambda x: "decay" if x.ndim > 1 else "none", TRAINED),
    "a function": label_by_path({"weight$": "decay"}, default="none"),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_may_be_a_module_or_a_function(labels, frozen):
    groups = {"decay": {"weight_decay": 0.1}, "none": None if frozen else {}}
    trained = after_training(param_groups(groups, labels), jit=True)
    expected = after_training(adadelta(weight_decay=0.1, weight_decay_mask=is_matrix), jit=True)
    chex.assert_trees_all_close(trained.head.weight, expected.head.weight, rtol=0.5)
    is_unchanged = jnp.array_equal(trained.head.bias, MODEL.head.bias)
    assert is_unchanged == frozen


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
def test_what_is_not_trained_gets_no_update(jit):
    optimizer = adadelta()
    update = eqx.filter_jit(optimizer.update) if jit else optimizer.update
    updates, _ = update(gradients(MODEL, X), optimizer.init(TRAINED), MODEL)
    assert (updates.steps, updates.activation, updates.mlp.activation) == (None, None, None)


@pytest.mark.parametrize("optimizer", [adadelta(), scale_by_adadelta()], ids=["whole", "part"])
def test_init_on_a_whole_model_says_how_to_filter_it(optimizer):
    with pytest.raises(TypeError, match=r"pass eqx.filter\(model, eqx.is_inexact_array\) to init"):
        optimizer.init(MODEL)
    with pytest.raises(TypeError, match=r"steps has dtype int32, .* eqx.is_inexact_array\) to in"):
        optimizer.init(eqx.filter(MODEL, eqx.is_array))
