"""What two layers gave is compared number by number, whatever the order of axes and the dtype."""

import math
from collections import UserDict

import jax.numpy as jnp
import pytest

from adadelta_jax.torch_interop.comparison import LayerDifference, compare_layers

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with its modules")


def identity_row(tensor, array):
    """The row of a layer that gives the tensor in torch and the array in JAX."""
    (row,) = compare_layers(torch.nn.Identity(), tensor, {"": array})
    return row


def test_a_difference_is_the_largest_and_the_scale_is_that_of_torch():
    row = identity_row(torch.tensor([[1.0, -4.0, 2.0]]), jnp.array([[1.5, -4.0, 1.0]]))
    assert row == LayerDifference("", "", 0, 1.0, 4.0, (1, 3), (1, 3))


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (1, 0, 2)])
def test_the_arrangement_of_the_axes_with_the_smallest_difference_counts(axes):
    cube = torch.randn(3, 3, 3)
    assert identity_row(cube, jnp.asarray(cube.permute(axes).numpy())).difference == 0


def test_heads_on_an_axis_of_their_own_are_merged():
    row = identity_row(torch.arange(24.0).view(1, 3, 8), jnp.arange(24.0).reshape(1, 3, 2, 4))
    assert (row.difference, row.torch_shape, row.shape) == (0, (1, 3, 8), (1, 3, 2, 4))


@pytest.mark.parametrize("shape", [(), (6,), (3, 3), (1, 2, 3), (2, 3, 1, 1)])
def test_shapes_that_fit_in_no_arrangement_differ_infinitely(shape):
    row = identity_row(torch.ones(2, 3), jnp.ones(shape))
    assert row == LayerDifference("", "", 0, math.inf, 1.0, (2, 3), shape)
    assert str(row) == f"the model -> the model: inf of 1, shapes (2, 3) and {shape}"


def test_a_vector_does_not_fit_a_column():
    assert identity_row(torch.ones(2), jnp.ones((2, 1))).difference == math.inf


@pytest.mark.parametrize(
    ("here", "difference"),
    [
        ([math.nan, 3.0, math.inf], 1.0),
        ([math.nan, 2.0, -math.inf], math.inf),
        ([1.0, 2.0, math.inf], math.inf),
        ([math.nan, math.nan, math.inf], math.inf),
        ([math.nan, 2.0, 1.0], math.inf),
    ],
)
def test_nans_and_infinities_must_be_on_both_sides(here, difference):
    row = identity_row(torch.tensor([math.nan, 2.0, math.inf]), jnp.array(here))
    assert (row.difference, row.scale) == (difference, 2.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64", "int32", "bool"])
def test_numbers_of_every_kind_are_compared(dtype):
    tensor = torch.tensor([1, 0, 1]).to(getattr(torch, dtype))
    row = identity_row(tensor, jnp.array([1, 0, 0], dtype))
    assert (row.difference, row.scale) == (1.0, 1.0)


def test_an_imaginary_part_counts():
    row = identity_row(torch.tensor([3 + 4j]), jnp.array([3 - 4j]))
    assert (row.difference, row.scale) == (8.0, 5.0)


def test_layers_without_numbers_are_equal():
    assert identity_row(torch.ones(0, 3), jnp.ones((0, 3)))[3:5] == (0.0, 0.0)


@pytest.mark.parametrize("structure", ["tuple", "mapping"])
def test_of_several_outputs_the_first_is_compared(structure):
    class Several(torch.nn.Module):
        def forward(self, x):
            return (x, (2 * x, 3 * x)) if structure == "tuple" else UserDict(b=2 * x, a=x)

    x = jnp.ones(3)
    here = (x, 5 * x) if structure == "tuple" else {"a": x, "b": 5 * x}
    (row,) = compare_layers(Several(), torch.ones(3), {"__call__": (here,)})
    assert row.difference == 0


def test_a_lstm_with_the_length_first_is_compared_by_its_outputs():
    lstm = torch.nn.LSTM(3, 4)
    outputs = lstm(torch.ones(5, 2, 3))[0].detach()
    (row,) = compare_layers(lstm, torch.ones(5, 2, 3), {"": outputs.transpose(0, 1).numpy()})
    assert (row.difference, row.torch_shape) == (0, (5, 2, 4))


def test_what_a_layer_gave_is_compared_even_if_a_later_one_writes_over_it():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(inplace=True))
    outputs = {"0": jnp.array([-1.0]), "1": jnp.array([0.0])}
    rows = compare_layers(model, torch.tensor([-1.0]), outputs)
    assert [row.difference for row in rows] == [0, 0]


def test_a_row_is_a_line():
    row = LayerDifference("layers.0", "layers_0", 0, 0.0123, 4.5, (2, 3), (2, 3))
    assert str(row) == "layers.0 -> layers_0: 0.012 of 4.5"
    assert str(row._replace(call=1)) == "layers.0 -> layers_0, call 2: 0.012 of 4.5"
    lacking = row._replace(difference=math.inf, shape=None)
    assert str(lacking) == "layers.0 -> layers_0: inf of 4.5, shapes (2, 3) and None"
