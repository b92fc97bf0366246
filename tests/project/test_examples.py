import re
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from flax import nnx

from adadelta_jax import adadelta
from examples import train_digits

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_digits.py"


def run_script(*flags):
    return subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def accuracy_in(output):
    return float(re.search(r"^test accuracy: (\d+\.\d\d) %", output, re.MULTILINE)[1])


def assert_is_a_drawing(picture):
    pixels = matplotlib.image.imread(picture)
    height, width, _ = pixels.shape
    assert width >= 1200
    assert height >= 600
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


def test_the_default_run_reaches_97_percent(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    train_digits.main(["--output", str(folder)])
    printed = capsys.readouterr().out
    assert accuracy_in(printed) >= 97
    assert printed.splitlines()[-1] == f"picture: {folder / 'curves.png'}"


def test_the_script_runs_without_a_terminal_and_fills_no_log(tmp_path):
    finished = run_script("--epochs", 3, "--output", tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert accuracy_in(finished.stdout) > 85
    assert "3/3" in finished.stderr
    assert re.search(r"train loss \d\.\d+, test accuracy \d+\.\d %", finished.stderr)
    assert len(re.split(r"[\r\n]+", finished.stderr.strip())) <= 6
    assert_is_a_drawing(tmp_path / "curves.png")


def test_a_seed_fixes_the_run_and_another_seed_changes_it(tmp_path, capsys):
    printed = []
    for seed in (3, 3, 4):
        train_digits.main(["--epochs", "1", "--seed", str(seed), "--output", str(tmp_path)])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0] != printed[2]


def test_one_epoch_in_one_batch_is_enough_for_a_picture(tmp_path, capsys):
    flags = ["--epochs", "1", "--batch-size", "1400", "--output", str(tmp_path)]
    train_digits.main(flags)
    assert accuracy_in(capsys.readouterr().out) < 60
    assert_is_a_drawing(tmp_path / "curves.png")


def test_every_optimizer_flag_reaches_the_optimizer(tmp_path, monkeypatch):
    received = []

    def remember(*settings):
        received.extend(settings)
        return adadelta(*settings)

    monkeypatch.setattr(train_digits, "adadelta", remember)
    flags = "--learning-rate 0.5 --rho 0.8 --eps 1e-4 --weight-decay 0.01 --epochs 1"
    train_digits.main([*flags.split(), "--output", str(tmp_path)])
    assert received == [0.5, 0.8, 1e-4, 0.01]


def test_a_diverging_run_says_so_and_fails(tmp_path):
    with pytest.raises(SystemExit) as stop:
        train_digits.main(["--learning-rate", "1e30", "--epochs", "2", "--output", str(tmp_path)])
    assert stop.value.code == "training diverged: the loss is nan after epoch 1"
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--bogus 1", "unrecognized arguments: --bogus 1"),
        ("--epoch 1", "unrecognized arguments: --epoch 1"),
        ("--epochs 0", "argument --epochs: must be a whole number from 1"),
        ("--epochs 2.5", "argument --epochs: must be a whole number from 1"),
        ("--epochs", "argument --epochs: expected one argument"),
        ("--batch-size 0", "argument --batch-size: must be a whole number from 1 to 1400, got 0"),
        ("--batch-size 1401", "argument --batch-size: must be a whole number from 1 to 1400"),
        ("--seed -1", "argument --seed: must be a whole number from 0"),
        ("--seed 2147483648", "argument --seed: must be a whole number from 0 to 2147483647"),
        ("--learning-rate fast", "argument --learning-rate: invalid float value: 'fast'"),
        ("--learning-rate -1", "learning_rate must be >= 0, got -1"),
        ("--learning-rate nan", "learning_rate must be finite, got nan"),
        ("--rho 1.5", "rho must lie in [0, 1], got 1.5"),
        ("--eps=-1e-6", "eps must be >= 0, got -1e-06"),
        ("--weight-decay -0.1", "weight_decay must be >= 0, got -0.1"),
        ("--output {file}", "argument --output: cannot write in {file}: File exists"),
        (
            "--output {file}/below",
            "argument --output: cannot write in {file}/below: Not a directory",
        ),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2_before_any_training(
    flags, complaint, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(train_digits, "train")
    with pytest.raises(SystemExit) as stop:
        train_digits.main(flags.format(file=file).split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f": error: {complaint.format(file=file)}" in printed.err
    assert list(tmp_path.iterdir()) == [file]


def test_a_bad_flag_leaves_no_traceback():
    finished = run_script("--rho", 1.5)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == (
        "train_digits.py: error: rho must lie in [0, 1], got 1.5 (--help explains every flag)\n"
    )


def test_help_explains_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        train_digits.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag, default in {
        "--epochs": "40",
        "--batch-size": "50",
        "--learning-rate": "1.0",
        "--rho": "0.9",
        "--eps": "1e-06",
        "--weight-decay": "0.0",
        "--seed": "0",
        "--output": "runs/train_digits",
    }.items():
        assert re.search(rf" {flag} [A-Z_]+ [^()]+ \(default: {re.escape(default)}\)", text), flag


def test_the_split_is_fixed_stratified_and_shares_no_scan():
    train, test = train_digits.train_and_test_sets().values()
    again = train_digits.train_and_test_sets()["test"]
    np.testing.assert_array_equal(test.images, again.images)
    assert len(train.labels) + len(test.labels) == 1797
    frequency_difference = np.bincount(train.labels) / 1400 - np.bincount(test.labels) / 397
    assert np.max(np.abs(frequency_difference)) < 0.002
    assert not {scan.tobytes() for scan in train.images} & {scan.tobytes() for scan in test.images}


def test_the_step_overwrites_the_parameters_and_the_accumulators():
    model = train_digits.Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, adadelta(), wrt=nnx.Param)
    batch = train_digits.train_and_test_sets()["train"].at(np.arange(8))
    before = jax.tree.leaves(nnx.state((model, optimizer)))

    memory = train_digits.train_step.lower(model, optimizer, batch).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= sum(array.nbytes for array in before)

    train_digits.train_step(model, optimizer, batch)
    assert all(array.is_deleted() for array in before)
