"""The optimizers of the paper's two tables on MNIST, and the test errors that stand there.

The paper's figures are quoted from memory of it and were not read again.

Source: Zeiler (2012), arXiv:1212.5701, section 4.1, tables 1 and 2.
"""

import functools
from typing import NamedTuple

import optax

import adadelta_jax

RHOS = (0.9, 0.95, 0.99)
OTHERS = ("sgd", "momentum", "adagrad")
METHODS = ("adadelta", *OTHERS)
MOMENTUM = 0.9

_ADADELTA = {  # by ε, then for each of RHOS
    1e-2: (2.59, 2.58, 2.32),
    1e-4: (2.05, 1.99, 2.28),
    1e-6: (1.90, 1.83, 2.05),
    1e-8: (2.29, 2.13, 2.00),
}
_OTHERS = {  # by the learning rate, then for each of OTHERS
    1.0: (2.26, 89.68, 43.76),
    1e-1: (2.51, 2.03, 2.82),
    1e-2: (7.02, 2.68, 1.79),
    1e-3: (17.01, 6.98, 5.21),
    1e-4: (58.10, 16.98, 12.59),
}


class Setting(NamedTuple):
    """An optimizer and its hyperparameters; None for those that it does not have."""

    method: str  # one of METHODS
    learning_rate: float | None = None
    rho: float | None = None
    eps: float | None = None

    def __str__(self) -> str:
        named = zip(self._fields[1:], self[1:], strict=True)
        return " ".join(
            [self.method, *(f"{name}={value:g}" for name, value in named if value is not None)]
        )


PAPER: dict[Setting, float] = {  # test error, %
    **{
        Setting("adadelta", rho=rho, eps=eps): error
        for eps, errors in _ADADELTA.items()
        for rho, error in zip(RHOS, errors, strict=True)
    },
    **{
        Setting(method, learning_rate=learning_rate): error
        for learning_rate, errors in _OTHERS.items()
        for method, error in zip(OTHERS, errors, strict=True)
    },
}

# The setting that is compared with torch's, and those by which starts and pixels are compared.
CONTROLLED = Setting("adadelta", rho=0.95, eps=1e-6)
SEARCHED = (
    CONTROLLED,
    Setting("adadelta", rho=0.95, eps=1e-2),
    Setting("sgd", 1.0),
    Setting("adagrad", 1e-2),
)
QUICK = (CONTROLLED, *(Setting(method, 1e-1) for method in OTHERS))


@functools.cache  # one optimizer for each setting: what trains with it is compiled once
def optimizer(setting: Setting) -> optax.GradientTransformationExtraArgs:
    """The optimizer: our Adadelta, or Optax's of that name as the paper defines it."""
    method, learning_rate, rho, eps = setting
    if method == "adadelta":
        assert rho is not None
        assert eps is not None
        return adadelta_jax.adadelta(1.0, rho, eps)
    assert learning_rate is not None
    made = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, MOMENTUM),
        # The paper's sum of squares starts at zero, and nothing is added to it.
        "adagrad": lambda: optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=0.0),
    }[method]()
    return optax.with_extra_args_support(made)
