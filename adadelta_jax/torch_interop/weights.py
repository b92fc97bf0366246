"""The weights of a torch module as a pytree of parameters, and back."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from adadelta_jax.torch_interop.assembly import assembled, taken_apart
from adadelta_jax.torch_interop.checkpoint_files import check_is_not_around
from adadelta_jax.torch_interop.checks import check_dict, check_torch_names, raise_if_any
from adadelta_jax.torch_interop.mapping import (
    Entry,
    is_running_statistic,
    layouts_and_leaves,
    tree_of,
)
from adadelta_jax.torch_interop.prefixes import aligned
from adadelta_jax.torch_interop.tensors import (
    is_buffer,
    is_same_tensor,
    laid_out,
    warn_of_nan,
    write_tensor,
)


def params_from_torch(
    model_state_dict: Mapping[str, Any],
    params: Any,
    mapping: Mapping[str, Entry],
) -> Any:
    """The weights of a torch module as a pytree of parameters, bit for bit.

    Args:
        model_state_dict: ``model.state_dict()``, or the same names with NumPy arrays. The mapping
            must name all its tensors. Not needed are running statistics, tensors of integers and
            booleans, and a second name of a tied weight. What is around all names of one side
            (``module.``, ``_orig_mod.``, ``model.``) is left out.
        params: The pytree to fill. Only shapes and shardings of its leaves count, so that
            `jax.ShapeDtypeStruct` will do.
        mapping: The leaf of each tensor: from
            [`match_flax_params`][adadelta_jax.torch_interop.match_flax_params], or a dict written
            by hand from torch names to a [`LeafLayout`][], to several of them, to a path
            ("encoder/kernel") or to None (left out). A path alone stands for a leaf of the same
            layout. A square weight that should have been transposed fits either way, and no check
            can notice.

    Returns:
        A pytree like ``params`` with the tensors as JAX arrays, in memory of their own, each with
        the shape of its leaf and the dtype of its tensor: a bfloat16 checkpoint gives bfloat16
        parameters.

    Raises:
        ValueError: If a tensor is missing, superfluous or of the wrong shape, if ``mapping`` does
            not give every leaf a tensor, if JAX cannot hold a dtype (float64 without
            ``jax_enable_x64``), or if ``model_state_dict`` is a whole checkpoint, in which the
            model has a key.
        TypeError: If an argument or a tensor has the wrong type, or if a tensor is of another kind
            than its leaf (an integer, say).

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
    layouts, leaves = layouts_and_leaves(mapping, params)
    check_is_not_around("model_state_dict", model_state_dict, lambda each: _holds(each, layouts))
    check_dict("model_state_dict", model_state_dict, "a dict, as model.state_dict() gives")
    check_torch_names("model_state_dict", model_state_dict)
    names = aligned(model_state_dict, mapping)
    model_state_dict = {names[name]: tensor for name, tensor in model_state_dict.items()}
    named = [tensor for name, tensor in model_state_dict.items() if name in mapping]
    raise_if_any(
        "the model's state_dict and mapping do not match",
        {
            "the state_dict lacks": [name for name in layouts if name not in model_state_dict],
            "mapping lacks": [
                name
                for name, tensor in model_state_dict.items()
                if not (name in mapping or is_running_statistic(name) or is_buffer(tensor))
                and not any(is_same_tensor(tensor, other) for other in named)
            ],
        },
        {"mapping lacks": "Map a tensor to None if it is a buffer, or has another name too"},
    )
    arrays, with_nan = assembled(
        layouts,
        layouts,
        leaves,
        lambda name, layout, leaf: laid_out(name, model_state_dict[name], layout, leaf),
    )
    warn_of_nan(with_nan)
    return tree_of(arrays, params)


def _holds(value: Any, names: Collection[str]) -> bool:
    """Whether a dict has a tensor of one of the names."""
    # The state of an optimizer may have the same names, but no tensors under them.
    return isinstance(value, Mapping) and any(hasattr(value.get(n), "dtype") for n in names)


def params_to_torch(params: Any, mapping: Mapping[str, Entry]) -> dict[str, Any]:
    """A pytree of parameters as the weights of a torch module, bit for bit.

    Like [`optimizer_to_torch`][], it gives torch tensors where the process has imported torch, and
    NumPy arrays in a process without torch: `torch.nn.Module.load_state_dict` takes the former,
    `safetensors.numpy.save_file` the latter.

    Args:
        params: The pytree of parameters.
        mapping: As for [`params_from_torch`][].

    Returns:
        A dict from torch names to tensors or arrays, in torch's layouts and the dtypes of the
        parameters, each writable and in memory of its own. As the dict lacks the running statistics
        of batch norms, ``load_state_dict`` needs ``strict=False`` for a module that has some.

    Raises:
        ValueError: If ``mapping`` does not give every leaf a name.
        TypeError: If an argument has the wrong type, or if torch is imported and does not have the
            dtype of a leaf.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax.torch_interop import match_flax_params, params_to_torch
        >>> params = {"fc": {"kernel": jnp.array([[1.0], [2.0]])}}
        >>> mapping = match_flax_params({"fc.weight": (1, 2)}, params)
        >>> params_to_torch(params, mapping)["fc.weight"].tolist()
        [[1.0, 2.0]]

    Source: [torch.nn.Module.load_state_dict](
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html>).
    """
    layouts, leaves = layouts_and_leaves(mapping, params)
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    return {name: write_tensor(name, taken_apart(name, layouts, arrays)) for name in layouts}
