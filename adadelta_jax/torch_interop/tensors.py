"""Torch tensors as NumPy arrays and as leaves, and back, without importing torch."""

import contextlib
import numbers
import sys
import warnings
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adadelta_jax.torch_interop.checks import check_dtype, is_tensor
from adadelta_jax.torch_interop.layouts import LeafLayout, to_leaf, torch_shape


def read_tensor(what: str, value: Any) -> np.ndarray:
    """A torch tensor or an array as a NumPy array, bit for bit."""
    if not hasattr(value, "dtype") or isinstance(value, (type, jax.ShapeDtypeStruct)):
        raise TypeError(f"{what} must be a tensor or an array, got {type(value).__name__}")
    if hasattr(value, "full_tensor"):
        name = what.partition(" of ")[0]
        raise TypeError(
            f"{what} is a DTensor, of which each process has a part: pass {name}.full_tensor()"
        )
    # Always a copy: torch writes in place, and would change a JAX array that shared its memory.
    try:
        if not is_tensor(value):
            return np.array(value, order="C")
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # unknown to NumPy itself; exact in float32
            return tensor.float().numpy().astype(jnp.bfloat16)
        return np.array(tensor.resolve_conj().resolve_neg().numpy(), order="C")
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{what} of dtype {value.dtype} cannot become an array: {error}") from error


def write_tensor(what: str, array: np.ndarray) -> Any:
    """`array` as a tensor where the process has imported torch, else unchanged."""
    torch = sys.modules.get("torch")
    if torch is None:
        return array
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array)
    # torch knows no dtype of ml_dtypes: the bits pass as unsigned integers.
    dtype = getattr(torch, array.dtype.name, None)
    if dtype is None:
        raise TypeError(f"{what} is {array.dtype}, which torch does not have")
    return torch.from_numpy(array.view(f"u{array.itemsize}")).view(dtype)


def read_number(what: str, value: Any) -> float:
    """A real number, or the one in a tensor or an array."""
    value = _item(what, value)
    with contextlib.suppress(OverflowError):
        if isinstance(value, numbers.Real):
            return float(value)
    raise TypeError(f"{what} must be a number, got {value!r}")


def read_flag(what: str, value: Any) -> bool:
    """True or False, or the one in a tensor or an array; 0 and 1 count too, as in torch."""
    value = _item(what, value)
    if not isinstance(value, numbers.Real) or value not in (0, 1):
        raise TypeError(f"{what} must be True or False, got {value!r}")
    return bool(value)


def _item(what: str, value: Any) -> Any:
    """The element of a tensor or an array that has one; any other value unchanged."""
    if not hasattr(value, "dtype"):
        return value
    array = read_tensor(what, value)
    # NumPy would turn a time into an integer.
    return array.item() if array.size == 1 and array.dtype.kind not in "mM" else array


def is_buffer(value: Any) -> bool:
    """Whether `value` is a tensor or an array of a dtype that is never trained."""
    return _dtype_name(value).startswith(("int", "uint", "bool"))


def is_same_tensor(one: Any, other: Any) -> bool:
    """Whether two tensors of a state_dict are tied: one memory, or one content if not of torch."""
    kinds = [(_dtype_name(tensor), tuple(getattr(tensor, "shape", ()))) for tensor in (one, other)]
    if not kinds[0][0] or kinds[0] != kinds[1]:
        return False
    try:
        if is_tensor(one) and is_tensor(other):
            return one.data_ptr() == other.data_ptr() != 0 and one.stride() == other.stride()
        first, second = read_tensor("", one), read_tensor("", other)
    except (TypeError, RuntimeError):
        return False  # a sparse tensor, say, has no memory of this kind
    # Two arrays of zeros are alike without being tied.
    return first.tobytes() == second.tobytes() and bool((first != first.ravel()[:1]).any())


def _dtype_name(value: Any) -> str:
    """The name of a dtype, "" without one."""
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def laid_out(what: str, value: Any, layout: LeafLayout, leaf: Any, advice: str = "") -> np.ndarray:
    """The part of a tensor for a leaf; raise unless the shape and the kind of numbers fit."""
    array, leaf_shape, leaf_dtype = read_tensor(what, value), jnp.shape(leaf), jnp.result_type(leaf)
    expected = torch_shape(layout, leaf_shape)
    if array.shape != expected:
        raise ValueError(
            f"{what} has shape {array.shape}, but {layout.path} of shape {leaf_shape} "
            f"needs {expected}{advice}"
        )
    for kind in (jnp.inexact, jnp.complexfloating):
        if jnp.issubdtype(array.dtype, kind) != jnp.issubdtype(leaf_dtype, kind):
            raise TypeError(f"{what} is {array.dtype}, but {layout.path} is {leaf_dtype}")
    check_dtype(what, array.dtype)
    return to_leaf(array, layout, leaf_shape)


def placed_like(leaf: Any, what: str, array: np.ndarray) -> jax.Array:
    """`array` as a JAX array, sharded like `leaf` if that is committed to its devices."""
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{what} is {array.dtype}, which JAX keeps only after "
            "jax.config.update('jax_enable_x64', True)"
        )
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.device_put(array, leaf.sharding)
    return jnp.asarray(array)


def warn_of_nan(names: Collection[str]) -> None:
    """Warn of tensors with NaN inside."""
    if names:
        warnings.warn(f"loaded with NaN inside: {', '.join(names)}", UserWarning, stacklevel=3)
