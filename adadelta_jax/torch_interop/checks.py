"""Checks of the names, lists and dicts that make up a torch checkpoint."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax.numpy as jnp


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor."""
    return hasattr(value, "detach")  # its type could be named only by importing torch


def check_dict(what: str, value: Any, expected: str = "a dict") -> None:
    """Raise unless `value` is a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be {expected}, got {type(value).__name__}")


def check_torch_names(argument: str, names: Iterable[Any]) -> None:
    """Raise unless all `names`, the keys of an argument, are strings."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: a torch name must be a string, got {name!r}")


def check_list(
    what: str, values: Any, of: Any, expected: str, *, kinds: tuple[type, ...] = (list, tuple)
) -> None:
    """Raise unless `values` is a list, or of another of `kinds`, with elements of type `of`."""
    is_list = isinstance(values, kinds) and not isinstance(values, (str, bytes, Mapping))
    if not is_list or not all(isinstance(value, of) for value in values):
        raise TypeError(f"{what} must be {expected}, got {values!r}")


def check_chosen_names(argument: str, names: Any) -> None:
    """Raise unless `names` is a list or another collection of torch names."""
    check_list(argument, names, str, "a list of torch names", kinds=(Collection,))


def check_dtype(what: str, dtype: Any) -> None:
    """Raise unless JAX has the dtype."""
    try:
        jnp.promote_types(dtype, dtype)
    except ValueError:
        raise TypeError(f"{what} is {dtype}, which JAX does not have") from None


def raise_if_any(
    summary: str, problems: Mapping[str, Iterable[Any]], advice: Mapping[str, str] | None = None
) -> None:
    """Raise a ValueError that lists all `problems`, with advice for some, unless there is none."""
    reasons = [f"{what} {', '.join(map(str, names))}" for what, names in problems.items() if names]
    if reasons:
        hints = [f". {hint}" for what, hint in (advice or {}).items() if problems[what]]
        raise ValueError(f"{summary}: {'; '.join(reasons)}{''.join(hints)}")
