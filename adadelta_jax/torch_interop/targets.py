"""Where a torch tensor can go: to a leaf, to several, or into a leaf that has a stack of layers."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from adadelta_jax.torch_interop.kinds import LINEAR, layouts_by_kind, outputs_axis
from adadelta_jax.torch_interop.layouts import LeafLayout, torch_shape
from adadelta_jax.torch_interop.prefixes import Module, module_and_leaf, spelled

Paths = Mapping[tuple[str, str], Sequence[str]]
Candidates = dict[str | None, tuple[LeafLayout, ...]]

# What an attention of Flax and Haiku, or of Equinox, calls its layers.
_QUERY, _KEY, _VALUE = ((name, f"{name}_proj") for name in ("query", "key", "value"))
_OUT = ("out", "output_proj", "linear")
# The tensors of a `torch.nn.MultiheadAttention`: the layers that each is of, and what of them.
_ATTENTION = {
    "in_proj_weight": ((_QUERY, _KEY, _VALUE), "weight"),
    "in_proj_bias": ((_QUERY, _KEY, _VALUE), "bias"),
    "q_proj_weight": ((_QUERY,), "weight"),
    "k_proj_weight": ((_KEY,), "weight"),
    "v_proj_weight": ((_VALUE,), "weight"),
}


class Target(NamedTuple):
    """The leaves that a torch tensor goes to, one behind the other along the tensor's outputs.

    Attributes:
        paths: The leaves, in the order of the tensor.
        layer: Which layer of each leaf, if leaves have axes of layers.
    """

    paths: tuple[str, ...]
    layer: tuple[int, ...] = ()


def targets(name: str, length: int, paths: Paths) -> list[Target]:
    """Where a tensor of this name can go, without the first `length` modules of the name."""
    module, leaf = module_and_leaf(name)
    for of_layer, layer in _layers(module[length:]):
        found = [Target((path,), layer) for path in paths.get((spelled(of_layer), leaf), ())]
        if found := found or _in_attention(of_layer, leaf, layer, paths):
            return found
    return []


def joined(of_each: Sequence[Sequence[Target]]) -> list[Target]:
    """The target that is one behind the other, if each has one and they are in the same layer."""
    if not all(len(each) == 1 for each in of_each) or len({each[0].layer for each in of_each}) > 1:
        return []
    return [Target(tuple(path for each in of_each for path in each[0].paths), of_each[0][0].layer)]


def _layers(module: Module) -> Iterator[tuple[Module, tuple[int, ...]]]:
    """A module by its own name, and then as one of a stack: without numbers, which say where."""
    numbered = [position for position, part in enumerate(module) if part.isdecimal()]
    for count in range(len(numbered) + 1):
        for chosen in itertools.combinations(numbered, count):
            stack = tuple(part for position, part in enumerate(module) if position not in chosen)
            yield stack, tuple(int(module[position]) for position in chosen)


def _in_attention(module: Module, leaf: str, layer: tuple[int, ...], paths: Paths) -> list[Target]:
    """Where a tensor of a `torch.nn.MultiheadAttention` can go."""
    roles, part = _ATTENTION.get(leaf, ((), leaf))
    if not roles and module[-1:] == ("out_proj",):
        module, roles = module[:-1], (_OUT,)
    found = [_first(((spelled((*module, name)), part) for name in names), paths) for names in roles]
    if not found or not all(len(each) == 1 for each in found):
        return []
    return [Target(tuple(path for (path,) in found), layer)]


def _first(keys: Iterable[tuple[str, str]], paths: Paths) -> Sequence[str]:
    """The paths of the first key that has some."""
    return next((paths[key] for key in keys if paths.get(key)), ())


def layouts_of(
    torch_leaf: str,
    shape: tuple[int, ...],
    target: Target,
    leaf_shapes: Mapping[str, tuple[int, ...]],
) -> Candidates:
    """By kind of layer, the layouts that a tensor can have in the leaves of a target."""
    is_of_attention = torch_leaf in _ATTENTION
    torch_leaf = _ATTENTION.get(torch_leaf, ((), torch_leaf))[1]
    # A path that does not exist is refused later, in the words for a shape that does not fit.
    inner = [leaf_shapes.get(path, ())[len(target.layer) :] for path in target.paths]
    if len(target.paths) == 1:
        ((path,), (leaf_shape,)) = target.paths, inner
        layouts = layouts_by_kind(torch_leaf, path, shape, leaf_shape)
        found = {kind: (layout,) for kind, layout in layouts.items()}
    else:
        found = _cut(torch_leaf, shape, target.paths, inner)
    return {
        kind: tuple(layout._replace(leaf_part=target.layer) for layout in layouts)
        for kind, layouts in found.items()
        if not is_of_attention or kind in (LINEAR, None)
    }


def first_of(candidates: Candidates) -> tuple[LeafLayout, ...]:
    """The layouts of the first kind: its leaves are those of all kinds."""
    return next(iter(candidates.values()))


def _cut(
    torch_leaf: str,
    shape: tuple[int, ...],
    paths: Sequence[str],
    leaf_shapes: Sequence[tuple[int, ...]],
) -> Candidates:
    """By kind of layer, the layouts of a tensor whose outputs are shared out between leaves."""
    found = {}
    for kind in layouts_by_kind(torch_leaf, paths[0], shape, leaf_shapes[0]):
        before, (outputs, *after) = shape[: outputs_axis(kind)], shape[outputs_axis(kind) :] or (0,)
        # Each of the outputs has equally many numbers of the tensor.
        depth = math.prod((*before, *after)) or 1
        stops = itertools.accumulate((math.prod(each) // depth for each in leaf_shapes), initial=0)
        ranges = list(itertools.pairwise(stops))
        layouts, fit = [], ranges[-1][1] == outputs
        for path, leaf_shape, (start, stop) in zip(paths, leaf_shapes, ranges, strict=True):
            part = (*before, stop - start, *after)
            layout = layouts_by_kind(torch_leaf, path, part, leaf_shape)[kind]
            fit = fit and torch_shape(layout, leaf_shape) == part
            torch_part = (*(None,) * len(before), (start, stop))
            layouts.append(layout._replace(torch_shape=shape, torch_part=torch_part))
        if fit:
            found[kind] = tuple(layouts)
    return found or {None: tuple(map(LeafLayout, paths))}
