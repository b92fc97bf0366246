"""The README's table says where torch does the same, and where not: each line, run in both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def tensor_with_gradient(value, grad, dtype=None):
    tensor = torch.tensor(value, dtype=dtype)
    tensor.grad = torch.tensor(grad, dtype=dtype)
    return tensor


def test_without_a_learning_rate_both_descend_at_a_rate_of_one():
    x = tensor_with_gradient([3.0, -2.0], [6.0, -4.0])  # the gradient of x²
    torch.optim.Adadelta([x]).step()
    assert (x.square() < torch.tensor([9.0, 4.0])).all()

    params, grads = jnp.array([3.0, -2.0]), jnp.array([6.0, -4.0])
    for optimizer in (adadelta(), adadelta(None), adadelta(learning_rate=1.0)):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        np.testing.assert_array_equal(optax.apply_updates(params, updates), x.numpy())


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_complex_parameter_is_two_real_ones_in_both(dtype):
    grads = [3 - 0.01j, -2 + 5j, 0.5j]
    as_pairs = [[grad.real, grad.imag] for grad in grads]

    def torch_path(gradients):
        x = torch.zeros_like(gradients[0])
        optimizer = torch.optim.Adadelta([x])
        for x.grad in gradients:
            optimizer.step()
        return x.numpy()

    def our_path(gradients):
        optimizer, x = adadelta(), jnp.zeros_like(gradients[0])
        state = optimizer.init(x)
        for grad in gradients:
            updates, state = optimizer.update(grad, state, x)
            x = optax.apply_updates(x, updates)
        return np.asarray(x)

    with jax.enable_x64(dtype == "complex128"):
        real_dtype = jnp.finfo(dtype).dtype
        for complex_x, (real, imag) in (
            (
                torch_path(torch.tensor(grads, dtype=getattr(torch, dtype))),
                torch_path(torch.tensor(as_pairs, dtype=getattr(torch, real_dtype.name))),
            ),
            (our_path(jnp.array(grads, dtype)), our_path(jnp.array(as_pairs, real_dtype))),
        ):
            assert complex_x.dtype == dtype
            np.testing.assert_array_equal(complex_x, real + 1j * imag)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_zero_gradient_in_float16_with_a_tiny_eps_is_nan_in_torch_and_zero_here(foreach):
    x = tensor_with_gradient([1.0], [0.0], torch.float16)
    torch.optim.Adadelta([x], eps=1e-8, foreach=foreach).step()
    assert x.isnan().all()

    params, grads = jnp.ones(1, jnp.float16), jnp.zeros(1, jnp.float16)
    optimizer = adadelta(eps=1e-8)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates, [0.0])


@pytest.mark.parametrize(
    ("torch_name", "our_name", "value"),
    [
        (torch_name, our_name, value)
        for torch_name, our_name, values in (
            ("lr", "learning_rate", (-1.0, float("nan"))),
            ("rho", "rho", (1.5, -0.1, float("nan"))),
            ("eps", "eps", (-1.0, float("nan"))),
            ("weight_decay", "weight_decay", (-0.1, float("nan"))),
        )
        for value in values
    ],
)
def test_a_wrong_setting_raises_a_value_error_in_both(torch_name, our_name, value):
    with pytest.raises(ValueError, match="Invalid"):
        torch.optim.Adadelta([torch.zeros(1)], **{torch_name: value})
    with pytest.raises(ValueError, match=f"{our_name} must .*, got {value:g}"):
        adadelta(**{our_name: value})


@pytest.mark.parametrize("foreach", [False, True])
def test_the_state_has_the_dtype_of_the_parameter_in_torch_and_any_here(foreach):
    x = tensor_with_gradient([1.0], [1.0], torch.bfloat16)
    optimizer = torch.optim.Adadelta([x], foreach=foreach)
    optimizer.step()
    assert optimizer.state[x]["acc_delta"].dtype == torch.bfloat16

    for accumulator_dtype, stored in ((None, "float32"), ("float16", "float16")):
        state = adadelta(accumulator_dtype=accumulator_dtype).init(jnp.ones(1, jnp.bfloat16))
        assert optax.tree.get(state, "acc_delta").dtype == stored
