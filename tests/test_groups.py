"""`param_groups`: each group steps with its own settings."""

import chex
import equinox
import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta, label_by_path, param_groups
from tests.grouped_parameters import (
    GRADS,
    LABELS,
    PARAMS,
    SETTINGS,
    adadelta_states,
    each_kind_of_labels,
    group_states,
    steps,
    without_body,
)


@each_kind_of_labels
def test_groups_step_as_optimizers_of_their_own(labels):
    optimizer = param_groups({"slow": {"learning_rate": 0.1}, "fast": SETTINGS}, labels)
    updates, _ = steps(optimizer, optimizer.init(PARAMS), GRADS)
    for part, alone in (("body", adadelta(0.1)), ("head", adadelta(**SETTINGS))):
        grads = [g[part] for g in GRADS]
        expected, _ = steps(alone, alone.init(PARAMS[part]), grads, PARAMS[part])
        chex.assert_trees_all_equal([u[part] for u in updates], expected)


@each_kind_of_labels
def test_groups_are_those_of_optax_partition(labels):
    optimizer = param_groups({"slow": None, "fast": SETTINGS}, labels)
    partition = optax.partition(
        {"slow": optax.set_to_zero(), "fast": adadelta(**SETTINGS)}, LABELS["tree"]
    )
    state = optimizer.init(PARAMS)
    chex.assert_trees_all_equal(state, partition.init(PARAMS))
    chex.assert_trees_all_equal(
        steps(optimizer, state, GRADS), steps(partition, partition.init(PARAMS), GRADS)
    )


def test_parameters_of_another_tree_are_refused_by_name():
    optimizer = param_groups({"all": {}}, "all")
    message = "the gradients do not match the parameters: they have body/0/bias, .* lack"
    with pytest.raises(ValueError, match=message):
        optimizer.update(GRADS[0], optimizer.init(PARAMS), {"head": PARAMS["head"]})


def test_groups_do_not_change_with_the_mapping_that_they_were_made_from():
    groups = {"slow": {"learning_rate": 0.1}, "fast": {}}
    optimizer = param_groups(groups, LABELS["prefix"])
    state = optimizer.init(PARAMS)
    groups["slow"] = None
    updates, _ = optimizer.update(GRADS[0], state, PARAMS)
    as_made = param_groups({"slow": {"learning_rate": 0.1}, "fast": {}}, LABELS["prefix"])
    chex.assert_trees_all_equal(updates, as_made.update(GRADS[0], state, PARAMS)[0])


def test_a_group_has_a_schedule_of_its_own():
    optimizer = param_groups(
        {"slow": {"learning_rate": lambda count: count}, "fast": {}}, LABELS["prefix"]
    )
    updates, _ = steps(optimizer, optimizer.init(PARAMS), GRADS[:3])
    full, _ = steps(adadelta(), adadelta().init(PARAMS), GRADS[:3])
    for count in range(3):
        expected = jax.tree.map(lambda u, count=count: count * u, full[count]["body"])
        chex.assert_trees_all_close(updates[count]["body"], expected, rtol=1e-6)
        chex.assert_trees_all_equal(updates[count]["head"], full[count]["head"])


def test_a_frozen_group_stores_nothing_and_stays_put_whatever_its_gradients():
    optimizer = param_groups({"slow": None, "fast": {}}, LABELS["prefix"])
    state = optimizer.init(PARAMS)
    assert not jax.tree.leaves(state.inner_states["slow"])
    nans = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), GRADS[0]["body"])
    updates, _ = optimizer.update({**GRADS[0], "body": nans}, state, PARAMS)
    chex.assert_trees_all_equal(updates["body"], jax.tree.map(jnp.zeros_like, PARAMS["body"]))


def test_a_frozen_parameter_may_be_an_integer():
    def loss(params):
        return jnp.sum(params["weight"] ** 2) + 0.0 * params["steps"]

    params = {"steps": jnp.array(3), "weight": jnp.ones(2)}
    optimizer = param_groups(
        {"frozen": None, "trained": {}}, {"steps": "frozen", "weight": "trained"}
    )
    grads = jax.grad(loss, allow_int=True)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    new_params = optax.apply_updates(params, updates)
    assert new_params["steps"] == 3
    assert jnp.all(new_params["weight"] < 1)


@pytest.mark.parametrize("slow", [{}, None], ids=["trained", "frozen"])
@each_kind_of_labels
def test_no_gradient_gives_a_zero_update_and_leaves_the_state_alone(labels, slow):
    optimizer = param_groups({"slow": slow, "fast": SETTINGS}, labels)
    _, state = steps(optimizer, optimizer.init(PARAMS), GRADS[:2])
    (updates,), new_state = steps(optimizer, state, [without_body(GRADS[2])])
    (with_body,), _ = steps(optimizer, state, [GRADS[2]])
    chex.assert_trees_all_equal(updates["body"], jax.tree.map(jnp.zeros_like, PARAMS["body"]))
    chex.assert_trees_all_equal(updates["head"], with_body["head"])
    for old, new in zip(*map(adadelta_states, (state, new_state)), strict=True):
        for kept, now in ((old.square_avg, new.square_avg), (old.acc_delta, new.acc_delta)):
            chex.assert_trees_all_equal(now["body"], kept["body"])


def test_labels_by_path_do_without_the_parameters():
    optimizer = param_groups({"slow": {}, "fast": {}}, LABELS["label_by_path"])
    state, grads = optimizer.init(PARAMS), without_body(GRADS[0])
    chex.assert_trees_all_equal(
        optimizer.update(grads, state), optimizer.update(grads, state, PARAMS)
    )


@each_kind_of_labels
def test_the_state_has_the_shapes_that_eval_shape_gives_and_is_the_carry_of_a_scan(labels):
    optimizer = param_groups({"slow": None, "fast": SETTINGS}, labels)
    state = optimizer.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(optimizer.init, PARAMS), state)

    def step(state, grads):
        updates, state = optimizer.update(grads, state, PARAMS)
        return state, updates

    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *GRADS)
    scanned, _ = jax.lax.scan(step, state, stacked)
    _, in_turn = steps(optimizer, state, GRADS)
    chex.assert_trees_all_close(scanned, in_turn, rtol=1e-6)


@each_kind_of_labels
def test_tree_map_params_finds_the_accumulators_of_every_group(labels):
    optimizer = param_groups({"slow": {}, "fast": SETTINGS}, labels)
    state = optax.tree.map_params(optimizer, jnp.ones_like, optimizer.init(PARAMS))
    slow, fast = group_states(state)
    assert (slow.count, fast.count) == (0, 0)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    for accumulator in ("square_avg", "acc_delta"):
        chex.assert_trees_all_equal(getattr(slow, accumulator)["body"], ones["body"])
        chex.assert_trees_all_equal(getattr(fast, accumulator)["head"], ones["head"])


def test_groups_may_stand_inside_a_mask():
    def mask(tree):
        return {name: name == "head" for name in tree}

    labels = label_by_path({"^head/": "fast", "^body/": "slow"}, default="rest")
    optimizer = optax.masked(param_groups({"slow": None, "fast": SETTINGS}, labels), mask)
    updates, _ = steps(optimizer, optimizer.init(PARAMS), GRADS)
    head = [{"head": g["head"]} for g in GRADS]
    alone = adadelta(**SETTINGS)
    expected, _ = steps(alone, alone.init({"head": PARAMS["head"]}), head, {"head": PARAMS["head"]})
    chex.assert_trees_all_equal([{"head": u["head"]} for u in updates], expected)


def test_labels_that_are_a_callable_module_are_a_tree():
    model = equinox.nn.MLP(2, 1, 2, depth=1, key=jax.random.key(0))
    params = equinox.filter(model, equinox.is_inexact_array)
    labels = jax.tree.map(lambda p: "bias" if p.ndim == 1 else "weight", params)
    optimizer = param_groups({"bias": None, "weight": {}}, labels)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for update in jax.tree.leaves(updates):
        assert jnp.all(update == 0 if update.ndim == 1 else update < 0)
