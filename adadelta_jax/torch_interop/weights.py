"""The weights of a torch module as a pytree of parameters, and back."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adadelta_jax.torch_interop.tensors import read_leaf
from adadelta_jax.torch_interop.checks import check_dict, check_torch_names, raise_if_any
from adadelta_jax.torch_interop.layouts import (
    LeafLayout,
    from_leaf,
    is_running_statistic,
    layouts_by_name,
    leaves_by_path,
)
from adadelta_jax._checks.trees import path_name


def params_from_torch(
    model_state_dict: Mapping[str, Any],
    params: Any,
    mapping: Mapping[str, LeafLayout | str | None],
) -> Any:
    """The weights of a torch module as a pytree of parameters, bit for bit.

    Args:
        model_state_dict: ``model.state_dict()``, or the same names with NumPy arrays. Running
            statistics that ``mapping`` does not name are passed over; no other tensor is.
        params: The pytree to fill: what it holds is only looked at for shape and sharding, so that
            `jax.ShapeDtypeStruct` will do.
        mapping: Where each tensor goes: from
            [`match_flax_params`][adadelta_jax.torch_interop.match_flax_params], or a dict written
            by hand from torch names to [`LeafLayout`][], to a path ("encoder/kernel") or to None
            (left out). A path alone stands for the same layout; that a square weight should have
            been transposed, nothing can notice.

    Returns:
        A pytree like ``params`` with the tensors as JAX arrays, in memory of their own, each of the
        shape of its leaf and the dtype of its tensor: a bfloat16 checkpoint gives bfloat16
        parameters.

    Raises:
        ValueError: If a tensor is missing, superfluous or of the wrong shape, if ``mapping`` does
            not give every leaf a tensor, or if JAX cannot hold a dtype (float64 without
            ``jax_enable_x64``).
        TypeError: If a tensor is not one, or is of another kind than its leaf (an integer, say).

    Warns:
        UserWarning: If a tensor holds NaN; it is named.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from adadelta_jax.torch_interop import match_flax_params, params_from_torch
        >>> state_dict = {"fc.weight": np.array([[1.0, 2.0]], np.float32)}
        >>> params = {"fc": {"kernel": jnp.zeros((2, 1))}}
        >>> params_from_torch(state_dict, params, match_flax_params(state_dict, params))
        {'fc': {'kernel': Array([[1.], [2.]], dtype=float32)}}

    Source: [torch.nn.Module.load_state_dict](
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html>).
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    check_dict("model_state_dict", model_state_dict, "a dict, as model.state_dict() gives")
    check_torch_names("model_state_dict", model_state_dict)
    extra = [n for n in model_state_dict if n not in mapping and not is_running_statistic(n)]
    raise_if_any(
        "the model's state_dict and mapping do not match",
        {
            "the state_dict lacks": [name for name in layouts if name not in model_state_dict],
            "mapping lacks": extra,
        },
    )
    arrays = {
        name: read_leaf(name, model_state_dict[name], layout, leaves[layout.path])
        for name, layout in layouts.items()
    }
    warn_of_nan(arrays)
    return tree_of(arrays, layouts, params)


def params_to_torch(
    params: Any, mapping: Mapping[str, LeafLayout | str | None]
) -> dict[str, np.ndarray]:
    """A pytree of parameters as the weights of a torch module, bit for bit.

    ``torch.from_numpy`` makes a tensor of an array, save of a bfloat16 one, which NumPy holds as
    `ml_dtypes.bfloat16`: ``torch.from_numpy(array.view("int16")).view(torch.bfloat16)``.
    `safetensors.numpy.save_file` takes all of them.

    Args:
        params: The pytree of parameters.
        mapping: As for [`params_from_torch`][].

    Returns:
        A dict from torch names to arrays, in torch's layouts and the dtypes of the parameters, each
        writable, in C order and in memory of its own. Without the running statistics,
        ``load_state_dict`` needs ``strict=False``.

    Raises:
        ValueError: If ``mapping`` does not give every leaf a name.
        TypeError: If an entry of ``mapping`` is not of its types.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax.torch_interop import match_flax_params, params_to_torch
        >>> params = {"fc": {"kernel": jnp.array([[1.0], [2.0]])}}
        >>> mapping = match_flax_params({"fc.weight": (1, 2)}, params)
        >>> params_to_torch(params, mapping)
        {'fc.weight': array([[1., 2.]], dtype=float32)}

    Source: [torch.nn.Module.load_state_dict](
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html>).
    """
    layouts, leaves = layouts_by_name(mapping, params), leaves_by_path(params)
    return {
        name: from_leaf(np.asarray(leaves[layout.path]), layout) for name, layout in layouts.items()
    }


def warn_of_nan(arrays: Mapping[str, jax.Array]) -> None:
    """Warn of the arrays with NaN inside."""
    names = [name for name, array in arrays.items() if jnp.isnan(array).any()]
    if names:
        warnings.warn(f"loaded with NaN inside: {', '.join(names)}", UserWarning, stacklevel=3)


def tree_of(values: Mapping[str, Any], layouts: Mapping[str, LeafLayout], params: Any) -> Any:
    """The values of torch names as a tree like `params`, masked where there is no value."""
    by_path = {layouts[name].path: value for name, value in values.items()}
    masked = optax.MaskedNode()
    return jax.tree.map_with_path(lambda path, _: by_path.get(path_name(path), masked), params)
