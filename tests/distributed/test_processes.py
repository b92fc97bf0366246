"""Processes that train together end with the parameters and state of one process."""

import re

import numpy as np
import pytest

from tests.distributed.processes import result_in, run, run_together

BATCH = 64
FLAGS = ("--steps", 20, "--batch-size", BATCH)
PARALLEL = {"replicated": "--no-zero", "ZeRO-1": "--zero"}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The result of one process, by whether it computes in float64."""
    folder = tmp_path_factory.mktemp("one_process")

    def result(wide):
        path = folder / f"{wide}.npz"
        if not path.exists():
            run("multihost.py", *FLAGS, "--result", path, JAX_ENABLE_X64=wide)
        return result_in(path)

    return result


def assert_close_up_to_the_order_of_sums(actual, expected):
    """Raise unless all arrays agree to what reordering the sums over a batch can change.

    Each of `BATCH` terms may round by a spacing of the largest number of its array.
    """
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        spacing = np.spacing(np.max(np.abs(array))) if array.dtype.kind == "f" else 0
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=BATCH * spacing, err_msg=name)


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_end_where_one_does(count, parallel, one_process, tmp_path):
    result = tmp_path / "result.npz"
    outputs = run_together(count, *FLAGS, PARALLEL[parallel], "--result", result)
    assert f"20 steps on {count} devices of {count} processes" in outputs[0]
    assert_close_up_to_the_order_of_sums(result_in(result), one_process(0))

    whole = sum(array.nbytes for name, array in one_process(0).items() if "state" in name)
    kept = int(re.search(r"optimizer state: (\d+) bytes on each device", outputs[0])[1])
    if parallel == "replicated":
        assert kept == whole
    else:
        assert whole / count <= kept < whole / count + 100  # ten biases do not divide by four


def test_two_processes_end_where_one_does_in_float64(one_process, tmp_path):
    """Adadelta's root makes exact data inexact, but float64 leaves little room."""
    result = tmp_path / "result.npz"
    run_together(2, *FLAGS, "--zero", "--result", result, JAX_ENABLE_X64=1)
    assert {str(array.dtype) for array in one_process(1).values()} == {"float64", "int32"}
    assert_close_up_to_the_order_of_sums(result_in(result), one_process(1))


def test_the_processes_of_a_slurm_job_find_each_other():
    outputs = run_together(2, "--steps", 2, slurm=True)
    assert "2 steps on 2 devices of 2 processes" in outputs[0]
    assert "devices" not in outputs[1]  # only process 0 prints
