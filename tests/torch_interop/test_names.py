"""Torch names find their Flax paths, or every name that does not is listed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adadelta_jax.torch_interop import LeafLayout, match_flax_params
from tests.refusals import PARAMS, WEIGHTS, assert_refused, each_refusal


def tree(**shapes):
    """Nested dicts of shapes, "__" standing for "/"."""
    params = {}
    for path, shape in shapes.items():
        *modules, leaf = path.split("__")
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return params


def paths(mapping):
    return {name: layout and layout.path for name, layout in mapping.items()}


def test_nested_modules_and_lists_are_found_by_name():
    names = {
        "encoder.layers.0.attention.query.weight": (3, 2),
        "encoder.layers.10.norm.weight": (3,),
        "blocks.1.fc.bias": (3,),
        "position": (4, 2),
    }
    expected = {
        "encoder.layers.0.attention.query.weight": "encoder/layers_0/attention/query/kernel",
        "encoder.layers.10.norm.weight": "encoder/layers_10/norm/scale",
        "blocks.1.fc.bias": "blocks_1/fc/bias",
        "position": "position",
    }
    params = tree(
        encoder__layers_0__attention__query__kernel=(2, 3),
        encoder__layers_10__norm__scale=(3,),
        blocks_1__fc__bias=(3,),
        position=(4, 2),
    )
    assert paths(match_flax_params(names, params)) == expected


def test_a_sequential_of_torch_is_one_of_flax():
    names = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (3, 3), "2.bias": (3,)}
    module = nnx.Sequential(
        nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(3, 3, rngs=nnx.Rngs(1))
    )
    expected = {
        "0.weight": "layers/0/kernel",
        "0.bias": "layers/0/bias",
        "2.weight": "layers/2/kernel",
        "2.bias": "layers/2/bias",
    }
    assert paths(match_flax_params(names, nnx.state(module, nnx.Param))) == expected
    linen = tree(
        layers_0__kernel=(2, 3), layers_0__bias=(3,), layers_2__kernel=(3, 3), layers_2__bias=(3,)
    )
    assert list(paths(match_flax_params(names, linen)).values()) == [
        path.replace("layers/", "layers_") for path in expected.values()
    ]


@pytest.mark.parametrize(
    "names_and_shapes",
    [
        {"fc.weight": (3, 2)},
        {"fc.weight": [3, 2]},
        {"fc.weight": np.zeros((3, 2))},
        [("fc.weight", (3, 2))],
        iter([("fc.weight", np.zeros((3, 2)))]),
    ],
)
def test_names_come_with_shapes_or_tensors_in_pairs_or_in_a_dict(names_and_shapes):
    mapping = match_flax_params(names_and_shapes, tree(fc__kernel=(2, 3)))
    assert mapping == {"fc.weight": LeafLayout("fc/kernel", axes=(1, 0))}


def test_running_statistics_are_left_out_and_say_so():
    names = dict.fromkeys(["weight", "bias", "running_mean", "running_var"], (3,))
    names["num_batches_tracked"] = ()
    assert paths(match_flax_params(names, tree(scale=(3,), bias=(3,)))) == {
        "weight": "scale",
        "bias": "bias",
        "running_mean": None,
        "running_var": None,
        "num_batches_tracked": None,
    }


def test_pairs_given_by_hand_go_first():
    names = {"fc1.weight": (3, 2), "fc1.bias": (3,), "head.weight": (3, 3), "tied.weight": (9, 2)}
    params = tree(Dense_0__kernel=(2, 3), Dense_0__bias=(3,), out__w=(3, 3))
    layout = LeafLayout("out/w", axes=(1, 0))
    pairs = {"fc1": "Dense_0", "head.weight": layout, "tied": None}
    mapping = match_flax_params(names, params, pairs=pairs)
    assert mapping == {
        "fc1.weight": LeafLayout("Dense_0/kernel", axes=(1, 0)),
        "fc1.bias": LeafLayout("Dense_0/bias"),
        "head.weight": layout,
        "tied.weight": None,
    }
    pairs = {"fc1.weight": "Dense_0/kernel", "fc1.bias": "Dense_0/bias", "tied": None}
    assert match_flax_params(names, params, pairs=pairs | {"head.weight": layout}) == mapping


def test_transposed_convolutions_are_known_by_the_list_of_them():
    names = {"up.weight": (4, 2, 3, 3), "conv.weight": (4, 4, 3, 3)}
    params = tree(up__kernel=(3, 3, 4, 2), conv__kernel=(3, 3, 4, 4))
    mapping = match_flax_params(names, params, conv_transpose=["up"])
    assert mapping["conv.weight"] == LeafLayout("conv/kernel", (2, 3, 1, 0))
    assert mapping["up.weight"] == LeafLayout("up/kernel", (2, 3, 0, 1), (0, 1))
    mapping = match_flax_params(names, params, conv_transpose=["up", "conv"])
    assert mapping["conv.weight"] == LeafLayout("conv/kernel", (2, 3, 0, 1), (0, 1))


@pytest.mark.parametrize("name", ["deconv1", "ConvTranspose_0"])
def test_a_square_transposed_convolution_is_known_by_its_name(name):
    names = {f"{name}.weight": (4, 4, 3, 3)}
    mapping = match_flax_params(names, {name: tree(kernel=(3, 3, 4, 4))})
    assert mapping[f"{name}.weight"] == LeafLayout(f"{name}/kernel", (2, 3, 0, 1), (0, 1))


UNPAIRED = {
    "names left over on either side": (
        {"fc.weight": (3, 2), "fc.bias": (3,), "torch_only.weight": (2,), "other": (1,)},
        tree(fc__kernel=(2, 3), fc__scale2=(3,), here__kernel=(2, 2), there=(7,)),
        {},
        [
            "fc.bias (3,) has no counterpart",
            "torch_only.weight (2,) has no counterpart",
            "other (1,) has no counterpart",
            "fc/scale2 (3,) has no counterpart",
            "here/kernel (2, 2) has no counterpart",
            "there (7,) has no counterpart",
        ],
    ),
    "shapes that do not fit": (
        {"fc.weight": (3, 2), "fc.bias": (3,), "conv.weight": (4, 2, 3, 3)},
        tree(fc__kernel=(3, 2), fc__bias=(4,), conv__kernel=(3, 3, 4, 4)),
        {},
        [
            "fc.weight (3, 2) does not fit fc/kernel (3, 2)",
            "fc.bias (3,) does not fit fc/bias (4,)",
            "conv.weight (4, 2, 3, 3) does not fit conv/kernel (3, 3, 4, 4)",
        ],
    ),
    "names that fit several parameters": (
        {"fc.weight": (3,), "layers.0.bias": (2,)},
        tree(fc__scale=(3,), fc__embedding=(3,), layers_0__bias=(2,), layers__0__bias=(2,)),
        {},
        [
            "fc.weight (3,) fits each of fc/embedding (3,), fc/scale (3,)",
            "layers.0.bias (2,) fits each of layers/0/bias (2,), layers_0/bias (2,)",
            "fc/scale (3,) has no counterpart",
            "layers_0/bias (2,) has no counterpart",
        ],
    ),
    "two names that fit one parameter": (
        {"layers.0.bias": (2,), "layers_0.bias": (2,)},
        tree(layers_0__bias=(2,)),
        {},
        ["layers_0/bias (2,) is paired more than once"],
    ),
    "a square convolution beside a transposed one": (
        {"up.weight": (4, 2, 3, 3), "conv.weight": (4, 4, 3, 3)},
        tree(up__kernel=(3, 3, 4, 2), conv__kernel=(3, 3, 4, 4)),
        {},
        [
            "conv.weight (4, 4, 3, 3) fits conv/kernel (3, 3, 4, 4) as a convolution and as a "
            "transposed convolution"
        ],
    ),
    "a transposed convolution that is not listed": (
        {"up.weight": (4, 2, 3, 3)},
        tree(up__kernel=(3, 3, 4, 2)),
        {"conv_transpose": []},
        ["up.weight (4, 2, 3, 3) does not fit up/kernel (3, 3, 4, 2)"],
    ),
    "a module paired with one that does not exist": (
        {"fc.weight": (3, 2)},
        tree(fc__kernel=(2, 3)),
        {"pairs": {"fc": "Dense_0"}},
        ["fc.weight (3, 2) has no counterpart", "fc/kernel (2, 3) has no counterpart"],
    ),
    "pairs given by hand that do not fit": (
        {"fc.weight": (3, 2), "out.weight": (3,)},
        tree(fc__kernel=(2, 3), w=(3,)),
        {"pairs": {"fc.weight": LeafLayout("fc/kernel"), "out.weight": "nowhere"}},
        [
            "fc.weight (3, 2) does not fit fc/kernel (2, 3)",
            "out.weight (3,) does not fit nowhere (missing)",
            "w (3,) has no counterpart",
        ],
    ),
}


CONVOLUTIONS = (
    ", list all transposed convolutions in conv_transpose=[torch module name], or pass the torch "
    "module itself, which knows its layers"
)


@pytest.mark.parametrize(("names", "params", "options", "lines"), UNPAIRED.values(), ids=UNPAIRED)
def test_every_name_that_does_not_pair_is_listed(names, params, options, lines):
    with pytest.raises(ValueError, match="do not pair up") as raised:
        match_flax_params(names, params, **options)
    assert str(raised.value) == (
        "the torch names and the parameters do not pair up:\n  "
        + "\n  ".join(lines)
        + "\nPair by hand with pairs={torch name: path}"
        + (CONVOLUTIONS if "as a convolution" in lines[0] else "")
    )


def match(names=WEIGHTS, params=PARAMS, **options):
    return lambda: match_flax_params(names, params, **options)


REFUSALS = {
    **{
        f"names without shapes: {names!r}": (
            match(names),
            TypeError,
            "torch_names_and_shapes must be a torch module, a state_dict, named_parameters() or a "
            f"dict from names to shapes, got {type(names).__name__}",
        )
        for names in (
            ...,
            None,
            ["fc.weight"],
            [("a", (1,), 3)],
            {"dense.bias": 3},
            {"dense.bias": ""},
            {"dense.bias": [np.ones(2)]},
        )
    },
    "a name that is a number": (
        match({3: (2,)}),
        TypeError,
        "torch_names_and_shapes: a torch name must be a string, got 3",
    ),
    "pairs, a number": (
        match(pairs=3),
        TypeError,
        "pairs must be a dict from torch names to paths, got int",
    ),
    "pairs with a name that is a number": (
        match(pairs={3: None}),
        TypeError,
        "pairs: a torch name must be a string, got 3",
    ),
    "pairs with a path that is a number": (
        match(pairs={"fc": 1}),
        TypeError,
        "pairs['fc'] must be a path, a LeafLayout, several of them or None, got 1",
    ),
    "pairs with an unknown name": (
        match(pairs={"fc1": "fc"}),
        ValueError,
        "pairs names fc1, which torch_names_and_shapes lacks",
    ),
    "conv_transpose, text": (
        match(conv_transpose="fc"),
        TypeError,
        "conv_transpose must be a list of torch names, got 'fc'",
    ),
    "conv_transpose, a number": (
        match(conv_transpose=3),
        TypeError,
        "conv_transpose must be a list of torch names, got 3",
    ),
    "conv_transpose with an unknown name": (
        match(conv_transpose=["up"]),
        ValueError,
        "conv_transpose names up, which torch_names_and_shapes lacks",
    ),
}


@each_refusal(REFUSALS)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
