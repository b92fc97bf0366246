"""Which tensor of a torch module belongs to which parameter of a Flax module."""

import operator
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from adadelta_jax.torch_interop.checks import check_chosen_names, check_dict, check_torch_names
from adadelta_jax.torch_interop.layouts import LeafLayout, torch_shape
from adadelta_jax.torch_interop.mapping import is_running_statistic, leaves_by_path, resolve_paths

# What a torch module calls "weight" has one of these names in a Flax module.
_FLAX_WEIGHTS = ("kernel", "scale", "embedding", "weight")


def match_flax_params(
    torch_names_and_shapes: Mapping[str, Any] | Iterable[tuple[str, Any]],
    params: Any,
    *,
    pairs: Mapping[str, str | LeafLayout | None] | None = None,
    conv_transpose: Collection[str] | None = None,
) -> dict[str, LeafLayout | None]:
    """Pair the parameters of a torch module with those of a Flax module (Linen or NNX) by name.

    Two modules pair if their paths are equal. ``layers.0`` counts as equal to ``layers_0`` and
    ``layers/0``, and the ``0`` of a `torch.nn.Sequential` to the ``layers_0`` of a Flax one. Within
    a module:

    | torch | Flax | ``axes`` from torch to Flax |
    | --- | --- | --- |
    | Linear.weight (o, i) | kernel | (1, 0) |
    | Conv1d.weight (o, i, w) | kernel | (2, 1, 0) |
    | Conv2d.weight (o, i, h, w) | kernel | (2, 3, 1, 0) |
    | Conv3d.weight | kernel | (2, 3, 4, 1, 0) |
    | ConvTranspose1d.weight | kernel | (2, 0, 1), then flip (0,) |
    | ConvTranspose2d.weight | kernel | (2, 3, 0, 1), then flip (0, 1) |
    | ConvTranspose3d.weight | kernel | (2, 3, 4, 0, 1), then flip (0, 1, 2) |
    | weight of a norm | scale | None |
    | Embedding.weight | embedding | None |
    | any other, as bias | of the same name | None |
    | running_mean, running_var, num_batches_tracked | none: left out |  |

    A transposed convolution differs from a convolution in its shape, unless it has as many inputs
    as outputs; then "transpose" or "deconv" in its name tells. If the model has a transposed
    convolution, any convolution with as many inputs as outputs and no such name could be one too,
    and is refused: list the transposed ones in ``conv_transpose``. A `flax.linen.ConvTranspose`
    with ``transpose_kernel=True`` has the layout of a convolution.

    Flattening an image orders its numbers as (channels, height, width) in torch and as (height,
    width, channels) in Flax: for a linear layer behind it, give a [`LeafLayout`][] by hand.

    Args:
        torch_names_and_shapes: ``model.named_parameters()``, ``model.state_dict()``, or a dict of
            names and shapes. The result has the same order. For a torch optimizer that does not
            know the names of its parameters,
            [`optimizer_from_torch`][adadelta_jax.torch_interop.optimizer_from_torch] needs theirs,
            which is that of ``named_parameters()``.
        params: The Flax parameters: ``variables["params"]`` of a Linen module, ``nnx.state(model,
            nnx.Param)`` of an NNX one; arrays or `jax.ShapeDtypeStruct`.
        pairs: Pairs given by hand, which go first: from the name of a torch module or tensor to the
            path of a Flax module or leaf (laid out as in the table), to a [`LeafLayout`][] (taken
            as it is), or to None (left out).
        conv_transpose: The names of all torch modules that are transposed convolutions; None:
            decided as above.

    Returns:
        The mapping that the other functions of this module take: a dict from each torch name to its
        [`LeafLayout`][], or to None if it is left out. For a pytree other than Flax's, write it by
        hand. A path alone then stands for a leaf of the same layout.

    Raises:
        ValueError: If a name on either side has no counterpart or several, or if the shapes of a
            pair do not fit; all such names are listed.
        TypeError: If an argument has the wrong type.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax.torch_interop import match_flax_params
        >>> names_and_shapes = {"net.0.weight": (3, 2), "net.0.bias": (3,)}
        >>> params = {"net": {"layers_0": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
        >>> for name, layout in match_flax_params(names_and_shapes, params).items():
        ...     print(name, "->", layout.path, layout.axes)
        net.0.weight -> net/layers_0/kernel (1, 0)
        net.0.bias -> net/layers_0/bias None

    Source: the shapes of [torch.nn](https://docs.pytorch.org/docs/stable/nn.html) and of [Flax](
    <https://flax.readthedocs.io/en/latest/api_reference/index.html>).
    """
    torch_shapes = _shapes_by_name(torch_names_and_shapes)
    leaf_shapes = {path: jnp.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    pairs = {} if pairs is None else pairs
    check_dict("pairs", pairs, "a dict from torch names to paths")
    by_hand = resolve_paths("pairs", pairs, leaf_shapes)
    _check_known("pairs", by_hand, torch_shapes)
    if conv_transpose is not None:
        check_chosen_names("conv_transpose", conv_transpose)
        _check_known("conv_transpose", conv_transpose, torch_shapes)

    paths_by_name = _paths_by_name(leaf_shapes)
    mapping: dict[str, LeafLayout | None] = {}
    problems, in_doubt = [], []
    for name, shape in torch_shapes.items():
        candidates = _candidates(name, shape, by_hand, paths_by_name, conv_transpose)
        if candidates is None:
            mapping[name] = None
            continue
        fitting = [layout for layout in candidates if _fits(layout, shape, leaf_shapes)]
        mapping[name] = (fitting or candidates or [None])[0]
        paths = {
            layout.path: f"{layout.path} {leaf_shapes.get(layout.path, '(missing)')}"
            for layout in candidates
        }
        if not candidates:
            problems.append(f"{name} {shape} has no counterpart")
        elif not fitting:
            problems.append(f"{name} {shape} does not fit {' or '.join(paths.values())}")
        elif len({layout.path for layout in fitting}) > 1:
            problems.append(f"{name} {shape} fits each of {', '.join(paths.values())}")
        elif len(fitting) > 1 and not fitting[0].flip:
            (path,) = paths.values()
            in_doubt.append(f"{name} {shape} fits {path} as a convolution and as a transposed one")

    # Without a transposed convolution in the model, all that could be one are convolutions.
    if any(layout is not None and layout.flip for layout in mapping.values()):
        problems += in_doubt
    uses = Counter(layout.path for layout in mapping.values() if layout is not None)
    for path, shape in leaf_shapes.items():
        if uses[path] != 1:
            what = "is paired more than once" if uses[path] else "has no counterpart"
            problems.append(f"{path} {shape} {what}")
    if problems:
        raise ValueError(
            "the torch names and the parameters do not pair up:\n  "
            + "\n  ".join(problems)
            + "\nPair by hand with pairs={torch name: path}, or tell convolutions apart with "
            "conv_transpose=[torch module name]"
        )
    return mapping


def _shapes_by_name(torch_names_and_shapes: Any) -> dict[str, tuple[int, ...]]:
    """The shapes by torch name, from names with tensors or shapes."""
    is_mapping = isinstance(torch_names_and_shapes, Mapping)
    items = torch_names_and_shapes.items() if is_mapping else torch_names_and_shapes
    try:
        shapes = {name: _shape(value) for name, value in items}
    except (TypeError, ValueError):
        raise TypeError(
            "torch_names_and_shapes must be a state_dict, named_parameters() or a dict from names "
            f"to shapes, got {type(torch_names_and_shapes).__name__}"
        ) from None
    check_torch_names("torch_names_and_shapes", shapes)
    return shapes


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of a tensor, or `value` itself; raise a TypeError if it is no shape."""
    shape = getattr(value, "shape", value)
    if not isinstance(shape, (tuple, list)):
        raise TypeError
    return tuple(map(operator.index, shape))


def _check_known(argument: str, names: Collection[str], torch_shapes: Collection[str]) -> None:
    """Raise unless every name is the name of a torch tensor or module."""
    modules = {prefix for name in torch_shapes for prefix in _prefixes(name)}
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(
            f"{argument} names {', '.join(unknown)}, which torch_names_and_shapes lacks"
        )


def _prefixes(name: str) -> list[str]:
    """The tensor's name and the names of the modules around it, the innermost first."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _paths_by_name(paths: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """The paths that a torch tensor can lead to, by its module and its name in it."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        module, leaf = _module_and_leaf(path)
        for name in {leaf, "weight"} if leaf in _FLAX_WEIGHTS else {leaf}:
            found.setdefault((module, name), []).append(path)
    return found


def _module_and_leaf(name: str) -> tuple[str, str]:
    """The module of a torch name or a path, in one spelling for both, and its last part."""
    *module, leaf = re.split("[./]", name)
    return re.sub(r"(^|_)layers_(?=\d+(_|$))", r"\1", "_".join(module)), leaf


def _candidates(
    name: str,
    shape: tuple[int, ...],
    by_hand: Mapping[str, LeafLayout | str | None],
    paths_by_name: Mapping[tuple[str, str], Sequence[str]],
    conv_transpose: Collection[str] | None,
) -> list[LeafLayout] | None:
    """The layouts that a torch tensor can have, the likeliest first; None if it is left out."""
    prefix = next((prefix for prefix in _prefixes(name) if prefix in by_hand), None)
    if prefix is None and is_running_statistic(name):
        return None
    given = name if prefix is None else by_hand[prefix]
    if given is None or isinstance(given, LeafLayout):
        return given and [given]
    if prefix == name:
        paths = [given]
    else:
        within = name if prefix is None else given + name[len(prefix) :]
        paths = paths_by_name.get(_module_and_leaf(within), [])
    return [layout for path in paths for layout in _layouts(name, path, shape, conv_transpose)]


def _fits(
    layout: LeafLayout, shape: tuple[int, ...], leaf_shapes: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether the leaf exists and a tensor of that shape becomes one of its shape."""
    leaf_shape = leaf_shapes.get(layout.path)
    return leaf_shape is not None and torch_shape(layout, leaf_shape) == shape


def _layouts(
    name: str, path: str, shape: tuple[int, ...], conv_transpose: Collection[str] | None
) -> list[LeafLayout]:
    """The layouts that a torch tensor can have in the leaf at `path`, the likeliest first."""
    module, _, tensor = name.rpartition(".")
    if tensor != "weight" or _module_and_leaf(path)[1] != "kernel" or len(shape) < 2:
        return [LeafLayout(path)]
    spatial = tuple(range(2, len(shape)))
    plain = LeafLayout(path, (*spatial, 1, 0))
    if not spatial:
        return [plain]
    transposed = LeafLayout(path, (*spatial, 0, 1), tuple(range(len(spatial))))
    if conv_transpose is not None:
        return [transposed if module in conv_transpose else plain]
    named_so = re.search("transpose|deconv", f"{name} {path}", re.IGNORECASE)
    return [transposed, plain] if named_so else [plain, transposed]
