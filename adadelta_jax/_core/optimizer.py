"""`adadelta`: the ready-made chain."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from adadelta_jax._checks.settings import (
    broadcast_weight_decay_mask,
    check_flag,
    check_scalar_or_schedule,
)
from adadelta_jax._checks.states import check_chain_state
from adadelta_jax._checks.step import check_step, check_weight_decay_has_params
from adadelta_jax._checks.trees import only_arrays, tree_or_result
from adadelta_jax._core.in_place import keep_decayed_gradients, order_writes
from adadelta_jax._core.transform import unchecked_scale_by_adadelta


def adadelta(
    learning_rate: optax.ScalarOrSchedule | None = 1.0,
    rho: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The Adadelta optimizer of torch, with the arguments of `optax.adadelta` in their order.

    $$
    \begin{aligned}
    g &\leftarrow -g && \text{if maximize} \\
    g &\leftarrow g + \lambda \theta && \text{if weight decay is coupled} \\
    v &\leftarrow \rho v + (1 - \rho) g^2 \\
    \Delta &= \sqrt{u + \varepsilon} / \sqrt{v + \varepsilon} \cdot g \\
    u &\leftarrow \rho u + (1 - \rho) \Delta^2 \\
    \theta &\leftarrow \theta - \gamma \Delta && \text{and } - \gamma \lambda \theta
        \text{ if weight decay is decoupled}
    \end{aligned}
    $$

    for every coordinate, with v and u starting at 0.

    Args:
        learning_rate: γ, a scalar of at least 0 (a number, a 0-d array or a traced value), a
            schedule (step count to scalar), or None, which means 1.0, as in the paper.
        rho: Decay rate of both averages, a scalar in [0, 1].
        eps: ε, added to both averages inside the roots, a scalar in [0, 1e30].
        weight_decay: λ, a scalar of at least 0, or a schedule.
        weight_decay_mask: A pytree of booleans like the parameters or a prefix of them, or a
            function that returns one for the parameters: True where weight decay applies. None:
            everywhere.
        maximize: Whether to ascend instead of descend.
        decoupled_weight_decay: Whether weight decay acts on the parameters, as in AdamW, instead of
            on the gradients, as in torch.
        accumulator_dtype: How the accumulators are stored; see [`scale_by_adadelta`][].

    Returns:
        An `optax.GradientTransformationExtraArgs`. Its updates have the shapes and dtypes of the
        gradients. A gradient of None gives a zero update and leaves the accumulators alone.

    Raises:
        ValueError: If a setting is out of range. From `update`, if the gradients do not match the
            state or the parameters, or if weight decay lacks ``params``.
        TypeError: If a setting has the wrong type. From `init`, if a parameter is an integer or
            boolean; from `update`, if a gradient is sparse or the state was made by an optimizer
            with other parts. The parameter or the part is named.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from adadelta_jax import adadelta
        >>> def loss(params):
        ...     return jnp.sum((params - 3.0) ** 2)
        >>> optimizer = adadelta()
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return optax.apply_updates(params, updates), state
        >>> for _ in range(1000):
        ...     params, state = step(params, state)
        >>> print(f"{loss(params):.3f}")
        0.000

    Source: Zeiler (2012), [arXiv:1212.5701](https://arxiv.org/abs/1212.5701), and
    [torch.optim.Adadelta](
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html>).
    """
    if learning_rate is None:
        learning_rate = 1.0
    learning_rate = check_scalar_or_schedule("learning_rate", learning_rate)
    weight_decay = check_scalar_or_schedule("weight_decay", weight_decay)
    check_flag("maximize", maximize)
    check_flag("decoupled_weight_decay", decoupled_weight_decay)

    decays = not (isinstance(weight_decay, (int, float)) and weight_decay == 0)
    decay = optax.identity()
    if decays:
        decay = _decay_weights(weight_decay, weight_decay_mask, coupled=not decoupled_weight_decay)
    parts = {
        "maximize": optax.scale(-1.0) if maximize else optax.identity(),
        "weight_decay": decay,
        "scale_by_adadelta": unchecked_scale_by_adadelta(
            rho, eps, accumulator_dtype=accumulator_dtype
        ),
        "learning_rate": optax.scale_by_learning_rate(learning_rate),
    }
    if decoupled_weight_decay:  # decays the parameters, so it skips the scaling
        order = ("maximize", "scale_by_adadelta", "weight_decay", "learning_rate")
    else:
        order = ("maximize", "weight_decay", "scale_by_adadelta", "learning_rate")
    chain = optax.chain(*(parts[name] for name in order))
    own_index = order.index("scale_by_adadelta")
    # Pairs, not a dict: Equinox's tools rebuild closures as pytrees, which sort the keys of dicts.
    state_types = [(name, type(jax.eval_shape(parts[name].init, ()))) for name in order]

    def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any):
        check_chain_state("adadelta", state, state_types)
        if decays:
            check_weight_decay_has_params(params)
        grads = updates
        check_step(grads, state[own_index], params)
        updates, new_state = chain.update(grads, state, params, **extra_args)
        updates = jax.tree.map(_cast_to_gradient_dtype, grads, updates, is_leaf=_is_none)
        states = list(cast(tuple[Any, ...], new_state))
        if params is not None:
            states[own_index] = order_writes(states[own_index], params, updates)
        return updates, tuple(states)

    return optax.GradientTransformationExtraArgs(chain.init, update_fn)


def _decay_weights(weight_decay: Any, mask: Any, *, coupled: bool) -> optax.GradientTransformation:
    """`optax.add_decayed_weights` on the parameters that a mask picks."""
    decay = optax.add_decayed_weights(weight_decay)

    def mask_for(tree, params):
        # A function gets the parameters: `optax.masked` would give it gradients, None among them.
        return broadcast_weight_decay_mask(tree_or_result(mask, only_arrays(params)), tree)

    def init_fn(params):
        # Optax's tools call `init` with a placeholder without leaves.
        if mask is not None and jax.tree.leaves(params):
            mask_for(params, params)
        return decay.init(params)

    def update_fn(updates, state, params=None):
        decayed, state = decay.update(updates, state, params)
        if coupled:
            decayed = keep_decayed_gradients(decayed)
        if mask is not None:
            decayed = jax.tree.map(
                lambda decays, plain, decayed: decayed if decays else plain,
                mask_for(updates, params),
                updates,
                decayed,
            )
        return decayed, state

    return optax.GradientTransformation(init_fn, update_fn)


def _cast_to_gradient_dtype(grad: Any, update: Any) -> Any:
    """The update in the dtype of its gradient; zero where there is no gradient."""
    if grad is None:
        return jax.tree.map(jnp.zeros_like, update)
    return update.astype(jnp.result_type(grad))


def _is_none(node: Any) -> bool:
    return node is None
