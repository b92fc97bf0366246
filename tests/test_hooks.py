"""`with_step_hooks` passes hooks the step's trees, and uses the trees that they return."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta, scale_by_adadelta, with_step_hooks

PARAMS = {"bias": jnp.array([0.5]), "kernel": jnp.array([[1.0, -2.0], [3.0, 0.25]])}
GRADS = {"bias": jnp.array([-3.0]), "kernel": jnp.array([[0.5, 4.0], [-0.1, 0.0]])}


def halve(tree, state, params):
    return jax.tree.map(lambda x: x / 2, tree)


def test_a_pre_step_hook_sees_the_state_before_the_step_and_a_post_step_hook_the_one_after():
    calls = []
    optimizer = with_step_hooks(
        adadelta(),
        pre_step=lambda *arguments: calls.append(arguments),
        post_step=lambda *arguments: calls.append(arguments),
    )
    before = optimizer.init(PARAMS)
    updates, after = optimizer.update(GRADS, before, PARAMS)
    chex.assert_trees_all_equal(calls, [(GRADS, before, PARAMS), (updates, after, PARAMS)])
    assert optax.tree.get(after, "count") == 1


@pytest.mark.parametrize("hook", [None, lambda tree, state, params: None])
def test_hooks_that_return_nothing_change_nothing(hook):
    hooked = with_step_hooks(adadelta(), pre_step=hook, post_step=hook)
    state = adadelta().init(PARAMS)
    chex.assert_trees_all_equal(hooked.init(PARAMS), state)
    chex.assert_trees_all_equal(
        hooked.update(GRADS, state, PARAMS), adadelta().update(GRADS, state, PARAMS)
    )


def test_the_result_of_a_pre_step_hook_replaces_the_gradients():
    state = adadelta().init(PARAMS)
    result = with_step_hooks(adadelta(), pre_step=halve).update(GRADS, state, PARAMS)
    halved = halve(GRADS, state, PARAMS)
    chex.assert_trees_all_equal(result, adadelta().update(halved, state, PARAMS))


def test_the_result_of_a_post_step_hook_replaces_the_updates_and_not_the_state():
    state = adadelta().init(PARAMS)
    result = with_step_hooks(adadelta(), post_step=halve).update(GRADS, state, PARAMS)
    updates, new_state = adadelta().update(GRADS, state, PARAMS)
    chex.assert_trees_all_equal(result, (halve(updates, state, PARAMS), new_state))


def test_a_pre_step_hook_may_drop_a_gradient():
    optimizer = with_step_hooks(adadelta(), pre_step=lambda grads, *_: {**grads, "bias": None})
    state = adadelta().init(PARAMS)
    expected = adadelta().update({**GRADS, "bias": None}, state, PARAMS)
    chex.assert_trees_all_equal(optimizer.update(GRADS, state, PARAMS), expected)


def test_a_pre_step_hook_may_supply_a_missing_gradient():
    optimizer = with_step_hooks(adadelta(), pre_step=lambda *_: GRADS)
    state = adadelta().init(PARAMS)
    expected = adadelta().update(GRADS, state, PARAMS)
    result = optimizer.update({**GRADS, "bias": None}, state, PARAMS)
    chex.assert_trees_all_equal(result, expected)


def test_the_outermost_hooks_are_the_first_before_the_step_and_the_last_after_it():
    order = []

    def note(name):
        return lambda *_: order.append(name)

    optimizer = with_step_hooks(
        adadelta(), pre_step=note("inner pre"), post_step=note("inner post")
    )
    optimizer = with_step_hooks(optimizer, pre_step=note("outer pre"), post_step=note("outer post"))
    optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    assert order == ["outer pre", "inner pre", "inner post", "outer post"]


def test_extra_arguments_reach_the_wrapped_optimizer():
    inner = optax.GradientTransformationExtraArgs(
        lambda params: (),
        lambda updates, state, params, *, scale: (jax.tree.map(lambda u: scale * u, updates), ()),
    )
    updates, _ = with_step_hooks(inner, pre_step=halve).update(GRADS, (), PARAMS, scale=2.0)
    chex.assert_trees_all_equal(updates, GRADS)


def test_extra_arguments_are_kept_from_an_optimizer_that_takes_none():
    state = scale_by_adadelta().init(PARAMS)
    result = with_step_hooks(scale_by_adadelta()).update(GRADS, state, PARAMS, value=1.0)
    chex.assert_trees_all_equal(result, scale_by_adadelta().update(GRADS, state, PARAMS))


def test_a_hook_reports_from_every_step_of_a_compiled_optimizer():
    reports = []

    def report(updates, state, params):
        jax.debug.callback(lambda count: reports.append(int(count)), optax.tree.get(state, "count"))

    optimizer = with_step_hooks(adadelta(), pre_step=halve, post_step=report)
    step, state = jax.jit(optimizer.update), optimizer.init(PARAMS)
    for _ in range(3):
        _, state = step(GRADS, state, PARAMS)
    jax.effects_barrier()
    assert sorted(reports) == [1, 2, 3]  # the order of unordered callbacks is not promised


def test_tree_map_params_reaches_through_hooks():
    optimizer = with_step_hooks(adadelta(), pre_step=halve)
    ones = optax.tree.map_params(optimizer, jnp.ones_like, optimizer.init(PARAMS))
    chex.assert_trees_all_equal(
        optax.tree.get(ones, "square_avg"), jax.tree.map(jnp.ones_like, PARAMS)
    )
