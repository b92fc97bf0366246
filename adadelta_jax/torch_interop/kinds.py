"""How a torch tensor is laid out in a leaf: by the kind of layer that it is the weight of.

A weight that is as wide as high fits the layouts of two kinds of layer. Then the class of a live
torch module tells them apart, or its name, or the caller.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adadelta_jax.torch_interop.layouts import LeafLayout

LINEAR, UNTRANSPOSED = "a linear layer", "a linear layer that is not transposed"
CHANNELS_FIRST, CHANNELS_LAST = "a norm with channels first", "a norm with channels last"
CONV, CONV_TRANSPOSE = "a convolution", "a transposed convolution"

# What a torch module calls so has one of these names in a module of Flax, Equinox or Haiku.
LEAF_NAMES = {
    "weight": ("kernel", "scale", "embedding", "weight", "w", "embeddings"),
    "bias": ("bias", "b", "offset"),
    "running_mean": ("mean",),
    "running_var": ("var",),
}
_INPUTS_FIRST = ("kernel", "w")  # the weights that are (inputs, outputs), channels last
_OF_NORMS = ("scale", "bias", "offset")
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
        if leaf == "weight" and not spatial:  # of Equinox
            return {LINEAR: LeafLayout(path), UNTRANSPOSED: LeafLayout(path, (1, 0))}
        if leaf == "weight":
            return {
                CONV: LeafLayout(path),
                CONV_TRANSPOSE: _transposed_of_equinox(path, tuple(shape), leaf_shape),
            }
    if torch_leaf in ("weight", "bias") and rank > 2 and leaf in _OF_NORMS:
        # A norm over a whole image, whose channels come last in Flax.
        channels_last = LeafLayout(path, (*range(1, rank), 0))
        return {CHANNELS_FIRST: LeafLayout(path), CHANNELS_LAST: channels_last}
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


def _transposed_of_equinox(
    path: str, shape: tuple[int, ...], leaf_shape: Sequence[int] | None
) -> LeafLayout:
    """A transposed convolution: (inputs, outputs of a group) as (outputs, inputs of a group)."""
    (inputs, of_group, *size), spatial = shape, tuple(range(2, len(shape)))
    groups = leaf_shape[0] // max(1, of_group) if leaf_shape else 1
    if groups < 2 or inputs % groups:
        return LeafLayout(path, (1, 0, *spatial), spatial)
    return LeafLayout(
        path,
        axes=(0, 2, 1, *(axis + 1 for axis in spatial)),
        flip=tuple(axis + 1 for axis in spatial),
        torch_shape=shape,
        view=(groups, inputs // groups, of_group, *size),
    )


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


def kind_of_name(name: str) -> str | None:
    """The kind of convolution that a name says; None if it says nothing, or both."""
    parts = [part for part in re.split("[./]", name.lower())[:-1] if not part.isdecimal()]
    *around, word = parts or [""]
    if re.search("transpose|deconv", word):
        return CONV_TRANSPOSE
    # An "upconv", a "t_conv" and a "conv" in a decoder are one or the other.
    is_conv = re.fullmatch(r"(.*_)?convs?(olution)?(\dd)?(_?\d+)*(_.*)?", word)
    in_doubt = re.search(r"up|dec|(^|_)t(rans)?_|_t(rans)?(_|$)", word) or any(
        re.search("transpose|deconv|up|dec", part) for part in around
    )
    return CONV if is_conv and not in_doubt else None


def chosen_kind(module: str, rank: int, chosen: Mapping[str, Collection[str] | None]) -> str | None:
    """The kind of layer that the caller says a module is, by the argument that lists such."""
    listed = chosen["conv_transpose" if rank > 2 else "untransposed"]
    if listed is None:
        return None
    if module in listed:
        return CONV_TRANSPOSE if rank > 2 else UNTRANSPOSED
    return CONV if rank > 2 else LINEAR
