"""Groups, groups that are added later, and hooks give the parameters that torch gives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, carry_over_state, param_groups, with_step_hooks
from tests.grouped_parameters import LABELS, SETTINGS, random_tree

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def tensors_like(params):
    """Parameters of torch in the same tree."""
    return jax.tree.map(lambda param: torch.nn.Parameter(torch.tensor(np.array(param))), params)


def set_gradients(tensors, grads):
    for tensor, grad in zip(jax.tree.leaves(tensors), jax.tree.leaves(grads), strict=True):
        tensor.grad = torch.tensor(np.array(grad))


def assert_same_parameters(params, tensors):
    expected = jax.tree.map(lambda tensor: tensor.detach().numpy(), tensors)
    chex.assert_trees_all_close(params, expected, rtol=1e-13)


def test_groups_step_as_in_torch():
    slow = {"weight_decay": 0.1, "rho": 0.95}
    fast = {"maximize": True, "eps": 1e-3}
    with jax.enable_x64(True):
        params = random_tree(0, jnp.float64)
        optimizer = param_groups(
            {"slow": {"learning_rate": 0.1, **slow}, "fast": fast}, LABELS["prefix"]
        )
        state = optimizer.init(params)
        tensors = tensors_like(params)
        body, head = (jax.tree.leaves(tensors[name]) for name in ("body", "head"))
        theirs = torch.optim.Adadelta(
            [{"params": body, "lr": 0.1, **slow}, {"params": head, **fast}]
        )
        for seed in range(1, 5):
            grads = random_tree(seed, jnp.float64)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            set_gradients(tensors, grads)
            theirs.step()
        assert_same_parameters(params, tensors)


def test_a_head_that_is_added_steps_as_after_torch_add_param_group():
    with jax.enable_x64(True):
        params = {"body": jnp.array([1.0, -2.0])}
        optimizer = adadelta(0.5)
        state = optimizer.init(params)
        tensors = tensors_like(params)
        theirs = torch.optim.Adadelta(tensors.values(), lr=0.5)
        for count, gradient in enumerate(([0.3, -1.0], [-0.2, 0.1], [2.0, 0.5])):
            if count == 1:
                params["head"] = jnp.array([[3.0]])
                groups = {"old": {"learning_rate": 0.5}, "new": SETTINGS}
                optimizer = param_groups(groups, {"body": "old", "head": "new"})
                state = carry_over_state(optimizer, params, state)
                tensors |= tensors_like({"head": params["head"]})
                theirs.add_param_group({"params": [tensors["head"]], "lr": 1.0, **SETTINGS})
            grads = {"body": jnp.array(gradient), "head": jnp.array([[gradient[0]]])}
            grads = {name: grads[name] for name in params}
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            set_gradients(tensors, grads)
            theirs.step()
        assert_same_parameters(params, tensors)


def test_hooks_step_as_in_torch():
    with jax.enable_x64(True):
        params = jnp.array([1.0, -2.0, 3.0])
        optimizer = with_step_hooks(
            adadelta(), pre_step=lambda grads, *_: optax.tree.clip(grads, -1.0, 1.0)
        )
        state = optimizer.init(params)
        tensor = tensors_like(params)
        theirs = torch.optim.Adadelta([tensor])

        def clip_in_place(*_):
            tensor.grad.clamp_(-1.0, 1.0)

        theirs.register_step_pre_hook(clip_in_place)
        for factor in (1.0, 0.2, 3.0):
            grads = factor * jnp.array([5.0, -0.1, 0.7])
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            set_gradients(tensor, grads)
            theirs.step()
            assert_same_parameters(params, tensor)
