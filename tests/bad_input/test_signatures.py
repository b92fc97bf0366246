"""Arguments that are missing, or that no public function takes."""

import inspect

import pytest

import adadelta_jax
from adadelta_jax import (
    diagnostics,
    sharding,
    torch_interop,
)

PUBLIC = {
    name: getattr(module, name)
    for module in (adadelta_jax, torch_interop, sharding, diagnostics)
    for name in getattr(module, "__all__", dir(module))
    if not name.startswith("_") and callable(getattr(module, name))
    if getattr(module, name).__module__.startswith("adadelta_jax")
}


@pytest.mark.parametrize("name", PUBLIC)
def test_an_argument_too_few_or_too_many_is_named(name):
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if required:
        with pytest.raises(TypeError, match=f"missing .* '{required[0]}'"):
            PUBLIC[name]()
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'momentum'"):
        PUBLIC[name](momentum=0.9)
