"""`with_step_hooks`: run user functions before and after each step."""

from collections.abc import Callable
from typing import Any

import optax

from adadelta_jax._checks.settings import check_hook, check_optimizer
from adadelta_jax._checks.step import check_hook_result

Hook = Callable[[optax.Updates, optax.OptState, optax.Params | None], optax.Updates | None]


def with_step_hooks(
    optimizer: optax.GradientTransformation,
    *,
    pre_step: Hook | None = None,
    post_step: Hook | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Call one function before every step of an optimizer, and another after it.

    Hooks are pure functions. A jitted step traces them once per compilation, so log through
    `jax.debug.callback`. For several hooks, wrap again: the outermost ``pre_step`` runs first, and
    its ``post_step`` last.

    Args:
        optimizer: The transformation to wrap.
        pre_step: ``pre_step(grads, state, params)`` gets the gradients and the state before the
            step. Its result replaces the gradients; None keeps them. Single gradients may be None
            if ``optimizer`` accepts that, as [`adadelta`][] does.
        post_step: ``post_step(updates, state, params)`` gets the updates, the state after the step
            and the parameters before the updates are applied. Its result replaces the updates; None
            keeps them.

    Returns:
        An `optax.GradientTransformationExtraArgs` with the state of ``optimizer``.

    Raises:
        TypeError: If a hook is not callable.
        ValueError: From `update`, if a hook returns a tree of another structure, or an array of
            another shape, than it got.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from adadelta_jax import adadelta, with_step_hooks
        >>> def clip(grads, state, params):
        ...     return optax.tree.clip(grads, -1.0, 1.0)
        >>> norms = []
        >>> def log_norm(updates, state, params):
        ...     jax.debug.callback(lambda norm: norms.append(norm.item()), optax.tree.norm(updates))
        >>> optimizer = with_step_hooks(adadelta(), pre_step=clip, post_step=log_norm)
        >>> params = {"w": jnp.array([1.0, -2.0])}
        >>> state = optimizer.init(params)
        >>> step = jax.jit(optimizer.update)
        >>> for scale in (1.0, 100.0):
        ...     updates, state = step({"w": jnp.array([0.3, -0.4]) * scale}, state, params)
        >>> jax.effects_barrier()
        >>> print([round(norm, 4) for norm in norms])
        [0.0045, 0.006]

    Source: ``register_step_pre_hook`` and ``register_step_post_hook`` of [torch.optim.Optimizer](
    <https://docs.pytorch.org/docs/stable/optim.html>).
    """
    check_optimizer(optimizer)
    check_hook("pre_step", pre_step)
    check_hook("post_step", post_step)
    inner = optax.with_extra_args_support(optimizer)

    def update_fn(updates, state, params=None, **extra_args):
        if pre_step is not None:
            updates = _call("pre_step", pre_step, updates, state, params)
        updates, state = inner.update(updates, state, params, **extra_args)
        if post_step is not None:
            updates = _call("post_step", post_step, updates, state, params)
        return updates, state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _call(name: str, hook: Hook, updates: Any, state: Any, params: Any) -> Any:
    """The result of a hook, or `updates` if that is None."""
    returned = hook(updates, state, params)
    if returned is None:
        return updates
    check_hook_result(name, returned, updates)
    return returned
