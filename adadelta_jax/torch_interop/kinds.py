"""How a torch tensor is laid out in a leaf: by the kind of layer that it is the weight of.

A weight that is as wide as high fits the layouts of two kinds of layer. Then the class of a live
torch module tells them apart, or its name, or the caller.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adadelta_jax.torch_interop.layouts import LeafLayout

LINEAR, UNTRANSPOSED = "a linear layer", "a linear layer that is not transposed"
CONV, CONV_TRANSPOSE = "a convolution", "a transposed convolution"

# What a torch module calls so has one of these names in a module of Flax, Equinox or Haiku.
LEAF_NAMES = {
    "weight": ("kernel", "scale", "embedding", "weight", "w", "embeddings"),
    "bias": ("bias", "b", "offset"),
    "running_mean": ("mean",),
    "running_var": ("var",),
}
_INPUTS_FIRST = ("kernel", "w")  # the weights that are (inputs, outputs), channels last
_AFTER_HEADS = ("out", "out_proj", "o", "o_proj")  # what reads the heads of an attention

# The classes of live torch modules, by their whole names: a user's class may be called otherwise
# than what it derives from.
_CLASSES = {
    "Conv1D": UNTRANSPOSED,  # of Hugging Face
    "(Lazy)?ConvTranspose[123]d": CONV_TRANSPOSE,
    "(Lazy)?Conv[123]d": CONV,
    "(Lazy)?Linear": LINEAR,
}


def layouts_by_kind(
    torch_leaf: str, path: str, shape: Sequence[int], leaf_shape: Sequence[int] | None
) -> dict[str | None, LeafLayout]:
    """By kind of layer, the layouts that a torch tensor can have in the leaf at `path`."""
    leaf, rank = re.split("[./]", path)[-1], len(shape)
    spatial = tuple(range(2, rank))
    if torch_leaf == "weight" and rank > 1:
        if leaf in _INPUTS_FIRST and not spatial:
            own, with_heads = tuple(shape), _inputs_and_outputs(path, leaf_shape)
            return {
                LINEAR: LeafLayout(
                    path, (1, 0), torch_shape=own if own == with_heads[::-1] else None
                ),
                UNTRANSPOSED: LeafLayout(path, torch_shape=own if own == with_heads else None),
            }
        if leaf in _INPUTS_FIRST:
            # Haiku keeps the two axes of channels of a transposed convolution as a convolution has.
            channels = (1, 0) if leaf == "w" else (0, 1)
            return {
                CONV: LeafLayout(path, (*spatial, 1, 0)),
                CONV_TRANSPOSE: LeafLayout(path, (*spatial, *channels), tuple(range(len(spatial)))),
            }
        if leaf == "weight" and spatial:  # of Equinox
            return {
                CONV: LeafLayout(path),
                CONV_TRANSPOSE: LeafLayout(path, (1, 0, *spatial), spatial),
            }
    if rank == 1 and leaf not in _INPUTS_FIRST and leaf_shape is not None and len(leaf_shape) > 1:
        # Equinox and Haiku give the vectors of some layers further axes of size one, and an
        # attention of Flax has an axis of heads.
        return {None: LeafLayout(path, torch_shape=tuple(shape))}
    return {None: LeafLayout(path)}


def _inputs_and_outputs(path: str, leaf_shape: Sequence[int] | None) -> tuple[int, ...]:
    """The sizes of a leaf that has an axis of heads, as in an attention of Flax; () for others."""
    if leaf_shape is None or len(leaf_shape) != 3:
        return ()
    first, second, third = leaf_shape
    # A convolution has three axes too: only the name tells that the first of them is of heads.
    is_after_heads = path.split("/")[-2:-1] in ([name] for name in _AFTER_HEADS)
    return (first * second, third) if is_after_heads else (first, second * third)


def outputs_axis(kind: str | None) -> int:
    """The axis of a torch tensor that counts the outputs of its layer."""
    return 1 if kind in (UNTRANSPOSED, CONV_TRANSPOSE) else 0


def kind_of_class(module: Any) -> str | None:
    """The kind of layer that a live torch module is, by the name of its class or of a base."""
    for cls in type(module).__mro__:
        for pattern, kind in _CLASSES.items():
            if re.fullmatch(pattern, cls.__name__):
                return kind
    return None


def kind_of_name(name: str, path: str) -> str | None:
    """The kind of convolution that a name says; None if it says nothing, or both."""
    words = f"{name} {path}".lower()
    if re.search("transpose|deconv", words):
        return CONV_TRANSPOSE
    # An "upconv" is one or the other.
    return CONV if "conv" in words and "up" not in words else None


def chosen_kind(module: str, rank: int, chosen: Mapping[str, Collection[str] | None]) -> str | None:
    """The kind of layer that the caller says a module is, by the argument that lists such."""
    listed = chosen["conv_transpose" if rank > 2 else "untransposed"]
    if listed is None:
        return None
    if module in listed:
        return CONV_TRANSPOSE if rank > 2 else UNTRANSPOSED
    return CONV if rank > 2 else LINEAR


def flattened_layout(layout: LeafLayout, shape: Sequence[int], channels: int) -> LeafLayout:
    """The layout of a linear layer behind an image that is flattened, channels last in the leaf."""
    outputs, inputs = shape
    return layout._replace(
        axes=(2, 1, 0),
        torch_shape=(outputs, inputs),
        view=(outputs, channels, inputs // channels),
    )
