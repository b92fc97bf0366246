"""How far a run may be from the stored one.

A step in float32 has multiplications followed by an addition. Whether XLA makes one rounding of
them depends on its version and on the CPU: `python -m tests.golden.differences` prints by how much
runs differ. With one rounding and with two (`JAX_DISABLE_JIT=1`), v and u were up to 4
representable numbers apart after six steps, parameters 1; twice as many are allowed. JAX 0.10 and
0.12 gave the same bits on one CPU, except behind `optax.clip_by_global_norm`, which adds up
squares.

An accumulator in fewer bits is rounded at random, by bits that follow from the step. A last place
of what is rounded seldom decides between the two neighbours, and did not in these runs. Where it
does, v or u is the other neighbour, and the next updates change by a share of their size.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.cases import Checkpoint

# By how many representable numbers a number may differ; counts differ by none. An 8-bit
# accumulator's numbers are its codes.
FEWER_BITS = {"bfloat16": 1, "float16": 1, "uint8": 1}
PLACES = {
    "params": {"float32": 2, "complex64": 2, **FEWER_BITS},
    "state": {"float32": 8, "complex64": 8, **FEWER_BITS},
}
# How far those of an accumulator are apart, relative to their size. In float16, u is near 1e-6.
SPACING = {"uint8": 1 / 4, "float16": 1 / 16, "bfloat16": 1 / 128}


def assert_same_structure(checkpoint: Checkpoint, like: Checkpoint) -> None:
    """Raise unless both have the same containers, shapes and dtypes."""
    assert jax.tree.structure(checkpoint) == jax.tree.structure(like)
    chex.assert_trees_all_equal_shapes_and_dtypes(checkpoint, like)


def assert_same_run(checkpoint: Checkpoint, stored: Checkpoint, earlier: Checkpoint) -> None:
    """Raise unless a checkpoint is the stored one, whose run went there from the `earlier` one."""
    assert_same_structure(checkpoint, stored)
    dtypes = {jnp.result_type(leaf).name for leaf in jax.tree.leaves(stored["state"])}
    share = {"params": max(SPACING.get(dtype, 0) for dtype in dtypes), "state": 0}
    for part in checkpoint:
        leaves = jax.tree.leaves_with_path(checkpoint[part])
        others = (jax.tree.leaves(tree[part]) for tree in (stored, earlier))
        for (path, actual), expected, before in zip(leaves, *others, strict=True):
            places = PLACES[part].get(jnp.result_type(expected).name, 0)
            allowed = places + share[part] * abs(place(expected) - place(before))
            where = part + jax.tree_util.keystr(path)
            assert (abs(place(actual) - place(expected)) <= allowed).all(), (
                where,
                actual,
                expected,
            )


def place(array) -> np.ndarray:
    """The place of each number among all that its dtype can represent, in their order."""
    array = np.atleast_1d(np.asarray(array))
    if np.iscomplexobj(array):
        array = array.view(array.real.dtype)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    bits = array.view(f"i{array.dtype.itemsize}").astype(np.int64)
    magnitude = bits & (2 ** (8 * array.dtype.itemsize - 1) - 1)
    return np.where(bits < 0, -magnitude, magnitude)
