"""Torch tensors as NumPy arrays, and their layouts; torch itself is never imported."""

import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


class LeafLayout(NamedTuple):
    """Where a torch tensor goes in a pytree of parameters, and how it is laid out there.

    The leaf is ``flip(tensor.reshape(view).transpose(axes), flip)``, reshaped to the leaf's shape
    if there is a ``view``. Every layout can be undone.

    Attributes:
        path: The leaf's path, "encoder/layers_0/kernel". An NNX variable's "/value" can be left out.
        axes: The permutation of the tensor's axes, as for `numpy.transpose`; None: none.
        flip: The axes of the leaf to reverse, after the permutation.
        torch_shape: The tensor's own shape; needed only with a ``view``.
        view: The shape in which the tensor is seen before its axes are permuted. A `torch.nn.Linear`
            of 10 outputs after a flattened (channels, height, width) = (8, 4, 4) is
            ``LeafLayout("out/kernel", (2, 3, 1, 0), torch_shape=(10, 128), view=(10, 8, 4, 4))``
            after a flattened (height, width, channels).
    """

    path: str
    axes: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()
    torch_shape: tuple[int, ...] | None = None
    view: tuple[int, ...] | None = None


def check_layout(name: str, layout: LeafLayout) -> None:
    """Raise unless the layout that `name` was given can be done and undone."""
    given = f"the layout of {name}"
    if (layout.view is None) != (layout.torch_shape is None):
        raise ValueError(f"{given} must have both view and torch_shape or neither, got {layout}")
    if layout.view is not None and math.prod(layout.view) != math.prod(layout.torch_shape or ()):
        raise ValueError(
            f"{given} must have a view of as many elements as its torch_shape, got {layout}"
        )
    if layout.axes is None:
        return
    expected = range(len(layout.axes if layout.view is None else layout.view))
    if sorted(layout.axes) != list(expected):
        raise ValueError(
            f"{given} must have axes that are a permutation of {tuple(expected)}, got {layout.axes}"
        )


def to_leaf(name: str, array: np.ndarray, layout: LeafLayout, shape: tuple[int, ...]) -> np.ndarray:
    """`array`, which is torch's tensor `name`, as the leaf of that shape."""
    expected = torch_shape(layout, shape)
    if array.shape != expected:
        raise ValueError(
            f"{name} has shape {array.shape}, but {layout.path} of shape {shape} "
            f"needs {expected}"
        )
    if layout.view is not None:
        array = array.reshape(layout.view)
    return np.flip(array.transpose(layout.axes), layout.flip).reshape(shape)


def from_leaf(array: np.ndarray, layout: LeafLayout) -> np.ndarray:
    """The leaf `array` as torch's tensor, in memory of its own and in C order."""
    shape = torch_shape(layout, array.shape)
    if layout.view is not None:
        array = array.reshape(np.empty(layout.view, []).transpose(layout.axes).shape)
    inverse = None if layout.axes is None else tuple(np.argsort(layout.axes))
    return np.array(np.flip(array, layout.flip).transpose(inverse).reshape(shape), order="C")


def torch_shape(layout: LeafLayout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the torch tensor that becomes a leaf of `shape`."""
    if layout.torch_shape is not None:
        if math.prod(layout.torch_shape) != math.prod(shape):
            raise ValueError(f"{layout.path} has shape {shape}, which does not fit {layout}")
        return tuple(layout.torch_shape)
    if layout.axes is None:
        return tuple(shape)
    if len(layout.axes) != len(shape):
        raise ValueError(f"{layout.path} has shape {shape}, which does not fit {layout}")
    return tuple(shape[layout.axes.index(axis)] for axis in range(len(shape)))


def read(name: str, value: Any) -> np.ndarray:
    """A torch tensor or NumPy array, bit for bit, in memory of its own.

    A tensor's memory is not shared: torch writes to it in place, and JAX takes arrays as constant.
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            if str(value.dtype) == "torch.bfloat16":  # NumPy's own dtypes lack it; float32 holds it
                return value.float().numpy().astype(ml_dtypes.bfloat16)
            value = value.resolve_conj().resolve_neg().numpy()
        array = np.array(value, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype.kind in "OSU":
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    return array


def write(array: np.ndarray) -> Any:
    """`array` as a torch tensor where torch is loaded, and as it is elsewhere."""
    torch = sys.modules.get("torch")
    if torch is None:
        return array
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def cast_for_torch(array: np.ndarray, dtype: Any) -> np.ndarray:
    """`array` in a parameter's dtype, in which torch keeps its state; no number turns infinite."""
    if array.dtype == dtype:
        return array
    largest = float(jnp.finfo(dtype).max)
    if float(jnp.finfo(array.dtype).max) > largest and not np.iscomplexobj(array):
        array = np.where(np.isinf(array), array, np.clip(array, -largest, largest))
    return array.astype(dtype)


def place(name: str, array: np.ndarray, like: Any) -> jax.Array:
    """`array` as a JAX array of its own dtype, where `like` lies."""
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{name} has dtype {array.dtype}, which JAX keeps only after "
            "jax.config.update('jax_enable_x64', True)"
        )
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(array, like.sharding)
    return jnp.asarray(array)


def is_mapping_with(value: Any, *keys: str) -> bool:
    """Whether `value` is a dict that has all of `keys`."""
    return isinstance(value, Mapping) and all(key in value for key in keys)
