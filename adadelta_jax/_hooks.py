"""`with_step_hooks`: a look at every step, and a hand in it."""

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
    """Call a function before every step of an optimizer, and another after it.

    Hooks are traced with the step, once for each compilation. They are pure functions: what should
    reach Python at every step, such as a number to log, goes through `jax.debug.callback`. For
    several hooks, wrap again: the outermost ``pre_step`` comes first, its ``post_step`` last.

    Args:
        optimizer: The transformation to wrap.
        pre_step: ``pre_step(grads, state, params)`` with the gradients and the state before the
            step. What it returns takes the place of the gradients; None leaves them. It may give
            single gradients as None, where ``optimizer`` takes that, as [`adadelta`][] does.
        post_step: ``post_step(updates, state, params)`` with the updates, the state after the step
            and the parameters to which the updates have not been applied yet. What it returns
            takes the place of the updates; None leaves them.

    Returns:
        An `optax.GradientTransformationExtraArgs` with the state of ``optimizer``.

    Raises:
        TypeError: If a hook is not callable.
        ValueError: From `update`, if a hook returns another tree, or a leaf of another shape, than
            it was given.

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
    """What the hook gives in place of `updates`: these themselves, if it returns None."""
    returned = hook(updates, state, params)
    if returned is None:
        return updates
    check_hook_result(name, returned, updates)
    return returned
