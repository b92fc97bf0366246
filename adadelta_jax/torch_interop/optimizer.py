"""A torch optimizer and its state as an optimizer of this package and its state, and back."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from adadelta_jax._carry_over import carry_over_state
from adadelta_jax._core.transform import ScaleByAdadeltaState, adadelta_states
from adadelta_jax.torch_interop.assembly import assembled
from adadelta_jax.torch_interop.checkpoint_files import (
    check_is_not_around,
    is_flattened,
    is_optimizer,
    numbered,
    unflattened,
)
from adadelta_jax.torch_interop.checks import check_chosen_names, check_dict
from adadelta_jax.torch_interop.groups import (
    check_groups_of_adadelta,
    check_trained_names,
    groups_for_torch,
    names_in_groups,
    optimizer_of,
)
from adadelta_jax.torch_interop.mapping import Entry, layouts_and_leaves, tree_of
from adadelta_jax.torch_interop.schedules import (
    check_steps_per_epoch,
    schedules_from_torch,
    warn_of_constant_rates,
)
from adadelta_jax.torch_interop.settings import with_settings
from adadelta_jax.torch_interop.state import (
    ACCUMULATORS,
    entries_by_name,
    entries_for_torch,
    read_accumulator,
    read_step,
)
from adadelta_jax.torch_interop.tensors import warn_of_nan


def optimizer_from_torch(
    optim_state_dict: Mapping[str, Any],
    params: Any,
    mapping: Mapping[str, Entry],
    *,
    frozen: Collection[str] = (),
    lr_scheduler: Mapping[str, Any] | None = None,
    steps_per_epoch: int = 1,
) -> tuple[optax.GradientTransformationExtraArgs, optax.OptState]:
    """An optimizer and its state that continue where a `torch.optim.Adadelta` stopped.

    | torch | here |
    | --- | --- |
    | one parameter group | [`adadelta`][] with its settings |
    | several | [`param_groups`][], labelled "0", "1", ... |
    | lr (a number or a tensor) | learning_rate: a constant, or a schedule with ``lr_scheduler`` |
    | rho, eps, weight_decay, maximize | the same |
    | foreach, capturable, differentiable | nothing: `jax.jit` does all three |
    | other keys of a group, as name or lr_scale | nothing |
    | state: square_avg, acc_delta | the same, laid out like the parameters, float32 at least |
    | state: step, one per parameter | count: the largest of them |
    | a parameter without state | starts from zero |

    torch numbers the parameters in the order in which the optimizer got them. A
    ``torch.optim.Adadelta(model.named_parameters())`` saves their names too, as the groups'
    ``param_names``. Without these, the names of ``mapping`` count in their order, which is right
    for a ``torch.optim.Adadelta(model.parameters())``. If the optimizer got the parameters in
    another order, reorder the mapping: ``{name: mapping[name] for name in names_in_that_order}``.

    A scheduler of torch changes lr, and its own state says how. With ``lr_scheduler`` the learning
    rate is a schedule that goes on from the checkpoint: at each count it is the lr that torch has
    for that update. StepLR, MultiStepLR, ExponentialLR, ConstantLR, LinearLR, PolynomialLR and
    CosineAnnealingLR are known. Write any other as an Optax schedule, make ``adadelta(schedule,
    ...)`` with it, and take the state along with [`carry_over_state`][]. Its count is that of all
    steps, those in torch too.

    Args:
        optim_state_dict: ``optimizer.state_dict()``, of tensors or NumPy arrays, or what
            `torch.distributed.checkpoint` makes of it: names or strings in place of the numbers, or
            flattened. Parameters that are flattened are one group if their settings are equal.
        params: The parameters, from [`params_from_torch`][].
        mapping: As for [`params_from_torch`][].
        frozen: The torch names of parameters that are not trained, whether the torch optimizer
            has them or not: their updates are zero, and their state stays behind. torch passes
            over a parameter with ``requires_grad=False``; `jax.grad` does not. Parameters that the
            torch optimizer trains and ``mapping`` maps to None must be among them.
        lr_scheduler: ``scheduler.state_dict()`` of the same checkpoint. None: lr stays constant.
        steps_per_epoch: How many steps the optimizer takes for each step of the scheduler. An epoch
            in whose middle the checkpoint is goes on to its end.

    Returns:
        The pair ``(optimizer, opt_state)``; ``opt_state`` is like ``optimizer.init(params)``. To
        use them in an `nnx.Optimizer`, make it with ``optimizer`` and set ``optimizer.opt_state =
        nnx.data(jax.tree.structure(optimizer.opt_state).unflatten(jax.tree.leaves(opt_state)))``.

    Raises:
        ValueError: If ``optim_state_dict`` is not that of a `torch.optim.Adadelta`, if its groups
            do not cover the parameters, if a tensor is missing, superfluous, or of a wrong shape or
            dtype, if an accumulator is negative, or if it trains what ``mapping`` maps to None. If
            ``lr_scheduler`` is of another class, of other groups, or does not give their lr.
        TypeError: If an argument or a tensor has the wrong type.

    Warns:
        UserWarning: If a tensor holds NaN; it is named. If parameters without state, which torch
            may not train, are not in ``frozen``. If a scheduler has set lr, but ``lr_scheduler`` is
            None. If the numbers of steps do not fit ``steps_per_epoch``.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from adadelta_jax.torch_interop import optimizer_from_torch
        >>> entry = {"step": 7.0, "square_avg": np.ones(2, "f"), "acc_delta": np.zeros(2, "f")}
        >>> group = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "params": [0]}
        >>> optim_state_dict = {"state": {0: entry}, "param_groups": [group]}
        >>> params, mapping = {"scale": jnp.ones(2)}, {"norm.weight": "scale"}
        >>> optimizer, opt_state = optimizer_from_torch(optim_state_dict, params, mapping)
        >>> optax.tree.get(opt_state, "count").item()
        7

        With the rate of a ``StepLR(step_size=4, gamma=0.1)``, which falls after the next step:

        >>> scheduler = {"step_size": 4, "gamma": 0.1, "base_lrs": [5.0], "last_epoch": 7}
        >>> optimizer, opt_state = optimizer_from_torch(
        ...     optim_state_dict, params, mapping, lr_scheduler=scheduler
        ... )
        >>> for _ in range(2):
        ...     updates, opt_state = optimizer.update({"scale": jnp.ones(2)}, opt_state, params)
        ...     print(updates["scale"].round(7))
        [-0.0005 -0.0005]
        [-5.24e-05 -5.24e-05]

    Source: [torch.optim.Adadelta](
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html>).
    """
    layouts, leaves = layouts_and_leaves(mapping, params)
    check_chosen_names("frozen", frozen)
    check_steps_per_epoch(steps_per_epoch)
    groups, state = _groups_and_state(optim_state_dict, mapping)
    names = names_in_groups(groups, mapping, layouts, frozen)
    all_entries = entries_by_name(groups, state, names)
    check_trained_names(names, layouts, frozen, all_entries)
    entries = {
        name: entry for name, entry in all_entries.items() if name in layouts and name not in frozen
    }
    steps = [read_step(f"step of {name}", entry.get("step", 0)) for name, entry in entries.items()]
    step = max(steps, default=0)
    schedules = None
    if lr_scheduler is None:
        warn_of_constant_rates(groups)
    else:
        schedules = schedules_from_torch(lr_scheduler, groups, step, steps_per_epoch)
    optimizer = optimizer_of(groups, names, layouts, frozen, schedules)
    accumulators, with_nan = [], []
    for key in ACCUMULATORS:

        def read(name, layout, leaf, key=key):
            what, value = f"{key} of {name}", entries[name][key]
            return read_accumulator(what, value, layout, leaf)

        arrays, names_with_nan = assembled(entries, layouts, leaves, read, f"{key} of ")
        accumulators.append(tree_of(arrays, params))
        with_nan += names_with_nan
    warn_of_nan(with_nan)
    if not entries:
        return optimizer, optimizer.init(params)
    state = ScaleByAdadeltaState(jnp.asarray(step, jnp.int32), *accumulators)
    return optimizer, carry_over_state(optimizer, params, state)


def optimizer_to_torch(
    opt_state: optax.OptState,
    params: Any,
    mapping: Mapping[str, Entry],
    param_groups: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The state of an optimizer as a dict for ``torch.optim.Adadelta.load_state_dict``.

    Like [`params_to_torch`][], it gives torch tensors where the process has imported torch, and
    NumPy arrays in a process without torch.

    As in torch, the accumulators have the dtype of their parameter: the float32 accumulators of a
    bfloat16 or float16 parameter are rounded to nearest, and never to infinity. As in torch, a
    parameter has no entry before its first gradient, when its accumulators are all zero. A frozen
    parameter has none either.

    Args:
        opt_state: The state of any optimizer that holds one [`ScaleByAdadeltaState`][] per
            parameter: of [`adadelta`][], [`param_groups`][], a chain, or an `nnx.Optimizer`.
        params: The parameters.
        mapping: As for [`params_from_torch`][].
        param_groups: The ``param_groups`` of the state_dict of the torch optimizer to return to,
            with their settings. None: one group of all names of ``mapping``. The settings that
            `optax.inject_hyperparams` keeps in ``opt_state`` win over given ones, because they may
            have changed since. No other state knows its settings: those that are not given are
            torch's defaults. As ``load_state_dict`` changes the settings of the torch optimizer to
            these, pass ``param_groups`` if yours are not the defaults. Keys that are no setting
            stay as they are.

            The ``"lr"`` of a group may be a schedule, which wins over all else. The group then has
            its value at the count of ``opt_state``, the rate of the next step. If the schedule is
            that of ``lr_scheduler``, there is another way: leave the lr of the checkpoint, load
            the scheduler of the checkpoint too, and call ``scheduler.step()`` for each of its
            epochs that have passed here.

    Returns:
        A dict of ``state``, which has ``step``, ``square_avg`` and ``acc_delta`` for each index,
        and of ``param_groups``. Each tensor or array is writable and in memory of its own.

    Raises:
        ValueError: If ``opt_state`` does not hold the accumulators of the parameters, if
            ``param_groups`` do not cover them or have a setting out of range, if ``opt_state`` has
            several groups and ``param_groups`` is None, or if it holds several values of a setting
            for one group.
        TypeError: If an argument has the wrong type.

    Examples:
        >>> import jax.numpy as jnp, optax
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
        >>> schedule = optax.exponential_decay(0.5, transition_steps=1, decay_rate=0.5)
        >>> optim_state_dict = optimizer_to_torch(
        ...     opt_state, params, {"norm.weight": "scale"}, [{"lr": schedule}]
        ... )
        >>> optim_state_dict["param_groups"][0]["lr"]
        0.25

    Source: [torch.optim.Optimizer.load_state_dict](
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html>).
    """
    layouts, leaves = layouts_and_leaves(mapping, params)
    states = adadelta_states(opt_state)
    entries = entries_for_torch(states, layouts, leaves)
    if param_groups is None and len(states) > 1:
        raise ValueError(
            f"opt_state has {len(states)} groups of parameters: param_groups must be given"
        )
    groups = groups_for_torch(param_groups, layouts)
    not_trained = [name for name in mapping if name not in entries]
    names = names_in_groups(groups, mapping, layouts, not_trained)
    groups = with_settings(groups, names, layouts, opt_state)
    index_of = {name: index for index, name in enumerate(itertools.chain.from_iterable(names))}
    return {
        "state": {index: entries[n] for n, index in index_of.items() if entries.get(n)},
        "param_groups": [
            {**group, "params": [index_of[name] for name in in_group]}
            for group, in_group in zip(groups, names, strict=True)
        ],
    }


def _groups_and_state(
    optim_state_dict: Any, names: Collection[str]
) -> tuple[Sequence[Any], Mapping[Any, Any]]:
    """The two parts of the state_dict of a `torch.optim.Adadelta`."""
    check_is_not_around("optim_state_dict", optim_state_dict, is_optimizer)
    check_dict("optim_state_dict", optim_state_dict, "a dict, as optimizer.state_dict() gives")
    if is_flattened(optim_state_dict):
        optim_state_dict = unflattened(optim_state_dict)
    lacking = [key for key in ("state", "param_groups") if key not in optim_state_dict]
    if lacking:
        raise ValueError(
            f"optim_state_dict lacks {', '.join(lacking)}: it is not that of a torch optimizer"
        )
    check_groups_of_adadelta(optim_state_dict["param_groups"])
    check_dict("state", optim_state_dict["state"], "a dict of dicts")
    return numbered(optim_state_dict["param_groups"], optim_state_dict["state"], names)
