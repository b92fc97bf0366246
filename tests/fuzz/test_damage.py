"""Whatever is damaged on its way here is loaded rightly or refused in clear words."""

import pytest

from tests.fuzz import damage, seeds

pytestmark = pytest.mark.torch

VARIABLE = "ADADELTA_JAX_FUZZ_DAMAGE"


@pytest.mark.parametrize("chunk", seeds.chunks(VARIABLE, 1000), ids=seeds.name_of_chunk)
def test_damage_ends_in_a_right_result_or_a_clear_error(chunk):
    seeds.run_all(damage.run_case, chunk, VARIABLE)
