"""A forward pass of a torch module beside that of its JAX twin, layer by layer."""

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from adadelta_jax._checks.trees import path_names
from adadelta_jax.torch_interop.checks import (
    check_dict,
    check_torch_names,
    is_tensor,
    raise_if_any,
)
from adadelta_jax.torch_interop.pairing import prefixes
from adadelta_jax.torch_interop.prefixes import Module, lengths_to_strip, module_and_leaf, spelled
from adadelta_jax.torch_interop.tensors import read_tensor

_CALL = "__call__"  # the method under which Flax keeps what a layer gave
# From torch to Flax: (N, C, ...) to (N, ..., C), the same without a batch, and (length, N, ...) to
# (N, length, ...).
_MOVES = ((1, -1), (0, -1), (0, 1))


class LayerDifference(NamedTuple):
    """How far apart the outputs of one call of a layer are in torch and in JAX.

    As a string it is a line: the names, the difference "of" the scale, and both shapes if the
    difference is infinite.

    Attributes:
        torch_name: The name in ``named_modules()``; "" is the model itself.
        path: The path in the outputs of JAX, without ``__call__``; "" is the model itself.
        call: Which call of the layer, from 0.
        difference: The largest absolute difference. Infinite if the shapes do not fit, if only one
            side has this call, or if one has a NaN or an infinity where the other has none.
        scale: The largest finite absolute value in torch's output.
        torch_shape: The shape of torch's output; None if torch has no such call.
        shape: The shape of JAX's output; None if JAX has no such call.
    """

    torch_name: str
    path: str
    call: int
    difference: float
    scale: float
    torch_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        names = " -> ".join(name or "the model" for name in (self.torch_name, self.path))
        call = f", call {self.call + 1}" if self.call else ""
        is_finite = math.isfinite(self.difference)
        shapes = "" if is_finite else f", shapes {self.torch_shape} and {self.shape}"
        return f"{names}{call}: {self.difference:.2g} of {self.scale:.2g}{shapes}"


def compare_layers(
    torch_module: Any,
    torch_inputs: Any,
    outputs: Any,
    *,
    pairs: Mapping[str, str | None] | None = None,
) -> list[LayerDifference]:
    """Compare what each layer gives in a torch module and in its JAX twin, for the same inputs.

    The difference of a layer is max |y_torch - y_jax|, in float64 or complex128. NaNs are equal,
    and so are infinities of one sign.

    Modules pair by name, spelled as for [`match_flax_params`][], without what is around all names
    of one side. Modules that only one side has are left out.

    torch has images as (N, C, height, width), Flax as (N, height, width, C). torch's output is
    compared with its axes as they are, with the second or the first at the end, and with these two
    exchanged. Of all that fit the shape in JAX, the smallest difference counts. Where Flax has the
    heads of an attention on an axis of their own, it is merged with the last. An image that is
    flattened is in another order and differs: leave such a layer out.

    Args:
        torch_module: The live `torch.nn.Module`. Call its ``eval()`` first: in training mode,
            dropout differs by chance. It runs once, without gradients and without `torch.compile`.
            Its buffers, such as running statistics, are afterwards as before.
        torch_inputs: A tensor, a tuple of arguments, or a dict of keyword arguments.
        outputs: What the layers gave in JAX, by path. From Linen, ``variables["intermediates"]``
            of ``_, variables = model.apply(variables, x, capture_intermediates=True,
            mutable=["intermediates"])``; from NNX, what `nnx.capture` returns, as below; or a dict
            such as ``{"encoder/conv": array}``. A tuple or a list has the calls of one layer. Of a
            call that gives several arrays, the first counts, in a dict that of the first key.
        pairs: Pairs given by hand, which go first: from the name of a torch module to a path in
            ``outputs``, or to None (left out). They hold for the modules inside, too.

    Returns:
        A row for each call of each layer, in the order in which torch's modules return: a module
        comes after those inside it. Calls that torch did not make come last.

    Raises:
        ValueError: If no layer pairs, or if ``pairs`` names what is not there.
        TypeError: If an argument has the wrong type, or if an output cannot become an array.

    Examples:
        ```python
        import torch
        from flax import nnx
        from adadelta_jax.torch_interop import compare_layers, match_flax_params, params_from_torch

        rngs, inputs = nnx.Rngs(0), torch.ones(1, 3)
        torch_model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).eval()
        model = nnx.Sequential(nnx.Linear(3, 2, rngs=rngs), nnx.LayerNorm(2, epsilon=1, rngs=rngs))
        params = nnx.state(model, nnx.Param)
        mapping = match_flax_params(torch_model, params)
        nnx.update(model, params_from_torch(torch_model.state_dict(), params, mapping))

        capture = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)
        _, outputs = capture(inputs.numpy())
        layers = compare_layers(torch_model, inputs, outputs)
        first = next(layer for layer in layers if layer.difference > 1e-5 * layer.scale)
        print(first)  # 1 -> layers/1, the norm, whose epsilon is wrong
        ```

    Source: [torch.nn.Module.register_forward_hook](
    <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html>), [flax.nnx.capture](
    <https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/module.html>).
    """
    args, kwargs = _arguments(torch_module, torch_inputs)
    modules, calls = dict(torch_module.named_modules()), _calls_by_path(outputs)
    paired = _paired(modules, calls, {} if pairs is None else pairs)
    rows: list[LayerDifference] = []
    made = Counter[str]()

    def compare(name: str, output: Any) -> None:
        path, call = paired[name], made[name]
        made[name] += 1
        ours = calls[path][call] if call < len(calls[path]) else None
        rows.append(_compared(name, path, call, _first_array(output), ours))

    def hook_of(name: str) -> Any:
        return lambda _module, _inputs, output: compare(name, output)

    torch = sys.modules["torch"]
    with contextlib.ExitStack() as stack:
        for name in paired:
            stack.enter_context(modules[name].register_forward_hook(hook_of(name)))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and it would be imported
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        buffers = {name: buffer.clone() for name, buffer in torch_module.named_buffers()}
        torch.func.functional_call(torch_module, buffers, args, kwargs)
    for name, path in paired.items():
        for _ in range(made[name], len(calls[path])):
            compare(name, None)
    return rows


def _arguments(torch_module: Any, torch_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs as arguments; raise unless they and the module can be those of a call."""
    if "torch" not in sys.modules or not hasattr(torch_module, "register_forward_hook"):
        found = type(torch_module).__name__
        raise TypeError(f"torch_module must be a live torch.nn.Module, got {found}")
    inputs = (torch_inputs,) if is_tensor(torch_inputs) else torch_inputs
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    raise TypeError(
        "torch_inputs must be a torch tensor, a tuple of arguments or a dict of keyword arguments, "
        f"got {type(inputs).__name__}"
    )


def _calls_by_path(outputs: Any) -> dict[str, list[Any]]:
    """What each call of a layer gave, by the path of the layer."""
    calls = {}
    for path, value in jax.tree.leaves_with_path(outputs, is_leaf=_has_calls):
        of_layer = [_first_array(call) for call in (value if _has_calls(value) else [value])]
        if any(array is not None for array in of_layer):
            calls["/".join(path_names(path)).removesuffix(_CALL).removesuffix("/")] = of_layer
    if not calls:
        raise TypeError(
            "outputs must be a pytree of what the layers gave, such as variables['intermediates'], "
            f"got {type(outputs).__name__} without arrays"
        )
    return calls


def _has_calls(node: Any) -> bool:
    return isinstance(node, (tuple, list))


def _first_array(output: Any) -> Any:
    """The first tensor or array of what a layer gave; None if there is none."""
    # A mapping of another class than dict is no pytree to JAX.
    leaves = jax.tree.leaves(dict(output) if isinstance(output, Mapping) else output)
    return next((leaf for leaf in leaves if hasattr(leaf, "dtype")), None)


def _paired(
    names: Collection[str], paths: Collection[str], pairs: Mapping[str, str | None]
) -> dict[str, str]:
    """The path of each torch module that has one; raise if none has."""
    check_dict("pairs", pairs, "a dict from names of torch modules to paths")
    check_torch_names("pairs", pairs)
    for name, path in pairs.items():
        if path is not None and not isinstance(path, str):
            raise TypeError(f"pairs[{name!r}] must be a path or None, got {path!r}")
    by_hand, others, every = {}, [], _by_spelling(paths)
    for name in names:
        given = next((prefix for prefix in prefixes(name) if prefix in pairs), None)
        if given is None:
            others.append(name)
        elif pairs[given] is not None:
            module = _module(f"{pairs[given]}{name[len(given) :]}")
            by_hand[name] = given, every.get(spelled(module))
    found = {name: path for name, (_, path) in by_hand.items() if path is not None}
    used = {by_hand[name][0] for name in found}
    problems = {
        "torch_module lacks": [name for name in pairs if name not in names],
        "outputs lacks": [
            path for name, path in pairs.items() if path is not None and name not in used
        ],
    }
    raise_if_any("pairs does not match the models", problems)

    free = [path for path in paths if path not in found.values()]
    # The model itself is in no module, and would leave nothing to strip.
    lengths = lengths_to_strip(*(list(filter(None, map(_module, side))) for side in (others, free)))
    ours, theirs = (_by_spelling(side, n) for side, n in zip((others, free), lengths, strict=True))
    found |= {name: theirs[module] for module, name in ours.items() if module in theirs}
    layers = [list(filter(_module, side)) for side in (names, paths, found.values())]
    if not found or (all(layers[:2]) and not layers[2]):
        raise ValueError(
            "no layer has the same name in torch_module and in outputs:\n  "
            f"torch_module has {', '.join(layers[0])}\n  outputs has {', '.join(layers[1])}\n"
            "Pair by hand with pairs={torch name: path}"
        )
    return found


def _module(name: str) -> Module:
    """A torch name or a path in one spelling; () for the model itself."""
    name = name.removesuffix(_CALL).removesuffix("/")
    return tuple(filter(None, module_and_leaf(f"{name}.output")[0]))


def _by_spelling(names: Iterable[str], length: int = 0) -> dict[str, str]:
    """The names by their spelling without `length` modules around; the innermost if several."""
    outermost_first = sorted(names, key=lambda name: len(_module(name)))
    return {spelled(_module(name)[length:]): name for name in outermost_first}


def _compared(name: str, path: str, call: int, torch_output: Any, output: Any) -> LayerDifference:
    """The row of one call, of which a side may have no array."""
    theirs = _wide(f"the output of {name or 'torch_module'}", torch_output)
    ours = _wide(f"outputs[{path!r}]", output)
    shapes = [None if array is None else array.shape for array in (theirs, ours)]
    if theirs is None or ours is None:
        scale = 0.0 if theirs is None else _scale(theirs)
        return LayerDifference(name, path, call, math.inf, scale, *shapes)
    if 1 < theirs.ndim == ours.ndim - 1:  # an axis of heads
        ours = ours.reshape(*ours.shape[:-2], ours.shape[-2] * ours.shape[-1])
    moved = [np.moveaxis(theirs, *move) for move in _MOVES if theirs.ndim > 1]
    fitting = [array for array in (theirs, *moved) if array.shape == ours.shape]
    difference = min((_difference(array, ours) for array in fitting), default=math.inf)
    return LayerDifference(name, path, call, difference, _scale(theirs), *shapes)


def _wide(what: str, value: Any) -> np.ndarray | None:
    """A tensor or an array with all of its numbers, in float64 or complex128."""
    if value is None:
        return None
    array = read_tensor(what, value)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _scale(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference; infinite where only one side is a finite number."""
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.where(same, 0.0, np.abs(one - other))
    return float(np.where(np.isnan(differences), math.inf, differences).max(initial=0.0))
