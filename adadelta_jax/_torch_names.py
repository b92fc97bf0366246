"""Which torch name belongs to which leaf of a pytree of parameters."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adadelta_jax import _validation
from adadelta_jax._torch_arrays import LeafLayout, torch_shape

# What a torch module calls "weight" has one of these names in a Flax module.
_FLAX_WEIGHTS = ("kernel", "scale", "embedding", "weight")
_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def match_flax_params(
    torch_names_and_shapes: Mapping[str, Any] | Iterable[tuple[str, Any]],
    params: Any,
    *,
    pairs: Mapping[str, str | LeafLayout | None] | None = None,
    conv_transpose: Collection[str] | None = None,
) -> dict[str, LeafLayout | None]:
    """Pair the parameters of a torch module with those of a Flax module (Linen or NNX) by name.

    Modules pair if their paths are equal, where ``layers.0`` equals ``layers_0`` and ``layers/0``,
    and a `torch.nn.Sequential`'s ``0`` equals a Flax one's ``layers_0``. Within a module:

    ==========================  ======================  ====================================
    torch                       Flax                    ``axes`` from torch to Flax
    ==========================  ======================  ====================================
    Linear.weight (o, i)        kernel                  (1, 0)
    Conv1d.weight (o, i, w)     kernel                  (2, 1, 0)
    Conv2d.weight (o, i, h, w)  kernel                  (2, 3, 1, 0)
    Conv3d.weight               kernel                  (2, 3, 4, 1, 0)
    ConvTranspose1d.weight      kernel                  (2, 0, 1), then flip (0,)
    ConvTranspose2d.weight      kernel                  (2, 3, 0, 1), then flip (0, 1)
    ConvTranspose3d.weight      kernel                  (2, 3, 4, 0, 1), then flip (0, 1, 2)
    weight of a norm            scale                   None
    Embedding.weight            embedding               None
    any other, as bias          of the same name        None
    running_mean, running_var,  none: left out
    num_batches_tracked
    ==========================  ======================  ====================================

    A transposed convolution is told from a convolution by its shape or, if it has as many inputs
    as outputs, by "transpose" or "deconv" in its name. If the model has one, a convolution of as
    many inputs as outputs could be another and is refused: name them with ``conv_transpose``. A
    `flax.linen.ConvTranspose` with ``transpose_kernel=True`` has the layout of a convolution.

    Flattening an image orders its numbers as (channels, height, width) in torch and as (height,
    width, channels) in Flax: for a linear layer behind it, give a `LeafLayout` by hand.

    Args:
        torch_names_and_shapes: ``model.named_parameters()``, ``model.state_dict()``, or a dict of
            names and shapes. Its order is that of the result, by which `optimizer_from_torch`
            counts the parameters of a torch optimizer that does not know their names:
            ``named_parameters()`` has it right.
        params: The Flax parameters: ``variables["params"]`` of a Linen module, ``nnx.state(model,
            nnx.Param)`` of an NNX one; arrays or `jax.ShapeDtypeStruct`.
        pairs: Pairs given by hand, which go first: from the name of a torch module or tensor to the
            path of a Flax module or leaf (laid out as in the table), to a `LeafLayout` (taken as it
            is), or to None (left out).
        conv_transpose: The names of all torch modules that are transposed convolutions; None: told
            as above.

    Returns:
        The mapping that the other functions of this module take: a dict from each torch name to its
        `LeafLayout`, or to None if it is left out. For a pytree other than Flax's, write it by
        hand: there, a path alone stands for a leaf of the same layout.

    Raises:
        ValueError: If a name is left over on either side, fits several, or the shapes of a pair do
            not fit each other; all such names are listed.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax.torch_interop import match_flax_params
        >>> names_and_shapes = {"net.0.weight": (3, 2), "net.0.bias": (3,)}
        >>> params = {"net": {"layers_0": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
        >>> for name, layout in match_flax_params(names_and_shapes, params).items():
        ...     print(name, "->", layout.path, layout.axes)
        net.0.weight -> net/layers_0/kernel (1, 0)
        net.0.bias -> net/layers_0/bias None

    Source: the shapes of `torch.nn <https://docs.pytorch.org/docs/stable/nn.html>`_ and of `Flax
    <https://flax.readthedocs.io/en/latest/api_reference/index.html>`_.
    """
    torch_shapes = _shapes_by_name(torch_names_and_shapes)
    leaf_shapes = {path: jnp.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    by_hand = {} if pairs is None else _resolved("pairs", pairs, leaf_shapes)
    _check_torch_names("pairs", by_hand, torch_shapes)
    _check_torch_names("conv_transpose", conv_transpose or (), torch_shapes)

    paths_by_name = _paths_by_name(leaf_shapes)
    mapping: dict[str, LeafLayout | None] = {}
    problems, in_doubt = [], []
    for name, shape in torch_shapes.items():
        candidates = _candidates(name, shape, by_hand, paths_by_name, conv_transpose)
        if candidates is None:
            mapping[name] = None
            continue
        leaves = {x.path: f"{x.path} {leaf_shapes.get(x.path, '(missing)')}" for x in candidates}
        fitting = [
            layout
            for layout in candidates
            if layout.path in leaf_shapes and torch_shape(layout, leaf_shapes[layout.path]) == shape
        ]
        if not candidates:
            problems.append(f"{name} {shape} has no counterpart")
        elif not fitting:
            problems.append(f"{name} {shape} does not fit {' or '.join(leaves.values())}")
        elif len({layout.path for layout in fitting}) > 1:
            problems.append(f"{name} {shape} fits each of {', '.join(leaves.values())}")
        elif len(fitting) > 1 and not fitting[0].flip:
            (leaf,) = leaves.values()
            in_doubt.append(f"{name} {shape} fits {leaf} as a convolution and as a transposed one")
        mapping[name] = (fitting or candidates or [None])[0]

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


def is_running_statistic(name: str) -> bool:
    """Whether a torch name is that of a buffer of a batch norm."""
    return name.rpartition(".")[2] in _RUNNING_STATISTICS


def leaves_by_path(params: Any) -> dict[str, Any]:
    """The leaves by the paths that mappings use."""
    return {_validation.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def layouts_by_name(
    mapping: Mapping[str, LeafLayout | str | None], params: Any
) -> dict[str, LeafLayout]:
    """The layout of every tensor that `mapping` does not leave out.

    Raises unless each leaf of `params` has one name.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(
            "mapping must be a dict from torch names to paths, as match_flax_params makes it, "
            f"got {type(mapping).__name__}"
        )
    leaves = leaves_by_path(params)
    layouts = {
        name: LeafLayout(entry) if isinstance(entry, str) else entry
        for name, entry in _resolved("mapping", mapping, leaves).items()
        if entry is not None
    }
    uses = Counter(layout.path for layout in layouts.values())
    problems = {
        "params lacks": [path for path in uses if path not in leaves],
        "mapping lacks": [path for path in leaves if path not in uses],
        "mapping has more than once": [path for path in uses if uses[path] > 1],
    }
    raise_if_any("mapping and params do not match", problems)
    for name, layout in layouts.items():
        shape = jnp.shape(leaves[layout.path])
        if torch_shape(layout, shape) is None:
            raise ValueError(f"mapping[{name!r}] does not fit a leaf of shape {shape}: {layout}")
    return layouts


def check_groups(param_groups: Any) -> None:
    """Raise unless these are torch parameter groups, each with its parameters."""
    if isinstance(param_groups, Mapping) or not all(isinstance(g, Mapping) for g in param_groups):
        raise TypeError(f"param_groups must be a list of dicts, got {param_groups!r}")
    for index, group in enumerate(param_groups):
        if "params" not in group:
            raise ValueError(f"param_groups[{index}] lacks params")
        count, names = len(group["params"]), group.get("param_names", group["params"])
        if len(names) != count:
            raise ValueError(
                f"param_groups[{index}] has {count} params, but {len(names)} param_names"
            )
    ids = [id_ for group in param_groups for id_ in group["params"] if isinstance(id_, int | str)]
    repeated = [str(id_) for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"param_groups have {', '.join(repeated)} more than once")
    named = ["param_names" in group for group in param_groups]
    if any(named) and not all(named):
        raise ValueError(
            f"param_groups[{named.index(True)}] has param_names, "
            f"but param_groups[{named.index(False)}] has none"
        )


def names_in_groups(
    groups: Sequence[Mapping[str, Any]], layouts: Collection[str], frozen: Collection[str]
) -> list[list[str]]:
    """The torch names of the parameters of each torch parameter group.

    They are the groups' own names if there are any, or else the names of `layouts` in their order,
    of which the torch optimizer may lack those in `frozen`.
    """
    ids = [list(group["params"]) for group in groups]
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    if all(isinstance(id_, str) for in_group in ids for id_ in in_group):
        return ids
    count = sum(map(len, ids))
    in_order = [name for name in layouts if not is_running_statistic(name)]
    names = in_order if count == len(in_order) else [n for n in in_order if n not in frozen]
    if count != len(names):
        uncovered = f" (none are left for {', '.join(names[count:])})" if names[count:] else ""
        raise ValueError(
            f"the torch optimizer has {count} parameters, but mapping names {len(names)} that are "
            f"not frozen{uncovered}: name those that it does not train in frozen, or give every "
            "group its param_names"
        )
    remaining = iter(names)
    return [[next(remaining) for _ in in_group] for in_group in ids]


def check_coverage(
    names: Iterable[Iterable[str]],
    mapping: Mapping[str, Any],
    layouts: Collection[str],
    frozen: Collection[str],
) -> None:
    """Raise unless every parameter that is not frozen is in one group, and no unknown one is."""
    uses = Counter(name for in_group in names for name in in_group)
    problems = {
        "mapping lacks": [name for name in (*uses, *frozen) if name not in mapping],
        "in no group and not in frozen are": [
            name for name in layouts if name not in uses and name not in frozen
        ],
        "more than once in a group are": [name for name in uses if uses[name] > 1],
    }
    raise_if_any("the torch optimizer's groups and mapping do not match", problems)


def raise_if_any(summary: str, problems: Mapping[str, Iterable[str]]) -> None:
    """Raise a ValueError that lists what is wrong, if anything is."""
    reasons = [f"{what} {', '.join(map(str, names))}" for what, names in problems.items() if names]
    if reasons:
        raise ValueError(f"{summary}: {'; '.join(reasons)}")


def _shapes_by_name(torch_names_and_shapes: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes, from names with tensors or shapes."""
    is_mapping = isinstance(torch_names_and_shapes, Mapping)
    items = torch_names_and_shapes.items() if is_mapping else torch_names_and_shapes
    try:
        return {name: tuple(getattr(value, "shape", value)) for name, value in items}
    except (TypeError, ValueError):
        raise TypeError(
            "torch_names_and_shapes must be a state_dict, named_parameters() or a dict from names "
            f"to shapes, got {type(torch_names_and_shapes).__name__}"
        ) from None


def _check_torch_names(
    argument: str, names: Collection[str], torch_shapes: Collection[str]
) -> None:
    """Raise unless every name is that of a torch tensor or module."""
    modules = {prefix for name in torch_shapes for prefix in _prefixes(name)}
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(
            f"{argument} names {', '.join(unknown)}, which torch_names_and_shapes lacks"
        )


def _prefixes(name: str) -> list[str]:
    """The tensor's name, and those of the modules around it from the innermost outwards."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _resolved(
    argument: str, entries: Mapping[str, Any], leaves: Collection[str]
) -> dict[str, LeafLayout | str | None]:
    """Entries written by hand, their paths without an NNX variable's "/value"."""

    def resolve(path):
        return path if path in leaves else path.removesuffix("/value")

    resolved = {}
    for name, entry in entries.items():
        if isinstance(entry, LeafLayout):
            resolved[name] = entry._replace(path=resolve(entry.path))
        elif entry is None or isinstance(entry, str):
            resolved[name] = entry and resolve(entry)
        else:
            raise TypeError(
                f"{argument}[{name!r}] must be a path, a LeafLayout or None, got {entry!r}"
            )
    return resolved


def _paths_by_name(paths: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """The paths that a torch tensor may have, by its module and what torch calls it there."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        module, leaf = _module_and_leaf(path)
        for name in {leaf, "weight"} if leaf in _FLAX_WEIGHTS else {leaf}:
            found.setdefault((module, name), []).append(path)
    return found


def _module_and_leaf(name: str) -> tuple[str, str]:
    """A torch name or a path as its module, in one spelling for both, and its last part."""
    *module, leaf = re.split("[./]", name)
    return re.sub(r"(^|_)layers_(?=\d+(_|$))", r"\1", "_".join(module)), leaf


def _candidates(
    name: str,
    shape: tuple[int, ...],
    by_hand: Mapping[str, LeafLayout | str | None],
    paths_by_name: Mapping[tuple[str, str], Sequence[str]],
    conv_transpose: Collection[str] | None,
) -> list[LeafLayout] | None:
    """The layouts that a torch tensor may have, the likeliest first; None if it is left out."""
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


def _layouts(
    name: str, path: str, shape: tuple[int, ...], conv_transpose: Collection[str] | None
) -> list[LeafLayout]:
    """The layouts that a torch tensor of that name and shape may have, the likeliest first."""
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
