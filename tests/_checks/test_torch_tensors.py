"""A torch tensor is refused by its type where a number or an array of JAX or NumPy is needed."""

import pytest

from adadelta_jax import adadelta
from tests.refusals import OPTIMIZER, PARAMS, STATE, assert_refused, each_refusal, with_kernel

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

A_NUMBER = "must be a number or a 0-d array, got"
A_NUMBER_OR_SCHEDULE = "must be a number, a 0-d array or a schedule, got"
TABLE = {
    **{
        f"a tensor as {name}": (
            lambda name=name: adadelta(**{name: torch.ones(1)}),
            TypeError,
            f"{name} {expected} tensor([1.])",
        )
        for name, expected in (
            ("learning_rate", A_NUMBER_OR_SCHEDULE),
            ("rho", A_NUMBER),
            ("eps", A_NUMBER),
            ("weight_decay", A_NUMBER_OR_SCHEDULE),
        )
    },
    "a tensor that requires a gradient": (
        lambda: adadelta(rho=torch.tensor(0.5, requires_grad=True)),
        TypeError,
        f"rho {A_NUMBER} tensor(0.5000, requires_grad=True)",
    ),
    "a tensor as a parameter": (
        lambda: OPTIMIZER.init({"w": torch.ones(2)}),
        TypeError,
        "parameter w must be an array, got Tensor: use floating-point or complex parameters, or "
        "leave it out with optax.masked",
    ),
    "a tensor as a gradient": (
        lambda: OPTIMIZER.update(with_kernel(torch.ones(3, 2)), STATE, PARAMS),
        TypeError,
        "the gradient of dense/kernel must be an array, got Tensor",
    ),
}


@each_refusal(TABLE)
def test_a_tensor_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
