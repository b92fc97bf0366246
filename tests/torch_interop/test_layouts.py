"""A layout is as documented, can be undone, and is refused if it cannot be."""

import pickle
import pickletools

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adadelta_jax.torch_interop import LeafLayout, params_from_torch, params_to_torch
from tests.refusals import MAPPING, PARAMS, assert_refused, each_refusal


@st.composite
def tensors_and_layouts(draw):
    view = draw(st.lists(st.integers(1, 4), max_size=4).map(tuple))
    axes = draw(st.none() | st.permutations(range(len(view))).map(tuple))
    flip = draw(st.sets(st.sampled_from(range(len(view)))).map(tuple)) if view else ()
    permuted = view if axes is None else tuple(view[axis] for axis in axes)
    if draw(st.booleans()):
        return view, permuted, LeafLayout("leaf", axes, flip)
    size = int(np.prod(view, dtype=int))
    if draw(st.booleans()):
        return view, (1, size), LeafLayout("leaf", axes, flip, torch_shape=view)
    return (size,), (1, size), LeafLayout("leaf", axes, flip, torch_shape=(size,), view=view)


@settings(deadline=None, max_examples=100)
@given(tensors_and_layouts())
def test_every_layout_is_as_documented_and_can_be_undone(case):
    torch_shape, leaf_shape, layout = case
    array = np.arange(np.prod(torch_shape, dtype=int), dtype="float32").reshape(torch_shape)
    params = {"leaf": jnp.zeros(leaf_shape)}
    leaf = params_from_torch({"x": array}, params, {"x": layout})["leaf"]

    viewed = array if layout.view is None else array.reshape(layout.view)
    axes = tuple(range(viewed.ndim)) if layout.axes is None else layout.axes
    expected = np.flip(np.transpose(viewed, axes), layout.flip).reshape(leaf_shape)
    np.testing.assert_array_equal(leaf, expected)

    back = np.asarray(params_to_torch({"leaf": leaf}, {"x": layout})["x"])
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous
    assert back.flags.writeable


def test_a_pickled_layout_names_the_public_path():
    layout = LeafLayout("dense/kernel", axes=(1, 0))
    pickled = pickle.dumps(layout)
    assert pickle.loads(pickled) == layout
    names = [argument for _, argument, _ in pickletools.genops(pickled) if type(argument) is str]
    assert names[:2] == ["adadelta_jax.torch_interop", "LeafLayout"]


def weight_as(layout):
    return lambda: params_to_torch(PARAMS, MAPPING | {"fc.weight": layout})


REFUSALS = {
    **{
        repr(layout): (
            weight_as(layout),
            TypeError,
            f"mapping['fc.weight']: {wrong} must be {expected}, got {getattr(layout, wrong)!r}",
        )
        for wrong, expected, layout in (
            ("path", "a string", LeafLayout(3)),
            ("axes", "None or a tuple of integers", LeafLayout("dense/kernel", axes=3)),
            ("axes", "None or a tuple of integers", LeafLayout("dense/kernel", axes=(1.0, 0.0))),
            ("axes", "None or a tuple of integers", LeafLayout("dense/kernel", axes=("a", "b"))),
            ("flip", "a tuple of integers", LeafLayout("dense/kernel", flip=3)),
            ("flip", "a tuple of integers", LeafLayout("dense/kernel", flip=None)),
            ("view", "None or a tuple of integers", LeafLayout("dense/kernel", view=6)),
            *(
                (
                    field,
                    "a tuple of indices, (start, stop) and None",
                    LeafLayout("dense/kernel", **{field: wrong}),
                )
                for field in ("torch_part", "leaf_part")
                for wrong in (3, ("a",), ((1,),), ((1, 2.0),), None)
            ),
            (
                "torch_shape",
                "None or a tuple of integers",
                LeafLayout("dense/kernel", view=(6,), torch_shape=(2.0, 3.0)),
            ),
        )
    },
    **{
        repr(layout): (
            weight_as(layout),
            ValueError,
            f"mapping['fc.weight'] does not fit a leaf of shape (3, 2): {layout}",
        )
        for layout in (
            LeafLayout("dense/kernel", axes=(0,)),
            LeafLayout("dense/kernel", axes=(0, 0)),
            LeafLayout("dense/kernel", flip=(2,)),
            LeafLayout("dense/kernel", view=(6,)),
            LeafLayout("dense/kernel", torch_shape=(7,)),
            LeafLayout("dense/kernel", torch_shape=(7,), view=(7,)),
            LeafLayout("dense/kernel", torch_shape=(6,), view=(3, 3)),
            LeafLayout("dense/kernel", torch_shape=(2, 3), view=(-2, -3)),
            LeafLayout("dense/kernel", torch_part=((0, 3),)),
            LeafLayout("dense/kernel", torch_shape=(3, 2), torch_part=((0, 4),)),
            LeafLayout("dense/kernel", torch_shape=(3, 2), torch_part=(None, None, 0)),
            LeafLayout("dense/kernel", torch_shape=(3, 2), torch_part=((2, 1),)),
            LeafLayout("dense/kernel", leaf_part=(-1,)),
            LeafLayout("dense/kernel", leaf_part=((0, 4),)),
        )
    },
}


@each_refusal(REFUSALS)
def test_a_layout_that_cannot_be_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
