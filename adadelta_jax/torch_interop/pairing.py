"""The layouts that torch tensors can have in the leaves of a pytree, and what decides."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from adadelta_jax.torch_interop.kinds import (
    CONV,
    CONV_TRANSPOSE,
    LEAF_NAMES,
    LINEAR,
    UNTRANSPOSED,
    chosen_kind,
    kind_of_name,
)
from adadelta_jax.torch_interop.layouts import LeafLayout, torch_shape
from adadelta_jax.torch_interop.prefixes import lengths_to_strip, module_and_leaf, spelled
from adadelta_jax.torch_interop.source import Source
from adadelta_jax.torch_interop.targets import Candidates, Target, joined, layouts_of, targets

Shapes = Mapping[str, tuple[int, ...]]
ByHand = Mapping[str, tuple[LeafLayout | str, ...] | None]


class Sides(NamedTuple):
    """Both sides of a match, and what the caller says of them.

    Attributes:
        source: The torch side.
        leaf_shapes: The shapes of the leaves by path.
        paths: The paths of leaves, by their module and by what torch calls them.
        strip: How many modules around all names and around all paths are left out.
        by_hand: The pairs that the caller gives.
        chosen: The lists of modules that the caller gives, by argument.
        left_out: Torch names that have no leaf unless the caller pairs them.
    """

    source: Source
    leaf_shapes: Shapes
    paths: Mapping[tuple[str, str], Sequence[str]]
    strip: tuple[int, int]
    by_hand: ByHand
    chosen: Mapping[str, Collection[str] | None]
    left_out: Collection[str]


def sides_of(
    source: Source,
    leaf_shapes: Shapes,
    by_hand: ByHand,
    chosen: Mapping[str, Collection[str] | None],
    left_out: Collection[str],
) -> Sides:
    """Both sides of a match, spelled alike."""
    strip = lengths_to_strip(
        *([module_and_leaf(name)[0] for name in names] for names in (source.shapes, leaf_shapes))
    )
    paths: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in leaf_shapes:
        module, leaf = _key(path, strip[1])
        for name in {leaf, *(name for name, leaves in LEAF_NAMES.items() if leaf in leaves)}:
            paths[module, name].append(path)
    return Sides(source, leaf_shapes, paths, strip, by_hand, chosen, left_out)


def candidates(name: str, sides: Sides) -> list[Candidates] | None:
    """For each target that a tensor can go to, its layouts by kind; None if it is left out."""
    prefix = next((prefix for prefix in prefixes(name) if prefix in sides.by_hand), None)
    if prefix != name and name in sides.left_out:
        return None
    given = () if prefix is None else sides.by_hand[prefix]
    if given is None:
        return None
    if any(isinstance(each, LeafLayout) for each in given):
        whole = (LeafLayout(each) if isinstance(each, str) else each for each in given)
        return [{None: tuple(whole)}]
    if prefix == name:
        found = [Target(tuple(map(str, given)))]
    elif prefix is not None:
        rest = name[len(prefix) :]
        of_each = [targets(f"{each}{rest}", sides.strip[1], sides.paths) for each in given]
        found = of_each[0] if len(of_each) == 1 else joined(of_each)
    else:
        names = [name, *sides.source.aliases.get(name, [])]
        of_each = (targets(each, sides.strip[0], sides.paths) for each in names)
        found = next(filter(None, of_each), [])
    return [_layouts(name, target, sides) for target in found]


def _layouts(name: str, target: Target, sides: Sides) -> Candidates:
    shape, (module, _, leaf) = sides.source.shapes[name], name.rpartition(".")
    found = layouts_of(leaf, shape, target, sides.leaf_shapes)
    kind = chosen_kind(module, len(shape), sides.chosen) or sides.source.kinds.get(module)
    return {kind: found[kind]} if kind in found else found


def fitting(name: str, found: Sequence[Candidates], sides: Sides) -> list[Candidates]:
    """The candidates whose leaves exist and have the shapes that the tensor becomes."""

    def fits(layout):
        leaf_shape = sides.leaf_shapes.get(layout.path)
        return leaf_shape is not None and torch_shape(layout, leaf_shape) == shape

    shape = sides.source.shapes[name]
    kept = [
        {kind: layouts for kind, layouts in each.items() if all(map(fits, layouts))}
        for each in found
    ]
    for layouts, all_layouts in zip(kept, found, strict=True):
        if set(layouts) == {UNTRANSPOSED} != set(all_layouts):
            # Or the two sides differ. A bias tells: it has a number for each output.
            bias = sides.source.shapes.get(f"{name.rpartition('.')[0]}.bias")
            if bias != shape[1:]:
                layouts.clear()
    return [layouts for layouts in kept if layouts]


def decide(
    found: Mapping[str, Candidates],
) -> tuple[dict[str, tuple[LeafLayout, ...]], dict[str, tuple[str | None, ...]]]:
    """The layouts of each tensor that fits one target, and the kinds of those in doubt."""
    certain = {name: next(iter(each)) for name, each in found.items() if len(each) == 1}
    of_block: dict[str, set[str | None]] = defaultdict(set)
    of_siblings: dict[str, set[str | None]] = defaultdict(set)
    for name, kind in certain.items():
        around, block = _around_and_block(name)
        if block:
            of_block[block].add(kind)
        of_siblings[around].add(kind)
    present = set(certain.values())
    by_hand = (found[name][kind][0] for name, kind in certain.items() if kind is None)
    if any(map(_is_untransposed, by_hand)):
        present.add(UNTRANSPOSED)

    decided, in_doubt = {}, {}
    for name, layouts in found.items():
        if name in certain:
            kind = certain[name]
        elif CONV in layouts:
            kind = kind_of_name(name)
            if kind == CONV and CONV_TRANSPOSE in present:
                kind = None
        else:
            kind = LINEAR
            if UNTRANSPOSED in present:
                # Layers of the same name tell, unless those beside it say otherwise.
                around, block = _around_and_block(name)
                known = (of_block[block] | of_siblings[around]) & {LINEAR, UNTRANSPOSED}
                kind = next(iter(known)) if len(known) == 1 and of_block[block] else None
        if kind in layouts:
            decided[name] = layouts[kind]
        else:
            decided[name], in_doubt[name] = next(iter(layouts.values())), tuple(layouts)
    return decided, in_doubt


def _is_untransposed(layout: LeafLayout) -> bool:
    """Whether a layout given by hand is that of a linear layer that is not transposed."""
    return layout.path.endswith("kernel") and layout.axes in (None, (0, 1)) and not layout.view


def likely_pairs(names: Sequence[str], paths: Sequence[str], sides: Sides) -> dict[str, str]:
    """Modules without a counterpart that alone have tensors of the same sizes on both sides."""

    def by_sizes(found, shapes, separator):
        sizes = defaultdict(list)
        for name in found:
            sizes[name.rpartition(separator)[0]].append(tuple(sorted(shapes[name])))
        modules = defaultdict(list)
        for module, each in sizes.items():
            modules[tuple(sorted(each))].append(module)
        return {each: modules[0] for each, modules in modules.items() if len(modules) == 1}

    ours = by_sizes(names, sides.source.shapes, ".")
    theirs = by_sizes(paths, sides.leaf_shapes, "/")
    both = {ours[each]: theirs[each] for each in ours if each in theirs and ours[each]}
    return {
        name: path
        for name, path in both.items()
        if _key(f"{name}.", sides.strip[0]) != _key(f"{path}/", sides.strip[1])
    }


def prefixes(name: str) -> list[str]:
    """The tensor's name and the names of the modules around it, the innermost first."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _around_and_block(name: str) -> tuple[str, str]:
    """The module around the layer of a weight, and the layer's own name, "" in a list."""
    around, _, block = name.rpartition(".")[0].rpartition(".")
    return around, "" if block.isdecimal() else block


def _key(name: str, length: int) -> tuple[str, str]:
    module, leaf = module_and_leaf(name)
    return spelled(module[length:]), leaf
