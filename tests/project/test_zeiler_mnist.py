"""The benchmark of the paper's tables: what it trains, keeps, compares and leaves."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.common import reporting
from benchmarks.paper import mnist, settings
from benchmarks.paper import network as paper_network
from benchmarks.paper.mnist import START
from benchmarks.paper.settings import PAPER, Setting, optimizer
from benchmarks.paper.tables import TABLES

pytestmark = pytest.mark.torch  # the control is trained by torch

ROOT = Path(__file__).parents[2]

FIGURES = """
        adadelta adadelta adadelta |         sgd  momentum adagrad
        rho=0.9  rho=0.95 rho=0.99 |
eps=1e-2   2.59   2.58   2.32      | 1      2.26  89.68  43.76
eps=1e-4   2.05   1.99   2.28      | 1e-1   2.51   2.03   2.82
eps=1e-6   1.90   1.83   2.05      | 1e-2   7.02   2.68   1.79
eps=1e-8   2.29   2.13   2.00      | 1e-3  17.01   6.98   5.21
                                   | 1e-4  58.10  16.98  12.59
"""


@pytest.fixture
def task(tmp_path):
    return mnist.load(True, None, tmp_path / "runs")


@pytest.fixture
def trained(monkeypatch):
    """The trainings that the benchmark asks for; in place of each there are made-up errors."""
    from benchmarks.paper import torch_control

    calls = []

    def errors_by_epoch(*args, seed, epochs, **others):
        calls.append(seed)
        return iter([10.0 * len(calls) + epoch for epoch in range(epochs)])

    monkeypatch.setattr(paper_network, "errors_by_epoch", errors_by_epoch)
    monkeypatch.setattr(torch_control, "errors_by_epoch", errors_by_epoch)
    return calls


def test_a_quick_run_prints_its_tables_and_writes_json_and_a_plot(tmp_path):
    report_path, plot_path = tmp_path / "report.json", tmp_path / "plot.svg"
    command = [sys.executable, "-m", "benchmarks.paper.mnist", "--quick"]
    command += ["--contenders", "adadelta", "sgd", "--runs", tmp_path / "runs"]
    command += ["--json", report_path, "--plot", plot_path]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    report = json.loads(report_path.read_text())
    assert {"cpu", "cores", "memory_gib", "os", "device"} <= report["machine"].keys()
    assert {"python", "adadelta-jax", "jax", "optax", "torch"} <= report["versions"].keys()
    assert str(tmp_path) not in json.dumps(report["settings"])
    works = {"paper": 2, "control": 2, "search": 2}
    for work, number in works.items():
        rows = [row for row in report["results"] if row["work"] == work]
        assert len(rows) == number
        for row in rows:
            assert row["contender"] in printed
            assert {len(by_epoch) for by_epoch in row["errors"]} == {2}
            assert f"{row['mean']:.2f}" in printed
    _, torch = (row for row in report["results"] if row["work"] == "control")
    assert {"difference", "difference_standard_error"} <= torch.keys()
    assert "adadelta rho=0.95 eps=1e-06" in plot_path.read_text()


def test_an_interrupted_run_goes_on_where_it_stopped(task, monkeypatch, trained):
    def measure():
        return mnist.measure_paper(task, mnist.START, settings.QUICK, seeds=range(2))

    networks = 2 * len(settings.QUICK)
    made_up = paper_network.errors_by_epoch

    def interrupted_in_the_second_epoch_of_the_third(*args, **kwargs):
        errors = made_up(*args, **kwargs)
        yield next(errors)
        if len(trained) == 3:
            raise KeyboardInterrupt
        yield from errors

    with monkeypatch.context() as patch:
        patch.setattr(
            paper_network, "errors_by_epoch", interrupted_in_the_second_epoch_of_the_third
        )
        with pytest.raises(KeyboardInterrupt):
            measure()
    assert len(list(task.runs.iterdir())) == 2
    rows = measure()
    assert len(trained) == 3 + networks - 2
    assert measure() == rows
    assert len(trained) == 3 + networks - 2
    assert rows[0]["errors"][0] == [10.0, 11.0]  # of the first training, before the interruption


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_half_written_file_is_not_taken(task, trained, part):
    def errors():
        setting = settings.CONTROLLED
        return mnist.errors(task, mnist.START, setting, 0)

    assert errors() == errors() == [10.0, 11.0]
    (file,) = task.runs.iterdir()
    whole = file.read_text()
    file.write_text(whole[: int(part * len(whole))])
    assert errors() == errors() == [20.0, 21.0]
    assert len(trained) == 2
    assert list(task.runs.iterdir()) == [file]
    assert json.loads(file.read_text())["result"] == [20.0, 21.0]


def test_a_run_is_written_at_once_or_not_at_all(task, monkeypatch, trained):
    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    def errors():
        return mnist.errors(task, mnist.START, settings.CONTROLLED, 0)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(OSError, match="No space"):
            errors()
    assert list(task.runs.glob("*.json")) == []
    assert errors() == [20.0, 21.0]


def test_whatever_decides_a_networks_errors_makes_another_run(task, monkeypatch, trained):
    setting = settings.CONTROLLED

    def errors(task=task, start=START, setting=setting, seed=0, library="jax"):
        return mnist.errors(task, start, setting, seed, library)

    errors()
    errors(task._replace(epochs=3))
    errors(task._replace(digest="of other digits"))
    errors(start=START._replace(pixels="minus_1_to_1"))
    errors(start=START._replace(initialisation="torch"))
    errors(setting=setting._replace(eps=1e-8))
    errors(seed=1)
    errors(library="torch")
    newer = reporting.versions() | {"optax": "99"}
    for module, name, value in (
        (mnist, "RECIPE", mnist.RECIPE + 1),
        (paper_network, "BATCH", 50),
        (reporting, "versions", lambda: newer),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            errors()
    assert len(trained) == 11
    assert errors() == [10.0, 11.0]


def test_the_control_starts_from_the_same_weights_and_sees_the_same_digits():
    import torch

    from benchmarks.paper import torch_control

    params = paper_network.start(3, "torch")
    params = jax.tree.map(lambda param: param + 0.01, params)  # biases that are not zero
    model = torch_control.network(params)
    for param, linear in zip(params, [model[0], model[2], model[4]], strict=True):
        np.testing.assert_array_equal(linear.weight.detach().numpy().T, param["weight"])
        np.testing.assert_array_equal(linear.bias.detach().numpy(), param["bias"])
    digits = paper_network.random_digits(100)
    images, labels = torch_control.tensors(digits)
    np.testing.assert_array_equal(images, digits.images)
    np.testing.assert_array_equal(labels, digits.labels)
    with torch.no_grad():
        found = model(images)
    np.testing.assert_allclose(
        found, paper_network.logits(params, digits.images), rtol=1e-4, atol=1e-5
    )
    assert torch_control.error_percent(model, (images, labels)) == paper_network.error_percent(
        params, digits
    )


def test_the_controls_first_epoch_is_ours():
    import torch

    from benchmarks.paper import torch_control

    setting = settings.CONTROLLED
    digits = paper_network.random_digits(300)
    key = paper_network.epoch_key(0, 0)
    start = jax.device_get(paper_network.start(0))

    optimizer = settings.optimizer(setting)
    params = paper_network.start(0)
    params, _ = paper_network.train_epoch(optimizer, params, optimizer.init(params), digits, key)

    model = torch_control.network(paper_network.start(0))
    of_torch = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=setting.rho, eps=setting.eps)
    batches = np.asarray(paper_network.batches(key, 300))
    assert sorted(batches.ravel()) == list(range(300))
    torch_control.train_epoch(model, of_torch, torch_control.tensors(digits), batches)
    for layer, linear in enumerate([model[0], model[2], model[4]]):
        change = np.asarray(params[layer]["weight"]) - start[layer]["weight"]
        theirs = linear.weight.detach().numpy().T - start[layer]["weight"]
        assert np.abs(change).max() > 1e-3
        np.testing.assert_allclose(theirs, change, rtol=0, atol=1e-4 * np.abs(change).max())
        assert (theirs != change).any()  # another library's arithmetic, not ours once more


def test_the_settings_and_figures_are_the_papers():
    _, methods, _, *lines = FIGURES.splitlines()
    expected = {}
    for line in lines:
        left, right = line.split("|")
        eps, *errors = left.split() or [None]
        for rho, error in zip((0.9, 0.95, 0.99), errors, strict=False):
            setting = Setting("adadelta", rho=rho, eps=float(eps.removeprefix("eps=")))
            expected[setting] = float(error)
        rate, *errors = right.split()
        for method, error in zip(methods.split("|")[1].split(), errors, strict=True):
            expected[Setting(method, float(rate))] = float(error)
    assert len(expected) == 27
    assert expected == PAPER


@pytest.mark.parametrize("method", ["adadelta", "sgd", "momentum", "adagrad"])
def test_an_optimizer_steps_as_the_paper_defines_it(method):
    eta, rho, eps = 0.1, 0.9, 1e-4
    setting = Setting(method, rho=rho, eps=eps) if method == "adadelta" else Setting(method, eta)
    made = optimizer(setting)
    param = jnp.float32(1.0)
    state = made.init(param)
    x = 1.0
    last, squares, changes = 0.0, 0.0, 0.0
    for gradient in (0.5, -0.2, 0.3):
        updates, state = made.update(jnp.float32(gradient), state, param)
        param = optax.apply_updates(param, updates)
        if method == "adadelta":
            squares = rho * squares + (1 - rho) * gradient**2
            step = -np.sqrt(changes + eps) / np.sqrt(squares + eps) * gradient
            changes = rho * changes + (1 - rho) * step**2
        elif method == "adagrad":
            squares += gradient**2
            step = -eta * gradient / np.sqrt(squares)
        else:
            last = (0.9 if method == "momentum" else 0.0) * last - eta * gradient
            step = last
        x += step
        np.testing.assert_allclose(param, x, rtol=1e-6)


@pytest.mark.parametrize(("pixels", "scale"), [("centred", 1), ("standardised", 1 / 0.3081)])
def test_centred_pixels_have_the_mean_of_the_digits_to_train_on(pixels, scale):
    train, test = paper_network.random_digits(200), paper_network.random_digits(100)
    mean = np.asarray(train.images).mean(0)
    seen, seen_test = paper_network.scaled(train, test, pixels)
    np.testing.assert_allclose(seen.images.mean(0), 0, atol=3e-6)
    expected = scale * (np.asarray(test.images) - mean)
    np.testing.assert_allclose(seen_test.images, expected, atol=3e-6)


@pytest.mark.parametrize(
    ("initialisation", "deviation"),
    [
        ("normal_0.01", 0.01),
        ("lecun_normal", 500**-0.5),
        ("glorot_uniform", (2 / 800) ** 0.5),
        ("torch", 1500**-0.5),
    ],
)
def test_weights_start_as_named(initialisation, deviation):
    _, second, _ = paper_network.start(0, initialisation)
    assert second["weight"].shape == (500, 300)
    np.testing.assert_allclose(second["weight"].std(), deviation, rtol=0.01)
    assert not second["bias"].any()


def test_the_tables_show_what_the_report_holds_and_leave_the_rest_empty(tmp_path):
    row = {"mean": 1.9, "standard_error": 0.04, "pixels": "p", "initialisation": "i"}
    row |= {"contender": "adadelta rho=0.95 eps=1e-06", "errors": [[3.0, 1.8], [2.5, 2.0]]}
    torch = row | {"contender": "torch", "difference": 0.01, "difference_standard_error": 0.02}
    rows = [
        row | {"work": "paper"},
        row | {"work": "search"},
        row | {"work": "control", "contender": "jax"},
        torch | {"work": "control"},
    ]
    versions = dict.fromkeys(("python", "jax", "optax", "torch"), "1.2")
    report = {"results": rows, "machine": {"cpu": "c", "cores": 2}, "versions": versions}
    (tmp_path / "zeiler_mnist.json").write_text(json.dumps(report))
    found = {name: table(tmp_path) for name, table in TABLES.items()}
    assert "| 2 for `paper` | 2 for `search` | 2 for `control` | c | 2 |" in found["zeiler_run"]
    assert "| ε = 1e-06 |  | 1.90 | 1.90 ± 0.04 | 1.83 |  | 2.05 |" in found["zeiler_adadelta"]
    assert "| η = 1 |  | 2.26 |  | 89.68 |  | 43.76 |" in found["zeiler_others"]
    assert "| 1 | 2.00 | 2.00 | +0.00 |" in found["zeiler_control"]
    assert "+0.010 ± 0.020" in found["zeiler_control"]
    assert "| `p` | `i` | 1.90 | 1.04 |" in found["zeiler_search"]
