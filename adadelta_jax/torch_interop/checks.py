"""What the names, lists and dicts of a torch checkpoint must be, and the words if they are not."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax.numpy as jnp


def check_dict(what: str, value: Any, expected: str = "a dict") -> None:
    """Raise unless `value` is a dict or the like."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be {expected}, got {type(value).__name__}")


def check_torch_names(argument: str, names: Iterable[Any]) -> None:
    """Raise unless all of `names`, the keys of an argument, can be those of torch tensors."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: a torch name must be a string, got {name!r}")


def check_list(
    what: str, values: Any, of: Any, expected: str, *, kinds: tuple[type, ...] = (list, tuple)
) -> None:
    """Raise unless `values` is a list or a tuple, or another of `kinds`, of instances of `of`."""
    is_list = isinstance(values, kinds) and not isinstance(values, (str, bytes, Mapping))
    if not is_list or not all(isinstance(value, of) for value in values):
        raise TypeError(f"{what} must be {expected}, got {values!r}")


def check_chosen_names(argument: str, names: Any) -> None:
    """Raise unless `names` is a list or another collection of torch names."""
    check_list(argument, names, str, "a list of torch names", kinds=(Collection,))


def check_dtype(what: str, dtype: Any) -> None:
    """Raise unless it is one of JAX's."""
    try:
        jnp.promote_types(dtype, dtype)
    except ValueError:
        raise TypeError(f"{what} is {dtype}, which JAX does not have") from None


def raise_if_any(summary: str, problems: Mapping[str, Iterable[Any]]) -> None:
    """Raise a ValueError that lists what is wrong, if anything is."""
    reasons = [f"{what} {', '.join(map(str, names))}" for what, names in problems.items() if names]
    if reasons:
        raise ValueError(f"{summary}: {'; '.join(reasons)}")
