"""A torch module and its JAX twin are compared layer by layer."""

import contextlib
import inspect
import math
import re
from collections import OrderedDict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adadelta_jax.torch_interop import (
    match_flax_params,
    match_flax_statistics,
    params_from_torch,
)
from adadelta_jax.torch_interop.comparison import compare_layers
from tests.torch_interop.models import MODELS, LinenRun, NNXRun

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with its modules")


def first_different(rows):
    """The first layer that differs."""
    return next((row.torch_name for row in rows if row.difference > 1e-5 * row.scale), None)


def carried(torch_model, params, match=match_flax_params, **options):
    """The parameters or the statistics of a torch model."""
    mapping = match(torch_model, params, **options)
    tensors = {name: each for name, each in torch_model.state_dict().items() if name in mapping}
    return params_from_torch(tensors, params, mapping)


def linen_outputs(module, variables, inputs):
    options = {"capture_intermediates": True, "mutable": ["intermediates", "batch_stats"]}
    return module.apply(variables, inputs, **options)[1]["intermediates"]


def outputs_by_hand(intermediates):
    """The outputs by the names of the layers, without the model's own."""
    leaves = jax.tree.leaves_with_path(intermediates)
    paths = (jax.tree_util.keystr(path[:-2], simple=True, separator="/") for path, _ in leaves)
    return {path: leaf for path, (_, leaf) in zip(paths, leaves, strict=True) if path}


@pytest.mark.parametrize("kind", ["linen", "nnx", "by hand"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_twins_with_the_same_weights_differ_in_no_layer(model, kind):
    torch_model, (inputs, _) = model.torch(), next(model.batches(1, "float32"))
    if kind == "nnx":
        run = NNXRun(model, jnp.float32)
        net = nnx.merge(run.graph, carried(torch_model, run.params), run.stats)
        capture = nnx.capture(net, nnx.Intermediate, method_outputs=nnx.Intermediate)
        _, outputs = capture(inputs)
    else:
        run = LinenRun(model, jnp.float32)
        variables = {"params": carried(torch_model, run.params), "batch_stats": run.stats}
        outputs = linen_outputs(run.module, variables, inputs)
        outputs = outputs if kind == "linen" else outputs_by_hand(outputs)
    rows = compare_layers(torch_model, torch.from_numpy(inputs), outputs)
    called = [name for name, module in torch_model.named_modules() if name != "layers"]
    assert {row.torch_name for row in rows} == {
        name for name in called if name or kind != "by hand"
    }
    assert all(row.difference < 1e-5 < row.scale for row in rows)


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.act = torch.nn.GELU()
        self.fc = torch.nn.Linear(4 * 4 * 4, 6)
        self.out = torch.nn.Linear(6, 6)

    def forward(self, x):
        return self.out(self.fc(self.act(self.norm(self.conv(x))).flatten(1)))


class Gelu(nn.Module):
    approximate: bool

    def __call__(self, x):
        return nn.gelu(x, self.approximate)


class LinenNet(nn.Module):
    padding: Any = 1
    epsilon: float = 1e-5
    approximate: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2, padding=self.padding, name="conv")(x)
        x = nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name="norm")(x)
        x = Gelu(self.approximate, name="act")(x)  # of 4 channels, 4 rows and 4 columns
        return nn.Dense(6, name="out")(nn.Dense(6, name="fc")(x.reshape(len(x), -1)))


def net_rows(batch=2, module=None, flattened=("fc",), swap=None, around=lambda net: net, **options):
    """The rows of TorchNet and a LinenNet, of whose parameters `swap` exchanges two axes of one."""
    torch.manual_seed(0)
    torch_model, module = TorchNet().eval(), module or LinenNet()
    torch_model.norm.running_var.fill_(0.01)
    inputs = torch.randn(batch, 4, 8, 8)
    images = inputs.permute(0, 2, 3, 1).numpy()
    variables = module.init(jax.random.key(0), images)
    params = carried(torch_model, variables["params"], flattened=flattened)
    if swap:
        params[swap]["kernel"] = jnp.swapaxes(params[swap]["kernel"], 0, 1)
    stats = carried(torch_model, variables["batch_stats"], match_flax_statistics)
    outputs = linen_outputs(module, {"params": params, "batch_stats": stats}, images)
    return compare_layers(around(torch_model), inputs, outputs, **options)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_images_pair_with_channels_first_and_last_whatever_their_sizes(batch):
    rows = net_rows(batch)
    assert [row.torch_name for row in rows] == ["conv", "norm", "act", "fc", "out", ""]
    assert first_different(rows) is None


@pytest.mark.parametrize(
    ("damage", "layer"),
    {
        "padding": ({"module": LinenNet(padding="SAME")}, "conv"),
        "an exchanged kernel of a convolution": ({"swap": "conv"}, "conv"),
        "epsilon": ({"module": LinenNet(epsilon=1e-3)}, "norm"),
        "gelu": ({"module": LinenNet(approximate=True)}, "act"),
        "flatten": ({"flattened": ()}, "fc"),
        "an exchanged kernel of a linear layer": ({"swap": "out"}, "out"),
    }.values(),
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_wrong_layer_is_the_first_that_differs(damage, layer):
    assert first_different(net_rows(**damage)) == layer


class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Double()

    def forward(self, x):
        return self.layer(self.layer(x))


class Double(torch.nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("calls", "differences"),
    [
        ((2, 4), [0, 0]),
        ((2, 5), [0, 1]),
        ((4, 2), [2, 2]),
        ((2,), [0, math.inf]),
        ((2, 4, 8), [0, 0, math.inf]),
    ],
)
def test_each_call_of_a_layer_is_compared_with_its_own(calls, differences):
    outputs = {"layer": tuple(jnp.full(3, float(each)) for each in calls)}
    rows = compare_layers(Twice(), torch.ones(3), outputs)
    assert [(row.call, row.difference) for row in rows] == list(enumerate(differences))
    assert [row.shape for row in rows] == [(3,)] * len(calls) + [None] * (2 - len(calls))
    assert [row.torch_shape for row in rows] == [(3,)] * 2 + [None] * (len(calls) - 2)
    assert [row.scale for row in rows] == [2, 4, 0][: len(rows)]


def test_linen_keeps_the_calls_of_a_layer_in_their_order():
    class Linen(nn.Module):
        def setup(self):
            self.layer = LinenDouble()

        def __call__(self, x):
            return self.layer(self.layer(x))

    class LinenDouble(nn.Module):
        def __call__(self, x):
            return 2 * x

    rows = compare_layers(Twice(), torch.ones(3), linen_outputs(Linen(), {}, jnp.ones(3)))
    assert [(*row[:4], row.scale) for row in rows] == [
        ("layer", "layer", 0, 0.0, 2.0),
        ("layer", "layer", 1, 0.0, 4.0),
        ("", "", 0, 0.0, 4.0),
    ]


@pytest.mark.parametrize("prefix", ["module", "_orig_mod", "model"])
def test_what_is_around_all_torch_names_is_left_out(prefix):
    rows = net_rows(around=lambda net: torch.nn.Sequential(OrderedDict({prefix: net})))
    assert first_different(rows) is None


def test_what_is_around_all_paths_is_left_out():
    x = torch.ones(1, 2)
    net = {"__call__": x.numpy(), "0": x.numpy(), "1": x.numpy()}
    outputs = {"Net": net, "__call__": 2 * x.numpy()}
    layers = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    rows = compare_layers(layers, x, outputs)
    assert [row.path for row in rows] == ["Net/0", "Net/1", "Net"]


def test_a_compiled_model_runs_eagerly():
    def backend(*_):
        raise AssertionError("compiled")

    rows = net_rows(around=lambda net: torch.compile(net, backend=backend))
    assert len(rows) == 6
    assert first_different(rows) is None


def test_the_layers_inside_a_fused_transformer_layer_are_compared():
    layer = torch.nn.TransformerEncoderLayer(4, 1, 8, batch_first=True).eval()
    x = torch.ones(1, 2, 4)
    outputs = {"linear1": np.zeros((1, 2, 8)), "norm2": layer(x).detach().numpy()}
    rows = compare_layers(layer, x, outputs)
    assert [row.torch_name for row in rows] == ["linear1", "norm2"]
    assert rows[1].difference < 1e-5


def test_inputs_may_be_arguments_by_position_or_by_keyword():
    class Sum(torch.nn.Module):
        def forward(self, x, y=0, z=0):
            return x + 10 * y + 100 * z

    one, two = torch.ones(1), 2 * torch.ones(1)
    for inputs, expected in (one, 1), ((one, two, 3), 321), ({"z": two, "x": one}, 201):
        (row,) = compare_layers(Sum(), inputs, {"": jnp.full(1, float(expected))})
        assert row.difference == 0


class Failing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, x):
        assert not torch.is_grad_enabled()
        raise RuntimeError(f"no sum of {self.norm(x).sum()}")


def test_the_module_is_as_before_even_after_an_error():
    model, x = Failing(), torch.randn(4, 3)
    for module in model, model.norm:
        with contextlib.suppress(RuntimeError):  # of the whole model
            compare_layers(module, x, {"norm": jnp.ones((4, 3)), "": jnp.ones((4, 3))})
        assert not any(each._forward_hooks for each in model.modules())
        assert torch.is_grad_enabled()
        assert model.training
        assert model.norm.num_batches_tracked == 0
        assert not model.norm.running_mean.any()


MODEL = torch.nn.Sequential(
    OrderedDict(
        encoder=torch.nn.Sequential(torch.nn.Identity(), Double()), head=torch.nn.Identity()
    )
)
X = torch.ones(1, 2)
ONES = jnp.ones((1, 2))


@pytest.mark.parametrize(
    ("pairs", "paired"),
    [
        ({"encoder": "body"}, {"encoder.0": "body/0", "encoder.1": "body/1", "head": "head"}),
        ({"encoder.1": "body/1", "head": None}, {"encoder.1": "body/1"}),
        ({"encoder.0": "head"}, {"encoder.0": "head"}),
        ({"encoder": "body", "encoder.1": None}, {"encoder.0": "body/0", "head": "head"}),
        ({"": "body/1/__call__"}, {"head": "head", "": "body/1"}),
    ],
)
def test_pairs_by_hand_go_first_and_hold_for_the_modules_inside(pairs, paired):
    outputs = {"body": {"0": {"__call__": (ONES,)}, "1": {"__call__": (ONES,)}}, "head": ONES}
    rows = compare_layers(MODEL, X, outputs, pairs=pairs)
    assert {row.torch_name: row.path for row in rows} == paired


@pytest.mark.parametrize(
    ("outputs", "options", "error", "message"),
    [
        (
            {"__call__": (ONES,), "Dense_0": {"__call__": (ONES,)}},
            {},
            ValueError,
            "no layer has the same name in torch_module and in outputs:\n"
            "  torch_module has encoder, encoder.0, encoder.1, head\n  outputs has Dense_0\n"
            "Pair by hand with pairs={torch name: path}",
        ),
        (
            {"head": ONES},
            {"pairs": {"tail": "head", "encoder": "body"}},
            ValueError,
            "pairs does not match the models: torch_module lacks tail; outputs lacks head, body",
        ),
        ({"head": ONES}, {"pairs": ["head"]}, TypeError, "pairs must be a dict .*, got list"),
        ({"head": ONES}, {"pairs": {0: "head"}}, TypeError, "pairs: a torch name must be a string"),
        ({"head": ONES}, {"pairs": {"head": 0}}, TypeError, "pairs.'head'. must be a path or None"),
        (None, {}, TypeError, "outputs must be a pytree .*, got NoneType without arrays"),
        ({"head": "x"}, {}, TypeError, "outputs must be a pytree .*, got dict without arrays"),
        (
            {"head": jax.ShapeDtypeStruct((1, 2), "float32")},
            {},
            TypeError,
            "outputs.'head'. must be a tensor or an array, got ShapeDtypeStruct",
        ),
    ],
)
def test_what_does_not_pair_is_refused_by_name(outputs, options, error, message):
    with pytest.raises(error, match=message):
        compare_layers(MODEL, X, outputs, **options)


def test_arguments_of_other_types_are_refused_by_name():
    with pytest.raises(TypeError, match=r"torch_module must be a live torch\.nn\.Module, got dict"):
        compare_layers({}, X, {"head": ONES})
    for inputs in ONES, [X], None:
        with pytest.raises(TypeError, match=r"torch_inputs must be a torch tensor, .*, got "):
            compare_layers(MODEL, inputs, {"head": ONES})


def test_the_example_finds_the_norm(capsys):
    example = re.search("```python\n(.*)```", inspect.getdoc(compare_layers) or "", re.DOTALL)
    assert example is not None
    torch.manual_seed(0)
    exec(inspect.cleandoc(example[1]), {})
    assert re.fullmatch(r"1 -> layers/1: [\d.]+ of 1\n", capsys.readouterr().out)
