"""A mapping: the layouts of every torch name, checked against the parameters that it leads to."""

import itertools
import numbers
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
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
from adadelta_jax.torch_interop.layouts import (
    LeafLayout,
    Part,
    check_layout,
    times_used,
    torch_shape,
)

# What a mapping has for a torch name: where its tensor goes, or None if it stays behind.
Entry = LeafLayout | str | Sequence[LeafLayout | str] | None

# The buffers of a torch batch norm, which no optimizer trains.
_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def layouts_and_leaves(
    mapping: Mapping[str, Entry], params: Any
) -> tuple[dict[str, tuple[LeafLayout, ...]], dict[str, Any]]:
    """The layouts by torch name, the leaves by path; raise unless each side fills the other."""
    check_dict(
        "mapping", mapping, "a dict from torch names to paths, as match_flax_params makes it"
    )
    leaves = leaves_by_path(params)
    layouts = {
        name: tuple(LeafLayout(each) if isinstance(each, str) else each for each in entry)
        for name, entry in resolve_paths("mapping", mapping, leaves).items()
        if entry is not None
    }
    uses: dict[str, list[Part]] = defaultdict(list)
    for layout in itertools.chain.from_iterable(layouts.values()):
        uses[layout.path].append(layout.leaf_part)
    problems = {
        "params lacks": [path for path in uses if path not in leaves],
        "mapping lacks": [path for path in leaves if path not in uses],
    }
    raise_if_any("mapping and params do not match", problems)
    for name, of_name in layouts.items():
        _check_fits(f"mapping[{name!r}]", of_name, leaves)
    times = {path: times_used(parts, jnp.shape(leaves[path])) for path, parts in uses.items()}
    problems = {
        "mapping has more than once": [path for path, (_, most) in times.items() if most > 1],
        "mapping lacks a part of": [path for path, (fewest, _) in times.items() if fewest < 1],
    }
    raise_if_any("mapping and params do not match", problems)
    return layouts, leaves


def _check_fits(what: str, layouts: Sequence[LeafLayout], leaves: Mapping[str, Any]) -> None:
    """Raise unless the layouts of a torch tensor fit their leaves and have each of its numbers."""
    shapes = []
    for layout in layouts:
        leaf_shape = jnp.shape(leaves[layout.path])
        shapes.append(torch_shape(layout, leaf_shape))
        if shapes[-1] is None:
            raise ValueError(f"{what} does not fit a leaf of shape {leaf_shape}: {layout}")
    if len(set(shapes)) > 1:
        raise ValueError(
            f"{what} must have layouts of one tensor, got some of shapes "
            f"{' and '.join(map(str, dict.fromkeys(shapes)))}"
        )
    if times_used([layout.torch_part for layout in layouts], shapes[0]) != (1, 1):
        raise ValueError(
            f"{what} must have each number of a tensor of shape {shapes[0]} in one part, got "
            f"{', '.join(str(layout.torch_part) for layout in layouts)}"
        )


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
    argument: str, entries: Mapping[str, Entry], leaves: Collection[str]
) -> dict[str, tuple[LeafLayout | str, ...] | None]:
    """Entries written by hand, checked, their paths without an NNX variable's "/value"."""

    def resolve(entry):
        if isinstance(entry, LeafLayout):
            return entry._replace(path=resolve(entry.path))
        short = entry.removesuffix("/value")
        return short if entry not in leaves and short in leaves else entry

    check_torch_names(argument, entries)
    resolved: dict[str, tuple[LeafLayout | str, ...] | None] = {}
    for name, entry in entries.items():
        what, resolved[name] = f"{argument}[{name!r}]", None
        if entry is None:
            continue
        is_one = isinstance(entry, LeafLayout) or not isinstance(entry, (tuple, list))
        several = (entry,) if is_one else tuple(entry)
        if not several or not all(isinstance(each, (str, LeafLayout)) for each in several):
            raise TypeError(
                f"{what} must be a path, a LeafLayout, several of them or None, got {entry!r}"
            )
        for each in several:
            if isinstance(each, LeafLayout):
                check_layout(what, each)
        resolved[name] = tuple(map(resolve, several))
    return resolved


def tree_of(values: Mapping[str, Any], params: Any) -> Any:
    """Values by path as a tree like `params`, masked where there is no value."""
    masked = optax.MaskedNode()
    return jax.tree.map_with_path(lambda path, _: values.get(path_name(path), masked), params)


def is_running_statistic(name: str) -> bool:
    """Whether a torch name is that of a buffer of a batch norm."""
    return name.rpartition(".")[2] in _RUNNING_STATISTICS
