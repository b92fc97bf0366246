"""Linear layers that read or make a flattened image, in which torch has the channels first."""

import numpy as np
import pytest

from adadelta_jax.torch_interop import LeafLayout, match_flax_params, params_from_torch
from tests.torch_interop.test_names import tree

torch = pytest.importorskip("torch", reason="makes a module and its optimizer")


CLASSIC = {
    "conv1.weight": (8, 1, 3, 3),
    "conv2.weight": (16, 8, 3, 3),
    "fc1.weight": (32, 16 * 12 * 12),
    "fc2.weight": (10, 32),
}
CLASSIC_PARAMS = tree(
    conv1__kernel=(3, 3, 1, 8),
    conv2__kernel=(3, 3, 8, 16),
    fc1__kernel=(16 * 12 * 12, 32),
    fc2__kernel=(32, 10),
)


def test_a_linear_layer_behind_a_flatten_is_warned_of_with_both_layouts():
    with pytest.warns(UserWarning, match=r"pass flattened=\['fc1'\]") as caught:
        mapping = match_flax_params(CLASSIC, CLASSIC_PARAMS)
    assert mapping["fc1.weight"] == LeafLayout("fc1/kernel", (1, 0))
    (message,) = [str(warning.message) for warning in caught]
    assert "fc1.weight (32, 2304) has 144 inputs for each of the 16 channels" in message
    flattened = match_flax_params(CLASSIC, CLASSIC_PARAMS, flattened=["fc1"])["fc1.weight"]
    for layout in (flattened, mapping["fc1.weight"]):
        assert str(layout) in message


def test_the_layout_of_a_flattened_image_puts_channels_last():
    (layout,) = [
        layout
        for name, layout in match_flax_params(CLASSIC, CLASSIC_PARAMS, flattened=["fc1"]).items()
        if name == "fc1.weight"
    ]
    weight = np.arange(32 * 2304, dtype="f").reshape(32, 2304)
    tree_ = params_from_torch(
        {"w": weight}, {"k": np.zeros((2304, 32), "f")}, {"w": layout._replace(path="k")}
    )
    expected = weight.reshape(32, 16, 12, 12).transpose(2, 3, 1, 0).reshape(2304, 32)
    np.testing.assert_array_equal(tree_["k"], expected)


def test_a_choice_of_flattened_layers_is_not_warned_of():
    assert match_flax_params(CLASSIC, CLASSIC_PARAMS, flattened=[])["fc1.weight"].axes == (1, 0)
    by_hand = {"fc1.weight": LeafLayout("fc1/kernel", (1, 0))}
    mapping = match_flax_params(CLASSIC, CLASSIC_PARAMS, pairs=by_hand)
    assert mapping["fc1.weight"] == by_hand["fc1.weight"]


def test_a_path_given_by_hand_is_warned_of_and_a_layout_is_taken_as_it_is():
    with pytest.warns(UserWarning, match="pass flattened="):
        match_flax_params(CLASSIC, CLASSIC_PARAMS, pairs={"fc1.weight": "fc1/kernel"})
    by_hand = LeafLayout("fc1/kernel", (1, 0))
    mapping = match_flax_params(
        CLASSIC, CLASSIC_PARAMS, pairs={"fc1.weight": by_hand}, flattened=["fc1"]
    )
    assert mapping["fc1.weight"] == by_hand


def test_a_flattened_layer_that_reads_no_channels_is_refused():
    with pytest.raises(ValueError, match=r"fc2 is listed in flattened, but it has neither"):
        match_flax_params(CLASSIC, CLASSIC_PARAMS, flattened=["fc1", "fc2"])


def test_a_transformer_and_a_pooled_network_are_not_warned_of():
    mapping = match_flax_params(
        {
            "embed.weight": (100, 8),
            "norm1.weight": (8,),
            "mlp.fc1.weight": (32, 8),
            "mlp.fc2.weight": (8, 32),
            "conv.weight": (16, 3, 3, 3),
            "bn.weight": (16,),
            "head.weight": (10, 16),
        },
        tree(
            embed__embedding=(100, 8),
            norm1__scale=(8,),
            mlp__fc1__kernel=(8, 32),
            mlp__fc2__kernel=(32, 8),
            conv__kernel=(3, 3, 3, 16),
            bn__scale=(16,),
            head__kernel=(16, 10),
        ),
    )
    assert [mapping[f"{name}.weight"].axes for name in ("mlp.fc1", "head")] == [(1, 0), (1, 0)]


FLAT = {"conv.weight": (8, 1, 3, 3), "mu.weight": (5, 128), "logvar.weight": (5, 128)}
FLAT_PARAMS = tree(conv__kernel=(3, 3, 1, 8), mu__kernel=(128, 5), logvar__kernel=(128, 5))


def test_two_layers_that_read_one_image_are_both_flattened():
    with pytest.warns(UserWarning, match=r"(?s)flattened=\['mu'\].*flattened=\['logvar'\]"):
        match_flax_params(FLAT, FLAT_PARAMS)
    mapping = match_flax_params(FLAT, FLAT_PARAMS, flattened=["mu", "logvar"])
    assert mapping["logvar.weight"] == mapping["mu.weight"]._replace(path="logvar/kernel")


def test_the_order_of_an_optimizer_does_not_hide_a_flattened_image():
    module = torch.nn.ModuleDict(
        {"conv": torch.nn.Conv2d(1, 8, 3, bias=False), "fc": torch.nn.Linear(128, 5, bias=False)}
    )
    optimizer = torch.optim.Adadelta([*module["fc"].parameters(), *module["conv"].parameters()])
    params = tree(conv__kernel=(3, 3, 1, 8), fc__kernel=(128, 5))
    with pytest.warns(UserWarning, match=r"pass flattened=\['fc'\]"):
        mapping = match_flax_params(module, params, optimizer=optimizer)
    assert list(mapping) == ["fc.weight", "conv.weight"]


def test_a_layer_behind_squeeze_and_excitation_is_warned_of():
    shapes = {
        "conv.weight": (8, 1, 3, 3),
        "squeeze.weight": (2, 8),
        "excite.weight": (8, 2),
        "fc.weight": (5, 128),
    }
    params = tree(
        conv__kernel=(3, 3, 1, 8),
        squeeze__kernel=(8, 2),
        excite__kernel=(2, 8),
        fc__kernel=(128, 5),
    )
    with pytest.warns(UserWarning, match=r"pass flattened=\['fc'\]"):
        match_flax_params(shapes, params)


def test_a_linear_layer_that_makes_an_image_is_warned_of_and_has_a_layout():
    shapes = {"fc.weight": (32, 5), "fc.bias": (32,), "deconv.weight": (8, 3, 3, 3)}
    params = tree(fc__kernel=(5, 32), fc__bias=(32,), deconv__kernel=(3, 3, 8, 3))
    with pytest.warns(UserWarning, match=r"fc\.weight .* several outputs .* flattened=\['fc'\]"):
        match_flax_params(shapes, params)
    mapping = match_flax_params(shapes, params, flattened=["fc"])
    weights = {
        name: np.arange(np.prod(shape), dtype="f").reshape(shape) for name, shape in shapes.items()
    }
    moved = params_from_torch(weights, params, mapping)
    image = weights["fc.bias"].reshape(8, 2, 2)  # channels first
    np.testing.assert_array_equal(moved["fc"]["bias"].reshape(2, 2, 8), image.transpose(1, 2, 0))
    kernel = weights["fc.weight"].reshape(8, 2, 2, 5).transpose(3, 1, 2, 0).reshape(5, 32)
    np.testing.assert_array_equal(moved["fc"]["kernel"], kernel)


def test_a_recurrent_layer_that_reads_an_image_is_warned_of_and_has_a_layout():
    shapes = {"conv.weight": (8, 1, 3, 3), "rnn.weight_ih_l0": (20, 32)}
    params = tree(conv__kernel=(3, 3, 1, 8), rnn__weight_ih_l0=(20, 32))
    with pytest.warns(UserWarning, match=r"pass flattened=\['rnn'\]"):
        match_flax_params(shapes, params)
    layout = match_flax_params(shapes, params, flattened=["rnn"])["rnn.weight_ih_l0"]
    assert layout == LeafLayout("rnn/weight_ih_l0", (0, 2, 1), (), (20, 32), (20, 8, 4))
