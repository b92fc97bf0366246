"""Whether contenders computed the same numbers: the check before any of them is reported."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

CHUNK = 1 << 18  # elements worked on at a time: they stay in the cache


def check(
    params_of: Mapping[str, Sequence[np.ndarray]],
    expected: Sequence[np.ndarray],
    start: Sequence[np.ndarray],
    tolerances: Mapping[str, float],
) -> dict[str, float]:
    """How far every contender is from the expected parameters; an error where that is too far.

    Args:
        params_of: By contender, its parameters after some steps.
        expected: What they should be.
        start: What they were before those steps.
        tolerances: By contender, the largest deviation to accept.

    Returns:
        By contender, its deviation: the largest difference in a leaf, divided by the largest change
        that the steps made to that leaf; of the worst leaf.

    Raises:
        ArithmeticError: If a deviation is above its tolerance, or not a number.
    """
    deviations = {}
    for name, params in params_of.items():
        leaves = zip(params, expected, start, strict=True)
        # NumPy's maximum, unlike Python's, is NaN if any of them is.
        deviations[name] = float(np.max([_deviation_of_leaf(*leaf) for leaf in leaves]))
        if not deviations[name] <= tolerances[name]:
            raise ArithmeticError(
                f"{name} computed other numbers: they deviate by {deviations[name]:.2g}, "
                f"and at most {tolerances[name]:.2g} is accepted"
            )
    return deviations


def _deviation_of_leaf(actual: np.ndarray, expected: np.ndarray, start: np.ndarray) -> float:
    difference = change = 0.0
    for a, e, s in _chunks(actual, expected, start):
        difference = np.maximum(difference, np.max(np.abs(a - e)))
        change = np.maximum(change, np.max(np.abs(e - s)))
    return float(difference / change)


def adadelta_steps(
    param: np.ndarray, grad: np.ndarray, *, steps: int, weight_decay: float, rho: float, eps: float
) -> np.ndarray:
    """A parameter after some steps of Adadelta from a fresh state with one gradient, in float64.

    The result is stored in float32, whatever the parameter's dtype.
    """
    result = np.empty(param.size, np.float32)
    done = 0
    for theta, g in _chunks(param, grad):
        v, u = np.zeros_like(g), np.zeros_like(g)
        for _ in range(steps):
            decayed = g + weight_decay * theta
            v = rho * v + (1 - rho) * decayed**2
            delta = np.sqrt(u + eps) / np.sqrt(v + eps) * decayed
            u = rho * u + (1 - rho) * delta**2
            theta = theta - delta
        result[done : done + theta.size] = theta
        done += theta.size
    return result.reshape(param.shape)


def _chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The arrays, piece by piece, each piece flat and in float64."""
    flat = [array.reshape(-1) for array in arrays]
    for first in range(0, flat[0].size, CHUNK):
        yield tuple(array[first : first + CHUNK].astype(np.float64) for array in flat)
