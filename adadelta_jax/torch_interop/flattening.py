"""Linear layers beside a flattened image, whose numbers torch and Flax order otherwise.

torch flattens (channels, height, width), Flax (height, width, channels). No shape tells whether a
layer reads or makes such an image, so the caller decides, and is warned where one may be.
"""

import re
from collections.abc import Mapping

from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.pairing import Sides
from adadelta_jax.torch_interop.prefixes import module_and_leaf

Decided = Mapping[str, tuple[LeafLayout, ...]]
_LINEAR = ("kernel", "w")  # these leaves are channels last
_RECURRENT = re.compile("weight_ih_l0(_reverse)?")


def with_flattened(
    decided: Decided, sides: Sides
) -> tuple[dict[str, tuple[LeafLayout, ...]], list[str], list[str]]:
    """The layouts with those beside a flattened image; what cannot be one; and what may be one.

    A linear layer with several inputs for each channel of the last convolution or norm may read a
    flattened image, unless a linear layer since then has as many outputs. One with several outputs
    for each input of the convolution behind it may make one.
    """
    listed, shapes = sides.chosen["flattened"], sides.source.shapes
    result, found, possible = dict(decided), set(), []
    channels, widths, readers, last = 0, set(), set(), ""
    for name in sides.source.order:
        if name not in decided:
            continue
        shape, module, leaf = shapes[name], name.rpartition(".")[0], _leaf(decided[name])
        if len(shape) > 2 and name.endswith("weight"):
            inputs, outputs = shape[:2] if decided[name][0].flip else shape[1::-1]
            several = shapes[last][0] // inputs if last and leaf in _LINEAR and inputs > 1 else 0
            if several > 1 and shapes[last][0] % inputs == 0:
                maker = last.rpartition(".")[0]
                if listed is None or maker in found:  # found as one that reads an image
                    possible.append(_may_make_one(last, inputs, name))
                elif maker in listed:
                    found.add(maker)
                    _reorder_outputs(maker, inputs, result, shapes)
            channels, widths, readers, last = outputs, set(), set(), ""
        elif len(shape) == 1 and leaf == "scale":
            channels, last = shape[0], last if last and shapes[last][0] == shape[0] else ""
        is_recurrent = _RECURRENT.fullmatch(leaf)
        if len(shape) != 2 or not (leaf in _LINEAR or is_recurrent):
            continue
        has_several = 0 < channels < shape[1] and shape[1] % channels == 0
        if any(isinstance(each, LeafLayout) for each in sides.by_hand.get(name) or ()):
            found.add(module)  # is taken as it is
        elif has_several and len(decided[name]) == 1 and shape[1] not in widths - readers:
            readers.add(shape[1])
            if listed is None:
                possible.append(_may_read_one(name, shape, channels, decided[name][0]))
            elif module in listed:
                found.add(module)
                result[name] = (_reads(decided[name][0], shape, channels),)
        widths.add(shape[0])
        last = "" if is_recurrent else name
    impossible = [
        f"{module} is listed in flattened, but it has neither several inputs for each of the "
        "channels before it nor several outputs for each of the inputs behind it"
        for module in listed or ()
        if module not in found
    ]
    return result, impossible, possible


def _leaf(layouts: tuple[LeafLayout, ...]) -> str:
    return module_and_leaf(layouts[0].path)[1]


def _reads(layout: LeafLayout, shape: tuple[int, ...], channels: int) -> LeafLayout:
    """The layout of a layer that reads a flattened image."""
    outputs, inputs = shape
    return layout._replace(
        axes=(0, 2, 1) if layout.axes is None else (2, 1, 0),
        torch_shape=(outputs, inputs),
        view=(outputs, channels, inputs // channels),
    )


def _reorder_outputs(
    module: str,
    channels: int,
    result: dict[str, tuple[LeafLayout, ...]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Change the layouts of a layer to those of one that makes a flattened image."""
    for name, axes in ((f"{module}.weight", (2, 1, 0)), (f"{module}.bias", (1, 0))):
        if name in result:
            outputs, *inputs = shapes[name]
            (layout,) = result[name]
            result[name] = (
                layout._replace(
                    axes=axes,
                    torch_shape=shapes[name],
                    view=(channels, outputs // channels, *inputs),
                ),
            )


def _may_read_one(name: str, shape: tuple[int, ...], channels: int, layout: LeafLayout) -> str:
    """Why a linear layer may stand behind a flattened image, and how to decide."""
    return (
        f"{name} {shape} has {shape[1] // channels} inputs for each of the {channels} channels "
        "before it. If an image is flattened there, torch has its channels first and Flax last: "
        f"pass flattened=[{name.rpartition('.')[0]!r}], which stands for "
        f"{_reads(layout, shape, channels)}. If none is, pass flattened=[], "
        f"which stands for {layout}"
    )


def _may_make_one(name: str, channels: int, conv: str) -> str:
    """Why the outputs of a linear layer may become an image, and how to decide."""
    module = name.rpartition(".")[0]
    return (
        f"{name} (with {module}.bias, if it has one) has several outputs for each of the "
        f"{channels} inputs of {conv} behind it. If they become an image there, torch has its "
        f"channels first and Flax last: pass flattened=[{module!r}]. If they do not, pass "
        "flattened=[]. If the layer reads an image too, give it a LeafLayout in pairs"
    )
