"""`examples/text_from_pytorch.py` moves a tagger and a predictor of text without a difference."""

import importlib
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from flax import nnx

from adadelta_jax.torch_interop import match_flax_params, params_from_torch

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="the example trains in it")

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = """\
def f(x):  # twice
    '''Two
    lines.'''
    return x * 2.5
"""
# The newline and the indentation in a string are part of it.
TAGGED = [
    "NNN NONOO  CCCCCCC ",
    "    SSSSSSS",
    "SSSSSSSSSSSSS ",
    "    NNNNNN N O ### ",
]


@pytest.fixture
def example(monkeypatch):
    """The script as a module, beside the files that it imports."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("text_from_pytorch")


def test_the_example_moves_both_models_without_changing_their_losses(example, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    example.main(["--steps", "8", "--batch-size", "16", "--output", str(folder)])
    printed = capsys.readouterr().out
    differences = re.findall(r"largest difference: (\S+) nats", printed)
    assert len(differences) == 2
    assert max(map(float, differences)) < 1e-4
    assert printed.splitlines()[-1] == f"picture: {folder / 'losses.png'}"
    assert matplotlib.image.imread(folder / "losses.png").shape[:2] == (1500, 1350)
    for of_model in printed.split("largest difference")[:2]:
        rows = re.findall(r"^ +\d+ +(\S+) +\S+ +\S+$", of_model, re.MULTILINE)
        assert float(rows[-1]) < 0.8 * float(rows[0])


def test_both_networks_give_the_logits_of_torch(example):
    for model in example.MODELS.values():
        torch.manual_seed(0)
        network, flax_network = model.torch(), model.flax(nnx.Rngs(0))
        params = nnx.state(flax_network, nnx.Param)
        mapping = match_flax_params(network, params)
        nnx.update(flax_network, params_from_torch(network.state_dict(), params, mapping))
        ((characters, _),) = example.batches_of_text(model, 1, 3, seed=0)
        expected = network(torch.from_numpy(characters)).detach()
        np.testing.assert_allclose(flax_network(characters), expected, rtol=1e-4, atol=1e-5)


def test_the_file_for_torch_counts_the_steps_of_both_sides(example, tmp_path):
    model = next(iter(example.MODELS.values()))
    batches = example.batches_of_text(model, 6, 2, seed=0)
    example.three_runs(model, batches, tmp_path, seed=0)
    steps = [
        torch.load(tmp_path / f"TorchTagger_from_{side}.pt", weights_only=True)["optimizer"][
            "state"
        ][0]["step"].item()
        for side in ("torch", "jax")
    ]
    assert steps == [2, 4]


def test_each_character_has_the_tag_of_the_token_that_it_is_part_of(example):
    codes, tags = example.tagged(SOURCE)
    assert "".join(map(chr, codes)) == SOURCE
    signs = dict(zip(example.TAGS, " N#SOC", strict=True))
    assert "".join(signs[example.TAGS[tag]] for tag in tags) == "".join(TAGGED)


def test_the_predictor_sees_no_later_character(example):
    model = example.MODELS["a predictor with attention"]
    ((characters, targets),) = example.batches_of_text(model, 1, 2, seed=0)
    np.testing.assert_array_equal(targets[:, :-1], characters[:, 1:])
    network, changed = model.flax(nnx.Rngs(0)), characters.copy()
    changed[:, -1] = 0
    logits, of_changed = network(characters), network(changed)
    np.testing.assert_array_equal(logits[:, :-1], of_changed[:, :-1])
    assert (logits[:, -1] != of_changed[:, -1]).any()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--steps 0", "argument --steps: must be at least 1, got 0"),
        ("--batch-size 0", "argument --batch-size: must be at least 1, got 0"),
    ],
)
def test_the_example_refuses_a_bad_flag(example, flags, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        example.main([*flags.split(), "--output", str(tmp_path / "new")])
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_help_names_every_flag_with_its_default(example, capsys):
    with pytest.raises(SystemExit, match="0"):
        example.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for flag, default in {
        "--steps": "50",
        "--batch-size": "32",
        "--seed": "0",
        "--output": "runs/text_from_pytorch",
    }.items():
        assert re.search(rf" {flag} [A-Z_]+ [^()]+ \(default: {default}\)", printed), flag
