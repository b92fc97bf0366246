"""Where each torch tensor goes in a pytree of parameters, and how it is laid out there."""

import math
import numbers
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adadelta_jax.torch_interop.checks import (
    check_dict,
    check_dtype,
    check_list,
    check_torch_names,
    raise_if_any,
)
from adadelta_jax._checks.trees import path_name

_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_INTEGERS = (int, np.integer)


class LeafLayout(NamedTuple):
    """Where a torch tensor goes in a pytree of parameters, and how it is laid out there.

    The leaf is ``flip(tensor.reshape(view).transpose(axes), flip)``, in the leaf's shape. Every
    layout can be undone.

    Attributes:
        path: The leaf's path, "encoder/layers_0/kernel", without an NNX variable's "/value".
        axes: The permutation of the tensor's axes, as for `numpy.transpose`; None: as they are.
        flip: The axes to reverse after the permutation.
        torch_shape: The tensor's own shape, needed only with a ``view``.
        view: The shape in which to see the tensor before the permutation; None: its own.

    Examples:
        The weight of a linear layer behind a flattened image, which torch flattens as (channels,
        height, width) = (8, 4, 4) and Flax as (height, width, channels):

        >>> from adadelta_jax.torch_interop import LeafLayout
        >>> layout = LeafLayout(
        ...     "out/kernel", axes=(2, 3, 1, 0), torch_shape=(10, 128), view=(10, 8, 4, 4)
        ... )
    """

    path: str
    axes: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()
    torch_shape: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None


def torch_shape(layout: LeafLayout, leaf_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the torch tensor that becomes a leaf of that shape, or None if none does."""
    if (layout.view is None) != (layout.torch_shape is None):
        return None
    viewed = leaf_shape if layout.view is None else layout.view
    axes = _axes(layout, len(viewed))
    if sorted(axes) != list(range(len(viewed))) or not set(layout.flip) <= set(axes):
        return None
    if layout.torch_shape is None:
        return tuple(leaf_shape[axis] for axis in np.argsort(axes))
    if min((0, *viewed, *layout.torch_shape)) < 0:
        return None
    sizes = {math.prod(shape) for shape in (viewed, layout.torch_shape, leaf_shape)}
    return tuple(layout.torch_shape) if len(sizes) == 1 else None


def to_leaf(array: np.ndarray, layout: LeafLayout, leaf_shape: tuple[int, ...]) -> np.ndarray:
    """A torch tensor's `array` as the leaf of that shape, which it fits."""
    array = array if layout.view is None else array.reshape(layout.view)
    return np.flip(array.transpose(_axes(layout, array.ndim)), layout.flip).reshape(leaf_shape)


def from_leaf(array: np.ndarray, layout: LeafLayout) -> np.ndarray:
    """The inverse of `to_leaf`, in writable memory of its own and in C order."""
    if layout.view is not None:
        axes = _axes(layout, len(layout.view))
        array = array.reshape([layout.view[axis] for axis in axes])
    array = np.flip(array, layout.flip).transpose(np.argsort(_axes(layout, array.ndim)))
    shape = array.shape if layout.torch_shape is None else layout.torch_shape
    return np.array(array.reshape(shape), order="C")


def _axes(layout: LeafLayout, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if layout.axes is None else layout.axes


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves by the paths that mappings use; raises unless they are arrays."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    for path, leaf in leaves.items():
        dtype = getattr(leaf, "dtype", None)
        if hasattr(leaf, "detach") or (dtype is None and not isinstance(leaf, numbers.Number)):
            raise TypeError(f"{path} must be an array, got {type(leaf).__name__}")
        if isinstance(dtype, np.dtype):
            check_dtype(path, dtype)
    return leaves


def layouts_by_name(
    mapping: Mapping[str, LeafLayout | str | None], params: Any
) -> dict[str, LeafLayout]:
    """The layout of every tensor that `mapping` does not leave out.

    Raises unless each leaf of `params` has one name.
    """
    check_dict(
        "mapping", mapping, "a dict from torch names to paths, as match_flax_params makes it"
    )
    leaves = leaves_by_path(params)
    layouts = {
        name: LeafLayout(entry) if isinstance(entry, str) else entry
        for name, entry in resolved("mapping", mapping, leaves).items()
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
    return layouts


def resolved(
    argument: str, entries: Mapping[str, Any], leaves: Collection[str]
) -> dict[str, LeafLayout | str | None]:
    """Entries written by hand, their paths without an NNX variable's "/value"."""

    def resolve(path):
        return path if path in leaves else path.removesuffix("/value")

    check_torch_names(argument, entries)
    result = {}
    for name, entry in entries.items():
        if isinstance(entry, LeafLayout):
            _check_layout(f"{argument}[{name!r}]", entry)
            result[name] = entry._replace(path=resolve(entry.path))
        elif entry is None or isinstance(entry, str):
            result[name] = entry and resolve(entry)
        else:
            raise TypeError(
                f"{argument}[{name!r}] must be a path, a LeafLayout or None, got {entry!r}"
            )
    return result


def _check_layout(what: str, layout: LeafLayout) -> None:
    """Raise unless each field of a layout is of its type; `torch_shape` tells if it fits."""
    if not isinstance(layout.path, str):
        raise TypeError(f"{what}: path must be a string, got {layout.path!r}")
    for field in ("axes", "flip", "torch_shape", "view"):
        value, none = getattr(layout, field), "" if field == "flip" else "None or "
        if value is not None or not none:
            check_list(f"{what}: {field}", value, _INTEGERS, f"{none}a tuple of integers")


def is_running_statistic(name: str) -> bool:
    """Whether a torch name is that of a buffer of a batch norm."""
    return name.rpartition(".")[2] in _RUNNING_STATISTICS
