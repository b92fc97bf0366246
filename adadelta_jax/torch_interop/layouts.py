"""How a torch tensor becomes a leaf of a pytree, and back: parts, views, permutations, flips."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from adadelta_jax.torch_interop.checks import check_list

_INTEGERS = (int, np.integer)

# For each of the first axes of an array an index, a range (start, stop), or None for all of it.
Part = tuple[int | tuple[int, int] | None, ...]


class LeafLayout(NamedTuple):
    """The leaf that a torch tensor becomes: its path, and how the tensor's axes are arranged in it.

    The leaf is ``flip(tensor.reshape(view).transpose(axes), flip)``, in the leaf's shape. Every
    layout can be undone.

    One tensor may be several leaves, and several tensors one leaf. Then ``tensor`` in the formula
    is ``tensor[torch_part]`` and the leaf is ``leaf[leaf_part]``. The parts of a tensor, and those
    of a leaf, must fill it without overlap.

    Attributes:
        path: The leaf's path, "encoder/layers_0/kernel", without an NNX variable's "/value".
        axes: The permutation of the tensor's axes, as for `numpy.transpose`; None: as they are.
        flip: The axes to reverse after the permutation.
        torch_shape: The tensor's own shape, needed only with a ``view`` or a ``torch_part``, or if
            the leaf has other axes than the tensor.
        view: The shape into which the tensor is reshaped before the permutation; None: its own.
        torch_part: Which part of the tensor: for each of its first axes an index, a range ``(start,
            stop)``, or None for all of it. An index removes its axis, as in NumPy.
        leaf_part: Which part of the leaf, in the same form.

    Examples:
        The weight of a linear layer behind a flattened image. torch flattens the image as
        (channels, height, width) = (8, 4, 4), Flax as (height, width, channels):

        >>> from adadelta_jax.torch_interop import LeafLayout
        >>> layout = LeafLayout(
        ...     "out/kernel", axes=(2, 3, 1, 0), torch_shape=(10, 128), view=(10, 8, 4, 4)
        ... )

        The weights of a `torch.nn.MultiheadAttention`, which keeps query, key and value in one
        tensor of (3 * 64, 64):

        >>> in_proj_weight = tuple(
        ...     LeafLayout(
        ...         f"attention/{name}/kernel",
        ...         axes=(1, 0),
        ...         torch_shape=(192, 64),
        ...         torch_part=((64 * index, 64 * index + 64),),
        ...     )
        ...     for index, name in enumerate(("query", "key", "value"))
        ... )

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


def _is_index_or_range(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(isinstance(each, _INTEGERS) for each in value)
    return value is None or isinstance(value, _INTEGERS)


def torch_shape(layout: LeafLayout, leaf_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the tensor that a layout leads from to a leaf; None if there is none."""
    in_leaf = _shape_of(layout.leaf_part, leaf_shape)
    viewed = in_leaf if layout.torch_shape is None and layout.view is None else _viewed(layout)
    if in_leaf is None or viewed is None:
        return None
    axes = _axes(layout, len(viewed))
    if sorted(axes) != list(range(len(viewed))) or not set(layout.flip) <= set(axes):
        return None
    if layout.torch_shape is None:
        return None if layout.torch_part else tuple(viewed[axis] for axis in np.argsort(axes))
    return tuple(layout.torch_shape) if math.prod(viewed) == math.prod(in_leaf) else None


def to_leaf(array: np.ndarray, layout: LeafLayout, leaf_shape: tuple[int, ...]) -> np.ndarray:
    """The part of a tensor in the layout and shape of its part of a leaf."""
    array = array[index_of(layout.torch_part)]
    array = array if layout.view is None else array.reshape(layout.view)
    array = np.flip(array.transpose(_axes(layout, array.ndim)), layout.flip)
    return array.reshape(_shape_of(layout.leaf_part, leaf_shape) or ())


def from_leaf(leaf: np.ndarray, layout: LeafLayout) -> np.ndarray:
    """The inverse of `to_leaf`: the part of a tensor, from a leaf."""
    array, viewed = leaf[index_of(layout.leaf_part)], _viewed(layout)
    if viewed is not None:
        array = array.reshape([viewed[axis] for axis in _axes(layout, len(viewed))])
    array = np.flip(array, layout.flip).transpose(np.argsort(_axes(layout, array.ndim)))
    if layout.torch_shape is None:
        return array
    return array.reshape(_shape_of(layout.torch_part, layout.torch_shape) or ())


def index_of(part: Part) -> tuple[Any, ...]:
    """What picks the part out of an array, as an array even if it is one number."""
    picks = (slice(*each) if isinstance(each, tuple) else each for each in part)
    return (*(slice(None) if each is None else each for each in picks), ...)


def times_used(parts: Sequence[Part], shape: tuple[int, ...]) -> tuple[int, int]:
    """How often the parts of an array have a number of it, at least and at most."""
    if all(part == () for part in parts):
        return len(parts), len(parts)
    if 0 in shape:
        return 1, 1
    times = np.zeros(shape, np.uint16)
    for part in parts:
        times[index_of(part)] += 1
    return int(times.min()), int(times.max())


def _shape_of(part: Part, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the part of an array; None if it is not within it."""
    kept = []
    for size, each in itertools.zip_longest(shape, part):
        if size is None:
            return None
        if each is None:
            start, stop = 0, size
        elif isinstance(each, tuple):
            start, stop = each
        else:
            start, stop = each, each + 1
        if not 0 <= start <= stop <= size:
            return None
        if each is None or isinstance(each, tuple):
            kept.append(stop - start)
    return tuple(kept)


def _viewed(layout: LeafLayout) -> tuple[int, ...] | None:
    """The shape whose axes are permuted; None if only the leaf tells, or if it does not fit."""
    if layout.torch_shape is None:
        return None
    part = _shape_of(layout.torch_part, layout.torch_shape)
    if part is None or layout.view is None:
        return part
    fits = min((0, *layout.view)) == 0 and math.prod(layout.view) == math.prod(part)
    return tuple(layout.view) if fits else None


def _axes(layout: LeafLayout, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if layout.axes is None else layout.axes
