"""The match of both sides: one layout for each tensor, or a list of all that does not pair up."""

import itertools
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from adadelta_jax.torch_interop.checks import check_chosen_names, check_dict
from adadelta_jax.torch_interop.flattening import with_flattened
from adadelta_jax.torch_interop.kinds import CONV, LINEAR
from adadelta_jax.torch_interop.layouts import LeafLayout, Part, times_used
from adadelta_jax.torch_interop.mapping import Entry, leaves_by_path, resolve_paths
from adadelta_jax.torch_interop.pairing import (
    Sides,
    candidates,
    decide,
    fitting,
    likely_pairs,
    prefixes,
    sides_of,
)
from adadelta_jax.torch_interop.source import Source
from adadelta_jax.torch_interop.targets import Candidates, first_of


def match(
    source: Source,
    params: Any,
    pairs: Mapping[str, Entry] | None,
    chosen: Mapping[str, Collection[str] | None],
    left_out: Collection[str],
) -> dict[str, LeafLayout | tuple[LeafLayout, ...] | None]:
    """The layout of each torch tensor; raise unless each has one, and each leaf one tensor."""
    shapes = source.shapes
    leaf_shapes = {path: jnp.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    pairs = {} if pairs is None else pairs
    check_dict("pairs", pairs, "a dict from torch names to paths")
    by_hand = resolve_paths("pairs", pairs, leaf_shapes)
    _check_known("pairs", by_hand, shapes)
    for argument, names in chosen.items():
        if names is not None:
            check_chosen_names(argument, names)
            _check_known(argument, names, shapes)
            _check_are_layers(argument, names, shapes)

    sides = sides_of(source, leaf_shapes, by_hand, chosen, left_out)
    found, problems, attempted = {}, {}, []
    for name in shapes:
        possible = candidates(name, sides)
        if possible is None:
            continue
        fit = fitting(name, possible, sides)
        if len(fit) == 1:
            found[name] = fit[0]
        else:
            problems[name] = _why_not_one(name, fit, possible, sides)
            attempted += [layout for each in (fit or possible)[:1] for layout in first_of(each)]
    decided, in_doubt = decide(found)
    for name, (first, second) in in_doubt.items():
        where = _where(decided[name], leaf_shapes)
        problems[name] = f"{_described(name, shapes)} fits {where} as {first} and as {second}"
    decided, impossible, possibly_flattened = with_flattened(decided, sides)
    lines = [problems[name] for name in shapes if name in problems] + impossible
    used = [*itertools.chain.from_iterable(decided.values()), *attempted]
    lines += _why_not_filled(used, attempted, leaf_shapes)
    if lines:
        unpaired = [name for name in problems if not candidates(name, sides)]
        unused = [path for path in leaf_shapes if path not in {layout.path for layout in used}]
        likely = likely_pairs(unpaired, unused, sides)
        raise ValueError(
            "the torch names and the parameters do not pair up:\n  "
            + "\n  ".join(lines)
            + f"\n{_advice(in_doubt, likely, unpaired)}"
        )
    if possibly_flattened:
        warnings.warn("\n".join(possibly_flattened), UserWarning, stacklevel=3)
    layouts = {name: each[0] if len(each) == 1 else each for name, each in decided.items()}
    return {name: layouts.get(name) for name in shapes}


def _why_not_one(name: str, fit: list[Candidates], found: list[Candidates], sides: Sides) -> str:
    """Why a tensor does not fit exactly one target."""
    what = _described(name, sides.source.shapes)
    if not found:
        return f"{what} has no counterpart"
    described = [_where(first_of(each), sides.leaf_shapes) for each in found]
    if fit:
        return f"{what} fits each of {', '.join(described)}"
    return f"{what} does not fit {' or '.join(described)}"


def _why_not_filled(
    used: Sequence[LeafLayout],
    attempted: Sequence[LeafLayout],
    leaf_shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """For each leaf that tensors do not fill, why not; of `attempted` ones another line speaks."""
    parts: dict[str, list[Part]] = {path: [] for path in leaf_shapes}
    incomplete = {layout.path for layout in attempted if layout.leaf_part}
    for layout in used:
        if layout.path in parts and layout.path not in incomplete:
            parts[layout.path].append(layout.leaf_part)
    lines = []
    for path, shape in leaf_shapes.items():
        fewest, most = times_used(parts[path], shape)
        if most > 1:
            lines.append(f"{_described(path, leaf_shapes)} is paired more than once")
        elif path not in incomplete and not parts[path]:
            lines.append(f"{_described(path, leaf_shapes)} has no counterpart")
        elif path not in incomplete and fewest < 1:
            lines.append(
                f"{_described(path, leaf_shapes)} is paired only in part, with "
                f"{len(parts[path])} of its layers"
            )
    return lines


def _where(layouts: Sequence[LeafLayout], leaf_shapes: Mapping[str, tuple[int, ...]]) -> str:
    return " and ".join(_described(layout.path, leaf_shapes) for layout in layouts)


def _described(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name} {shapes.get(name, '(missing)')}"


def _advice(
    in_doubt: Mapping[str, tuple[str | None, ...]],
    likely: Mapping[str, str],
    unpaired: Sequence[str],
) -> str:
    """What the caller can do about names that do not pair up."""
    advice = ["Pair by hand with pairs={torch name: path}"]
    if any(CONV in kinds for kinds in in_doubt.values()):
        advice.append("list all transposed convolutions in conv_transpose=[torch module name]")
    if any(LINEAR in kinds for kinds in in_doubt.values()):
        advice.append("list all layers that are not transposed in untransposed=[torch module name]")
    if in_doubt:
        advice.append("or pass the torch module itself, which knows its layers")
    recurrent = [name for name in unpaired if "bias_hh_l" in name]
    if recurrent:
        return (
            f"A layer of torch with {recurrent[0]} has two biases for each gate, and a cell of "
            "Flax, Equinox or Haiku one: their sum cannot be taken apart again. Use a module that "
            "keeps torch's four tensors, as those of examples/torch_recurrent.py do"
        )
    suggestion = f". By their shapes, pairs={dict(likely)} is likely" if likely else ""
    return ", ".join(advice) + suggestion


def _check_are_layers(
    argument: str, names: Collection[str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise unless every name is that of a layer, and not of a module around some."""
    ranks = {"conv_transpose": (3, 4, 5), "untransposed": (2,)}.get(argument)
    others = [
        name
        for name in names
        if ranks is not None and len(shapes.get(f"{name}.weight", ())) not in ranks
    ]
    if ranks is not None and others:
        raise ValueError(
            f"{argument} must list layers with a weight of {' or '.join(map(str, ranks))} axes, "
            f"got {', '.join(others)}"
        )


def _check_known(argument: str, names: Collection[str], torch_shapes: Collection[str]) -> None:
    """Raise unless every name is the name of a torch tensor or module."""
    modules = {prefix for name in torch_shapes for prefix in prefixes(name)}
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(
            f"{argument} names {', '.join(unknown)}, which torch_names_and_shapes lacks"
        )
