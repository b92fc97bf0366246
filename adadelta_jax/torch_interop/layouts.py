"""How one torch tensor becomes one leaf of a pytree, and back: views, permutations, flips."""

import math
from typing import NamedTuple

import numpy as np

from adadelta_jax.torch_interop.checks import check_list

_INTEGERS = (int, np.integer)


class LeafLayout(NamedTuple):
    """The leaf that a torch tensor becomes: its path, and how the tensor's axes are arranged in it.

    The leaf is ``flip(tensor.reshape(view).transpose(axes), flip)``, in the leaf's shape. Every
    layout can be undone.

    Attributes:
        path: The leaf's path, "encoder/layers_0/kernel", without an NNX variable's "/value".
        axes: The permutation of the tensor's axes, as for `numpy.transpose`; None: as they are.
        flip: The axes to reverse after the permutation.
        torch_shape: The tensor's own shape, needed only with a ``view``.
        view: The shape into which the tensor is reshaped before the permutation; None: its own.

    Examples:
        The weight of a linear layer behind a flattened image. torch flattens the image as
        (channels, height, width) = (8, 4, 4), Flax as (height, width, channels):

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


def check_layout(what: str, layout: LeafLayout) -> None:
    """Raise unless each field of a layout has its type; `torch_shape` tells whether it fits."""
    if not isinstance(layout.path, str):
        raise TypeError(f"{what}: path must be a string, got {layout.path!r}")
    for field in ("axes", "flip", "torch_shape", "view"):
        value, none = getattr(layout, field), "" if field == "flip" else "None or "
        if value is not None or not none:
            check_list(f"{what}: {field}", value, _INTEGERS, f"{none}a tuple of integers")


def torch_shape(layout: LeafLayout, leaf_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the tensor that becomes a leaf of `leaf_shape`; None if no tensor does."""
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
    """The array of a torch tensor in the layout and shape of its leaf."""
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
