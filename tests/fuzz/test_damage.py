"""Damaged input is loaded correctly or refused in clear words."""

import pytest

from tests.fuzz import damage, seeds

pytestmark = pytest.mark.torch

VARIABLE = "ADADELTA_JAX_FUZZ_DAMAGE"


@pytest.mark.parametrize("chunk", seeds.chunks(VARIABLE, 1000), ids=seeds.name_of_chunk)
def test_damage_ends_in_a_right_result_or_a_clear_error(chunk):
    seeds.run_all(damage.run_case, chunk, VARIABLE)
