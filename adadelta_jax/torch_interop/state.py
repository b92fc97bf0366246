"""The state of a torch optimizer: the entries of its parameters, and their accumulators."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adadelta_jax._checks.states import check_accumulators
from adadelta_jax._core.transform import ScaleByAdadeltaState
from adadelta_jax._storage.formats import storage_dtype, values
from adadelta_jax.torch_interop.assembly import Layouts, taken_apart
from adadelta_jax.torch_interop.checks import check_dict, raise_if_any
from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.mapping import leaves_by_path
from adadelta_jax.torch_interop.tensors import laid_out, read_number, write_tensor

ACCUMULATORS = ("square_avg", "acc_delta")


def entries_by_name(
    groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any], names: Sequence[Sequence[str]]
) -> dict[str, Mapping[str, Any]]:
    """The entry of each parameter that has one, by torch name."""
    ids = [id_ for group in groups for id_ in group["params"]]
    name_of = dict(zip(ids, (name for in_group in names for name in in_group), strict=True))
    unknown = [id_ for id_ in state if id_ not in name_of]
    raise_if_any("the torch optimizer's state does not match its groups", {"no group has": unknown})
    entries = {name_of[id_]: entry for id_, entry in state.items()}
    for name, entry in entries.items():
        check_dict(f"the state of {name}", entry)
        raise_if_any(
            f"the state of {name} is not of torch.optim.Adadelta",
            {
                "it lacks": [key for key in ACCUMULATORS if entry and key not in entry],
                "it has": [key for key in entry if key not in ("step", *ACCUMULATORS)],
            },
        )
    return {name: entry for name, entry in entries.items() if entry}


def read_step(what: str, value: Any) -> int:
    """A step, a number or a tensor, saturated as a count is."""
    step = read_number(what, value)
    if not step.is_integer() or step < 0:
        raise ValueError(f"{what} must be a whole number of at least 0, got {step:g}")
    return min(int(step), jnp.iinfo(jnp.int32).max)


def read_accumulator(what: str, value: Any, layout: LeafLayout, leaf: Any) -> np.ndarray:
    """A torch accumulator for a leaf, without loss; NaN and infinity pass."""
    advice = " (torch numbers its state, and without param_names mapping must be in its order)"
    array = laid_out(what, value, layout, leaf, advice)
    dtype = storage_dtype(jnp.result_type(leaf), None)
    for part in (np.real(array), np.imag(array)) if np.iscomplexobj(array) else (array,):
        if (part < 0).any():
            raise ValueError(f"{what} must be at least 0, got {part[part < 0].min():g}")
    if not np.can_cast(array.dtype, dtype):
        raise ValueError(
            f"{what} is {array.dtype}, which an accumulator of {dtype} cannot hold: "
            "pass the params that params_from_torch returns"
        )
    return array.astype(dtype)


def entries_for_torch(
    states: Sequence[ScaleByAdadeltaState], layouts: Layouts, leaves: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The entry of each parameter that has accumulators, empty if these are all zero."""
    check_accumulators("opt_state", states)
    entries: dict[str, dict[str, Any]] = {}
    for state in states:
        step = _write_step(state.count)
        held = {
            key: {
                path: _as_torch_keeps(f"{key} of {path}", accumulator, leaves[path])
                for path, accumulator in leaves_by_path(values(getattr(state, key))).items()
                if path in leaves
            }
            for key in ACCUMULATORS
        }
        for name, of_name in layouts.items():
            absent = [each.path for each in of_name if each.path not in held["square_avg"]]
            if len(absent) == len(of_name):
                continue
            if absent:
                raise ValueError(
                    f"{name} is one tensor of one group in torch, but opt_state keeps "
                    f"{', '.join(absent)} in another group than the rest of it"
                )
            if name in entries:
                raise ValueError(f"opt_state holds more than one square_avg of {name}")
            arrays = {
                key: taken_apart(name, layouts, held[key], f"{key} of ") for key in ACCUMULATORS
            }
            has_had_gradient = any(array.any() for array in arrays.values())
            arrays["step"] = step.copy()  # torch counts in place
            entries[name] = {
                key: write_tensor(f"{key} of {name}", array)
                for key, array in arrays.items()
                if has_had_gradient
            }
    if not entries:
        raise ValueError("opt_state holds no square_avg and acc_delta of these params")
    return entries


def _write_step(count: Any) -> np.ndarray:
    """A count as torch keeps its steps."""
    (value,) = jax.tree.leaves(count)  # NNX keeps it in a variable
    if jnp.shape(value) != ():
        raise ValueError(f"the count of opt_state must be an integer scalar, got {value!r}")
    return np.array(value, np.float32)


def _as_torch_keeps(what: str, accumulator: Any, leaf: Any) -> np.ndarray:
    """An accumulator in the dtype of its parameter."""
    array, dtype = np.asarray(accumulator), jnp.result_type(leaf)
    if array.shape != jnp.shape(leaf):
        raise ValueError(f"{what} has shape {array.shape}, but the parameter {jnp.shape(leaf)}")
    largest = jnp.finfo(dtype).max
    if largest < jnp.finfo(array.dtype).max and not np.iscomplexobj(array):
        # An infinite accumulator would stop its parameter for ever.
        saturated = np.clip(array, None, array.dtype.type(largest))
        array = np.where(np.isinf(array), array, saturated)
    return array.astype(dtype)
