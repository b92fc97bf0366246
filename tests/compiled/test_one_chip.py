"""A step on one chip moves no more than it must, by the chip's own compiler."""

import pytest

from benchmarks.pods import compilers, step_bytes

SETTINGS = {
    name: setting
    for name, setting in step_bytes.settings().items()
    if name not in ("148 leaves of GPT-2",)
}
# bfloat16 gradients: the sum of parameters and updates is not fused with arithmetic in float32.
NOT_AT_THE_FLOOR = {"bfloat16 parameters": 32, "bfloat16 parameters and state": 20}
# This one chip's compiler makes two passes, and keeps 2 bytes between them.
NOT_AT_THE_FLOOR_OF_TPU7X = {"bfloat16 parameters, uint8 state, float32 gradients": 16}
TPUS = ["v4", "v5e", "v5p", "v6e", "tpu7x"]


def needs(chip):
    """The chip as a parameter of a test, which is skipped where its compiler is not installed."""
    absent = compilers.missing(chip)
    reason = f"needs {absent}: run make test-compiled, which installs it"
    return pytest.param(chip, marks=pytest.mark.skipif(absent is not None, reason=reason))


def per_parameter(chip, name):
    setting = SETTINGS[name]
    program, parameters = step_bytes.compile_step(chip, setting.optimizers["adadelta_jax"], setting)
    return program, program.accessed / parameters, program.scratch / parameters


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("chip", [needs(chip) for chip in TPUS])
def test_a_step_on_a_tpu_is_one_pass_over_what_it_must_move(chip, name):
    program, accessed, scratch = per_parameter(chip, name)
    is_exception = chip == "tpu7x" and name in NOT_AT_THE_FLOOR_OF_TPU7X
    exceptions = NOT_AT_THE_FLOOR | (NOT_AT_THE_FLOOR_OF_TPU7X if is_exception else {})
    assert accessed < exceptions.get(name, step_bytes.floor(SETTINGS[name])) + 0.5
    if not is_exception:
        assert scratch < 0.01
        assert program.copies == 0
    if name not in exceptions:
        assert program.passes == 1


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("chip", [needs("h100")])
def test_a_step_on_a_gpu_is_at_most_one_kernel_per_leaf_over_what_it_must_move(chip, name):
    program, accessed, scratch = per_parameter(chip, name)
    assert accessed < step_bytes.floor(SETTINGS[name]) + 0.5
    assert scratch < 0.01
    assert program.passes <= len(step_bytes.shapes("large", "h100"))
    assert program.copies == 0


@pytest.mark.parametrize("chip", [needs("h100")])
def test_rounding_at_random_adds_two_kernels_on_a_gpu_for_all_leaves(chip):
    rounded, _, _ = per_parameter(chip, "bfloat16 state")
    assert rounded.kernels <= len(step_bytes.shapes("large", chip)) + 2


@pytest.mark.parametrize("chip", [needs(chip) for chip in ["v5e", "v6e"]])
def test_gpt2_moves_no_more_than_it_must(chip):
    setting = step_bytes.settings()["148 leaves of GPT-2"]
    program, parameters = step_bytes.compile_step(chip, setting.optimizers["adadelta_jax"], setting)
    assert program.accessed / parameters < 28.5
    assert program.scratch / parameters < 0.01


@pytest.mark.parametrize("chip", [needs(chip) for chip in ["v5e", "h100"]])
def test_all_donated_arrays_are_written_in_place(chip):
    program, _, _ = per_parameter(chip, "float32")
    assert program.aliased > 0.74 * program.arguments  # all but the gradients
