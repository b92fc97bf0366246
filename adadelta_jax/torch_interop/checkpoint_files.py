"""The forms in which files keep the state_dict of a model or of an optimizer."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from adadelta_jax.torch_interop.checks import raise_if_any
from adadelta_jax.torch_interop.tensors import read_tensor

_DEPTH = 4  # deeper than files keep a state_dict


def check_is_not_around(argument: str, value: Any, is_wanted: Callable[[Any], bool]) -> None:
    """Raise if an argument is not what is wanted but holds it, and say under which keys."""
    places = [] if is_wanted(value) else list(_places(value, is_wanted, _DEPTH))
    if places:
        what = f"has {', '.join(map(str, value))}" if isinstance(value, Mapping) else "is a list"
        raise ValueError(
            f"{argument} {what}: pass {' or '.join(argument + place for place in places)}"
        )


def _places(value: Any, is_wanted: Callable[[Any], bool], depth: int) -> Iterator[str]:
    """The keys in brackets that lead to what is wanted, within dicts and lists."""
    if is_wanted(value):
        yield ""
    elif depth and isinstance(value, (Mapping, list, tuple)):
        children = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, child in children:
            for place in _places(child, is_wanted, depth - 1):
                yield f"[{key!r}]{place}"


def is_optimizer(value: Any) -> bool:
    """Whether a value looks like the state_dict of an optimizer, flattened or not."""
    return isinstance(value, Mapping) and (
        ("state" in value and "param_groups" in value) or is_flattened(value)
    )


def is_flattened(state_dict: Mapping[Any, Any]) -> bool:
    """Whether a dict is that of an optimizer after `flatten_optimizer_state_dict` of torch."""
    return all(
        isinstance(key, str) and key.startswith(("state.", "param_groups.")) for key in state_dict
    ) and any(key.startswith("param_groups.") for key in state_dict)


def unflattened(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened state_dict of an optimizer by parts; parameters with equal settings are a group.

    Its keys are "state.fc.weight.square_avg" and "param_groups.fc.weight.lr".
    """
    parts: dict[str, dict[str, dict[str, Any]]] = {"state": {}, "param_groups": {}}
    for key, value in state_dict.items():
        part, _, rest = key.partition(".")
        name, _, field = rest.rpartition(".")
        parts[part].setdefault(name, {})[field] = value
    groups: list[tuple[Any, dict[str, Any]]] = []
    for name, settings in parts["param_groups"].items():
        # The keys have the names already, and those of a group are not in the order of the keys.
        settings.pop("param_names", None)
        comparable = {key: _comparable(setting) for key, setting in settings.items()}
        for known, group in groups:
            if known == comparable:
                group["params"].append(name)
                break
        else:
            groups.append((comparable, {**settings, "params": [name]}))
    return {"state": parts["state"], "param_groups": [group for _, group in groups]}


def _comparable(setting: Any) -> Any:
    """A setting that `==` compares: a tensor's numbers, anything else itself."""
    return read_tensor("a setting", setting).tolist() if hasattr(setting, "dtype") else setting


def numbered(
    groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any], names: Collection[str]
) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """The groups and the state with numbers where a file has them as strings, "0"."""

    def number(id_):
        is_number = isinstance(id_, str) and id_.isdecimal() and id_ not in names
        return int(id_) if is_number else id_

    ids = [number(id_) for id_ in state]
    twice = [id_ for id_, count in Counter(ids).items() if count > 1]
    raise_if_any("the torch optimizer's state has more than one entry", {"of": twice})
    in_groups = [{**group, "params": [number(id_) for id_ in group["params"]]} for group in groups]
    return in_groups, dict(zip(ids, state.values(), strict=True))
