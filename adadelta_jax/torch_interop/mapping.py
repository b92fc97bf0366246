"""A mapping: the layout of every torch name, checked against the parameters that it leads to."""

import numbers
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adadelta_jax._checks.trees import path_name
from adadelta_jax.torch_interop.checks import (
    check_dict,
    check_dtype,
    check_torch_names,
    is_tensor,
    raise_if_any,
)
from adadelta_jax.torch_interop.layouts import LeafLayout, check_layout, torch_shape

# The buffers of a torch batch norm, which no optimizer trains.
_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def layouts_and_leaves(
    mapping: Mapping[str, LeafLayout | str | None], params: Any
) -> tuple[dict[str, LeafLayout], dict[str, Any]]:
    """The layouts by torch name, the leaves by path; raise unless each leaf has one name."""
    check_dict(
        "mapping", mapping, "a dict from torch names to paths, as match_flax_params makes it"
    )
    leaves = leaves_by_path(params)
    layouts = {
        name: LeafLayout(entry) if isinstance(entry, str) else entry
        for name, entry in resolve_paths("mapping", mapping, leaves).items()
        if entry is not None
    }
    uses = Counter(layout.path for layout in layouts.values())
    problems = {
        "params lacks": [path for path in uses if path not in leaves],
        "mapping lacks": [path for path in leaves if path not in uses],
        "mapping has more than once": [path for path in uses if uses[path] > 1],
    }
    raise_if_any("mapping and params do not match", problems)
    for name, layout in layouts.items():
        shape = jnp.shape(leaves[layout.path])
        if torch_shape(layout, shape) is None:
            raise ValueError(f"mapping[{name!r}] does not fit a leaf of shape {shape}: {layout}")
    return layouts, leaves


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path; raise unless all are arrays."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    for path, leaf in leaves.items():
        dtype = getattr(leaf, "dtype", None)
        if is_tensor(leaf) or (dtype is None and not isinstance(leaf, numbers.Number)):
            raise TypeError(f"{path} must be an array, got {type(leaf).__name__}")
        if isinstance(dtype, np.dtype):
            check_dtype(path, dtype)
    return leaves


def resolve_paths(
    argument: str, entries: Mapping[str, Any], leaves: Collection[str]
) -> dict[str, LeafLayout | str | None]:
    """Entries written by hand, checked, their paths without an NNX variable's "/value"."""

    def resolve(path):
        return path if path in leaves else path.removesuffix("/value")

    check_torch_names(argument, entries)
    resolved = {}
    for name, entry in entries.items():
        if isinstance(entry, LeafLayout):
            check_layout(f"{argument}[{name!r}]", entry)
            resolved[name] = entry._replace(path=resolve(entry.path))
        elif entry is None or isinstance(entry, str):
            resolved[name] = entry and resolve(entry)
        else:
            raise TypeError(
                f"{argument}[{name!r}] must be a path, a LeafLayout or None, got {entry!r}"
            )
    return resolved


def tree_of(values: Mapping[str, Any], layouts: Mapping[str, LeafLayout], params: Any) -> Any:
    """The values of torch names as a tree like `params`, masked where there is no value."""
    by_path = {layouts[name].path: value for name, value in values.items()}
    masked = optax.MaskedNode()
    return jax.tree.map_with_path(lambda path, _: by_path.get(path_name(path), masked), params)


def is_running_statistic(name: str) -> bool:
    """Whether a torch name is that of a buffer of a batch norm."""
    return name.rpartition(".")[2] in _RUNNING_STATISTICS
