"""Trees of parameters and gradients: their leaves, the leaves' names, and how two trees differ."""

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


def path_name(path: Any) -> str:
    """A path as users write it, "dense/kernel"; "the parameter" for a bare array."""
    # The array of a Flax variable, as in an NNX state, goes by the name of the variable.
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the parameter"


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


def prefix_difference(name: str, tree: Any, like_name: str, like: Any) -> str:
    """How a tree differs from a prefix of another, for a message."""
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    like_paths = [path for path, _ in leaves_with_path(like)]

    def is_under(path, prefix):
        return path[: len(prefix)] == prefix

    missing = [path for path in like_paths if not any(is_under(path, p) for p in paths)]
    unknown = [path for path in paths if not any(is_under(p, path) for p in like_paths)]
    missing, unknown = (list(map(path_name, paths)) for paths in (missing, unknown))
    return _described(name, tree, like_name, like, missing, unknown)


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
