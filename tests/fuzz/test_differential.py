"""Random settings, shapes, dtypes, groups and missing gradients give the results of torch."""

import pytest

from tests.fuzz import differential, seeds

pytestmark = pytest.mark.torch

VARIABLE = "ADADELTA_JAX_FUZZ"


@pytest.mark.parametrize("chunk", seeds.chunks(VARIABLE, 200), ids=seeds.name_of_chunk)
def test_a_random_run_agrees_with_torch(chunk):
    seeds.run_all(differential.run_case, chunk, VARIABLE)


@pytest.mark.parametrize("dtype", differential.TOLERANCES)
def test_a_run_with_another_rho_does_not_agree_with_torch(dtype):
    settings = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False}
    case = differential.Case(
        seed=0,
        dtype=dtype,
        jitted=False,
        shapes={"p0": (5, 3)},
        groups={"0": settings | {"foreach": None}},
        group_of={"p0": "0"},
        missing=(frozenset(),),
    )
    arrays = differential.draw_arrays(case)
    theirs = differential.run_torch(case, *arrays)
    differential.assert_runs_close(case, differential.run_jax(case, *arrays), theirs)
    other = case._replace(groups={"0": case.groups["0"] | {"rho": 0.89}})
    with pytest.raises(AssertionError, match="not approximately equal"):
        differential.assert_runs_close(case, differential.run_jax(other, *arrays), theirs)
