"""Parts of arrays, and whether they fill one."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from adadelta_jax.torch_interop.parts import box_of, fill, index_of, shape_of, whole_shape

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@st.composite
def shapes_and_parts(draw):
    shape = draw(SHAPES)
    part = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        part.append(draw(st.sampled_from([None, start, (start, stop)])))
    return shape, tuple(part)


@given(shapes_and_parts())
def test_a_part_is_what_numpy_picks(shape_and_part):
    shape, part = shape_and_part
    array = np.arange(np.prod(shape)).reshape(shape)
    picked = array[index_of(part)]
    assert shape_of(part, shape) == picked.shape
    box = array[tuple(slice(*each) for each in box_of(part, shape))]
    np.testing.assert_array_equal(picked.ravel(), box.ravel())


@given(shapes_and_parts())
def test_the_whole_of_a_part_is_the_smallest_array_that_has_it(shape_and_part):
    shape, part = shape_and_part
    whole = whole_shape(part, shape_of(part, shape))
    assert len(whole) == len(shape)
    assert shape_of(part, whole) == shape_of(part, shape)
    assert all(ours <= theirs for ours, theirs in zip(whole, shape, strict=True))


@given(SHAPES, st.lists(shapes_and_parts(), max_size=4))
def test_boxes_fill_an_array_if_each_element_is_in_one(shape, given_parts):
    boxes = [box_of(part, shape) for _, part in given_parts]
    boxes = [box for box in boxes if box is not None]
    times = np.zeros(shape, int)
    for box in boxes:
        times[tuple(slice(*each) for each in box)] += 1
    assert fill(boxes, shape) == bool((times == 1).all())


@pytest.mark.parametrize("part", [(5,), ((0, 6),), ((2, 2),), (None, None, 0), (-1,)])
def test_a_part_that_is_not_within_the_array_is_none(part):
    assert box_of(part, (5, 2)) is None
    assert shape_of(part, (5, 2)) is None


def test_a_part_of_another_size_has_no_whole():
    assert whole_shape(((0, 2),), (3,)) is None
    assert whole_shape((None, None), (3,)) is None
