"""Damaged input is loaded correctly or refused in clear words."""

import numpy as np
import pytest

from tests.fuzz import damage, loading, seeds

pytestmark = pytest.mark.torch

VARIABLE = "ADADELTA_JAX_FUZZ_DAMAGE"


@pytest.mark.parametrize("chunk", seeds.chunks(VARIABLE, 1000), ids=seeds.name_of_chunk)
def test_damage_ends_in_a_right_result_or_a_clear_error(chunk):
    seeds.run_all(damage.run_case, chunk, VARIABLE)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_sound_checkpoint_of_each_form_is_loaded(by_hand):
    for seed in range(50):
        loading.load(*loading.checkpoint(np.random.default_rng(seed)), by_hand)


def test_a_checkpoint_that_is_loaded_wrong_is_noticed():
    attention = next(model for model in loading.MODELS if "attn.in_proj_bias" in model.shapes)
    query, key, value = attention.mapping["attn.in_proj_bias"]
    wrong = query, key._replace(path=value.path), value._replace(path=key.path)
    model = attention._replace(mapping={**attention.mapping, "attn.in_proj_bias": wrong})
    _, root = loading.checkpoint(np.random.default_rng(0), model)
    with pytest.raises(AssertionError, match="in_proj_bias"):
        loading.load(model, root, by_hand=True)
