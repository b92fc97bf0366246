"""Coming from PyTorch: weights, optimizer state and settings, in mid-training, there and back.

::

    model_state = torch.load("model.pt", weights_only=True)
    optim_state = torch.load("optimizer.pt", weights_only=True)

    mapping = match_flax_params(torch_model.named_parameters(), params)
    params = params_from_torch(model_state, params, mapping)
    optimizer, opt_state = optimizer_from_torch(optim_state, params, mapping)
    ...  # go on from the same step
    weights = params_to_torch(params, mapping)
    torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    torch_optimizer.load_state_dict(
        optimizer_to_torch(opt_state, params, mapping, optim_state["param_groups"])
    )

This module does not import torch: it reads tensors by their own methods, and takes NumPy arrays
(such as `safetensors.numpy.load_file` gives) wherever it takes tensors. A function that raises has
changed nothing.

The running statistics of a batch norm are no parameters. A mapping of their own carries them:
``{"bn.running_mean": "bn/mean", "bn.running_var": "bn/var"}``. Flax's ``momentum`` is one minus
torch's, and its running variance is that of the batch, torch's n / (n - 1) times that.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adadelta_jax import _accumulators
from adadelta_jax._optimizer import adadelta
from adadelta_jax._param_groups import adadelta_states, carry_over_state
from adadelta_jax._param_groups import param_groups as partition_into_groups
from adadelta_jax._torch_arrays import (
    LeafLayout,
    from_leaf,
    read,
    read_average,
    read_leaf,
    read_step,
    write,
    write_average,
)
from adadelta_jax._torch_names import (
    check_coverage,
    check_groups,
    is_running_statistic,
    layouts_by_name,
    leaves_by_path,
    match_flax_params,
    names_in_groups,
    raise_if_any,
)
from adadelta_jax._transform import ScaleByAdadeltaState
from adadelta_jax._validation import path_name

__all__ = [
    "LeafLayout",
    "match_flax_params",
    "optimizer_from_torch",
    "optimizer_to_torch",
    "params_from_torch",
    "params_to_torch",
]

_AVERAGES = ("square_avg", "acc_delta")
# The settings of a torch parameter group, and what `adadelta` calls them.
_SETTINGS = {
    "lr": "learning_rate",
    "rho": "rho",
    "eps": "eps",
    "weight_decay": "weight_decay",
    "maximize": "maximize",
}
# What else a group may hold: how torch runs the step, and what its schedulers note down.
_NO_SETTINGS = (
    *("params", "param_names", "foreach", "capturable", "differentiable"),
    *("initial_lr", "max_lr", "min_lr", "swa_lr"),
)
_TORCH_DEFAULTS = {
    "lr": 1.0,
    "rho": 0.9,
    "eps": 1e-6,
    "weight_decay": 0,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
}


def params_from_torch(
    model_state_dict: Mapping[str, Any],
    params: Any,
    mapping: Mapping[str, LeafLayout | str | None],
) -> Any:
    """The weights of a torch module as a pytree of parameters, bit for bit.

    Args:
        model_state_dict: ``model.state_dict()``, or the same names with NumPy arrays. Running
            statistics that ``mapping`` does not name are passed over; no other tensor is.
        params: The pytree to fill: what it holds is only looked at for shape and sharding, so that
            `jax.ShapeDtypeStruct` will do.
        mapping: Where each tensor goes: from `match_flax_params`, or a dict written by hand from
            torch names to `LeafLayout`, to a path ("encoder/kernel") or to None (left out). A path
            alone stands for the same layout; that a square weight should have been transposed,
            nothing can notice.

    Returns:
        A pytree like ``params`` with the tensors as JAX arrays, in memory of their own, each of the
        shape of its leaf and the dtype of its tensor: a bfloat16 checkpoint gives bfloat16
        parameters.

    Raises:
        ValueError: If a tensor is missing, superfluous or of the wrong shape, if ``mapping`` does
            not give every leaf a tensor, or if JAX cannot hold a dtype (float64 without
            ``jax_enable_x64``).
        TypeError: If a tensor is not one, or is of another kind than its leaf (an integer, say).

    Warns:
        UserWarning: If a tensor holds NaN; it is named.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from adadelta_jax.torch_interop import match_flax_params, params_from_torch
        >>> state_dict = {"fc.weight": np.array([[1.0, 2.0]], np.float32)}
        >>> params = {"fc": {"kernel": jnp.zeros((2, 1))}}
        >>> params_from_torch(state_dict, params, match_flax_params(state_dict, params))
        {'fc': {'kernel': Array([[1.], [2.]], dtype=float32)}}

    Source: `torch.nn.Module.load_state_dict
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html>`_.
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    if not isinstance(model_state_dict, Mapping):
        raise TypeError(
            "model_state_dict must be a dict, as model.state_dict() gives, "
            f"got {type(model_state_dict).__name__}"
        )
    extra = [n for n in model_state_dict if n not in mapping and not is_running_statistic(n)]
    raise_if_any(
        "the model's state_dict and mapping do not match",
        {
            "the state_dict lacks": [name for name in layouts if name not in model_state_dict],
            "mapping lacks": extra,
        },
    )
    arrays = {
        name: read_leaf(name, model_state_dict[name], layout, leaves[layout.path])
        for name, layout in layouts.items()
    }
    _warn_of_nan(arrays)
    return _tree_of(arrays, layouts, params)


def params_to_torch(
    params: Any, mapping: Mapping[str, LeafLayout | str | None]
) -> dict[str, np.ndarray]:
    """A pytree of parameters as the weights of a torch module, bit for bit.

    ``torch.from_numpy`` makes a tensor of an array, save of a bfloat16 one, which NumPy holds as
    `ml_dtypes.bfloat16`: ``torch.from_numpy(array.view("int16")).view(torch.bfloat16)``.
    `safetensors.numpy.save_file` takes all of them.

    Args:
        params: The pytree of parameters.
        mapping: As for `params_from_torch`.

    Returns:
        A dict from torch names to arrays, in torch's layouts and the dtypes of the parameters, each
        writable, in C order and in memory of its own. Without the running statistics,
        ``load_state_dict`` needs ``strict=False``.

    Raises:
        ValueError: If ``mapping`` does not give every leaf a name.
        TypeError: If an entry of ``mapping`` is not of its types.

    Example:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax.torch_interop import match_flax_params, params_to_torch
        >>> params = {"fc": {"kernel": jnp.array([[1.0], [2.0]])}}
        >>> mapping = match_flax_params({"fc.weight": (1, 2)}, params)
        >>> params_to_torch(params, mapping)
        {'fc.weight': array([[1., 2.]], dtype=float32)}

    Source: `torch.nn.Module.load_state_dict
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html>`_.
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    return {
        name: from_leaf(np.asarray(leaves[layout.path]), layout) for name, layout in layouts.items()
    }


def optimizer_from_torch(
    optim_state_dict: Mapping[str, Any],
    params: Any,
    mapping: Mapping[str, LeafLayout | str | None],
    *,
    frozen: Collection[str] = (),
) -> tuple[optax.GradientTransformationExtraArgs, optax.OptState]:
    """The optimizer that goes on where a `torch.optim.Adadelta` stopped, and its state.

    ==========================================  ==================================================
    torch                                       here
    ==========================================  ==================================================
    one parameter group                         `adadelta` with its settings
    several                                     `param_groups`, labelled "0", "1", ...
    lr (a number or a tensor)                   learning_rate, a constant: a scheduler stays behind
    rho, eps, weight_decay, maximize            the same
    foreach, capturable, differentiable         nothing: `jax.jit` does all three
    state: square_avg, acc_delta                the same, in the layout of the parameters, in
                                                float32 if they are shorter
    state: step, one for each parameter         count: the largest of them
    a parameter without state                   starts from zero
    ==========================================  ==================================================

    torch numbers the parameters in the order in which the optimizer got them. Their names are the
    groups' ``param_names``, which a ``torch.optim.Adadelta(model.named_parameters())`` saves.
    Without them, the names of ``mapping`` are taken in their order, which is right for a
    ``torch.optim.Adadelta(model.parameters())``; after groups in another order, reorder it:
    ``{name: mapping[name] for name in names_as_the_optimizer_got_them}``.

    Args:
        optim_state_dict: ``optimizer.state_dict()``, of tensors or NumPy arrays.
        params: The parameters, from `params_from_torch`.
        mapping: As for `params_from_torch`.
        frozen: The torch names of parameters that are not trained, whether the torch optimizer
            has them or not: their updates are zero, and their state is left behind. torch passes
            over a parameter with ``requires_grad=False``; `jax.grad` does not.

    Returns:
        The pair ``(optimizer, opt_state)``; ``opt_state`` is like ``optimizer.init(params)``. An
        `nnx.Optimizer` made with the former takes the latter by ``optimizer.opt_state =
        nnx.data(jax.tree.structure(optimizer.opt_state).unflatten(jax.tree.leaves(opt_state)))``.

    Raises:
        ValueError: If ``optim_state_dict`` is not that of a `torch.optim.Adadelta`, if its groups
            do not cover the parameters, or if a tensor is missing, superfluous, or of a wrong shape
            or dtype.
        TypeError: If an argument or a tensor has the wrong type.

    Warns:
        UserWarning: If a tensor holds NaN; it is named.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from adadelta_jax.torch_interop import optimizer_from_torch
        >>> entry = {"step": 7.0, "square_avg": np.ones(2, "f"), "acc_delta": np.zeros(2, "f")}
        >>> group = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "params": [0]}
        >>> optim_state_dict = {"state": {0: entry}, "param_groups": [group]}
        >>> params, mapping = {"scale": jnp.ones(2)}, {"norm.weight": "scale"}
        >>> optimizer, opt_state = optimizer_from_torch(optim_state_dict, params, mapping)
        >>> optax.tree_utils.tree_get(opt_state, "count").item()
        7

    Source: `torch.optim.Adadelta
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html>`_.
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    groups, state = _groups_and_state(optim_state_dict)
    settings = {str(index): _settings(index, group) for index, group in enumerate(groups)}
    names = names_in_groups(groups, layouts, frozen)
    check_coverage(names, mapping, layouts, frozen)
    entries = {
        name: entry
        for name, entry in _entries_by_name(groups, state, names).items()
        if name in layouts and name not in frozen
    }
    averages = {
        key: {
            name: read_average(
                f"{key} of {name}", entry[key], layouts[name], leaves[layouts[name].path]
            )
            for name, entry in entries.items()
        }
        for key in _AVERAGES
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
    _warn_of_nan({f"{key} of {name}": averages[key][name] for key in averages for name in entries})
    if not entries:
        return optimizer, optimizer.init(params)
    state = ScaleByAdadeltaState(
        jnp.asarray(max(steps), jnp.int32),
        *(_tree_of(averages[key], layouts, params) for key in _AVERAGES),
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
        opt_state: The state of any optimizer that holds one `ScaleByAdadeltaState` for a parameter:
            of `adadelta`, `param_groups`, a chain, or an `nnx.Optimizer`.
        params: The parameters.
        mapping: As for `params_from_torch`.
        param_groups: The ``param_groups`` of the state_dict of the torch optimizer to return to,
            with their settings; what is missing in them is as in the default. None: one group of
            all names of ``mapping``, with the settings of `optax.inject_hyperparams` if
            ``opt_state`` holds them, and torch's defaults otherwise, because no other state knows
            its settings: ``load_state_dict`` sets the torch optimizer to them, so pass
            ``param_groups`` if yours are not the defaults.

    Returns:
        The dict ``{"state": {index: {"step", "square_avg", "acc_delta"}}, "param_groups": [...]}``.

    Raises:
        ValueError: If ``opt_state`` does not hold the accumulators of the parameters, if
            ``param_groups`` do not cover them, or are not given though ``opt_state`` has several.
        TypeError: If an argument has the wrong type.

    Example:
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

    Source: `torch.optim.Optimizer.load_state_dict
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html>`_.
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    states = adadelta_states(opt_state)
    entries = _entries_for_torch(states, layouts, leaves)
    if param_groups is None and len(states) > 1:
        raise ValueError(
            f"opt_state has {len(states)} groups of parameters: param_groups must be given"
        )
    groups = _groups_to_return_to(param_groups, layouts)
    frozen = [name for name in layouts if name not in entries]
    names = names_in_groups(groups, layouts, frozen)
    check_coverage(names, mapping, layouts, frozen)

    known = _TORCH_DEFAULTS | _injected_settings(opt_state)
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    first = 0
    for group, in_group in zip(groups, names, strict=True):
        indices = range(first, first := first + len(in_group))
        result["param_groups"].append({**known, **group, "params": list(indices)})
        for index, name in zip(indices, in_group, strict=True):
            if entries.get(name):
                result["state"][index] = entries[name]
    return result


def _warn_of_nan(arrays: Mapping[str, jax.Array]) -> None:
    """Warn of the arrays with NaN inside."""
    names = [name for name, array in arrays.items() if jnp.isnan(array).any()]
    if names:
        warnings.warn(f"loaded with NaN inside: {', '.join(names)}", UserWarning, stacklevel=3)


def _tree_of(values: Mapping[str, Any], layouts: Mapping[str, LeafLayout], params: Any) -> Any:
    """The values of torch names as a tree like `params`, None where there is no value."""
    by_path = {layouts[name].path: value for name, value in values.items()}
    return jax.tree.map_with_path(lambda path, _: by_path.get(path_name(path)), params)


def _labelling(labels: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function that labels parameters or gradients by path.

    A tree of labels would not do: `nnx.Optimizer` has its state made for a tree of variables, and
    then updates one of their values.
    """

    def label(path, _):
        return labels.get(path_name(path), "unknown to the torch optimizer")

    return lambda tree: jax.tree.map_with_path(label, tree, is_leaf=lambda node: node is None)


def _groups_and_state(optim_state_dict: Any) -> tuple[Sequence[Any], Mapping[Any, Any]]:
    """The two parts of a torch optimizer's state_dict, checked for what identifies Adadelta."""
    if not isinstance(optim_state_dict, Mapping):
        raise TypeError(
            "optim_state_dict must be a dict, as optimizer.state_dict() gives, "
            f"got {type(optim_state_dict).__name__}"
        )
    lacking = [key for key in ("state", "param_groups") if key not in optim_state_dict]
    if lacking:
        raise ValueError(
            f"optim_state_dict lacks {', '.join(lacking)}: it is not that of a torch optimizer"
        )
    check_groups(optim_state_dict["param_groups"])
    return optim_state_dict["param_groups"], optim_state_dict["state"]


def _settings(index: int, group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `adadelta` for a torch parameter group."""
    raise_if_any(
        f"param_groups[{index}] is not of torch.optim.Adadelta",
        {
            "it lacks": [key for key in _SETTINGS if key not in (*group, "maximize")],
            "it has": [key for key in group if key not in (*_SETTINGS, *_NO_SETTINGS)],
        },
    )
    settings = {}
    for key, argument in _SETTINGS.items():
        value = group.get(key, False)
        if hasattr(value, "dtype"):
            value = read(f"{key} of param_groups[{index}]", value)
            value = value.item() if value.size == 1 else value
        settings[argument] = bool(value) if key == "maximize" else value
    try:
        adadelta(**settings)
    except (TypeError, ValueError) as error:
        raise type(error)(f"param_groups[{index}]: {error}") from None
    return settings


def _entries_by_name(
    groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any], names: Sequence[Sequence[str]]
) -> dict[str, Mapping[str, Any]]:
    """Torch's state of each parameter that has any."""
    ids = [id_ for group in groups for id_ in group["params"]]
    unknown = [str(id_) for id_ in state if id_ not in ids]
    raise_if_any("the torch optimizer's state does not match its groups", {"no group has": unknown})
    name_of = dict(zip(ids, (name for in_group in names for name in in_group), strict=True))
    entries = {name_of[id_]: entry for id_, entry in state.items() if entry}
    for name, entry in entries.items():
        raise_if_any(
            f"the state of {name} is not of torch.optim.Adadelta",
            {
                "it lacks": [key for key in _AVERAGES if key not in entry],
                "it has": [key for key in entry if key not in ("step", *_AVERAGES)],
            },
        )
    return entries


def _entries_for_torch(
    states: Sequence[ScaleByAdadeltaState],
    layouts: Mapping[str, LeafLayout],
    leaves: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Torch's state of each parameter that has accumulators; an empty one if they are all zero."""
    found: dict[str, dict[str, Any]] = {}
    for state in states:
        (count,) = jax.tree.leaves(state.count)
        held = {key: leaves_by_path(_accumulators.values(getattr(state, key))) for key in _AVERAGES}
        for name, layout in layouts.items():
            if layout.path not in held["square_avg"]:
                continue
            if name in found:
                raise ValueError(f"opt_state holds more than one square_avg of {name}")
            leaf = leaves[layout.path]
            entry = {
                key: write_average(f"{key} of {name}", held[key][layout.path], layout, leaf)
                for key in _AVERAGES
            }
            has_had_gradient = any(array.any() for array in entry.values())
            entry["step"] = np.array(count, np.float32)
            found[name] = {key: write(entry[key]) for key in entry if has_had_gradient}
    if not found:
        raise ValueError("opt_state holds no square_avg and acc_delta of these params")
    return found


def _groups_to_return_to(
    param_groups: Sequence[Mapping[str, Any]] | None, layouts: Collection[str]
) -> Sequence[Mapping[str, Any]]:
    """The groups given, or one of all parameters."""
    groups = [{}] if param_groups is None else param_groups
    if isinstance(groups, list) and len(groups) == 1 and "params" not in groups[0]:
        names = [name for name in layouts if not is_running_statistic(name)]
        groups = [{**groups[0], "params": names, "param_names": names}]
    check_groups(groups)
    return groups


def _injected_settings(opt_state: optax.OptState) -> dict[str, float]:
    """The settings that `optax.inject_hyperparams` keeps in a state, if it does."""
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "hyperparams")
    hyperparams = found[0][1] if len(found) == 1 else {}
    return {key: float(hyperparams[name]) for key, name in _SETTINGS.items() if name in hyperparams}
