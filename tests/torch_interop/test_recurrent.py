"""The LSTM and GRU of `examples/torch_recurrent.py` are torch's, and move there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from examples.torch_recurrent import GRU, LSTM, LinenGRU, LinenLSTM, gru, lstm

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with its LSTM and GRU")

FEATURES, HIDDEN, BATCH, STEPS = 5, 4, 3, 7
FUNCTIONS = {"LSTM": lstm, "GRU": gru}
MODULES = {"LSTM": (LSTM, LinenLSTM), "GRU": (GRU, LinenGRU)}
TOLERANCE = {"rtol": 1e-12, "atol": 1e-13}
BEFORE, HERE, AFTER = 4, 4, 3  # steps in torch, in JAX, and in torch again
FORMS = [
    {"num_layers": layers, "bidirectional": bidirectional, "bias": bias}
    for layers in (1, 2)
    for bidirectional in (False, True)
    for bias in (True, False)
]

of_every_kind = pytest.mark.parametrize("kind", ["LSTM", "GRU"])


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def torch_module(kind, dtype="float64", **form):
    torch.manual_seed(0)
    return getattr(torch.nn, kind)(FEATURES, HIDDEN, **form).to(getattr(torch, dtype))


def tensors_of(module):
    return {name: jnp.asarray(each.detach().numpy()) for name, each in module.named_parameters()}


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


def arrays(nested):
    """The arrays in tuples of tensors or arrays."""
    if isinstance(nested, tuple):
        return [array for each in nested for array in arrays(each)]
    return [nested.detach().numpy() if isinstance(nested, torch.Tensor) else np.asarray(nested)]


def assert_alike(found, expected):
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, **TOLERANCE)


def first_states(kind, module, *batch):
    layers = module.num_layers * (2 if module.bidirectional else 1)
    shape = (layers, *batch, HIDDEN)
    return (random(*shape), random(*shape) / 2) if kind == "LSTM" else random(*shape)


def as_tensors(states):
    return jax.tree.map(torch.from_numpy, states)


@of_every_kind
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_outputs_last_states_and_gradients_are_torchs(kind, form, x64):
    module, function = torch_module(kind, **form), FUNCTIONS[kind]
    inputs, states = random(STEPS, BATCH, FEATURES), first_states(kind, module, BATCH)
    torch_inputs, torch_states = (
        jax.tree.map(lambda each: torch.from_numpy(each).requires_grad_(), each)
        for each in (inputs, states)
    )

    def loss(results):
        return sum((each**3).sum() for each in jax.tree.leaves(results))

    @jax.jit
    def results_and_grads(*args):
        results, pullback = jax.vjp(function, *args)
        return results, pullback(jax.grad(loss)(results))

    expected = module(torch_inputs, torch_states)
    loss(expected).backward()
    expected_grads = (
        {name: parameter.grad for name, parameter in module.named_parameters()},
        *jax.tree.map(lambda each: each.grad, (torch_inputs, torch_states)),
    )
    found, found_grads = results_and_grads(tensors_of(module), inputs, states)
    assert_alike(found, expected)
    for grad, expected_grad in zip(
        jax.tree.leaves(found_grads), jax.tree.leaves(expected_grads), strict=True
    ):
        np.testing.assert_allclose(grad, expected_grad, **TOLERANCE)


@of_every_kind
@pytest.mark.parametrize("form", [FORMS[0], FORMS[-1]], ids=["simple", "full"])
def test_the_modules_of_nnx_and_linen_pair_by_name_and_give_torchs_outputs(kind, form, x64):
    torch_one = torch_module(kind, batch_first=True, **form)
    inputs = random(BATCH, STEPS, FEATURES)
    expected = torch_one(torch.from_numpy(inputs))
    of_nnx, of_linen = MODULES[kind]

    module = of_nnx(
        FEATURES, HIDDEN, batch_first=True, param_dtype="float64", rngs=nnx.Rngs(0), **form
    )
    graph, params = nnx.split(module, nnx.Param)
    mapping = match_flax_params(torch_one, params)
    names = [name for name, _ in torch_one.named_parameters()]
    assert mapping == {name: LeafLayout(name) for name in names}
    assert list(mapping) == names
    weights = torch_one.state_dict()
    assert_alike(nnx.merge(graph, params_from_torch(weights, params, mapping))(inputs), expected)

    module = of_linen(HIDDEN, batch_first=True, param_dtype="float64", **form)
    params = module.init(jax.random.key(0), inputs)["params"]
    mapping = match_flax_params(torch_one, params)
    assert mapping == {name: LeafLayout(name) for name in names}
    params = params_from_torch(weights, params, mapping)
    assert_alike(module.apply({"params": params}, inputs), expected)


@of_every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
def test_sequences_of_several_lengths_are_those_that_torch_packs(kind, bidirectional, x64):
    module = torch_module(kind, num_layers=2, bidirectional=bidirectional)
    inputs, lengths = random(STEPS, BATCH, FEATURES), [4, STEPS, 1]
    states = first_states(kind, module, BATCH)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(inputs), torch.tensor(lengths), enforce_sorted=False
    )
    packed, last = module(packed, as_tensors(states))
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    assert_alike(FUNCTIONS[kind](tensors_of(module), inputs, states, lengths), (outputs, last))


@of_every_kind
def test_one_sequence_without_a_batch_is_as_in_torch(kind, x64):
    module = torch_module(kind, batch_first=True)
    here = MODULES[kind][0](
        FEATURES, HIDDEN, batch_first=True, param_dtype="float64", rngs=nnx.Rngs(0)
    )
    params = nnx.state(here, nnx.Param)
    mapping = match_flax_params(module, params)
    nnx.update(here, params_from_torch(module.state_dict(), params, mapping))
    inputs, states = random(STEPS, FEATURES), first_states(kind, module)
    assert_alike(here(inputs, states), module(torch.from_numpy(inputs), as_tensors(states)))


@of_every_kind
def test_initial_values_spread_as_those_of_torch(kind):
    module = MODULES[kind][0](FEATURES, 64, 2, bidirectional=True, rngs=nnx.Rngs(0))
    for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)):
        assert 0.9 / 8 < np.abs(leaf).max() <= 1 / 8
        assert abs(leaf.mean()) < 0.05


@of_every_kind
def test_too_few_first_states_are_refused(kind):
    module = torch_module(kind, "float32", num_layers=2, bidirectional=True)
    states = jnp.zeros((2, BATCH, HIDDEN))
    initial = (states, states) if kind == "LSTM" else states
    with pytest.raises(ValueError, match="initial must have 4 states, got 2"):
        FUNCTIONS[kind](tensors_of(module), jnp.zeros((STEPS, BATCH, FEATURES)), initial)


@of_every_kind
def test_the_loop_over_steps_has_one_matrix_product_per_layer_and_direction(kind):
    module = torch_module(kind, "float32", num_layers=2, bidirectional=True)
    jaxpr = jax.make_jaxpr(FUNCTIONS[kind])(tensors_of(module), jnp.zeros((STEPS, BATCH, FEATURES)))
    loops = [each for each in jaxpr.eqns if each.primitive.name == "scan"]
    products = [str(loop.params["jaxpr"]).count("dot_general[") for loop in loops]
    assert products == [1, 1, 1, 1]
    assert str(jaxpr).count("dot_general[") == 8


class Tagger(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent = getattr(torch.nn, kind)(FEATURES, HIDDEN, 2, bidirectional=True)
        self.out = torch.nn.Linear(2 * HIDDEN, 3)

    def forward(self, inputs):
        return self.out(self.recurrent(inputs)[0])


class FlaxTagger(nnx.Module):
    def __init__(self, kind, param_dtype):
        kinds = {"param_dtype": param_dtype, "rngs": nnx.Rngs(0)}
        self.recurrent = MODULES[kind][0](FEATURES, HIDDEN, 2, bidirectional=True, **kinds)
        self.out = nnx.Linear(2 * HIDDEN, 3, **kinds)

    def __call__(self, inputs):
        return self.out(self.recurrent(inputs)[0])


def steps_in_torch(model, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        model(torch.from_numpy(batch)).square().sum().backward()
        optimizer.step()


def torch_run(kind, dtype, batches):
    torch.manual_seed(0)
    model = Tagger(kind).to(getattr(torch, dtype))
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.7, weight_decay=0.01)
    steps_in_torch(model, optimizer, batches)
    return model, optimizer


def run_here(kind, dtype, model, optimizer, batches):
    """The weights and the optimizer's state that go back to torch after steps here."""
    graph, params = nnx.split(FlaxTagger(kind, dtype), nnx.Param)
    mapping = match_flax_params(model, params)
    params = params_from_torch(model.state_dict(), params, mapping)
    saved = optimizer.state_dict()
    optimizer, opt_state = optimizer_from_torch(saved, params, mapping)

    @jax.jit
    def step(params, opt_state, batch):
        grads = jax.grad(lambda params: (nnx.merge(graph, params)(batch) ** 2).sum())(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for batch in batches:
        params, opt_state = step(params, opt_state, batch)
    groups = saved["param_groups"]
    back = optimizer_to_torch(opt_state, params, mapping, groups)
    return params_to_torch(params, mapping), back


@of_every_kind
def test_weights_and_optimizer_state_move_both_ways_bit_for_bit(kind):
    batches = random(BEFORE, STEPS, BATCH, FEATURES).astype("float32")
    model, optimizer = torch_run(kind, "float32", batches)
    weights, back = run_here(kind, "float32", model, optimizer, ())
    torch.testing.assert_close(weights, dict(model.named_parameters()), rtol=0, atol=0)
    torch.testing.assert_close(back["state"], optimizer.state_dict()["state"], rtol=0, atol=0)


@of_every_kind
def test_steps_in_torch_then_here_then_in_torch_are_as_many_in_torch(kind, x64):
    batches = random(BEFORE + HERE + AFTER, STEPS, BATCH, FEATURES)
    model, optimizer = torch_run(kind, "float64", batches[:BEFORE])
    weights, back = run_here(kind, "float64", model, optimizer, batches[BEFORE:-AFTER])
    returned = Tagger(kind).double()
    returned_optimizer = torch.optim.Adadelta(returned.parameters())
    returned.load_state_dict(weights)
    returned_optimizer.load_state_dict(back)
    steps_in_torch(returned, returned_optimizer, batches[-AFTER:])

    steps_in_torch(model, optimizer, batches[BEFORE:])
    close = {"rtol": 1e-9, "atol": 1e-12}
    for found, expected in zip(returned.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, **close)
    state = optimizer.state_dict()["state"]
    torch.testing.assert_close(returned_optimizer.state_dict()["state"], state, **close)
