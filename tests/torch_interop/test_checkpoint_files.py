"""The forms in which files keep a model and its optimizer: read, or refused with what to pass."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax.torch_interop import LeafLayout, optimizer_from_torch, params_from_torch
from tests.refusals import (
    MAPPING,
    PARAMS,
    WEIGHTS,
    assert_refused,
    each_refusal,
    optim_state_dict,
)

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="reads what it writes")
checkpoint = pytest.importorskip("torch.distributed.checkpoint")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.out(self.fc(x))


LAYOUTS = {
    "fc.weight": LeafLayout("fc/kernel", axes=(1, 0)),
    "fc.bias": "fc/bias",
    "out.weight": LeafLayout("out/kernel", axes=(1, 0)),
    "out.bias": "out/bias",
}
TEMPLATE = {
    "fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)},
    "out": {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)},
}


def torch_run(named=False, settings=({"lr": 0.5}, {"rho": 0.5})):
    """A model after some steps, with an optimizer of two groups."""
    torch.manual_seed(0)
    model = Model()
    entries = sorted(model.named_parameters(), reverse=True)
    entries = entries if named else [parameter for _, parameter in entries]
    groups = [
        group | {"params": params}
        for group, params in zip(settings, (entries[:2], entries[2:]), strict=True)
    ]
    optimizer = torch.optim.Adadelta(groups)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


MAPPING_OF_RUN = {
    name: LAYOUTS[name] for name in ("out.weight", "out.bias", "fc.weight", "fc.bias")
}


def assert_read_alike(optim_state, mapping, expected):
    """Both give one state, and optimizers whose next updates are the same."""
    results = []
    for each, its_mapping in ((optim_state, mapping), (expected, MAPPING_OF_RUN)):
        optimizer, opt_state = optimizer_from_torch(each, TEMPLATE, its_mapping)
        updates, opt_state = optimizer.update(TEMPLATE, opt_state, TEMPLATE)
        averages = [optax.tree.get_all_with_path(opt_state, key) for key in ("square_avg", "count")]
        results.append((updates, [jax.tree.leaves(average) for average in averages]))
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("flattened", [False, True])
def test_the_state_dict_of_distributed_checkpoints_is_read(named, flattened):
    from torch.distributed.checkpoint import state_dict

    model, optimizer = torch_run(named)
    options = state_dict.StateDictOptions(flatten_optimizer_state_dict=flattened)
    optim_state = state_dict.get_optimizer_state_dict(model, optimizer, options=options)
    assert ("state.fc.weight.square_avg" in optim_state) == flattened
    assert_read_alike(optim_state, LAYOUTS, optimizer.state_dict())


def test_flattened_parameters_with_equal_settings_are_one_group():
    from torch.distributed.checkpoint import state_dict

    for settings, groups in ((({"lr": 0.5}, {"lr": 0.5}), 1), (({"lr": 0.5}, {"lr": 0.25}), 2)):
        model, optimizer = torch_run(settings=settings)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
        options = state_dict.StateDictOptions(flatten_optimizer_state_dict=True)
        optim_state = state_dict.get_optimizer_state_dict(model, optimizer, options=options)
        _, opt_state = optimizer_from_torch(optim_state, TEMPLATE, LAYOUTS)
        assert len(optax.tree.get_all_with_path(opt_state, "count")) == groups


def test_a_directory_of_a_distributed_checkpoint_is_read(tmp_path):
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    model, optimizer = torch_run()
    expected = optimizer.state_dict()
    tensors = {"model": model.state_dict(), "optimizer": expected}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own workings
        checkpoint.save(tensors, checkpoint_id=tmp_path / "dcp", no_dist=True)
        dcp_to_torch_save(tmp_path / "dcp", tmp_path / "file")
    read = torch.load(tmp_path / "file", weights_only=True)
    assert list(read["optimizer"]["state"]) == ["0", "1", "2", "3"]
    assert_read_alike(read["optimizer"], MAPPING_OF_RUN, expected)


def test_numbers_may_be_strings_on_both_sides():
    expected = optim_state_dict()
    strings = {
        "state": {str(number): entry for number, entry in expected["state"].items()},
        "param_groups": [expected["param_groups"][0] | {"params": ["0", "1"]}],
    }
    for optim_state in (strings, strings | {"state": expected["state"]}):
        _, opt_state = optimizer_from_torch(optim_state, PARAMS, MAPPING)
        assert optax.tree.get(opt_state, "count") == 1


def test_a_name_that_is_a_number_is_a_name():
    entries = {
        str(n): {"step": 1, "square_avg": np.full(2, n, "f"), "acc_delta": np.ones(2, "f")}
        for n in (1, 0)
    }
    group = optim_state_dict()["param_groups"][0] | {"params": ["1", "0"]}
    params, mapping = {"a": jnp.ones(2), "b": jnp.ones(2)}, {"0": "a", "1": "b"}
    optim_state = {"state": entries, "param_groups": [group]}
    _, opt_state = optimizer_from_torch(optim_state, params, mapping)
    square_avg = optax.tree.get(opt_state, "square_avg")
    assert (square_avg["a"][0], square_avg["b"][0]) == (0, 1)


@pytest.mark.parametrize(
    "step",
    [3, 3.0, torch.tensor(3), torch.tensor(3.0), torch.tensor([3.0]), np.array(3), None],
    ids=repr,
)
def test_the_steps_of_any_torch_are_read(step):
    _, optimizer = torch_run()
    optim_state = optimizer.state_dict()
    for entry in optim_state["state"].values():
        if step is None:
            del entry["step"]
        else:
            entry["step"] = step
    _, opt_state = optimizer_from_torch(optim_state, TEMPLATE, MAPPING_OF_RUN)
    assert {int(count) for _, count in optax.tree.get_all_with_path(opt_state, "count")} == {
        0 if step is None else 3
    }


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("position_ids", torch.arange(4))
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool))


TIED = {"embed.weight": "embedding"}


@pytest.mark.parametrize(
    "read",
    [
        lambda weights: weights,
        lambda weights: {name: tensor.detach() for name, tensor in weights.items()},
        lambda weights: {name: tensor.numpy().copy() for name, tensor in weights.items()},
        lambda weights: {name: jnp.asarray(w.numpy()) for name, w in weights.items()},
    ],
    ids=["state_dict", "detached", "arrays", "JAX arrays"],
)
def test_a_second_name_of_a_tied_weight_and_buffers_of_integers_need_no_place(read):
    weights = read(Tied().state_dict())
    assert set(weights) == {"embed.weight", "head.weight", "position_ids", "mask"}
    params = params_from_torch(weights, {"embedding": jnp.zeros((4, 3))}, TIED)
    np.testing.assert_array_equal(params["embedding"], np.asarray(weights["embed.weight"]))


def test_a_tied_weight_is_told_after_a_file_too(tmp_path):
    torch.save(Tied().state_dict(), tmp_path / "model.pt")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    params = params_from_torch(weights, {"embedding": jnp.zeros((4, 3))}, TIED)
    np.testing.assert_array_equal(params["embedding"], weights["head.weight"])


def tied_but(change):
    weights = Tied().state_dict()
    weights |= {"head.weight": change(weights["head.weight"])}
    return lambda: params_from_torch(weights, {"embedding": jnp.zeros((4, 3))}, TIED)


HINT = "Map a tensor to None if it is a buffer, or has another name too"
NO_MATCH = f"the model's state_dict and mapping do not match: mapping lacks head.weight. {HINT}"
ENTRIES = optim_state_dict()
LIGHTNING = {
    "epoch": 3,
    "state_dict": WEIGHTS,
    "optimizer_states": [ENTRIES],
    "lr_schedulers": [{"gamma": 0.9}],
}
TWO = {"models": {"one": WEIGHTS, "two": WEIGHTS}, "optimizer_states": [ENTRIES, ENTRIES]}
FLATTENED = {"state.fc.weight.step": 1.0, "param_groups.fc.weight.lr": 1.0}


def load_optimizer(optim_state):
    return lambda: optimizer_from_torch(optim_state, PARAMS, MAPPING)


def load_model(model_state):
    return lambda: params_from_torch(model_state, PARAMS, MAPPING)


class DTensor:
    """Like those of torch, which exist only in a group of processes."""

    def __init__(self, tensor):
        self.dtype, self.shape, self.full_tensor = tensor.dtype, tensor.shape, lambda: tensor

    def detach(self):
        raise AssertionError("a part must not be taken for the whole")


def with_entry(**changes):
    optim_state = optim_state_dict()
    optim_state["state"][0] |= changes
    return load_optimizer(optim_state)


def as_dtensor(array):
    return DTensor(torch.from_numpy(array))


REFUSALS = {
    "Lightning's file for the optimizer": (
        load_optimizer(LIGHTNING),
        ValueError,
        "optim_state_dict has epoch, state_dict, optimizer_states, lr_schedulers: "
        "pass optim_state_dict['optimizer_states'][0]",
    ),
    "Lightning's file for the model": (
        load_model(LIGHTNING),
        ValueError,
        "model_state_dict has epoch, state_dict, optimizer_states, lr_schedulers: "
        "pass model_state_dict['state_dict']",
    ),
    "a file of both for the optimizer": (
        load_optimizer({"model": WEIGHTS, "optimizer": ENTRIES}),
        ValueError,
        "optim_state_dict has model, optimizer: pass optim_state_dict['optimizer']",
    ),
    "a file of both for the model": (
        load_model({"model": WEIGHTS, "optimizer": ENTRIES}),
        ValueError,
        "model_state_dict has model, optimizer: pass model_state_dict['model']",
    ),
    "the model, not by its names, beside an optimizer by names": (
        load_model({"net": {}, "optimizer": {"state": {"fc.bias": ENTRIES["state"][0]}}}),
        ValueError,
        "the model's state_dict and mapping do not match: the state_dict lacks fc.weight, fc.bias; "
        f"mapping lacks net, optimizer. {HINT}",
    ),
    "several optimizers": (
        load_optimizer(TWO),
        ValueError,
        "optim_state_dict has models, optimizer_states: pass "
        "optim_state_dict['optimizer_states'][0] or optim_state_dict['optimizer_states'][1]",
    ),
    "several models": (
        load_model(TWO),
        ValueError,
        "model_state_dict has models, optimizer_states: pass "
        "model_state_dict['models']['one'] or model_state_dict['models']['two']",
    ),
    "a list of optimizers": (
        load_optimizer([ENTRIES]),
        ValueError,
        "optim_state_dict is a list: pass optim_state_dict[0]",
    ),
    "a flattened optimizer in a file": (
        load_optimizer({"app": {"optim": FLATTENED}}),
        ValueError,
        "optim_state_dict has app: pass optim_state_dict['app']['optim']",
    ),
    "a flattened optimizer of another kind": (
        load_optimizer(FLATTENED),
        ValueError,
        "param_groups[0] is not of torch.optim.Adadelta: it lacks rho, eps, weight_decay",
    ),
    "a weight that is a DTensor": (
        load_model(WEIGHTS | {"fc.weight": as_dtensor(WEIGHTS["fc.weight"])}),
        TypeError,
        "fc.weight is a DTensor, of which each process has a part: pass fc.weight.full_tensor()",
    ),
    "an accumulator that is a DTensor": (
        with_entry(acc_delta=as_dtensor(WEIGHTS["fc.weight"])),
        TypeError,
        "acc_delta of fc.weight is a DTensor, of which each process has a part: "
        "pass acc_delta.full_tensor()",
    ),
    "an entry by its number and by its string": (
        load_optimizer(ENTRIES | {"state": ENTRIES["state"] | {"1": ENTRIES["state"][1]}}),
        ValueError,
        "the torch optimizer's state has more than one entry: of 1",
    ),
    "an untied copy": (tied_but(torch.clone), ValueError, NO_MATCH),
    "another view of the memory": (
        tied_but(lambda tensor: tensor.as_strided((4, 3), (1, 4))),
        ValueError,
        NO_MATCH,
    ),
    "another dtype": (tied_but(torch.Tensor.double), ValueError, NO_MATCH),
    "another array": (tied_but(lambda tensor: tensor.numpy() + 1), ValueError, NO_MATCH),
    "a sparse tensor": (tied_but(torch.Tensor.to_sparse), ValueError, NO_MATCH),
    "no tensor": (tied_but(lambda _: {"extra": 1}), ValueError, NO_MATCH),
    "arrays that are alike because they are ones": (
        load_model(WEIGHTS | {"head.weight": np.ones((2, 3), "f")}),
        ValueError,
        NO_MATCH,
    ),
}


@each_refusal(REFUSALS)
def test_another_form_is_refused_with_what_to_pass(call, error, message):
    assert_refused(call, error, message)


def test_an_array_of_the_bits_of_a_tensor_is_tied_to_it():
    params = tied_but(lambda tensor: tensor.numpy().copy())()
    assert params["embedding"].shape == (4, 3)


def test_a_dict_that_holds_itself_is_refused():
    around = {"state": 3}
    around["self"] = [around]
    with pytest.raises(ValueError, match="lacks param_groups: it is not that of a torch optimizer"):
        optimizer_from_torch(around, PARAMS, MAPPING)
