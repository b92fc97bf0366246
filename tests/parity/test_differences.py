"""Where this package does as torch, and where on purpose it does not: each claim, run in both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.experimental import sparse

from adadelta_jax import ScaleByAdadeltaState, adadelta, scale_by_adadelta


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
def test_in_both_a_complex_parameter_is_two_real_ones(dtype):
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
def test_a_zero_gradient_in_float16_with_a_tiny_eps_is_nan_in_torch_and_nothing_here(foreach):
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
def test_a_sparse_gradient_raises_in_both_and_here_by_the_name_of_the_parameter(foreach):
    x = torch.zeros(2)
    x.grad = torch.sparse_coo_tensor([[1]], [2.0], (2,), check_invariants=True)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        torch.optim.Adadelta([x], foreach=foreach).step()

    params = {"embedding": jnp.zeros(2)}
    grads = {"embedding": sparse.BCOO.fromdense(jnp.array([0.0, 2.0]))}
    optimizer = adadelta()
    with pytest.raises(TypeError, match="embedding is sparse"):
        optimizer.update(grads, optimizer.init(params), params)


def test_an_integer_parameter_cannot_be_trained_in_either():
    with pytest.raises(RuntimeError, match="floating point"):
        torch.tensor([1], requires_grad=True)
    with pytest.raises(TypeError, match="table/index has dtype int32"):
        adadelta().init({"table": {"index": jnp.array([1])}})


@pytest.mark.parametrize("foreach", [False, True])
def test_the_state_has_the_dtype_of_the_parameter_in_torch_and_any_here(foreach):
    x = tensor_with_gradient([1.0], [1.0], torch.bfloat16)
    optimizer = torch.optim.Adadelta([x], foreach=foreach)
    optimizer.step()
    assert optimizer.state[x]["acc_delta"].dtype == torch.bfloat16

    for accumulator_dtype, stored in ((None, "float32"), ("float16", "float16")):
        state = adadelta(accumulator_dtype=accumulator_dtype).init(jnp.ones(1, jnp.bfloat16))
        assert optax.tree_utils.tree_get(state, "acc_delta").dtype == stored


def test_an_update_is_nearer_to_the_exact_one_than_that_of_torch():
    random = np.random.default_rng(0)
    size, rho, eps = 100_000, 0.9, 1e-6
    grad = random.standard_normal(size).astype(np.float32)
    square_avg = random.exponential(1.0, size).astype(np.float32)
    acc_delta = random.exponential(1e-4, size).astype(np.float32)

    x = torch.zeros(size)  # becomes the negative update, without rounding
    x.grad = torch.tensor(grad)
    optimizer = torch.optim.Adadelta([x], rho=rho, eps=eps)
    optimizer.state[x] = {
        "step": torch.tensor(1.0),
        "square_avg": torch.tensor(square_avg),
        "acc_delta": torch.tensor(acc_delta),
    }
    optimizer.step()

    state = ScaleByAdadeltaState(jnp.int32(1), jnp.array(square_avg), jnp.array(acc_delta))
    update, _ = jax.jit(scale_by_adadelta(rho, eps).update)(jnp.array(grad), state)

    # Double precision is exact by comparison: 2⁻²⁹ units in float32's last place. Both optimizers
    # compute with the settings rounded to float32.
    rho, one_minus_rho, eps = map(np.float64, np.float32([rho, 1 - rho, eps]))
    g, v, u = map(np.float64, (grad, square_avg, acc_delta))
    exact = np.sqrt((u + eps) / (rho * v + one_minus_rho * g**2 + eps)) * g
    last_place = np.float64(np.spacing(np.float32(np.abs(exact))))
    our_error = np.abs(np.float64(update) - exact) / last_place
    their_error = np.abs(-np.float64(x.numpy()) - exact) / last_place
    assert our_error.mean() < 0.9 * their_error.mean()
    assert our_error.max() < their_error.max()
