"""Trees of parameters and gradients: their leaves, the leaves' names, and how two trees differ."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def is_leaf(node: Any) -> bool:
    """Use as `is_leaf`: treats None and a sparse array in a gradient tree as one leaf."""
    return node is None or is_sparse(node)


def is_sparse(node: Any) -> bool:
    """Whether a node is a sparse array of JAX."""
    # By name: users of dense arrays need not import the experimental module.
    return type(node).__module__.startswith("jax.experimental.sparse")


def leaves_with_path(tree: Any) -> list[tuple[Any, Any]]:
    """The leaves of a gradient tree with their paths, None among them."""
    return jax.tree.leaves_with_path(tree, is_leaf=is_leaf)


def path_names(path: Any) -> tuple[str, ...]:
    """The names along a path, without that of the array in a Flax variable."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def path_name(path: Any) -> str:
    """A path as users write it, "dense/kernel"; "the parameter" for a bare array."""
    return "/".join(path_names(path)) or "the parameter"


def nth_path(tree: Any, index: int) -> str:
    """The name of the leaf of a gradient tree with this index."""
    return path_name(leaves_with_path(tree)[index][0])


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, a number or a `jax.ShapeDtypeStruct`."""
    if isinstance(leaf, (int, float, complex)) or hasattr(leaf, "__jax_array__"):
        return True
    dtype = getattr(leaf, "dtype", None)
    if not isinstance(dtype, np.dtype):
        return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))  # random keys
    return hasattr(leaf, "shape") and dtype.kind not in "OSUMm"


def type_name(value: Any) -> str:
    """The type of a value, and the dtype of an array, for a message."""
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ + (f" of {dtype}" if isinstance(dtype, np.dtype) else "")


def difference(name: str, tree: Any, like_name: str, like: Any, hint: str = "") -> str:
    """How a tree differs from another of the structure that it should have, for a message."""
    paths = [path_name(path) for path, _ in leaves_with_path(tree)]
    like_paths = [path_name(path) for path, _ in leaves_with_path(like)]
    present, expected = set(paths), set(like_paths)
    missing = [path for path in like_paths if path not in present]
    unknown = [path for path in paths if path not in expected]
    return _described(name, tree, like_name, like, missing, unknown, hint)


def broadcast_by_path(name: str, tree: Any, like_name: str, like: Any) -> Any:
    """A tree like another, or a prefix of it, broadcast to the leaves of the other.

    The containers may differ: what counts is that the paths have the same names.
    """
    values = {path_names(path): value for path, value in jax.tree.leaves_with_path(tree)}
    used, missing = set(), []

    def value_at(path, leaf):
        names = path_names(path)
        prefixes = (names[:length] for length in range(len(names), -1, -1))
        prefix = next((prefix for prefix in prefixes if prefix in values), None)
        if prefix is not None:
            used.add(prefix)
            return values[prefix]
        if leaf is not None:
            missing.append(path_name(path))
        return None

    result = jax.tree.map_with_path(value_at, like, is_leaf=is_leaf)
    unknown = ["/".join(names) or "the parameter" for names in values if names not in used]
    if missing or unknown:
        raise ValueError(_described(name, tree, like_name, like, missing, unknown))
    return result


def tree_or_result(argument: Any, params: Any) -> Any:
    """The tree that an argument is, or the one that it returns for the parameters."""
    # An Equinox module of labels can be called, but is a tree; a `Partial` is a function.
    is_function = callable(argument) and (
        isinstance(argument, functools.partial)
        or not jax.tree.leaves(argument)
        or jax.tree_util.all_leaves([argument])
    )
    return argument(params) if is_function else argument


def only_arrays(tree: Any) -> Any:
    """The tree with None in the place of leaves that are not arrays, such as functions."""
    return jax.tree.map(lambda leaf: leaf if is_array(leaf) else None, tree)


def _described(
    name: str,
    tree: Any,
    like_name: str,
    like: Any,
    missing: list[str],
    unknown: list[str],
    hint: str = "",
) -> str:
    reasons = []
    if missing:
        reasons.append(f"they lack {listed(missing)}{hint}")
    if unknown:
        reasons.append(f"they have {listed(unknown)}, which the {like_name} lack")
    if not reasons:
        structures = jax.tree.structure(tree), jax.tree.structure(like)
        reasons.append(f"they are a {structures[0]}, the {like_name} a {structures[1]}")
    return f"the {name} do not match the {like_name}: {' and '.join(reasons)}"


def listed(names: Iterable[str]) -> str:
    """The first eight names and the number of the others, for a message."""
    names = list(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
