"""Torch tensors as NumPy arrays, and their layouts; torch itself is never imported."""

import math
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adadelta_jax import _accumulators


class LeafLayout(NamedTuple):
    """Where a torch tensor goes in a pytree of parameters, and how it is laid out there.

    The leaf is ``flip(tensor.reshape(view).transpose(axes), flip)``, in the leaf's shape. Every
    layout can be undone.

    Attributes:
        path: The leaf's path, "encoder/layers_0/kernel", without an NNX variable's "/value".
        axes: The permutation of the tensor's axes, as for `numpy.transpose`; None: as they are.
        flip: The axes to reverse after the permutation.
        torch_shape: The tensor's own shape, needed only with a ``view``.
        view: The shape in which to see the tensor before the permutation; None: its own.

    Example:
        The weight of a linear layer behind a flattened image, which torch flattens as (channels,
        height, width) = (8, 4, 4) and Flax as (height, width, channels):

        >>> from adadelta_jax.torch_interop import LeafLayout
        >>> layout = LeafLayout(
        ...     "out/kernel", axes=(2, 3, 1, 0), torch_shape=(10, 128), view=(10, 8, 4, 4)
        ... )
    """

    path: str
    axes: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()
    torch_shape: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None


def torch_shape(layout: LeafLayout, leaf_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the torch tensor that becomes a leaf of that shape, or None if none does."""
    if (layout.view is None) != (layout.torch_shape is None):
        return None
    viewed = leaf_shape if layout.view is None else layout.view
    axes = _axes(layout, len(viewed))
    if sorted(axes) != list(range(len(viewed))) or not set(layout.flip) <= set(axes):
        return None
    if layout.torch_shape is None:
        return tuple(leaf_shape[axis] for axis in np.argsort(axes))
    sizes = {math.prod(shape) for shape in (viewed, layout.torch_shape, leaf_shape)}
    return tuple(layout.torch_shape) if len(sizes) == 1 else None


def to_leaf(array: np.ndarray, layout: LeafLayout, leaf_shape: tuple[int, ...]) -> np.ndarray:
    """A torch tensor's `array` as the leaf of that shape, which it fits."""
    array = array if layout.view is None else array.reshape(layout.view)
    return np.flip(array.transpose(_axes(layout, array.ndim)), layout.flip).reshape(leaf_shape)


def from_leaf(array: np.ndarray, layout: LeafLayout) -> np.ndarray:
    """The inverse of `to_leaf`, in writable memory of its own and in C order."""
    if layout.view is not None:
        axes = _axes(layout, len(layout.view))
        array = array.reshape([layout.view[axis] for axis in axes])
    array = np.flip(array, layout.flip).transpose(np.argsort(_axes(layout, array.ndim)))
    shape = array.shape if layout.torch_shape is None else layout.torch_shape
    return np.array(array.reshape(shape), order="C")


def _axes(layout: LeafLayout, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if layout.axes is None else layout.axes


def read(name: str, value: Any) -> np.ndarray:
    """A torch tensor or an array as a NumPy array, bit for bit and in memory of its own.

    Sharing a tensor's memory would let torch, which writes in place, change JAX's constants.
    """
    if not hasattr(value, "dtype"):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    if not hasattr(value, "detach"):
        return np.array(value, order="C")
    try:
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # unknown to NumPy itself; exact in float32
            return tensor.float().numpy().astype(jnp.bfloat16)
        return np.array(tensor.resolve_conj().resolve_neg().numpy(), order="C")
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} of dtype {value.dtype} cannot become an array: {error}") from error


def write(array: np.ndarray) -> Any:
    """`array` as a torch tensor if the caller has imported torch, else as it is."""
    torch = sys.modules.get("torch")
    if torch is None:
        return array
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def read_leaf(what: str, value: Any, layout: LeafLayout, leaf: Any) -> jax.Array:
    """A tensor as a leaf in its layout, in the tensor's dtype."""
    return _place(what, _laid_out(what, value, layout, leaf), leaf)


def read_average(what: str, value: Any, layout: LeafLayout, leaf: Any) -> jax.Array:
    """A tensor of torch's state as an accumulator of a parameter, in which it loses nothing."""
    advice = " (torch numbers its state, and without param_names mapping must be in its order)"
    array = _laid_out(what, value, layout, leaf, advice)
    dtype = _accumulators.storage_dtype(jnp.result_type(leaf), None)
    if jnp.promote_types(array.dtype, dtype) != dtype:
        raise ValueError(
            f"{what} is {array.dtype}, which an accumulator of {dtype} cannot hold: "
            "pass the params that params_from_torch returns"
        )
    return _place(what, array.astype(dtype), leaf)


def read_step(what: str, value: Any) -> int:
    """A step count of torch's state, a number or a tensor, as one that a count can hold."""
    if hasattr(value, "dtype"):
        value = read(what, value)
    try:
        step = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a number, got {value!r}") from None
    if not step.is_integer() or step < 0:
        raise ValueError(f"{what} must be a whole number of at least 0, got {step:g}")
    return min(int(step), jnp.iinfo(jnp.int32).max)


def write_average(what: str, accumulator: Any, layout: LeafLayout, leaf: Any) -> np.ndarray:
    """An accumulator as torch keeps it: in the dtype of its parameter, no number made infinite."""
    array, dtype = np.asarray(accumulator), jnp.result_type(leaf)
    if array.shape != jnp.shape(leaf):
        raise ValueError(f"{what} has shape {array.shape}, but {layout.path} {jnp.shape(leaf)}")
    largest = jnp.finfo(dtype).max
    if largest < jnp.finfo(array.dtype).max and not np.iscomplexobj(array):
        saturated = np.clip(array, None, array.dtype.type(largest))
        array = np.where(np.isinf(array), array, saturated)
    return from_leaf(array.astype(dtype), layout)


def _laid_out(what: str, value: Any, layout: LeafLayout, leaf: Any, advice: str = "") -> np.ndarray:
    """A tensor in the layout and shape of a leaf of the same kind of numbers."""
    array, leaf_shape, leaf_dtype = read(what, value), jnp.shape(leaf), jnp.result_type(leaf)
    expected = torch_shape(layout, leaf_shape)
    if array.shape != expected:
        raise ValueError(
            f"{what} has shape {array.shape}, but {layout.path} of shape {leaf_shape} "
            f"needs {expected}{advice}"
        )
    for kind in (jnp.inexact, jnp.complexfloating):
        if jnp.issubdtype(array.dtype, kind) != jnp.issubdtype(leaf_dtype, kind):
            raise TypeError(f"{what} is {array.dtype}, but {layout.path} is {leaf_dtype}")
    return to_leaf(array, layout, leaf_shape)


def _place(what: str, array: np.ndarray, like: Any) -> jax.Array:
    """`array` as a JAX array of its own dtype, where `like` was placed on purpose."""
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{what} is {array.dtype}, which JAX keeps only after "
            "jax.config.update('jax_enable_x64', True)"
        )
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(array, like.sharding)
    return jnp.asarray(array)
