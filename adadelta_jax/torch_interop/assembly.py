"""Leaves made of torch tensors, and tensors made of leaves, part by part."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adadelta_jax.torch_interop.layouts import LeafLayout, from_leaf, index_of, torch_shape
from adadelta_jax.torch_interop.tensors import placed_like

Layouts = Mapping[str, tuple[LeafLayout, ...]]


def layouts_by_path(layouts: Layouts) -> dict[str, list[tuple[str, LeafLayout]]]:
    """The torch names that a leaf is made of, and their layouts, by path."""
    by_path = defaultdict(list)
    for name, of_name in layouts.items():
        for layout in of_name:
            by_path[layout.path].append((name, layout))
    return by_path


def assembled(
    names: Collection[str],
    layouts: Layouts,
    leaves: Mapping[str, Any],
    read: Callable[[str, LeafLayout, Any], np.ndarray],
    what: str = "",
) -> tuple[dict[str, jax.Array], list[str]]:
    """The leaves that the tensors of these names make up, and the tensors that have NaN inside.

    `read` gives the part of a tensor for its leaf. A part without a tensor is zero. Each leaf is
    placed like the one of `leaves`.
    """
    result, with_nan = {}, {}
    for path, parts in layouts_by_path(layouts).items():
        parts = [(what + name, name, layout) for name, layout in parts if name in names]
        leaf, whole = leaves[path], None
        for label, name, layout in parts:
            part = read(name, layout, leaf)
            if np.isnan(part).any():
                with_nan[label] = None
            if whole is None:
                whole = np.zeros(jnp.shape(leaf), part.dtype)
            if whole.dtype != part.dtype:
                raise TypeError(
                    f"{label} is {part.dtype}, but {parts[0][0]}, which is of the same {path}, is "
                    f"{whole.dtype}"
                )
            whole[index_of(layout.leaf_part)] = part
        if whole is not None:
            result[path] = placed_like(leaf, parts[0][0], whole)
    return result, list(with_nan)


def taken_apart(
    name: str, layouts: Layouts, leaves: Mapping[str, np.ndarray], what: str = ""
) -> np.ndarray:
    """The tensor of a name, from the leaves that it is in, in writable memory of its own."""
    first, *others = layouts[name]
    leaf = leaves[first.path]
    for other in others:
        if leaves[other.path].dtype != leaf.dtype:
            raise TypeError(
                f"{what}{name} is made of {first.path}, which is {leaf.dtype}, and of "
                f"{other.path}, which is {leaves[other.path].dtype}"
            )
    tensor = np.empty(torch_shape(first, leaf.shape) or (), leaf.dtype)
    for layout in layouts[name]:
        tensor[index_of(layout.torch_part)] = from_leaf(leaves[layout.path], layout)
    return tensor
