"""A hook that returns a tree unlike the gradients or updates is refused."""

import jax.numpy as jnp

from adadelta_jax import with_step_hooks
from tests.refusals import OPTIMIZER, PARAMS, STATE, assert_refused, each_refusal, with_kernel


def step_with_hook(name, returned):
    optimizer = with_step_hooks(OPTIMIZER, **{name: lambda *_: returned})
    return lambda: optimizer.update(PARAMS, STATE, PARAMS)


TREE = "PyTreeDef({'dense': {'bias': *, 'kernel': *}})"
HOOKS = {
    "a pre_step that returns a number": (
        step_with_hook("pre_step", 3),
        ValueError,
        f"pre_step must return a tree like the gradients, {TREE}, or None, got PyTreeDef(*)",
    ),
    "a pre_step that returns two trees": (
        step_with_hook("pre_step", (PARAMS, ())),
        ValueError,
        f"pre_step must return a tree like the gradients, {TREE}, or None, "
        "got PyTreeDef(({'dense': {'bias': *, 'kernel': *}}, ()))",
    ),
    "a post_step that drops an update": (
        step_with_hook("post_step", {"dense": {"bias": jnp.ones(2)}}),
        ValueError,
        f"post_step must return a tree like the updates, {TREE}, or None, "
        "got PyTreeDef({'dense': {'bias': *}})",
    ),
    "a post_step that returns None for an update": (
        step_with_hook("post_step", with_kernel(None)),
        ValueError,
        "post_step must keep the shapes of the updates: that of dense/kernel is (3, 2), got None",
    ),
    "a pre_step that returns objects": (
        step_with_hook("pre_step", with_kernel(object)),
        TypeError,
        "pre_step must return arrays, but that of dense/kernel is a type",
    ),
    **{
        f"a pre_step that changes a shape beside {beside}": (
            step_with_hook("pre_step", {"dense": {"bias": bias, "kernel": jnp.ones(4)}}),
            ValueError,
            "pre_step must keep the shapes of the gradients: that of dense/kernel is (3, 2), "
            "got (4,)",
        )
        for beside, bias in (("a gradient", jnp.ones(2)), ("None", None))
    },
}


@each_refusal(HOOKS)
def test_a_wrong_result_of_a_hook_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
