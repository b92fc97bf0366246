"""The benchmarks run, leave what they promise, and report nothing that is not Adadelta."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import agreement, measuring

ROOT = Path(__file__).parents[2]
MODULES = {
    "step_time": "speed.step_time",
    "train_step": "speed.train_step",
    "compile_time": "speed.compile_time",
    "memory": "memory.step",
    "accumulators": "accumulators.compare",
}

MEDIAN = {"lower_quartile_ms", "median_ms", "upper_quartile_ms"}
BYTES = {"state_bytes", "scratch_bytes", "accessed_bytes", "scratch_bytes_per_parameter"}
STAGES = {f"{stage}_median_ms" for stage in ("trace", "lower", "compile")}


@pytest.mark.parametrize(
    ("name", "work", "contenders", "keys"),
    [
        pytest.param(
            "step_time",
            "300_mixed",
            "adadelta_jax adadelta_jax_bfloat16 optax optax_flatten keras torch_foreach",
            MEDIAN | {"times_floor"},
            marks=pytest.mark.torch,
        ),
        ("train_step", "mlp_256", "adadelta_jax optax sgd", MEDIAN | {"parameters"}),
        ("memory", "update", "adadelta_jax optax keras", BYTES | {"dtype", "weight_decay"}),
        ("memory", "mlp_256", "adadelta_jax optax sgd", BYTES | {"dtype", "weight_decay"}),
        ("compile_time", "10", "adadelta_jax optax", MEDIAN | STAGES | {"leaves", "equations"}),
        (
            "accumulators",
            "step_time",
            "float32 bfloat16_to_nearest uint8",
            MEDIAN | BYTES | {"network", "dtype"},
        ),
        ("accumulators", "mnist", "float32 uint8", {"mean", "standard_error", "scores"}),
    ],
    ids=[
        "step_time",
        "train_step",
        "memory of an update",
        "memory of a train step",
        "compile_time",
        "accumulators: step_time",
        "accumulators: mnist",
    ],
)
def test_a_benchmark_prints_a_table_and_writes_json_and_a_plot(
    tmp_path, name, work, contenders, keys
):
    report_path, plot_path = tmp_path / "report.json", tmp_path / "plot.svg"
    command = [sys.executable, "-m", f"benchmarks.{MODULES[name]}", "--quick", "--only", work]
    command += ["--contenders", *contenders.split(), "--json", report_path, "--plot", plot_path]
    if name == "accumulators":
        command += ["--runs", tmp_path / "runs"]
    printed = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=80
    ).stdout

    report = json.loads(report_path.read_text())
    assert report["benchmark"] == name
    assert {"cpu", "cores", "memory_gib", "os", "device"} <= report["machine"].keys()
    assert {"python", "adadelta-jax", "jax", "optax"} <= report["versions"].keys()
    assert {row["work"] for row in report["results"]} == {work}
    assert {row["contender"] for row in report["results"]} - {"floor"} == set(contenders.split())
    plot = plot_path.read_text()
    for row in report["results"]:
        assert row["contender"] in printed
        assert row["contender"] in plot
        assert "note" in row or keys <= row.keys()


def test_contenders_take_turns():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ABC"}
    seconds = measuring.time_in_turn(steps, rounds=4, turn_seconds=0)
    assert "".join(calls[-12:]) == "ABCABCABCABC"
    assert {name: len(times) for name, times in seconds.items()} == {"A": 4, "B": 4, "C": 4}


@pytest.mark.parametrize("wrong", [1.01, np.nan])
def test_a_contender_that_computes_other_numbers_is_not_reported(wrong):
    start, expected = [np.zeros(3), np.zeros(2)], [np.ones(3), np.full(2, 0.5)]
    found = {"right": expected, "other": [np.ones(3), np.array([0.5, wrong * 0.5])]}
    with pytest.raises(ArithmeticError, match="other computed other numbers"):
        agreement.check(found, expected, start, {"right": 1e-3, "other": 1e-3})
    assert agreement.check({"right": expected}, expected, start, {"right": 0.0}) == {"right": 0.0}


@pytest.mark.torch
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_check_compares_with_adadelta_as_torch_defines_it(weight_decay):
    import torch

    param, grad = np.array([1.0, -2.0, 3e-3]), np.array([0.5, -1e-3, 0.0])
    theta = torch.tensor(param)
    theta.grad = torch.tensor(grad)
    optimizer = torch.optim.Adadelta([theta], lr=1.0, rho=0.9, eps=1e-6, weight_decay=weight_decay)
    for _ in range(5):
        optimizer.step()
    actual = agreement.adadelta_steps(
        param, grad, steps=5, weight_decay=weight_decay, rho=0.9, eps=1e-6
    )
    np.testing.assert_allclose(actual, theta.numpy(), rtol=1e-7)
