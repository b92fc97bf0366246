"""A torch optimizer and its state as one of this package, and back."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._groups import adadelta_states, carry_over_state
from adadelta_jax._groups import param_groups as partition_into_groups
from adadelta_jax.torch_interop.tensors import read_average, read_step
from adadelta_jax.torch_interop.checks import check_chosen_names
from adadelta_jax.torch_interop.layouts import LeafLayout, layouts_by_name, leaves_by_path
from adadelta_jax.torch_interop.state import (
    AVERAGES,
    TORCH_DEFAULTS,
    check_coverage,
    entries_by_name,
    entries_for_torch,
    groups_and_state,
    groups_to_return_to,
    injected_settings,
    names_in_groups,
    settings_of,
)
from adadelta_jax.torch_interop.weights import tree_of, warn_of_nan
from adadelta_jax._core.transform import ScaleByAdadeltaState
from adadelta_jax._checks.trees import path_name

def optimizer_from_torch(
    optim_state_dict: Mapping[str, Any],
    params: Any,
    mapping: Mapping[str, LeafLayout | str | None],
    *,
    frozen: Collection[str] = (),
) -> tuple[optax.GradientTransformationExtraArgs, optax.OptState]:
    """The optimizer that goes on where a `torch.optim.Adadelta` stopped, and its state.

    | torch | here |
    | --- | --- |
    | one parameter group | [`adadelta`][] with its settings |
    | several | [`param_groups`][], labelled "0", "1", ... |
    | lr (a number or a tensor) | learning_rate, a constant: a scheduler stays behind |
    | rho, eps, weight_decay, maximize | the same |
    | foreach, capturable, differentiable | nothing: `jax.jit` does all three |
    | state: square_avg, acc_delta | the same, laid out like the parameters, float32 at least |
    | state: step, one for each parameter | count: the largest of them |
    | a parameter without state | starts from zero |

    torch numbers the parameters in the order in which the optimizer got them. Their names are the
    groups' ``param_names``, which a ``torch.optim.Adadelta(model.named_parameters())`` saves.
    Without them, the names of ``mapping`` are taken in their order, which is right for a
    ``torch.optim.Adadelta(model.parameters())``; after groups in another order, reorder it:
    ``{name: mapping[name] for name in names_as_the_optimizer_got_them}``.

    Args:
        optim_state_dict: ``optimizer.state_dict()``, of tensors or NumPy arrays.
        params: The parameters, from [`params_from_torch`][].
        mapping: As for [`params_from_torch`][].
        frozen: The torch names of parameters that are not trained, whether the torch optimizer
            has them or not: their updates are zero, and their state is left behind. torch passes
            over a parameter with ``requires_grad=False``; `jax.grad` does not.

    Returns:
        The pair ``(optimizer, opt_state)``; ``opt_state`` is like ``optimizer.init(params)``. An
        `nnx.Optimizer` made with the former takes the latter by ``optimizer.opt_state =
        nnx.data(jax.tree.structure(optimizer.opt_state).unflatten(jax.tree.leaves(opt_state)))``.

    Raises:
        ValueError: If ``optim_state_dict`` is not that of a `torch.optim.Adadelta`, if its groups
            do not cover the parameters, if a tensor is missing, superfluous, or of a wrong shape or
            dtype, or if a mean square is negative.
        TypeError: If an argument or a tensor has the wrong type.

    Warns:
        UserWarning: If a tensor holds NaN; it is named.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from adadelta_jax.torch_interop import optimizer_from_torch
        >>> entry = {"step": 7.0, "square_avg": np.ones(2, "f"), "acc_delta": np.zeros(2, "f")}
        >>> group = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "params": [0]}
        >>> optim_state_dict = {"state": {0: entry}, "param_groups": [group]}
        >>> params, mapping = {"scale": jnp.ones(2)}, {"norm.weight": "scale"}
        >>> optimizer, opt_state = optimizer_from_torch(optim_state_dict, params, mapping)
        >>> optax.tree_utils.tree_get(opt_state, "count").item()
        7

    Source: [torch.optim.Adadelta](
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html>).
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    check_chosen_names("frozen", frozen)
    groups, state = groups_and_state(optim_state_dict)
    settings = {str(index): settings_of(index, group) for index, group in enumerate(groups)}
    names = names_in_groups(groups, layouts, frozen)
    check_coverage(names, mapping, layouts, frozen)
    entries = {
        name: entry
        for name, entry in entries_by_name(groups, state, names).items()
        if name in layouts and name not in frozen
    }
    averages = {
        key: {
            name: read_average(
                f"{key} of {name}", entry[key], layouts[name], leaves[layouts[name].path]
            )
            for name, entry in entries.items()
        }
        for key in AVERAGES
    }
    steps = [read_step(f"step of {name}", entry.get("step", 0)) for name, entry in entries.items()]

    group_of = {name: str(index) for index, in_group in enumerate(names) for name in in_group}
    labels = {
        layout.path: "frozen" if name in frozen else group_of[name]
        for name, layout in layouts.items()
    }
    settings = {label: settings.get(label) for label in sorted(set(labels.values()))}
    first, *others = settings.values()
    if others or first is None:
        optimizer = partition_into_groups(settings, _labelling(labels))
    else:
        optimizer = adadelta(**first)
    warn_of_nan({f"{key} of {name}": averages[key][name] for key in averages for name in entries})
    if not entries:
        return optimizer, optimizer.init(params)
    state = ScaleByAdadeltaState(
        jnp.asarray(max(steps), jnp.int32),
        *(tree_of(averages[key], layouts, params) for key in AVERAGES),
    )
    return optimizer, carry_over_state(optimizer, params, state)


def optimizer_to_torch(
    opt_state: optax.OptState,
    params: Any,
    mapping: Mapping[str, LeafLayout | str | None],
    param_groups: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The state of an optimizer as a dict for ``torch.optim.Adadelta.load_state_dict``.

    The arrays are tensors where torch has been imported, as ``load_state_dict`` takes no other; in
    a process without torch they are NumPy arrays.

    They have the dtype of their parameter, in which torch keeps them: the float32 state of a
    bfloat16 or float16 parameter is rounded to nearest, and never to infinity. As in torch, a
    parameter whose averages are all zero, for want of a gradient so far, has no entry, nor has a
    frozen one.

    Args:
        opt_state: The state of any optimizer that holds one [`ScaleByAdadeltaState`][] for a
            parameter: of [`adadelta`][], [`param_groups`][], a chain, or an `nnx.Optimizer`.
        params: The parameters.
        mapping: As for [`params_from_torch`][].
        param_groups: The ``param_groups`` of the state_dict of the torch optimizer to return to,
            with their settings; what is missing in them is as in the default. None: one group of
            all names of ``mapping``, with the settings of `optax.inject_hyperparams` if
            ``opt_state`` holds them, and torch's defaults otherwise, because no other state knows
            its settings: ``load_state_dict`` sets the torch optimizer to them, so pass
            ``param_groups`` if yours are not the defaults.

    Returns:
        A dict of ``state``, which has ``step``, ``square_avg`` and ``acc_delta`` for each index,
        and of ``param_groups``.

    Raises:
        ValueError: If ``opt_state`` does not hold the accumulators of the parameters, if
            ``param_groups`` do not cover them, or are not given though ``opt_state`` has several,
            or if a setting of theirs is out of range.
        TypeError: If an argument has the wrong type.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax import adadelta
        >>> from adadelta_jax.torch_interop import optimizer_to_torch
        >>> params = {"scale": jnp.ones(2)}
        >>> optimizer = adadelta(0.5)
        >>> _, opt_state = optimizer.update(params, optimizer.init(params), params)
        >>> optim_state_dict = optimizer_to_torch(
        ...     opt_state, params, {"norm.weight": "scale"}, [{"lr": 0.5}]
        ... )
        >>> optim_state_dict["param_groups"][0]["lr"], float(optim_state_dict["state"][0]["step"])
        (0.5, 1.0)

    Source: [torch.optim.Optimizer.load_state_dict](
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html>).
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    states = adadelta_states(opt_state)
    entries = entries_for_torch(states, layouts, leaves)
    if param_groups is None and len(states) > 1:
        raise ValueError(
            f"opt_state has {len(states)} groups of parameters: param_groups must be given"
        )
    groups = groups_to_return_to(param_groups, layouts)
    frozen = [name for name in layouts if name not in entries]
    names = names_in_groups(groups, layouts, frozen)
    check_coverage(names, mapping, layouts, frozen)

    known = TORCH_DEFAULTS | injected_settings(opt_state)
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    first = 0
    for number, (group, in_group) in enumerate(zip(groups, names, strict=True)):
        indices = range(first, first := first + len(in_group))
        result["param_groups"].append({**known, **group, "params": list(indices)})
        settings_of(number, result["param_groups"][-1])  # raises if one is not as it must be
        for index, name in zip(indices, in_group, strict=True):
            if entries.get(name):
                result["state"][index] = entries[name]
    return result


def _labelling(labels: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function that labels parameters or gradients by path.

    A tree of labels would not do: `nnx.Optimizer` has its state made for a tree of variables, and
    then updates one of their values.
    """

    def label(path, _):
        return labels.get(path_name(path), "unknown to the torch optimizer")

    return lambda tree: jax.tree.map_with_path(label, tree, is_leaf=lambda node: node is None)
