"""Which tensor of a torch module belongs to which parameter of a module of Flax."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.mapping import Entry, is_running_statistic
from adadelta_jax.torch_interop.matching import match
from adadelta_jax.torch_interop.source import read_source, read_statistics

CHOSEN: Sequence[str] = ("conv_transpose", "untransposed", "flattened")


def match_flax_params(
    torch_names_and_shapes: Any,
    params: Any,
    *,
    pairs: Mapping[str, Entry] | None = None,
    conv_transpose: Collection[str] | None = None,
    untransposed: Collection[str] | None = None,
    flattened: Collection[str] | None = None,
    optimizer: Any = None,
) -> dict[str, LeafLayout | tuple[LeafLayout, ...] | None]:
    """Pair the parameters of a torch module by name with those of Flax, Equinox or Haiku.

    Two modules pair if their paths are equal. ``layers.0`` counts as equal to ``layers_0`` and
    ``layers/0``, and the ``0`` of a `torch.nn.Sequential` to the ``layers_0`` of a Flax one. Within
    a module:

    | torch | Flax | ``axes`` from torch to Flax |
    | --- | --- | --- |
    | Linear.weight (o, i) | kernel | (1, 0) |
    | Conv1d.weight (o, i, w) | kernel | (2, 1, 0) |
    | Conv2d.weight (o, i, h, w) | kernel | (2, 3, 1, 0) |
    | Conv3d.weight | kernel | (2, 3, 4, 1, 0) |
    | ConvTranspose1d.weight | kernel | (2, 0, 1), then flip (0,) |
    | ConvTranspose2d.weight | kernel | (2, 3, 0, 1), then flip (0, 1) |
    | ConvTranspose3d.weight | kernel | (2, 3, 4, 0, 1), then flip (0, 1, 2) |
    | weight of a norm | scale | None |
    | Embedding.weight | embedding | None |
    | any other, as bias | of the same name | None |
    | running_mean, running_var, num_batches_tracked | see [`match_flax_statistics`][] |  |

    Some tensors are several leaves, and some leaves several tensors:

    | torch | here |
    | --- | --- |
    | MultiheadAttention.in_proj_weight, in_proj_bias | query, key, value: kernel, bias |
    | MultiheadAttention.out_proj | out |
    | Linear.weight (h * d, i), bias (h * d,) | kernel (i, h, d), bias (h, d): heads |
    | Linear.weight (o, h * d) of ``out`` | kernel (h, d, o) |
    | layers.0.weight, layers.1.weight, ... | layers/kernel with a first axis of layers: a scan |

    A recurrent layer of torch has two biases where a cell of Flax, Equinox or Haiku has one, which
    cannot be taken apart again. Such layers are refused. Modules that keep torch's tensors are
    paired: see examples/torch_recurrent.py.

    Equinox and Haiku call weights ``weight``, ``w`` and ``embeddings`` and biases ``b`` and
    ``offset``; they are paired likewise.

    What is around all names of one side is left out: ``module.`` of `DistributedDataParallel`,
    ``_orig_mod.`` of `torch.compile`, ``model.``.

    Shapes do not tell all. Pass the torch module itself, which knows the classes of its layers, or
    decide:

    * A transposed convolution with as many inputs as outputs has the shape of a convolution.
      "transpose", "deconv" or "conv" in its name tells, unless the name also has "up" or the model
      has a transposed convolution; otherwise it is refused: list the transposed ones in
      ``conv_transpose``. A `flax.linen.ConvTranspose` with ``transpose_kernel=True`` has the
      layout of a convolution.
    * ``Conv1D`` of Hugging Face is a linear layer with a weight of (inputs, outputs). Its bias
      tells, unless it has as many inputs as outputs. Where a model has such a layer, square weights
      that nothing tells apart are refused: list such layers in ``untransposed``.
    * Flattening an image orders its numbers as (channels, height, width) in torch and as (height,
      width, channels) in Flax. List the linear layers behind it in ``flattened``.

    Args:
        torch_names_and_shapes: A `torch.nn.Module`, its ``named_parameters()`` or ``state_dict()``,
            or a dict of names and shapes. The result has the same order. For a torch optimizer that
            does not know the names of its parameters,
            [`optimizer_from_torch`][adadelta_jax.torch_interop.optimizer_from_torch] needs theirs,
            which is that of ``named_parameters()``.
        params: The Flax parameters: ``variables["params"]`` of a Linen module, ``nnx.state(model,
            nnx.Param)`` of an NNX one; arrays or `jax.ShapeDtypeStruct`.
        pairs: Pairs given by hand, which go first: from the name of a torch module or tensor to the
            path of a Flax module or leaf (laid out as in the table), to a [`LeafLayout`][] (taken
            as it is), or to None (left out). A tuple of paths shares the outputs of a layer out:
            ``{"attn.c_attn": ("attn/query", "attn/key", "attn/value")}``. A tuple of layouts says
            which part goes where.
        conv_transpose: The names of all torch modules that are transposed convolutions; None:
            decided as above.
        untransposed: The names of all linear torch modules with weights of (inputs, outputs).
            None: decided as above.
        flattened: The names of all linear and recurrent torch modules whose inputs are flattened
            images, and of linear ones whose outputs become images, which are channels last in
            ``params``. None: there is none, with a warning where one may be.
        optimizer: The torch optimizer of the torch module. The result then has the order in which
            it numbers the parameters.

    Returns:
        The mapping that the other functions of this module take: a dict from each torch name to its
        [`LeafLayout`][], to a tuple of them, or to None if it is left out. For a pytree other than
        Flax's, write it by hand. A path alone then stands for a leaf of the same layout.

    Raises:
        ValueError: If a name on either side has no counterpart or several, or if the shapes of a
            pair do not fit; all such names are listed.
        TypeError: If an argument has the wrong type.

    Warns:
        UserWarning: If a linear layer has several inputs for each channel of the convolution or of
            the norm before it, and ``flattened`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax.torch_interop import match_flax_params
        >>> names_and_shapes = {"net.0.weight": (3, 2), "net.0.bias": (3,)}
        >>> params = {"net": {"layers_0": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
        >>> for name, layout in match_flax_params(names_and_shapes, params).items():
        ...     print(name, "->", layout.path, layout.axes)
        net.0.weight -> net/layers_0/kernel (1, 0)
        net.0.bias -> net/layers_0/bias None

    Source: the shapes of [torch.nn](https://docs.pytorch.org/docs/stable/nn.html) and of [Flax](
    <https://flax.readthedocs.io/en/latest/api_reference/index.html>).
    """
    source = read_source(torch_names_and_shapes, optimizer)
    lists = (conv_transpose, untransposed, flattened)
    chosen: dict[str, Collection[str] | None] = dict(zip(CHOSEN, lists, strict=True))
    left_out = [name for name in source.shapes if is_running_statistic(name)]
    return match(source, params, pairs, chosen, left_out)


def match_flax_statistics(
    torch_names_and_shapes: Any,
    statistics: Any,
    *,
    pairs: Mapping[str, Entry] | None = None,
) -> dict[str, LeafLayout | tuple[LeafLayout, ...] | None]:
    """Pair the running statistics of a torch module's batch norms with those of a Flax module.

    `torch.nn.BatchNorm2d`'s ``running_mean`` becomes ``mean``, its ``running_var`` ``var``.
    ``num_batches_tracked`` has no counterpart and stays behind.

    Flax's ``momentum`` is one minus torch's. Flax averages the variance of the batch, torch
    n / (n - 1) times that.

    Args:
        torch_names_and_shapes: A `torch.nn.Module`, its ``state_dict()``, or a dict of names and
            shapes. Only running statistics are looked at.
        statistics: ``variables["batch_stats"]`` of a Linen module, ``nnx.state(model,
            nnx.BatchStat)`` of an NNX one; arrays or `jax.ShapeDtypeStruct`.
        pairs: As for [`match_flax_params`][].

    Returns:
        A mapping as that of [`match_flax_params`][], for [`params_from_torch`][] and
        [`params_to_torch`][].

    Raises:
        ValueError: If a statistic on either side has no counterpart, or if shapes do not fit.
        TypeError: If an argument has the wrong type.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from adadelta_jax.torch_interop import match_flax_statistics, params_from_torch
        >>> state_dict = {"bn.running_mean": np.ones(2, "f"), "bn.running_var": np.ones(2, "f")}
        >>> batch_stats = {"bn": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}
        >>> mapping = match_flax_statistics(state_dict, batch_stats)
        >>> params_from_torch(state_dict, batch_stats, mapping)["bn"]["mean"]
        Array([1., 1.], dtype=float32)

    Source: [torch.nn.BatchNorm2d](
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html>).
    """
    source = read_statistics(torch_names_and_shapes)
    return match(source, statistics, pairs, dict.fromkeys(CHOSEN), ())
