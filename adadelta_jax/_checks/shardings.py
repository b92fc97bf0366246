"""Checks of shardings, and of the optimizer whose state is sharded."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from adadelta_jax._checks.trees import is_array, listed, path_name, type_name


def check_shardings(name: str, shardings: Any, tree_name: str, tree: Any) -> Any:
    """The sharding of every array of a tree; raise unless each fits its array."""
    try:
        shardings = jax.tree.broadcast(shardings, tree)
    except ValueError as error:
        raise ValueError(f"{name} does not match {tree_name}: {error}") from None
    leaves = jax.tree.leaves_with_path(tree)
    for (path, array), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        where = path_name(path)
        if not isinstance(sharding, jax.sharding.Sharding):
            raise TypeError(f"the sharding of {where} must be a NamedSharding, got {sharding!r}")
        if not hasattr(array, "shape") or not is_array(array):
            raise TypeError(f"{where} must be an array, got {type_name(array)}")
        try:
            sharding.shard_shape(array.shape)
        except (ValueError, IndexError):
            how = (
                f"{sharding.spec} over the mesh axes {dict(sharding.mesh.shape)}"
                if isinstance(sharding, jax.sharding.NamedSharding)
                else sharding
            )
            raise ValueError(
                f"{where}, of shape {array.shape}, cannot be sharded as {how}"
            ) from None
    return shardings


def on_mesh(shardings: Any, mesh: Any) -> Any:
    """Shardings with the mesh, or that of `jax.set_mesh`, for each PartitionSpec among them."""
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")

    def named(sharding):
        if not isinstance(sharding, PartitionSpec):
            return sharding
        used = jax.sharding.get_mesh() if mesh is None else mesh
        if used.empty:
            raise ValueError(
                f"param_shardings has PartitionSpec{tuple(sharding)}, which needs a mesh: "
                "pass mesh, or call state_shardings within jax.set_mesh(mesh)"
            )
        try:
            return NamedSharding(used, sharding)
        except ValueError as error:
            raise ValueError(f"param_shardings: {error}") from None

    return jax.tree.map(named, shardings, is_leaf=lambda node: isinstance(node, PartitionSpec))


def check_param_shardings(param_shardings: Any, params: Any, zero_axis: str | None) -> Any:
    """The sharding of every parameter; raise unless each fits, and all are on one mesh."""
    paths = jax.tree.leaves_with_path(params)
    if not paths:
        raise ValueError("params has no parameter, so that there is no mesh to put the state on")
    if zero_axis is not None and not isinstance(zero_axis, str):
        raise TypeError(f"zero_axis must be the name of a mesh axis, got {zero_axis!r}")
    shardings = check_shardings("param_shardings", param_shardings, "params", params)
    meshes = {}
    for (path, _), sharding in zip(paths, jax.tree.leaves(shardings), strict=True):
        name = path_name(path)
        if not isinstance(sharding, jax.sharding.NamedSharding):
            raise TypeError(f"the sharding of {name} must be a NamedSharding, got {sharding!r}")
        meshes.setdefault(sharding.mesh, f"{dict(sharding.mesh.shape)} for {name}")
        if len(meshes) > 1:
            raise ValueError(
                f"param_shardings must be on one mesh, got {' and '.join(meshes.values())}"
            )
        if zero_axis is None:
            continue
        if zero_axis not in sharding.mesh.shape:
            raise ValueError(
                f"zero_axis must be an axis of the mesh, one of "
                f"{listed(map(repr, sharding.mesh.shape))}, got {zero_axis!r}"
            )
        for names in sharding.spec:
            if zero_axis in (names if isinstance(names, tuple) else (names,)):
                raise ValueError(
                    f"zero_axis must be an axis over which no parameter is sharded, got "
                    f"{zero_axis!r}, over which {name} is: its spec is {sharding.spec}"
                )
    return shardings


@contextlib.contextmanager
def finding_parameters_in_state() -> Iterator[None]:
    """Within this context, an error of `optax.tree.map_params` names the optimizer."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            "optimizer must have a state in which optax.tree.map_params finds what belongs to "
            f"which parameter, unlike that of optax.flatten: {error}"
        ) from error
