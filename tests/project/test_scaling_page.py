"""What docs/scaling.md says: its ways agree, and its numbers are those of the published models."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.memory import state_bytes
from benchmarks.speed.step_time import gpt2_shapes

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "benchmarks" / "results" / "state_bytes.json"


def test_every_way_on_the_page_trains_on_eight_devices_as_on_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names, trained = {}, []
    for block in blocks:
        exec(block, names)
        if "params" in names:
            trained.append(jax.device_get(names.pop("params")["kernel"]))
    assert names["devices"] == 8
    first, *others = trained
    assert len(others) == 8  # layouts, explicit, shard_map, pmap, restored
    moved = np.abs(first - names["initial_params"]()["kernel"])
    assert np.median(moved) > 1e-3
    for kernel in others:
        np.testing.assert_allclose(kernel, np.broadcast_to(first, kernel.shape), atol=1e-5)


def test_the_benchmark_plans_every_layout(tmp_path):
    report_path, plot_path = tmp_path / "report.json", tmp_path / "plot.svg"
    command = [sys.executable, "-m", "benchmarks.memory.state_bytes", "--quick"]
    command += ["--json", report_path, "--plot", plot_path]
    printed = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=80
    ).stdout
    rows = json.loads(report_path.read_text())["results"]
    full_rows = json.loads(REPORT.read_text())["results"]
    keys = ("work", "devices", "contender")
    assert [[row[key] for key in keys] for row in rows] == [
        [row[key] for key in keys] for row in full_rows
    ]
    for row in rows:
        assert row["contender"] in printed
        assert row["contender"] in plot_path.read_text()


def test_the_reported_bytes_are_those_of_the_published_models():
    parameters = {"gpt2": 124_439_808, "gpt2_xl": 1_557_611_200, "llama_70b": 70_553_706_496}
    for row in json.loads(REPORT.read_text())["results"]:
        count, size = parameters[row["work"]], 2 if row["work"] == "llama_70b" else 4
        assert row["parameters"] == count
        ways = row["devices"]
        if row["contender"] == "replicated":
            split_params, split_state, sent = 1, 1, 2 * (ways - 1) / ways
        elif row["contender"] == "ZeRO-1":
            split_params, split_state, sent = 1, ways, 2 * (ways - 1) / ways
        elif row["contender"] == "FSDP":
            split_params, split_state, sent = ways, ways, 3 * (ways - 1) / ways
        else:
            model = {8: 4, 64: 8}[ways]
            # Vectors are not split over "model", nor is every embedding of GPT-2 over "data".
            assert count * size / model <= row["parameter_bytes"] < 1.01 * count * size / model
            assert row["state_bytes_float32"] >= 8 * count / ways
            data = ways // model
            assert row["sent_bytes"] == 2 * (data - 1) / data * row["parameter_bytes"]
            continue
        assert row["parameter_bytes"] == row["gradient_bytes"] == count * size / split_params
        assert row["sent_bytes"] == sent * count * size
        for name, bytes_each in (("float32", 4), ("bfloat16", 2), ("uint8", 1)):
            expected = 2 * bytes_each * count / split_state + 4
            assert row[f"state_bytes_{name}"] == pytest.approx(expected, rel=1e-12)


def test_a_vocabulary_that_the_devices_divide_lets_zero_split_the_embedding():
    layout = state_bytes.LAYOUTS["tensor parallel x ZeRO-1"]
    least = []
    for vocabulary in (50257, 50304):
        shapes = gpt2_shapes(width=768, depth=12, vocabulary=vocabulary, context=1024)
        params = state_bytes.float32(shapes)
        parameters = sum(np.prod(shape) for shape in shapes)
        planned = state_bytes.plan(params, layout, 64)["state_bytes_float32"]
        least.append(planned / (8 * parameters / 64))
    assert least[0] > 2
    assert least[1] < 1.02
