"""The cases that a run tries, and its report of those that fail.

The seed alone determines a case. ``ADADELTA_JAX_FUZZ`` and ``ADADELTA_JAX_FUZZ_DAMAGE`` say how
many cases of each kind there are, and ``ADADELTA_JAX_FUZZ_SEED`` the seed of the first.
"""

import collections
import os
from collections.abc import Callable, Sequence

from tests.results import record

CHUNK = 100


def chunks(variable: str, default: int) -> list[range]:
    """The seeds, a hundred for each test, so that several processes can share them."""
    first = int(os.environ.get("ADADELTA_JAX_FUZZ_SEED", 0))
    count = int(os.environ.get(variable, default))
    seeds = range(first, first + count)
    return [seeds[start : start + CHUNK] for start in range(0, count, CHUNK)]


def name_of_chunk(seeds: range) -> str:
    """The name of the test of some seeds."""
    return f"{seeds[0]}-{seeds[-1]}"


def run_all(run: Callable[[int], str], seeds: Sequence[int], variable: str) -> None:
    """Run the case of every seed, which returns how it ended; raise one error for all failures."""
    failures, ends = [], collections.Counter()
    for seed in seeds:
        try:
            ends[run(seed)] += 1
        except Exception as error:
            failures.append(
                f"{variable}=1 ADADELTA_JAX_FUZZ_SEED={seed} runs this case alone:\n"
                f"{type(error).__name__}: {error}"
            )
    row = {"kind": variable, "first": seeds[0], "last": seeds[-1], "failed": len(failures)}
    record("fuzz", row | {"ends": ends})
    if failures:
        raise AssertionError(f"{len(failures)} failed\n\n" + "\n\n".join(failures))
