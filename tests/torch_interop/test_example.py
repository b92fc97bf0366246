"""`examples/from_pytorch.py` moves a run without changing its losses, and refuses bad flags."""

import importlib
import re

import matplotlib.image
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="the example trains in it")
from_pytorch = importlib.import_module("examples.from_pytorch")


def test_the_example_moves_a_run_without_changing_its_losses(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    from_pytorch.main(["--epochs", "2", "--batch-size", "256", "--output", str(folder)])
    printed = capsys.readouterr().out
    assert float(re.search(r"largest difference: (\S+) nats", printed)[1]) < 1e-5
    assert printed.splitlines()[-1] == f"picture: {folder / 'losses.png'}"
    assert matplotlib.image.imread(folder / "losses.png").shape[:2] == (750, 1350)
    losses = [float(row.split()[1]) for row in re.findall(r"^ +\d+ .+$", printed, re.MULTILINE)]
    assert losses[-1] < losses[0] / 2


def test_the_file_for_torch_is_the_one_that_torch_would_have_written(tmp_path):
    epochs = from_pytorch.epochs_of_digits(6, batch_size=512, seed=0)
    from_pytorch.three_runs(epochs, tmp_path, seed=0)
    torch.manual_seed(0)
    run = from_pytorch.TorchRun()
    run.train(epochs[:4])
    run.save(tmp_path / "in_torch.pt")

    found, expected = (
        torch.load(tmp_path / name, weights_only=True) for name in ("from_jax.pt", "in_torch.pt")
    )
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    assert found["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.7**4)
    assert found["lr_scheduler"] == expected["lr_scheduler"]
    assert found["optimizer"]["state"][0]["step"] == 12
    for key in ("model", "optimizer"):
        found_tensors, tensors = (
            each[key] if key == "model" else each[key]["state"] for each in (found, expected)
        )
        torch.testing.assert_close(found_tensors, tensors, rtol=1e-4, atol=1e-6)


def test_each_epoch_has_other_batches_of_all_digits():
    epochs = from_pytorch.epochs_of_digits(2, batch_size=599, seed=0)
    assert [[len(labels) for _, labels in batches] for batches in epochs] == [[599] * 3] * 2
    scans = [
        sorted(scan.tobytes() for images, _ in batches for scan in images) for batches in epochs
    ]
    assert scans[0] == scans[1]
    assert (epochs[0][0][0] != epochs[1][0][0]).any()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--epochs 0", "argument --epochs: must be at least 1, got 0"),
        ("--batch-size 0", "argument --batch-size: must be from 1 to 1797, got 0"),
        ("--batch-size 1798", "argument --batch-size: must be from 1 to 1797, got 1798"),
    ],
)
def test_the_example_refuses_a_bad_flag(flags, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        from_pytorch.main([*flags.split(), "--output", str(tmp_path / "new")])
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_help_names_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        from_pytorch.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for flag, default in {
        "--epochs": "2",
        "--batch-size": "64",
        "--seed": "0",
        "--output": "runs/from_pytorch",
    }.items():
        assert re.search(rf" {flag} [A-Z_]+ [^()]+ \(default: {default}\)", printed), flag
