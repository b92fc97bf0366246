"""How far rounding may drive two implementations of Adadelta apart, in one table."""

from typing import NamedTuple

import chex
import jax
import numpy as np


class Tolerance(NamedTuple):
    """The allowances of one dtype. The drift after n steps may be, per coordinate,

    - of v and u: 10 √n unit roundoffs, plus for u the share lost next to ε, relative to the value;
    - of θ: 4 √n unit roundoffs of the largest parameter.

    At a step each optimizer rounds some five times on its way to u, and less often to v. Rounding
    errors have either sign, so that over n steps they add up as a random walk: √n, not n. θ is
    rounded once or twice a step by each (Δ to the dtype, then the sum).
    """

    unit_roundoff: float
    lost_next_to_eps: float
    reason: str


TOLERANCES = {
    "float64": Tolerance(2**-53, 0.0, "53-bit significands, all arithmetic in float64"),
    "float32": Tolerance(2**-24, 0.0, "24-bit significands, all arithmetic in float32"),
    "complex128": Tolerance(2**-53, 0.0, "each part is a float64"),
    "complex64": Tolerance(2**-24, 0.0, "each part is a float32"),
    "bfloat16": Tolerance(
        2**-8, 0.0, "8-bit significands: torch rounds v and u to them, this package does not"
    ),
    "float16": Tolerance(
        2**-11,
        4 * 2**-25 / 1e-6,
        "11-bit significands: torch rounds v and u to them. Its u starts near ε = 1e-6, where "
        "numbers are 2⁻²⁴ apart: ρu, u, u + ε and ε itself are each off by up to 2⁻²⁵, which is "
        "3 % of ε. "
        "Four such errors are allowed; relative to u they persist as u grows",
    ),
}


def assert_snapshots_close(actual, expected, step, dtype, accumulator_dtype=None):
    """Raise unless two snapshots after `step` steps agree within the tolerance of their dtype.

    `accumulator_dtype` is the narrower of the dtypes in which the two keep v and u; None: `dtype`.
    """
    of_params = TOLERANCES[dtype]
    of_accumulators = TOLERANCES[accumulator_dtype or dtype]
    chex.assert_tree_all_finite(expected)
    drift = np.sqrt(step) * of_accumulators.unit_roundoff
    chex.assert_trees_all_close(
        _parts(actual.square_avg), _parts(expected.square_avg), rtol=10 * drift, atol=0
    )
    chex.assert_trees_all_close(
        _parts(actual.acc_delta),
        _parts(expected.acc_delta),
        rtol=10 * drift + of_accumulators.lost_next_to_eps,
        atol=0,
    )
    largest = max(np.max(np.abs(param), initial=0.0) for param in expected.params.values())
    chex.assert_trees_all_close(
        _parts(actual.params),
        _parts(expected.params),
        rtol=0,
        atol=4 * np.sqrt(step) * of_params.unit_roundoff * largest,
    )


def _parts(tree):
    """The real and imaginary parts, each to be compared on its own scale."""
    return jax.tree.map(lambda array: (np.real(array), np.imag(array)), tree)
