"""Torch tensors as NumPy arrays and as leaves, and back; torch itself is never imported."""

import contextlib
import numbers
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adadelta_jax._storage import formats as _accumulators
from adadelta_jax.torch_interop.checks import check_dtype
from adadelta_jax.torch_interop.layouts import LeafLayout, from_leaf, to_leaf, torch_shape


def read(name: str, value: Any) -> np.ndarray:
    """A torch tensor or an array as a NumPy array, bit for bit and in memory of its own.

    Sharing a tensor's memory would let torch, which writes in place, change JAX's constants.
    """
    if not hasattr(value, "dtype") or isinstance(value, (type, jax.ShapeDtypeStruct)):
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}")
    try:
        if not hasattr(value, "detach"):
            return np.array(value, order="C")
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # unknown to NumPy itself; exact in float32
            return tensor.float().numpy().astype(jnp.bfloat16)
        return np.array(tensor.resolve_conj().resolve_neg().numpy(), order="C")
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} of dtype {value.dtype} cannot become an array: {error}") from error


def read_number(what: str, value: Any) -> float:
    """A real number, or the one in a tensor or an array."""
    value = _item(what, value)
    with contextlib.suppress(OverflowError):
        if isinstance(value, numbers.Real):
            return float(value)
    raise TypeError(f"{what} must be a number, got {value!r}")


def read_flag(what: str, value: Any) -> bool:
    """A truth value, or the one in a tensor or an array; torch takes 0 and 1 for one too."""
    value = _item(what, value)
    if not isinstance(value, numbers.Real) or value not in (0, 1):
        raise TypeError(f"{what} must be True or False, got {value!r}")
    return bool(value)


def _item(what: str, value: Any) -> Any:
    """What a tensor or an array of one element holds, a time apart; all else as it is."""
    if not hasattr(value, "dtype"):
        return value
    array = read(what, value)
    return array.item() if array.size == 1 and array.dtype.kind not in "mM" else array


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
    """A mean square of torch's state as an accumulator of a parameter, in which it loses nothing.

    NaN and infinity pass: torch goes on with them.
    """
    advice = " (torch numbers its state, and without param_names mapping must be in its order)"
    array = _laid_out(what, value, layout, leaf, advice)
    dtype = _accumulators.storage_dtype(jnp.result_type(leaf), None)
    for part in (np.real(array), np.imag(array)) if np.iscomplexobj(array) else (array,):
        if (part < 0).any():
            raise ValueError(f"{what} must be at least 0, got {part[part < 0].min():g}")
    if not np.can_cast(array.dtype, dtype):
        raise ValueError(
            f"{what} is {array.dtype}, which an accumulator of {dtype} cannot hold: "
            "pass the params that params_from_torch returns"
        )
    return _place(what, array.astype(dtype), leaf)


def read_step(what: str, value: Any) -> int:
    """A step count of torch's state, a number or a tensor, as one that a count can hold."""
    step = read_number(what, value)
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
    check_dtype(what, array.dtype)
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
