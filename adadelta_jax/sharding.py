"""Shardings of an optimizer's state, from those of the parameters."""

import math
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from adadelta_jax._checks.settings import check_optimizer
from adadelta_jax._checks.shardings import (
    check_param_shardings,
    check_shardings,
    finding_parameters_in_state,
    on_mesh,
)
from adadelta_jax._core.transform import ScaleByAdadeltaState

TILE = 128  # numbers of the last dimension that a TPU keeps side by side


def state_shardings(
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    param_shardings: Any,
    *,
    zero_axis: str | None = None,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
) -> Any:
    """The shardings of an optimizer's state, from those of the parameters.

    Arrays of a parameter's shape, such as its accumulators, are sharded like the parameter. All
    others, such as step counts, are on every device. The optimizer may be [`adadelta`][] or what
    Optax makes of it: `optax.chain`, `optax.masked`, `optax.partition`, `optax.inject_hyperparams`,
    `optax.MultiSteps`.

    With ``zero_axis``, accumulators are also sharded over that axis of the mesh (ZeRO-1), on the
    first dimension that divides evenly. A dimension that is sharded already is sharded further; the
    last one only into multiples of 128, the width of a TPU's tile. Each of N devices along the axis
    then keeps 1/N of them. Parameters keep their shardings, and so do accumulators without such a
    dimension.

    Nothing is computed. Parameters may be arrays or `jax.ShapeDtypeStruct`, and the mesh may be
    abstract.

    Args:
        optimizer: The transformation whose state it is.
        params: Its parameters, a pytree of arrays or of their shapes and dtypes.
        param_shardings: A pytree of `jax.sharding.NamedSharding` or `jax.sharding.PartitionSpec`
            like the parameters, or a prefix of one, such as a single sharding for all of them.
        zero_axis: The mesh axis over which accumulators are also sharded, usually that of the
            data. None: accumulators are sharded like the parameters only.
        mesh: The mesh of every PartitionSpec. None: that of `jax.set_mesh`.

    Returns:
        A pytree of `jax.sharding.NamedSharding` like ``optimizer.init(params)``, for ``jax.jit``'s
        ``in_shardings`` and ``out_shardings``, `jax.device_put`, or a checkpoint to restore.

    Raises:
        ValueError: If ``param_shardings`` does not match ``params``, if a PartitionSpec has no
            mesh, if there is no parameter, if
            the mesh has no ``zero_axis``, if a parameter is already sharded over it, or if the
            state does not show what belongs to which parameter, as with `optax.flatten`.
        TypeError: If a sharding is neither a `jax.sharding.NamedSharding` nor a PartitionSpec.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax.sharding import NamedSharding, PartitionSpec
        >>> from adadelta_jax import adadelta
        >>> from adadelta_jax.sharding import state_shardings
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> params = {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}
        >>> everywhere = NamedSharding(mesh, PartitionSpec())
        >>> optimizer = adadelta()
        >>> shardings = state_shardings(optimizer, params, everywhere, zero_axis="data")
        >>> state = jax.jit(optimizer.init, out_shardings=shardings)(params)
        >>> tuple(state[2].square_avg["kernel"].sharding.spec)
        ('data', None)

    Source: Rajbhandari et al. (2020), ZeRO, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054),
    section 5.1, for ``zero_axis``.
    """
    check_optimizer(optimizer)
    param_shardings = on_mesh(param_shardings, mesh)
    param_shardings = check_param_shardings(param_shardings, params, zero_axis)
    mesh = jax.tree.leaves(param_shardings)[0].mesh
    state = jax.eval_shape(optimizer.init, params)

    def like_parameter(node, sharding):
        if isinstance(node, optax.MaskedNode):
            return node
        return sharding if len(node.shape) >= len(sharding.spec) else _replicated(sharding.mesh)

    with finding_parameters_in_state():
        shardings = optax.tree.map_params(
            optimizer,
            like_parameter,
            state,
            param_shardings,
            transform_non_params=lambda _: _replicated(mesh),
            is_leaf=lambda node: isinstance(node, optax.MaskedNode),
        )
    if zero_axis is None:
        return shardings

    def over_zero_axis(sharding, array):
        return _also_over(zero_axis, sharding, array.shape)

    def sharded(node, node_shardings):
        if not isinstance(node, ScaleByAdadeltaState):
            return node_shardings
        return node_shardings._replace(
            square_avg=jax.tree.map(over_zero_axis, node_shardings.square_avg, node.square_avg),
            acc_delta=jax.tree.map(over_zero_axis, node_shardings.acc_delta, node.acc_delta),
        )

    return jax.tree.map(
        sharded, state, shardings, is_leaf=lambda node: isinstance(node, ScaleByAdadeltaState)
    )


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """The bytes of a sharded tree of arrays that each device holds.

    Args:
        tree: A pytree of arrays or of `jax.ShapeDtypeStruct`, such as parameters or a state.
        shardings: A pytree of shardings like it, or a prefix of one.

    Returns:
        The sum over the arrays of the bytes of one shard.

    Raises:
        ValueError: If ``shardings`` does not match ``tree``, or an array cannot be sharded so.
        TypeError: If a leaf of ``tree`` is no array, or one of ``shardings`` no sharding.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
        >>> from adadelta_jax import adadelta
        >>> from adadelta_jax.sharding import bytes_per_device, state_shardings
        >>> everywhere = NamedSharding(AbstractMesh((64,), ("data",)), PartitionSpec())
        >>> params = {"kernel": jax.ShapeDtypeStruct((8192, 8192), jnp.float32)}
        >>> state = jax.eval_shape(adadelta().init, params)
        >>> bytes_per_device(state, state_shardings(adadelta(), params, everywhere))
        536870916
        >>> zero = state_shardings(adadelta(), params, everywhere, zero_axis="data")
        >>> bytes_per_device(state, zero)
        8388612

    Source: [jax.sharding.Sharding.shard_shape](https://docs.jax.dev/en/latest/jax.sharding.html).
    """
    shardings = check_shardings("shardings", shardings, "tree", tree)
    shard_bytes = jax.tree.map(
        lambda array, sharding: math.prod(sharding.shard_shape(array.shape)) * array.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(shard_bytes))


def _replicated(mesh: Any) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _also_over(axis: str, sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding, also over `axis` on the first dimension whose parts it divides."""
    spec = [*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))]
    for dimension, (size, names) in enumerate(zip(shape, spec, strict=True)):
        names = names if isinstance(names, tuple) else (names,) * (names is not None)
        parts = math.prod(sharding.mesh.shape[name] for name in (*names, axis))
        # Parts of rows that no tile of a TPU fits would be padded, and sent to be laid out anew.
        fits = dimension < len(shape) - 1 or not names or size % (parts * TILE) == 0
        if size and size % parts == 0 and fits:
            spec[dimension] = (*names, axis) if names else axis
            return sharding.update(spec=PartitionSpec(*spec))
    return sharding
