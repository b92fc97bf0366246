"""`param_groups`, `label_by_path` and `carry_over_state`: who steps how, and what is kept."""

import functools
import warnings

import chex
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from adadelta_jax import (
    ScaleByAdadeltaState,
    adadelta,
    carry_over_state,
    label_by_path,
    param_groups,
)

PATHS = ("body/0/bias", "body/0/kernel", "body/1/kernel", "head/kernel")
SETTINGS = {"rho": 0.95, "eps": 1e-4, "weight_decay": 0.1}


def random_tree(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    bias, kernel, second, head = (jax.random.normal(key, (2, 3), dtype) for key in keys)
    return {
        "body": [{"bias": bias, "kernel": kernel}, {"kernel": second}],
        "head": {"kernel": head},
    }


PARAMS = random_tree(0)
GRADS = [random_tree(seed) for seed in range(1, 7)]


def label(path, _):
    return "fast" if path[0].key == "head" else "slow"


# The same labels as a prefix, as a tree like the parameters and as two functions.
LABELS = {
    "prefix": {"body": "slow", "head": "fast"},
    "tree": jax.tree.map_with_path(label, PARAMS),
    "function": lambda params: jax.tree.map_with_path(label, params),
    "label_by_path": label_by_path({"^head/": "fast"}, default="slow"),
}
each_kind_of_labels = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


def steps(optimizer, state, gradients, params=PARAMS):
    """The updates of each of `gradients` in turn, and the last state."""
    all_updates = []
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        all_updates.append(updates)
    return all_updates, state


def without_body(grads):
    return {**grads, "body": jax.tree.map(lambda _: None, grads["body"])}


def group_states(state):
    """The Adadelta states of the groups "slow" and "fast"."""
    return [adadelta_states(state.inner_states[label])[0] for label in ("slow", "fast")]


def adadelta_states(state):
    return [
        found for _, found in optax.tree_utils.tree_get_all_with_path(state, "ScaleByAdadeltaState")
    ]


# --- param_groups ---------------------------------------------------------------------------------


@each_kind_of_labels
def test_groups_step_as_optimizers_of_their_own(labels):
    optimizer = param_groups({"slow": {"learning_rate": 0.1}, "fast": SETTINGS}, labels)
    updates, _ = steps(optimizer, optimizer.init(PARAMS), GRADS)
    for part, alone in (("body", adadelta(0.1)), ("head", adadelta(**SETTINGS))):
        grads = [g[part] for g in GRADS]
        expected, _ = steps(alone, alone.init(PARAMS[part]), grads, PARAMS[part])
        chex.assert_trees_all_equal([u[part] for u in updates], expected)


def test_groups_are_those_of_optax_partition():
    optimizer = param_groups({"slow": None, "fast": SETTINGS}, LABELS["prefix"])
    partition = optax.partition(
        {"slow": optax.set_to_zero(), "fast": adadelta(**SETTINGS)}, LABELS["prefix"]
    )
    state = optimizer.init(PARAMS)
    chex.assert_trees_all_equal(state, partition.init(PARAMS))
    chex.assert_trees_all_equal(
        steps(optimizer, state, GRADS), steps(partition, partition.init(PARAMS), GRADS)
    )


def test_groups_step_as_those_of_torch_do():
    slow = {"weight_decay": 0.1, "rho": 0.95}
    fast = {"maximize": True, "eps": 1e-3}
    with jax.enable_x64(True):
        params = random_tree(0, jnp.float64)
        gradients = [random_tree(seed, jnp.float64) for seed in range(1, 5)]
        optimizer = param_groups(
            {"slow": {"learning_rate": 0.1, **slow}, "fast": fast}, LABELS["prefix"]
        )
        state = optimizer.init(params)

        tensors, structure = jax.tree.flatten(params)
        tensors = [torch.nn.Parameter(torch.tensor(np.array(p))) for p in tensors]
        reference = torch.optim.Adadelta(
            [{"params": tensors[:3], "lr": 0.1, **slow}, {"params": tensors[3:], **fast}]
        )
        for grads in gradients:
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
                tensor.grad = torch.tensor(np.array(grad))
            reference.step()
        expected = structure.unflatten([tensor.detach().numpy() for tensor in tensors])
        chex.assert_trees_all_close(params, expected, rtol=1e-13)


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
def test_a_jitted_step_compiles_once_and_has_the_shapes_that_eval_shape_gives(labels):
    optimizer = param_groups({"slow": None, "fast": SETTINGS}, labels)
    shapes = jax.eval_shape(optimizer.init, PARAMS)
    step, state = jax.jit(optimizer.update), optimizer.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
    for grads in GRADS[:3]:
        _, state = step(grads, state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
    assert step._cache_size() == 1


@each_kind_of_labels
def test_tree_map_params_finds_the_accumulators_of_every_group(labels):
    optimizer = param_groups({"slow": {}, "fast": SETTINGS}, labels)
    state = optax.tree_utils.tree_map_params(optimizer, jnp.ones_like, optimizer.init(PARAMS))
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


TWO = {"slow": {}, "fast": None}


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([1], TypeError, "groups must be a mapping from labels to settings, got [1]"),
        ({1: {}}, TypeError, "groups: a label must be a string, got 1"),
        (
            {"slow": 0.1},
            TypeError,
            "group 'slow' must be a mapping of adadelta's keywords to values, or None to freeze "
            "it, got 0.1",
        ),
        (
            {"slow": {"lr": 0.1, "rho": 0.9}},
            TypeError,
            "group 'slow' has 'lr', which adadelta does not take: it takes learning_rate, rho, "
            "eps, weight_decay, weight_decay_mask, maximize, decoupled_weight_decay, "
            "accumulator_dtype",
        ),
        ({"slow": {"rho": 1.5}}, ValueError, "group 'slow': rho must lie in [0, 1], got 1.5"),
        (
            {"slow": {"eps": "1"}},
            TypeError,
            "group 'slow': eps must be a number or a 0-d array, got '1'",
        ),
    ],
)
def test_a_wrong_group_is_named_at_once(groups, error, message):
    with pytest.raises(error) as raised:
        param_groups(groups, "slow")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            {"body": "slow", "head": "fats"},
            ValueError,
            "no group for the label 'fats' of head/kernel: the groups are 'slow', 'fast'",
        ),
        ("slow", ValueError, "group 'fast' has no parameter: the parameters' labels are 'slow'"),
        ({"body": "slow", "head": 3}, TypeError, "the label of head must be a string, got 3"),
        (
            {"body": "slow"},
            ValueError,
            "the labels do not match the parameters: they lack head/kernel",
        ),
        (
            {"body": "slow", "head": "fast", "tail": "fast"},
            ValueError,
            "the labels do not match the parameters: they have tail, which the parameters lack",
        ),
        (
            {"body": ("slow", "slow"), "head": "fast"},
            ValueError,
            "the labels do not match the parameters: they are a PyTreeDef({'body': (*, *), "
            "'head': *}), the parameters a PyTreeDef({'body': [{'bias': *, 'kernel': *}, "
            "{'kernel': *}], 'head': {'kernel': *}})",
        ),
    ],
)
def test_wrong_labels_are_named_with_their_parameters(labels, error, message):
    for given_labels in (labels, lambda params: labels):
        with pytest.raises(error) as raised:
            param_groups(TWO, given_labels).init(PARAMS)
        assert str(raised.value) == message


def test_a_long_list_of_parameters_is_cut_short():
    params = [jnp.zeros(())] * 10
    with pytest.raises(
        ValueError, match="of 0, 1, 2, 3, 4, 5, 6, 7 and 2 more: the groups are 'b'"
    ):
        param_groups({"b": {}}, "a").init(params)


def test_gradients_of_another_tree_are_named():
    optimizer = param_groups(TWO, LABELS["prefix"])
    with pytest.raises(ValueError, match="labels do not match the gradients") as error:
        optimizer.update({"body": PARAMS["body"]}, optimizer.init(PARAMS), PARAMS)
    assert str(error.value).endswith("they have head, which the gradients lack")


# --- label_by_path --------------------------------------------------------------------------------


def test_the_first_rule_found_anywhere_in_the_path_decides():
    labels = label_by_path({"^head": "a", "bias": "b", "kernel$": "c"}, default="d")
    expected = {"body": [{"bias": "b", "kernel": "c"}, {"kernel": "c"}], "head": {"kernel": "a"}}
    assert labels(PARAMS) == expected
    assert label_by_path({"dy/1/k": "a"}, "b")(PARAMS)["body"][1] == {"kernel": "a"}
    assert label_by_path({}, "a")(PARAMS)["head"] == {"kernel": "a"}


def test_where_there_is_no_gradient_it_is_labelled_as_its_parameter_is():
    labels = label_by_path({"^body/0": "a", "^head": "b"}, default="c")
    assert labels(without_body(PARAMS)) == labels(PARAMS)


def test_labels_by_path_serve_optax_partition_too():
    transforms = {"slow": optax.sgd(0.1), "fast": adadelta()}
    states = [
        optax.partition(transforms, LABELS[k]).init(PARAMS) for k in ("label_by_path", "tree")
    ]
    chex.assert_trees_all_equal(*states)


def test_an_nnx_state_is_labelled_by_the_names_of_its_modules():
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = param_groups({"b": None, "rest": {}}, label_by_path({"^bias": "b"}, "rest"))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert jnp.all(updates["bias"].get_value() == 0)
    assert jnp.all(updates["kernel"].get_value() < 0)


@pytest.mark.parametrize(
    ("rules", "default", "error", "message"),
    [
        (["a"], "x", TypeError, "rules must map regular expressions to labels, got ['a']"),
        ({"a": None}, "x", TypeError, "rules: the label of 'a' must be a string, got None"),
        ({3: "a"}, "x", TypeError, "rules: a regular expression must be a string, got 3"),
        ({"a": "x"}, None, TypeError, "default must be a label, a string, got None"),
        (
            {"a": "x", "b(": "x"},
            "x",
            ValueError,
            "rules: 'b(' is not a regular expression: missing ), unterminated subpattern at "
            "position 1",
        ),
    ],
)
def test_wrong_rules_are_named_at_once(rules, default, error, message):
    with pytest.raises(error) as raised:
        label_by_path(rules, default)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"tail": "a"}, f"rules: 'tail' matches no parameter: there are {', '.join(PATHS)}"),
        (
            {"kernel": "a", "^head/kernel": "b"},
            "rules: '^head/kernel' only matches parameters that an earlier rule has labelled: "
            "put the more specific rule first",
        ),
    ],
)
def test_a_rule_that_labels_nothing_is_named(rules, message):
    with pytest.raises(ValueError, match="rules") as error:
        label_by_path(rules, "x")(PARAMS)
    assert str(error.value) == message


# --- carry_over_state -----------------------------------------------------------------------------


def in_two_groups(labels=LABELS["prefix"], **keywords):
    return param_groups({"slow": keywords, "fast": keywords}, labels)


SCHEDULES = {
    "learning_rate": lambda count: 1 / (count + 1),
    "weight_decay": lambda count: 0.1 * count,
}
OPTIMIZERS = {
    "adadelta": adadelta(),
    "schedules": adadelta(**SCHEDULES),
    "decoupled": adadelta(**SCHEDULES, decoupled_weight_decay=True),
    "groups": in_two_groups(**SCHEDULES),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), in_two_groups(**SCHEDULES)),
    "hyperparameters": optax.inject_hyperparams(adadelta)(**SCHEDULES, rho=lambda count: 0.9),
    "several steps": optax.MultiSteps(adadelta(**SCHEDULES), lambda step: 1 + (step < 1)),
    "apply if finite": optax.apply_if_finite(adadelta(**SCHEDULES), 3),
    "mask": optax.masked(adadelta(**SCHEDULES), {"body": True, "head": False}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_own_state_as_if_nothing_had_happened(optimizer):
    step = jax.jit(optimizer.update)
    state = optimizer.init(PARAMS)
    for grads in GRADS[:4]:
        _, state = step(grads, state, PARAMS)
    carried = carry_over_state(optimizer, PARAMS, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, state)
    counts, expected = (
        optax.tree_utils.tree_get_all_with_path(tree, "count") for tree in (carried, state)
    )
    assert counts == expected
    for grads in GRADS[4:]:
        expected, state = step(grads, state, PARAMS)
        updates, carried = step(grads, carried, PARAMS)
        chex.assert_trees_all_equal(updates, expected)


groupings = st.lists(st.sampled_from(["slow", "fast"]), min_size=4, max_size=4).filter(
    lambda labels: len(set(labels)) == 2
)


@settings(max_examples=10, deadline=None)
@given(regroupings=st.lists(groupings, min_size=1, max_size=2))
def test_a_parameter_that_changes_groups_goes_on_bit_for_bit(regroupings):
    structure = jax.tree.structure(PARAMS)
    optimizers = [in_two_groups(structure.unflatten(labels), **SCHEDULES) for labels in regroupings]
    whole = adadelta(**SCHEDULES)
    expected, last = steps(whole, whole.init(PARAMS), GRADS[:4])

    updates, state = steps(whole, whole.init(PARAMS), GRADS[:1])
    for grads, optimizer in zip(GRADS[1:], optimizers, strict=False):
        state = carry_over_state(optimizer, PARAMS, state)
        more, state = steps(optimizer, state, [grads])
        updates += more
    state = carry_over_state(whole, PARAMS, state)
    more, state = steps(whole, state, GRADS[len(updates) : 4])
    chex.assert_trees_all_equal((updates + more, state), (expected, last))


def test_a_layer_that_thaws_goes_on_as_if_its_accumulators_had_been_kept():
    whole, frozen = adadelta(), param_groups({"slow": None, "fast": {}}, LABELS["prefix"])
    start, before = steps(whole, whole.init(PARAMS), GRADS[:2])

    middle, state = steps(frozen, carry_over_state(frozen, PARAMS, before), GRADS[2:4])
    end, _ = steps(whole, carry_over_state(whole, PARAMS, (state, before)), GRADS[4:])

    kept = GRADS[:2] + [without_body(grads) for grads in GRADS[2:4]] + GRADS[4:]
    expected, _ = steps(whole, whole.init(PARAMS), kept)
    chex.assert_trees_all_equal(start + middle + end, expected)


def test_a_layer_that_is_first_trained_now_starts_from_zero_and_the_others_go_on():
    frozen, whole = param_groups({"slow": None, "fast": {}}, LABELS["prefix"]), adadelta()
    _, state = steps(frozen, frozen.init(PARAMS), GRADS[:2])
    updates, _ = steps(whole, carry_over_state(whole, PARAMS, state), GRADS[2:])
    fresh, _ = steps(whole, whole.init(PARAMS), GRADS[2:])
    uninterrupted, _ = steps(whole, whole.init(PARAMS), GRADS)
    for update, new, old in zip(updates, fresh, uninterrupted[2:], strict=True):
        chex.assert_trees_all_equal(update, {"body": new["body"], "head": old["head"]})


def test_a_head_that_is_added_steps_as_after_torch_add_param_group():
    with jax.enable_x64(True):
        body, head = np.array([1.0, -2.0]), np.array([[3.0]])
        gradients = [np.array([0.3, -1.0]), np.array([-0.2, 0.1]), np.array([2.0, 0.5])]
        params = {"body": jnp.asarray(body)}
        optimizer = adadelta(0.5)
        state = optimizer.init(params)

        tensors = {"body": torch.nn.Parameter(torch.tensor(body))}
        reference = torch.optim.Adadelta(tensors.values(), lr=0.5)
        for count, gradient in enumerate(gradients):
            if count == 1:
                params["head"] = jnp.asarray(head)
                groups = {"old": {"learning_rate": 0.5}, "new": SETTINGS}
                optimizer = param_groups(groups, {"body": "old", "head": "new"})
                state = carry_over_state(optimizer, params, state)
                tensors["head"] = torch.nn.Parameter(torch.tensor(head))
                reference.add_param_group({"params": [tensors["head"]], "lr": 1.0, **SETTINGS})
            grads = {name: jnp.full_like(p, gradient[0]) for name, p in params.items()}
            grads["body"] = jnp.asarray(gradient)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(np.array(grads[name]))
            reference.step()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(params[name], tensor.detach().numpy(), rtol=1e-13)


def test_schedules_go_on_for_new_parameters_too():
    old = adadelta(lambda count: 1 / (count + 1))
    _, state = steps(
        old,
        old.init({"head": PARAMS["head"]}),
        [{"head": g["head"]} for g in GRADS[:3]],
        {"head": PARAMS["head"]},
    )
    new = in_two_groups(learning_rate=lambda count: 1 / (count + 1))
    state = carry_over_state(new, PARAMS, state)
    counts = [count for _, count in optax.tree_utils.tree_get_all_with_path(state, "count")]
    assert [int(count) for count in counts] == [3, 3, 3, 3]
    (updates,), _ = steps(new, state, GRADS[3:4])
    (fresh,), _ = steps(adadelta(), adadelta().init(PARAMS), GRADS[3:4])
    expected = jax.tree.map(lambda u: u / 4, fresh["body"])
    chex.assert_trees_all_close(updates["body"], expected, rtol=1e-6)


def test_the_step_count_is_the_largest_where_groups_differ():
    _, state = steps(in_two_groups(), in_two_groups().init(PARAMS), GRADS[:1])
    fast = state.inner_states["fast"].inner_state
    fast = optax.tree_utils.tree_set(fast, count=jnp.array(7))
    states = {**state.inner_states, "fast": optax.MaskedState(fast)}
    (carried,) = adadelta_states(carry_over_state(adadelta(), PARAMS, optax.PartitionState(states)))
    assert carried.count == 7
    assert carried.count.dtype == jnp.int32


def test_what_is_kept_is_kept_where_it_is_and_no_buffer_stands_twice():
    _, state = steps(adadelta(**SCHEDULES), adadelta(**SCHEDULES).init(PARAMS), GRADS[:1])
    carried = carry_over_state(in_two_groups(**SCHEDULES), PARAMS, state)
    (old,), (slow, fast) = adadelta_states(state), group_states(carried)
    now = [slow.square_avg, fast.square_avg, slow.acc_delta, fast.acc_delta]
    for x, y in zip(*map(jax.tree.leaves, (now, [*old[1:]])), strict=True):
        assert x is y
    leaves = jax.tree.leaves(carried)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_carrying_over_can_be_jitted_and_evaluated_for_its_shapes():
    _, state = steps(adadelta(**SCHEDULES), adadelta(**SCHEDULES).init(PARAMS), GRADS[:2])
    carry_over = functools.partial(carry_over_state, in_two_groups(**SCHEDULES))
    carried = carry_over(PARAMS, state)
    chex.assert_trees_all_equal(jax.jit(carry_over)(PARAMS, state), carried)
    shapes = jax.eval_shape(carry_over, PARAMS, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, carried)


def test_accumulators_are_converted_to_how_the_new_state_stores_them():
    params, huge = jnp.zeros(2), jnp.array([1e4, 0.1])
    _, state = adadelta().update(huge, adadelta().init(params), params)
    (exact,) = adadelta_states(state)
    half = adadelta(accumulator_dtype="float16")
    (converted,) = adadelta_states(carry_over_state(half, params, state))
    assert exact.square_avg[0] > jnp.finfo(jnp.float16).max  # which is where it saturates
    expected = jnp.array([65504.0, exact.square_avg[1]], jnp.float16)
    chex.assert_trees_all_equal(converted.square_avg, expected)
    chex.assert_trees_all_equal(converted.acc_delta, exact.acc_delta.astype(jnp.float16))
    (back,) = adadelta_states(carry_over_state(adadelta(), params, converted))
    chex.assert_trees_all_equal(back.square_avg, expected.astype(jnp.float32))


@pytest.mark.parametrize(
    ("param", "message"),
    [
        (
            jnp.zeros((2, 5)),
            "the accumulators of head/kernel start from zero: old_state holds float32[2,3], the "
            "parameter needs float32[2,5]",
        ),
        (
            jnp.zeros((2, 3), jnp.complex64),
            "the accumulators of head/kernel start from zero: old_state holds float32[2,3], the "
            "parameter needs complex64[2,3]",
        ),
    ],
)
def test_a_parameter_of_another_kind_starts_from_zero_with_a_warning(param, message):
    _, state = steps(adadelta(), adadelta().init(PARAMS), GRADS[:2])
    params = {**PARAMS, "head": {"kernel": param}}
    with pytest.warns(UserWarning, match="start from zero") as record:
        carried = carry_over_state(adadelta(), params, state)
    assert [(str(warning.message), warning.filename) for warning in record] == [(message, __file__)]
    (old,), (new,) = adadelta_states(state), adadelta_states(carried)
    chex.assert_trees_all_equal(new.square_avg["body"], old.square_avg["body"])
    chex.assert_trees_all_equal(new.square_avg["head"], {"kernel": jnp.zeros_like(param)})


def test_parameters_that_come_and_go_do_so_silently():
    _, state = steps(adadelta(), adadelta().init(PARAMS), GRADS[:2])
    params = {"body": PARAMS["body"], "neck": jnp.ones(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (new,) = adadelta_states(carry_over_state(adadelta(), params, state))
    chex.assert_trees_all_equal(new.acc_delta["neck"], jnp.zeros(3))


def test_an_accumulator_may_be_a_tree_of_its_own():
    def init(params):
        def zeros():
            return jax.tree.map(
                lambda p: {"codes": jnp.zeros(p.size, jnp.int8), "scale": jnp.zeros(())}, params
            )

        return ScaleByAdadeltaState(jnp.array(0), zeros(), zeros())

    coded = optax.GradientTransformation(init, lambda *_: None)
    old = jax.tree.map(lambda x: x + 1, init(PARAMS))
    carried = carry_over_state(coded, PARAMS, old)
    chex.assert_trees_all_equal(carried, old)
    with pytest.warns(UserWarning, match="start from zero") as record:
        (plain,) = adadelta_states(carry_over_state(adadelta(), PARAMS, old))
    assert len(record) == len(PATHS)
    chex.assert_trees_all_equal(plain.square_avg, jax.tree.map(jnp.zeros_like, PARAMS))


@pytest.mark.parametrize(
    ("old_state", "message"),
    [
        (
            optax.sgd(0.1, momentum=0.9).init(PARAMS),
            "old_state holds no ScaleByAdadeltaState: pass the state of an optimizer made with "
            "adadelta; a checkpoint is to be restored into the structure of optimizer.init(params)",
        ),
        (
            adadelta().init({"params": PARAMS}),
            "nothing to carry over: old_state holds accumulators of params/body/0/bias, "
            "params/body/0/kernel, params/body/1/kernel, params/head/kernel, none of which "
            f"optimizer keeps for the parameters {', '.join(PATHS)}",
        ),
    ],
)
def test_a_state_with_nothing_to_carry_over_is_an_error(old_state, message):
    with pytest.raises(ValueError, match="old_state") as error:
        carry_over_state(adadelta(), PARAMS, old_state)
    assert str(error.value) == message
