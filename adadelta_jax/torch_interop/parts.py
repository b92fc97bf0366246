"""Parts of arrays: a box along the axes, and whether boxes fill an array without overlap."""

import itertools
import math
from collections.abc import Sequence

# For each of the first axes of an array an index, a (start, stop), or None for all of it.
Part = tuple[int | tuple[int, int] | None, ...]
Box = tuple[tuple[int, int], ...]


def index_of(part: Part) -> tuple[int | slice, ...]:
    """What picks the part out of an array."""
    return tuple(each if isinstance(each, int) else slice(*(each or (None,))) for each in part)


def box_of(part: Part, shape: Sequence[int]) -> Box | None:
    """Where the part begins and ends along each axis of an array; None if it is not within it."""
    if len(part) > len(shape):
        return None
    box = []
    for size, each in itertools.zip_longest(shape, part):
        start, stop = (each, each + 1) if isinstance(each, int) else each or (0, size)
        if not 0 <= start < stop <= size and size:
            return None
        box.append((start, stop))
    return tuple(box)


def shape_of(part: Part, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of the part of an array; None if it is not within it."""
    box = box_of(part, shape)
    if box is None:
        return None
    is_index = [isinstance(each, int) for each in part] + [False] * (len(shape) - len(part))
    return tuple(
        stop - start for (start, stop), dropped in zip(box, is_index, strict=True) if not dropped
    )


def whole_shape(part: Part, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The smallest shape of an array whose part has that shape; None if the part cannot have it."""
    sizes, whole = list(shape), []
    for each in part:
        if isinstance(each, int):
            whole.append(each + 1)
            continue
        size = sizes.pop(0) if sizes else -1
        if each is not None and each[1] - each[0] != size:
            return None
        whole.append(size if each is None else each[1])
    return None if -1 in whole else (*whole, *sizes)


def fill(boxes: Sequence[Box], shape: Sequence[int]) -> bool:
    """Whether the boxes together are the whole array, and no two overlap."""
    volumes = [math.prod(stop - start for start, stop in box) for box in boxes]
    if sum(volumes) != math.prod(shape):
        return False
    return not any(
        all(max(a[0], b[0]) < min(a[1], b[1]) for a, b in zip(one, other, strict=True))
        for one, other in itertools.combinations(boxes, 2)
    )
