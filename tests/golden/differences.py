"""Print how far today's runs end from the stored ones, from their first step on.

    python -m tests.golden.differences

Differences are in representable numbers, the largest of a case.
"""

import itertools

import jax
import jax.numpy as jnp

from tests.golden.cases import CASES
from tests.golden.comparison import place
from tests.golden.files import FORMATS, VERSIONS


def differences(file):
    """Lines about the run of a case that do not end in the stored bits."""
    case = CASES[file.stem]
    start = case.start()
    ended, stored = case.train(case.train(start)), FORMATS["msgpack"].read(file, start)
    for part in ended:
        largest = {}
        for actual, expected in zip(
            *map(jax.tree.leaves, (ended[part], stored[part])), strict=True
        ):
            dtype = jnp.result_type(expected).name
            apart = abs(place(actual) - place(expected)).max()
            largest[dtype] = max(largest.get(dtype, 0), apart)
        for dtype, apart in largest.items():
            if apart:
                yield f"{file.parents[1].name}, {file.stem}: {part} in {dtype} differ by {apart}"


if __name__ == "__main__":
    files = [file for version in VERSIONS for file in sorted((version / "after").iterdir())]
    lines = list(itertools.chain.from_iterable(map(differences, files)))
    print(*(lines or ["every run ends in the stored bits"]), sep="\n")
