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
    from_pytorch.main(["--steps", "6", "--batch-size", "32", "--output", str(folder)])
    printed = capsys.readouterr().out
    assert float(re.search(r"largest difference: (\S+) nats", printed)[1]) < 1e-5
    assert printed.splitlines()[-1] == f"picture: {folder / 'losses.png'}"
    assert matplotlib.image.imread(folder / "losses.png").shape[:2] == (750, 1350)
    steps = [
        torch.load(folder / name, weights_only=True)["optimizer"]["state"][0]["step"].item()
        for name in ("from_torch.pt", "from_jax.pt")
    ]
    assert steps == [6, 12]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--steps 0", "argument --steps: must be at least 1, got 0"),
        ("--batch-size 1", "argument --batch-size: must be from 2 to 1797, got 1"),
        ("--batch-size 1798", "argument --batch-size: must be from 2 to 1797, got 1798"),
    ],
)
def test_the_example_refuses_a_bad_flag(flags, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        from_pytorch.main([*flags.split(), "--output", str(tmp_path / "new")])
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
