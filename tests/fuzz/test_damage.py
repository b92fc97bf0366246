"""Whatever is damaged on its way here is loaded rightly or refused in clear words."""

import os
import pickle

import jax.numpy as jnp
import pytest
import torch

from adadelta_jax import label_by_path
from tests.fuzz import damage, seeds

VARIABLE = "ADADELTA_JAX_FUZZ_DAMAGE"


@pytest.mark.parametrize("chunk", seeds.chunks(VARIABLE, 1000), ids=seeds.name_of_chunk)
def test_damage_ends_in_a_right_result_or_a_clear_error(chunk):
    seeds.run_all(damage.run_case, chunk, VARIABLE)


class Hostile:
    """What makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "checkpoint",
    [
        lambda hostile: hostile,
        lambda hostile: {"model": {"fc.weight": hostile}},
        lambda hostile: {"optimizer": {"state": {0: {"step": hostile}}}},
        lambda hostile: {"optimizer": {"param_groups": [{hostile: 1.0}]}},
    ],
)
def test_a_checkpoint_that_would_run_code_is_refused_before_it_does(checkpoint, zipped, tmp_path):
    made, file = tmp_path / "made", tmp_path / "run.pt"
    torch.save(checkpoint(Hostile(str(made))), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(file, weights_only=True)
    assert not made.exists()
    torch.load(file, weights_only=False)
    assert made.exists()


@pytest.mark.parametrize("regex", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "([a-z/]+)*!", "(.*a){25}$"])
def test_an_expression_that_takes_for_ever_can_be_interrupted(regex):
    labels = label_by_path({regex: "x"}, "rest")
    with pytest.raises(damage.TimeIsUpError), damage.interrupted_after(0.2):
        labels({"a" * 60 + "-": jnp.zeros(())})
