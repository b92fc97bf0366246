"""Names with other modules around all of them pair, and a live module knows its names."""

import pytest

from adadelta_jax.torch_interop import (
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
)
from adadelta_jax.torch_interop.prefixes import aligned
from tests.torch_interop.test_names import paths, tree

NAMES = {"fc.weight": (3, 2), "fc.bias": (3,), "out.weight": (1, 3)}
PARAMS = tree(fc__kernel=(2, 3), fc__bias=(3,), out__kernel=(3, 1))
PATHS = ["fc/kernel", "fc/bias", "out/kernel"]


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone."]
)
def test_what_is_around_all_torch_names_is_left_out(prefix):
    names = {prefix + name: shape for name, shape in NAMES.items()}
    assert list(paths(match_flax_params(names, PARAMS)).items()) == list(
        zip(names, PATHS, strict=True)
    )


@pytest.mark.parametrize("prefix", ["model", "params", "state"])
def test_what_is_around_all_paths_is_left_out(prefix):
    mapping = match_flax_params(NAMES, {prefix: PARAMS})
    assert list(paths(mapping).values()) == [f"{prefix}/{path}" for path in PATHS]


def test_a_wrapper_inside_a_name_is_left_out():
    names = {"fc._orig_mod.weight": (3, 2), "fc._fsdp_wrapped_module.bias": (3,)}
    mapping = match_flax_params(names, tree(fc__kernel=(2, 3), fc__bias=(3,)))
    assert list(paths(mapping).values()) == ["fc/kernel", "fc/bias"]


def test_two_modules_of_other_names_do_not_pair_because_each_is_around_all_of_its_side():
    with pytest.raises(ValueError, match=r"pairs={'encoder': 'decoder'} is likely"):
        match_flax_params({"encoder.weight": (3, 2)}, tree(decoder__kernel=(2, 3)))


def test_pairs_by_hand_go_with_a_prefix_on_the_other_names():
    names = {f"model.{name}": shape for name, shape in NAMES.items()}
    params = tree(fc__kernel=(2, 3), fc__bias=(3,), head__kernel=(3, 1))
    mapping = match_flax_params(names, params, pairs={"model.out": "head"})
    assert list(paths(mapping).values()) == ["fc/kernel", "fc/bias", "head/kernel"]


@pytest.mark.parametrize("given", ["module.", "", "model."])
@pytest.mark.parametrize("known", ["module.", "", "model."])
def test_names_of_a_checkpoint_are_those_of_a_mapping_whatever_is_around_them(given, known):
    names = [given + name for name in NAMES]
    assert aligned(names, [known + name for name in NAMES]) == {
        given + name: known + name for name in NAMES
    }


def test_names_that_a_mapping_lacks_stay_as_they_are():
    assert aligned(["a.weight", "b.weight"], ["a.weight"]) == {
        "a.weight": "a.weight",
        "b.weight": "b.weight",
    }


@pytest.mark.torch
@pytest.mark.parametrize("saved", ["module.", "_orig_mod.", ""])
@pytest.mark.parametrize("mapped", ["module.", "model.", ""])
def test_a_run_moves_there_and_back_whatever_is_around_its_names(saved, mapped):
    import torch

    model = torch.nn.Linear(2, 3)
    named = [(saved + name, param) for name, param in model.named_parameters()]
    torch_optimizer = torch.optim.Adadelta(named)
    model(torch.ones(1, 2)).sum().backward()
    torch_optimizer.step()
    params = tree(kernel=(2, 3), bias=(3,))
    mapping = match_flax_params(
        {mapped + name: param for name, param in model.named_parameters()}, params
    )
    weights = {saved + name: tensor for name, tensor in model.state_dict().items()}
    params = params_from_torch(weights, params, mapping)
    checkpoint = torch_optimizer.state_dict()
    _, state = optimizer_from_torch(checkpoint, params, mapping)
    back = optimizer_to_torch(state, params, mapping, checkpoint["param_groups"])
    assert back["param_groups"][0]["param_names"] == [saved + "weight", saved + "bias"]
    for index, entry in checkpoint["state"].items():
        for key in ("square_avg", "acc_delta"):
            assert torch.equal(back["state"][index][key], entry[key])


@pytest.mark.torch
def test_a_live_module_with_tied_weights_pairs_under_either_name():
    import torch

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    first = match_flax_params(Tied(), tree(embed__embedding=(5, 3)))
    assert paths(first) == {"embed.weight": "embed/embedding"}
    second = match_flax_params(Tied(), tree(head__kernel=(3, 5)))
    assert paths(second) == {"embed.weight": "head/kernel"}
    assert second["embed.weight"].axes == (1, 0)


@pytest.mark.torch
def test_a_live_optimizer_gives_the_order_in_which_it_numbers_the_parameters():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    params = {
        "layers_0": tree(kernel=(2, 3), bias=(3,)),
        "layers_1": tree(kernel=(3, 1), bias=(1,)),
    }
    optimizer = torch.optim.Adadelta(
        [{"params": [model[1].weight]}, {"params": [model[0].bias, model[0].weight]}]
    )
    mapping = match_flax_params(model, params, optimizer=optimizer)
    assert list(mapping) == ["1.weight", "0.bias", "0.weight", "1.bias"]


@pytest.mark.torch
def test_an_optimizer_of_another_module_is_refused():
    import torch

    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    params = tree(kernel=(2, 3), bias=(3,))
    optimizer = torch.optim.Adadelta(other.parameters())
    with pytest.raises(ValueError, match="optimizer has parameters that are not those of"):
        match_flax_params(model, params, optimizer=optimizer)
    with pytest.raises(TypeError, match=r"optimizer needs a torch\.nn\.Module"):
        match_flax_params(model.state_dict(), params, optimizer=optimizer)
    with pytest.raises(TypeError, match="optimizer must be a torch optimizer, got str"):
        match_flax_params(model, params, optimizer="Adadelta")
