"""The torch side of a match: names and shapes, and what a live module tells besides."""

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from adadelta_jax.torch_interop.checks import check_torch_names
from adadelta_jax.torch_interop.kinds import kind_of_class


class Source(NamedTuple):
    """The tensors of a torch module.

    Attributes:
        shapes: By name, in order.
        kinds: The kind of layer of each module of a live module, by name; None if it has none.
        aliases: The other names of tied parameters, by their first name.
        order: The names in the order of the module, which that of an optimizer may differ from.
    """

    shapes: dict[str, tuple[int, ...]]
    kinds: dict[str, str | None]
    aliases: dict[str, list[str]]
    order: list[str]


def read_source(names_and_shapes: Any, optimizer: Any) -> Source:
    """The tensors of a live module, or of names with tensors or shapes."""
    if not _is_module(names_and_shapes):
        if optimizer is not None:
            raise TypeError("optimizer needs a torch.nn.Module in torch_names_and_shapes")
        shapes = _shapes_by_name(names_and_shapes)
        return Source(shapes, {}, {}, list(shapes))
    first_names: dict[int, str] = {}
    shapes, aliases = {}, {}
    for name, param in names_and_shapes.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(param), name)
        if first == name:
            shapes[name] = tuple(param.shape)
        else:
            aliases.setdefault(first, []).append(name)
    kinds = {name: kind_of_class(module) for name, module in names_and_shapes.named_modules()}
    order = list(shapes)
    if optimizer is not None:
        shapes = {name: shapes[name] for name in _in_order_of(optimizer, first_names, shapes)}
    return Source(shapes, kinds, aliases, order)


def read_statistics(names_and_shapes: Any) -> Source:
    """The running means and variances of a live module, or of names with tensors or shapes."""
    if _is_module(names_and_shapes):
        names_and_shapes = dict(names_and_shapes.named_buffers())
    shapes = _shapes_by_name(names_and_shapes)
    kept = ("running_mean", "running_var")
    shapes = {name: each for name, each in shapes.items() if name.rpartition(".")[2] in kept}
    return Source(shapes, {}, {}, list(shapes))


def _in_order_of(optimizer: Any, names: Mapping[int, str], all_names: Any) -> list[str]:
    """The names in the order of a live torch optimizer, and then those that it does not have."""
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise TypeError(f"optimizer must be a torch optimizer, got {type(optimizer).__name__}")
    ids = [id(param) for group in optimizer.param_groups for param in group["params"]]
    if any(id_ not in names for id_ in ids):
        raise ValueError("optimizer has parameters that are not those of the torch module")
    return list(dict.fromkeys([*(names[id_] for id_ in ids), *all_names]))


def _is_module(value: Any) -> bool:
    """Whether `value` is a live torch module, by its methods: torch is not imported."""
    return callable(getattr(value, "named_parameters", None)) and callable(
        getattr(value, "named_modules", None)
    )


def _shapes_by_name(torch_names_and_shapes: Any) -> dict[str, tuple[int, ...]]:
    """The shapes by torch name, from names with tensors or shapes."""
    is_mapping = isinstance(torch_names_and_shapes, Mapping)
    items = torch_names_and_shapes.items() if is_mapping else torch_names_and_shapes
    try:
        shapes = {name: _shape(value) for name, value in items}
    except (TypeError, ValueError):
        raise TypeError(
            "torch_names_and_shapes must be a torch module, a state_dict, named_parameters() or a "
            f"dict from names to shapes, got {type(torch_names_and_shapes).__name__}"
        ) from None
    check_torch_names("torch_names_and_shapes", shapes)
    return shapes


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of a tensor, or `value` itself; raise a TypeError if it is no shape."""
    shape = getattr(value, "shape", value)
    if not isinstance(shape, (tuple, list)):
        raise TypeError
    return tuple(map(operator.index, shape))
