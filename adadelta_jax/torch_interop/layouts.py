"""How a torch tensor becomes a leaf of a pytree, and back: parts, views, permutations, flips."""

import math
from typing import NamedTuple

import numpy as np

from adadelta_jax.torch_interop.checks import check_list
from adadelta_jax.torch_interop.parts import Part, index_of, shape_of

_INTEGERS = (int, np.integer)


class LeafLayout(NamedTuple):
    """The leaf that a torch tensor becomes: its path, and how the tensor's axes are arranged in it.

    The leaf is ``flip(tensor.reshape(view).transpose(axes), flip)``, in the leaf's shape. Every
    layout can be undone. With ``torch_part`` or ``leaf_part`` all this holds for a part of the
    tensor, or for a part of the leaf: a tensor may have several layouts, and a leaf several
    tensors, which together fill it.

    Attributes:
        path: The leaf's path, "encoder/layers_0/kernel", without an NNX variable's "/value".
        axes: The permutation of the tensor's axes, as for `numpy.transpose`; None: as they are.
        flip: The axes to reverse after the permutation.
        torch_shape: The shape of the tensor, or of its part, needed only with a ``view``.
        view: The shape into which the tensor is reshaped before the permutation; None: its own.
        torch_part: Which part of the tensor: for each of its first axes an index, a pair (start,
            stop), or None for all of it. ``()``: the whole tensor.
        leaf_part: Which part of the leaf, likewise.

    Examples:
        The weight of a linear layer behind a flattened image. torch flattens the image as
        (channels, height, width) = (8, 4, 4), Flax as (height, width, channels):

        >>> from adadelta_jax.torch_interop import LeafLayout
        >>> layout = LeafLayout(
        ...     "out/kernel", axes=(2, 3, 1, 0), torch_shape=(10, 128), view=(10, 8, 4, 4)
        ... )

        The weights of a `torch.nn.MultiheadAttention`, which keeps query, key and value in one
        tensor of (3 * 64, 64), for an attention of Flax with 4 heads:

        >>> in_proj_weight = [
        ...     LeafLayout(
        ...         f"attention/{name}/kernel",
        ...         axes=(1, 0),
        ...         torch_part=((64 * index, 64 * index + 64),),
        ...     )
        ...     for index, name in enumerate(("query", "key", "value"))
        ... ]

        The third of the layers that `flax.linen.scan` keeps in one leaf:

        >>> third = LeafLayout("layers/kernel", axes=(1, 0), leaf_part=(2,))
    """

    path: str
    axes: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()
    torch_shape: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None
    torch_part: Part = ()
    leaf_part: Part = ()


def check_layout(what: str, layout: LeafLayout) -> None:
    """Raise unless each field of a layout has its type; `torch_shape` tells whether it fits."""
    if not isinstance(layout.path, str):
        raise TypeError(f"{what}: path must be a string, got {layout.path!r}")
    for field in ("axes", "flip", "torch_shape", "view"):
        value, none = getattr(layout, field), "" if field == "flip" else "None or "
        if value is not None or not none:
            check_list(f"{what}: {field}", value, _INTEGERS, f"{none}a tuple of integers")
    for field in ("torch_part", "leaf_part"):
        part = getattr(layout, field)
        if not isinstance(part, tuple) or not all(map(_is_index_or_range, part)):
            raise TypeError(
                f"{what}: {field} must be a tuple of indices, (start, stop) and None, got {part!r}"
            )


def _is_index_or_range(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(isinstance(each, _INTEGERS) for each in value)
    return value is None or isinstance(value, _INTEGERS)


def torch_shape(layout: LeafLayout, leaf_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the part of a tensor that becomes its part of a leaf; None if none does."""
    leaf_shape = shape_of(layout.leaf_part, leaf_shape)  # pyright: ignore
    if leaf_shape is None or (layout.view is None) != (layout.torch_shape is None):
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
    """The array of a torch tensor in the layout and shape of its part of a leaf."""
    array = array[index_of(layout.torch_part)]
    leaf_shape = shape_of(layout.leaf_part, leaf_shape) or ()
    array = array if layout.view is None else array.reshape(layout.view)
    return np.flip(array.transpose(_axes(layout, array.ndim)), layout.flip).reshape(leaf_shape)


def from_leaf(array: np.ndarray, layout: LeafLayout) -> np.ndarray:
    """The part of a tensor from the leaf, in writable memory of its own and in C order."""
    array = array[index_of(layout.leaf_part)]
    if layout.view is not None:
        axes = _axes(layout, len(layout.view))
        array = array.reshape([layout.view[axis] for axis in axes])
    array = np.flip(array, layout.flip).transpose(np.argsort(_axes(layout, array.ndim)))
    shape = array.shape if layout.torch_shape is None else layout.torch_shape
    return np.array(array.reshape(shape), order="C")


def _axes(layout: LeafLayout, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if layout.axes is None else layout.axes
