"""Which tensor of a torch module belongs to which parameter of a module of Flax."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from adadelta_jax.torch_interop.checks import check_chosen_names, check_dict
from adadelta_jax.torch_interop.kinds import CONV
from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.mapping import (
    is_running_statistic,
    leaves_by_path,
    resolve_paths,
)
from adadelta_jax.torch_interop.pairing import (
    Candidates,
    Sides,
    candidates,
    decide,
    fitting,
    likely_pairs,
    prefixes,
    sides_of,
    warn_of,
    with_flattened,
)
from adadelta_jax.torch_interop.source import Source, read_source, read_statistics

CHOSEN: Sequence[str] = ("conv_transpose", "untransposed", "flattened")


def match_flax_params(
    torch_names_and_shapes: Any,
    params: Any,
    *,
    pairs: Mapping[str, str | LeafLayout | None] | None = None,
    conv_transpose: Collection[str] | None = None,
    untransposed: Collection[str] | None = None,
    flattened: Collection[str] | None = None,
    optimizer: Any = None,
) -> dict[str, LeafLayout | None]:
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
            as it is), or to None (left out).
        conv_transpose: The names of all torch modules that are transposed convolutions; None:
            decided as above.
        untransposed: The names of all linear torch modules with weights of (inputs, outputs).
            None: decided as above.
        flattened: The names of all linear torch modules whose inputs are flattened images, which
            are channels last in ``params``. None: there is none, with a warning where one may be.
        optimizer: The torch optimizer of the torch module. The result then has the order in which
            it numbers the parameters.

    Returns:
        The mapping that the other functions of this module take: a dict from each torch name to its
        [`LeafLayout`][], or to None if it is left out. For a pytree other than Flax's, write it by
        hand. A path alone then stands for a leaf of the same layout.

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
    return _match(source, params, pairs, chosen, left_out)


def match_flax_statistics(
    torch_names_and_shapes: Any,
    statistics: Any,
    *,
    pairs: Mapping[str, str | LeafLayout | None] | None = None,
) -> dict[str, LeafLayout | None]:
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
    return _match(source, statistics, pairs, dict.fromkeys(CHOSEN), ())


def _match(
    source: Source,
    params: Any,
    pairs: Mapping[str, str | LeafLayout | None] | None,
    chosen: Mapping[str, Collection[str] | None],
    left_out: Collection[str],
) -> dict[str, LeafLayout | None]:
    """The layout of each torch tensor; raise unless each has one, and each leaf one tensor."""
    shapes = source.shapes
    leaf_shapes = {path: jnp.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    pairs = {} if pairs is None else pairs
    check_dict("pairs", pairs, "a dict from torch names to paths")
    by_hand = resolve_paths("pairs", pairs, leaf_shapes)
    _check_known("pairs", by_hand, shapes)
    for argument, names in chosen.items():
        if names is not None:
            check_chosen_names(argument, names)
            _check_known(argument, names, shapes)

    sides = sides_of(source, leaf_shapes, by_hand, chosen, left_out)
    found, problems, uses = {}, {}, Counter[str]()
    for name in shapes:
        paths = candidates(name, sides)
        if paths is None:
            continue
        fit = fitting(name, paths, sides)
        if len(fit) == 1:
            found[name] = fit[0]
        else:
            problems[name] = _why_not_one(name, fit, paths, sides)
        uses.update({next(iter(layouts.values())).path for layouts in (fit or paths)[:1]})
    decided, in_doubt = decide(found)
    for name, (first, second) in in_doubt.items():
        path = _described(decided[name].path, leaf_shapes)
        problems[name] = f"{_described(name, shapes)} fits {path} as {first} and as {second}"
    decided, impossible, possible = with_flattened(decided, sides)
    lines = [problems[name] for name in shapes if name in problems] + impossible
    lines += [
        f"{_described(path, leaf_shapes)} "
        + ("is paired more than once" if uses[path] else "has no counterpart")
        for path in leaf_shapes
        if uses[path] != 1
    ]
    if lines:
        unpaired = [name for name in problems if not candidates(name, sides)]
        likely = likely_pairs(unpaired, [path for path in leaf_shapes if not uses[path]], sides)
        raise ValueError(
            "the torch names and the parameters do not pair up:\n  "
            + "\n  ".join(lines)
            + f"\n{_advice(in_doubt, likely)}"
        )
    warn_of(possible)
    return {name: decided.get(name) for name in shapes}


def _why_not_one(name: str, fit: list[Candidates], found: list[Candidates], sides: Sides) -> str:
    """Why a tensor does not fit exactly one path."""
    what = _described(name, sides.source.shapes)
    if not found:
        return f"{what} has no counterpart"
    paths = [next(iter(layouts.values())).path for layouts in found]
    described = [_described(path, sides.leaf_shapes) for path in paths]
    if fit:
        return f"{what} fits each of {', '.join(described)}"
    return f"{what} does not fit {' or '.join(described)}"


def _described(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name} {shapes.get(name, '(missing)')}"


def _advice(in_doubt: Mapping[str, tuple[str | None, ...]], likely: Mapping[str, str]) -> str:
    """What the caller can do about names that do not pair up."""
    advice = ["Pair by hand with pairs={torch name: path}"]
    if any(CONV in kinds for kinds in in_doubt.values()):
        advice.append("list all transposed convolutions in conv_transpose=[torch module name]")
    if any(CONV not in kinds for kinds in in_doubt.values()):
        advice.append("list all layers that are not transposed in untransposed=[torch module name]")
    if in_doubt:
        advice.append("or pass the torch module itself, which knows its layers")
    suggestion = f". By their shapes, pairs={dict(likely)} is likely" if likely else ""
    return ", ".join(advice) + suggestion


def _check_known(argument: str, names: Collection[str], torch_shapes: Collection[str]) -> None:
    """Raise unless every name is the name of a torch tensor or module."""
    modules = {prefix for name in torch_shapes for prefix in prefixes(name)}
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(
            f"{argument} names {', '.join(unknown)}, which torch_names_and_shapes lacks"
        )
