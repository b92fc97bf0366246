"""Random architectures are matched right, refused, or warned of: never wrong in silence."""

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import partial, reduce
from random import Random
from typing import Any, NamedTuple

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from adadelta_jax.torch_interop import (
    match_flax_params,
    match_flax_statistics,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from examples.torch_recurrent import gru, lstm
from tests.clear_errors import is_clear
from tests.fuzz import seeds
from tests.fuzz.architectures import (
    FLAX,
    LAYERS,
    LIBRARIES,
    Architecture,
    Leaf,
    Node,
    build,
    draw,
    finished,
    tree_of,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

VARIABLE = "ADADELTA_JAX_FUZZ_ARCHITECTURES"
STATE_EVERY = 10  # the state of an optimizer takes as long as all the rest
LISTS = ("conv_transpose", "untransposed", "flattened")
STATISTICS = ("mean", "var")
TRIES = (
    *(("shapes", "nothing"), ("shapes", "all"), ("state_dict", "all")),
    *(("module", "images"), ("module", "all")),
)


class Twin(NamedTuple):
    """A pytree to fill, its leaves in their order, and what they become."""

    empty: Any
    leaves: list[Leaf]
    values: list[np.ndarray]

    def wrong(self, tree: Any, factor: int = 1) -> list[Leaf]:
        """The leaves of a tree that are not as they should be, or a multiple of it."""
        assert jax.tree.structure(tree) == jax.tree.structure(self.empty)
        arrays = jax.tree.leaves(tree)
        every = zip(self.leaves, self.values, arrays, strict=True)
        return [leaf for leaf, value, array in every if not np.array_equal(array, factor * value)]


def twin_of(leaves: list[Leaf], tensors: Mapping[str, np.ndarray], library: str) -> Twin:
    numbers = tree_of({leaf.path: number for number, leaf in enumerate(leaves)}, library)
    in_order = [leaves[number] for number in jax.tree.leaves(numbers)]
    values = [leaf.value(tensors) for leaf in in_order]
    empty = [np.zeros(value.shape, np.float32) for value in values]
    return Twin(jax.tree.unflatten(jax.tree.structure(numbers), empty), in_order, values)


def matched(match: Any, source: Any, params: Any, options: Any) -> tuple[str, Any, str]:
    """How a match ends, its mapping or error, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            mapping = match(source, params, **options)
        except Exception as error:
            if isinstance(error, ValueError) and is_clear(error):
                return "refused", error, ""
            raise AssertionError(f"not clear: {type(error).__name__}: {error}") from error
    said = "\n".join(str(warning.message) for warning in caught)
    return "warned" if said else "right", mapping, said


def silently_wrong(wrong: list[Leaf], said: str) -> list[Leaf]:
    """The wrong leaves of which a warning does not name each tensor."""
    words = {word.strip(".") for word in re.findall(r"[\w.]+", said)}
    return [leaf for leaf in wrong if not words.issuperset(leaf.names)]


class Case:
    """An architecture and all that is tried with it."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.built = finished(architecture)
        self.state = self.built.module.state_dict()
        self.tensors = {name: tensor.numpy() for name, tensor in self.state.items()}
        statistics = [leaf for leaf in self.built.leaves if leaf.path[-1] in STATISTICS]
        others = [leaf for leaf in self.built.leaves if leaf.path[-1] not in STATISTICS]
        self.twin = twin_of(others, self.tensors, architecture.library)
        self.statistics = twin_of(statistics, self.tensors, architecture.library)
        module = self.built.module
        shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
        self.sources = {"shapes": shapes, "state_dict": self.state, "module": module}
        self.right: list[Any] = []  # the mappings that were

    def pairs(self, source: str) -> dict[str, Any]:
        """What the user must pair."""
        pairs: dict[str, Any] = {
            name: paths[0] if len(paths) == 1 else paths for name, paths in self.built.pairs
        }
        for first, second, path in self.built.tied:
            if source == "state_dict":
                pairs[second] = None
            if source != "module":  # which has both names
                pairs[first] = path
        return pairs

    def lists(self, choice: str, random: Random) -> dict[str, list[str]]:
        """What a user lists: nothing, all, what reads images, some, or what is around layers."""
        every = {each: [name for kind, name in self.built.lists if kind == each] for each in LISTS}
        match choice:
            case "nothing":
                return {}
            case "images":
                return {"flattened": every["flattened"]}
            case "some":
                return {each: every[each] for each in LISTS if random.random() < 0.5}
            case "around":
                around = {each: {name.rpartition(".")[0] for name in every[each]} for each in LISTS}
                return {each: sorted(names) for each, names in around.items() if "" not in names}
        return every

    def optimizer(self, random: Random) -> Any:
        """A torch optimizer of one group, or of one for each module in reverse."""
        root = self.built.module.get_submodule(self.architecture.torch_prefix)
        if random.random() < 0.5:
            return torch.optim.Adadelta(root.parameters())
        params = [list(child.parameters()) for child in root.children()]
        params.append(list(root.parameters(recurse=False)))
        return torch.optim.Adadelta([{"params": each} for each in reversed(params) if each])

    def end(self, source: Any, options: Mapping[str, Any]) -> tuple[str, Any]:
        """How a match ends, and its mapping or error; raise if it is wrong in silence."""
        end, mapping, said = matched(match_flax_params, source, self.twin.empty, options)
        if end != "refused" and mapping not in self.right:
            params = params_from_torch(self.state, self.twin.empty, mapping)
            wrong = self.twin.wrong(params)
            silent = silently_wrong(wrong, said)
            assert not silent, f"wrong in silence: {silent}"
            self.assert_returns(params_to_torch(params, mapping), mapping, self.tensors)
            self.right += [mapping] * (not wrong)
        return end, mapping

    def assert_returns(self, returned: Any, mapping: Mapping[str, Any], tensors: Any) -> None:
        """Raise unless these are the tensors of a mapping."""
        assert returned.keys() == {name for name, entry in mapping.items() if entry is not None}
        for name, tensor in returned.items():
            np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def check(architecture: Architecture, seed: int) -> str:
    """How the match by names and shapes alone ends; raise unless every match ends well."""
    case, random, ends = Case(architecture), Random(seed), []
    sources, choices = ("shapes", "state_dict", "module"), ("nothing", "some", "around")
    # A module knows all but images and what is other in the twin.
    module_knows = "as_conv" not in dict(case.built.lists)
    for source, choice in (*TRIES, (random.choice(sources), random.choice(choices))):
        options = {**case.lists(choice, random), "pairs": case.pairs(source)}
        optimizer = case.optimizer(random) if (source, choice) == TRIES[-1] else None
        try:
            end, result = case.end(case.sources[source], {**options, "optimizer": optimizer})
            if choice == "all" or (choice == "images" and module_knows):
                assert result in case.right or case.built.reasons, f"{end}: {result}"
            if optimizer is not None and result in case.right:
                check_weights_within_another_model(case, result)
                if seed % STATE_EVERY == 0:
                    check_state(case, optimizer, result)
        except Exception as error:
            what = f"by {source}, {choice} listed, {options}: {type(error).__name__}: {error}"
            raise AssertionError(what) from error
        ends.append(end)
    check_statistics(case)
    check_other_shapes(case)
    return ends[0]


def check_weights_within_another_model(case: Case, mapping: Mapping[str, Any]) -> None:
    """What is around all names of a checkpoint alone makes no difference."""
    within = {f"network.{name}": tensor for name, tensor in case.state.items()}
    wrong = case.twin.wrong(params_from_torch(within, case.twin.empty, mapping))
    assert not wrong, f"wrong within another model: {wrong}"


def check_state(case: Case, optimizer: Any, mapping: Mapping[str, Any]) -> None:
    """The averages of a torch optimizer move as the weights do, there and back."""
    params = params_from_torch(case.state, case.twin.empty, mapping)
    factors, state_dict = {"square_avg": 2, "acc_delta": 3}, optimizer.state_dict()
    name_of = {tensor: name for name, tensor in case.built.module.named_parameters()}
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    state_dict["state"] = {
        index: {"step": 7.0}
        | {key: factor * case.tensors[name_of[tensor]] for key, factor in factors.items()}
        for index, tensor in enumerate(tensors)
    }
    _, opt_state = optimizer_from_torch(state_dict, params, mapping)
    for key, factor in factors.items():
        # Each leaf is in the tree of its group alone.
        trees = (tree for _, tree in optax.tree.get_all_with_path(opt_state, key))
        averages = dict(each for tree in trees for each in jax.tree.leaves_with_path(tree))
        average = jax.tree.map_with_path(lambda path, _, found=averages: found[path], params)
        wrong = case.twin.wrong(average, factor)
        assert not wrong, f"{key} is wrong: {wrong}"
    returned = optimizer_to_torch(opt_state, params, mapping, state_dict["param_groups"])
    jax.tree.map(np.testing.assert_array_equal, returned["state"], state_dict["state"])


def check_statistics(case: Case) -> None:
    """Running statistics are right, refused or warned of."""
    if not case.statistics.leaves:
        return
    names = [name for name in case.state if name.rpartition(".")[2].startswith("running_")]
    pairs = {
        name: path
        for name, path in case.pairs("state_dict").items()
        if any(each.startswith(f"{name}.") for each in names)
    }
    end, mapping, said = matched(
        match_flax_statistics, case.state, case.statistics.empty, {"pairs": pairs}
    )
    if end == "refused":  # what is around all names can be unclear if few have statistics
        has_other_names = case.built.pairs or case.architecture.torch_prefix
        assert has_other_names or case.architecture.prefix, f"statistics are refused: {mapping}"
    else:
        tensors = {name: case.tensors[name] for name in names}
        params = params_from_torch(tensors, case.statistics.empty, mapping)
        silent = silently_wrong(case.statistics.wrong(params), said)
        assert not silent, f"statistics are wrong in silence: {silent}"


def check_other_shapes(case: Case) -> None:
    """A twin in which a linear layer has inputs for outputs is none, and is refused."""
    shapes = [value.shape for value in case.twin.values]
    found = (
        index
        for index, leaf in enumerate(case.twin.leaves)
        if leaf.pattern == FLAX["linear"] and shapes[index] != shapes[index][::-1]
    )
    index = next(found, None)
    if index is None:
        return
    shapes[index] = shapes[index][::-1]
    leaves = [np.zeros(shape, np.float32) for shape in shapes]
    params = jax.tree.unflatten(jax.tree.structure(case.twin.empty), leaves)
    options = {**case.lists("nothing", Random(0)), "pairs": case.pairs("shapes")}
    end, *_ = matched(match_flax_params, case.sources["shapes"], params, options)
    assert end == "refused", f"{case.twin.leaves[index]} is accepted as {shapes[index]}"


def reduced(architecture: Architecture, seed: int) -> Architecture:
    """The architecture without all layers that it fails without."""
    for root in _smaller(architecture.root):
        smaller = architecture._replace(root=root)
        if root.children and smaller.root.children[-1] == architecture.root.children[-1]:
            try:
                check(smaller, seed)
            except AssertionError:
                return reduced(smaller, seed)
    return architecture


def _smaller(node: Node) -> Iterator[Node]:
    """The node without one of the layers inside."""
    for index, (name, child) in enumerate(node.children if not node.is_whole else ()):
        before, after = node.children[:index], node.children[index + 1 :]
        if before or after:
            yield node._replace(children=(*before, *after))
        if node.kind != "stack":  # whose layers are equal
            for smaller in _smaller(child):
                yield node._replace(children=(*before, (name, smaller), *after))


def run_case(seed: int) -> str:
    """Check the architecture of a seed; raise, naming a reduced one, if it fails."""
    architecture = draw(seed)
    try:
        return check(architecture, seed)
    except AssertionError:
        architecture = reduced(architecture, seed)
    try:
        check(architecture, seed)
    except AssertionError as error:
        raise AssertionError(f"{architecture}\n{error}") from error
    raise AssertionError(f"{architecture} fails only at times")


@pytest.mark.parametrize("chunk", seeds.chunks(VARIABLE, 300), ids=seeds.name_of_chunk)
def test_a_random_architecture_is_never_wrong_in_silence(chunk):
    seeds.run_all(run_case, chunk, VARIABLE)


_LINEAR = Node("linear", {"inputs": 3, "outputs": 3})
_STACK = Node("stack", {}, (("0", _LINEAR), ("1", _LINEAR)))
_ATTENTION = Node("attention", {"size": 4, "heads": 2, "bias": True})
_EXCHANGED = {"query": "query", "key": "value", "value": "key", "out": "out"}
WRONG = {
    "not transposed": (_LINEAR, lambda layout: layout._replace(axes=None)),
    "not reversed": (
        Node("conv_transpose", {"inputs": 2, "outputs": 3, "size": (3, 3)}),
        lambda layout: layout._replace(flip=()),
    ),
    "another layer": (_STACK, lambda layout: layout._replace(leaf_part=(1 - layout.leaf_part[0],))),
    "key for value": (
        _ATTENTION,
        lambda layout: layout._replace(
            path="/".join(_EXCHANGED.get(part, part) for part in layout.path.split("/"))
        ),
    ),
    "heads within": (
        Node("projection", {"size": 5, "heads": 2, "depth": 3, "from_heads": False}),
        lambda layout: (
            layout._replace(view=(3, 2, 5), axes=(2, 1, 0))
            if len(layout.torch_shape) == 2
            else layout
        ),
    ),
}


@pytest.mark.parametrize(("node", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_layout_is_noticed(node, wrong, monkeypatch):
    right = match_flax_params

    def match(*args, **options):
        return {
            name: tuple(map(wrong, entry)) if type(entry) is tuple else wrong(entry)
            for name, entry in right(*args, **options).items()
        }

    architecture = Architecture("linen", "", (), Node("modules", {}, (("layer", node),)))
    assert check(architecture, seed=0) == "right"
    monkeypatch.setattr(sys.modules[__name__], "match_flax_params", match)
    with pytest.raises(AssertionError, match="wrong in silence"):
        check(architecture, seed=0)


def layers_of(node: Node) -> Iterator[Node]:
    """The layers inside, and of layers that belong together their module."""
    if node.is_whole or not node.children:
        yield node
    for _, child in () if node.is_whole else node.children:
        yield from layers_of(child)


def linen_layer(kind: str, s: Mapping[str, Any]) -> Any:
    match kind:
        case "linear" | "untransposed":
            return linen.Dense(s["outputs"], s.get("bias", True))
        case "projection" if s["from_heads"]:
            return linen.DenseGeneral(s["size"], (-2, -1))
        case "projection":
            return linen.DenseGeneral((s["heads"], s["depth"]))
        case "attention":
            return linen.MultiHeadDotProductAttention(s["heads"], use_bias=s["bias"])
        case "conv" | "conv_transpose":
            options = {"use_bias": s.get("bias", True), "padding": "VALID"}
            if kind == "conv":
                return linen.Conv(
                    s["outputs"], s["size"], feature_group_count=s.get("groups", 1), **options
                )
            turned = s.get("as_conv", False)
            return linen.ConvTranspose(s["outputs"], s["size"], transpose_kernel=turned, **options)
        case "norm" if s["kind"] == "batch":
            return linen.BatchNorm(use_running_average=False)
        case "norm" if s["kind"] == "group":
            return linen.GroupNorm(1, epsilon=1e-5)
        case "norm":
            axes = tuple(range(-len(s.get("shape", ())), 0)) or (-1,)
            return linen.LayerNorm(1e-5, reduction_axes=axes, feature_axes=axes)
    return linen.Embed(s["count"], s["size"])


def haiku_layer(kind: str, s: Mapping[str, Any]) -> Any:
    match kind:
        case "linear" | "untransposed":
            return haiku.Linear(s["outputs"], s.get("bias", True), name="layer")
        case "projection":
            width = s["size"] if s["from_heads"] else s["heads"] * s["depth"]
            return haiku.Linear(width, name="layer")
        case "attention":
            options = {"with_bias": s["bias"], "w_init": jnp.zeros, "name": "layer"}
            return haiku.MultiHeadAttention(s["heads"], s["size"] // s["heads"], **options)
        case "conv" | "conv_transpose":
            options = {"padding": "VALID", "with_bias": s.get("bias", True), "name": "layer"}
            if kind == "conv":
                options["feature_group_count"] = s.get("groups", 1)
            convs = {"conv": haiku.ConvND, "conv_transpose": haiku.ConvNDTranspose}
            return convs[kind](len(s["size"]), s["outputs"], s["size"], **options)
        case "norm" if s["kind"] == "batch":
            return partial(haiku.BatchNorm(True, True, 0.9, name="layer"), is_training=True)
        case "norm" if s["kind"] == "group":
            return haiku.GroupNorm(1, name="layer")
        case "norm":
            axes = tuple(range(-len(s.get("shape", ())), 0)) or (-1,)
            return haiku.LayerNorm(axes, True, True, param_axis=axes, name="layer")
    return haiku.Embed(s["count"], s["size"], name="layer")


def equinox_layer(kind: str, s: Mapping[str, Any]) -> Any:
    key = jax.random.key(0)
    match kind:
        case "linear" | "untransposed":
            return equinox.nn.Linear(s["inputs"], s["outputs"], s.get("bias", True), key=key)
        case "projection":
            sizes = (s["size"], s["heads"] * s["depth"])
            return equinox.nn.Linear(*(sizes[::-1] if s["from_heads"] else sizes), key=key)
        case "attention":
            biases = (f"use_{role}_bias" for role in ("query", "key", "value", "output"))
            of_keys = (s.get("other") or s["size"],) * 2
            options = dict.fromkeys(biases, s["bias"])
            return equinox.nn.MultiheadAttention(
                s["heads"], s["size"], *of_keys, s["size"], key=key, **options
            )
        case "conv" | "conv_transpose":
            convs = {"conv": equinox.nn.Conv, "conv_transpose": equinox.nn.ConvTranspose}
            options = {"groups": s.get("groups", 1), "use_bias": s.get("bias", True)}
            sizes = (len(s["size"]), s["inputs"], s["outputs"], s["size"])
            return convs[kind](*sizes, key=key, **options)
        case "norm" if s["kind"] == "layer":
            return equinox.nn.LayerNorm(s.get("shape") or s["size"])
        case "norm":
            return equinox.nn.GroupNorm(1, s["size"])
    return equinox.nn.Embedding(s["count"], s["size"], key=key)


def layer_outputs(library: str, kind: str, settings: Any, leaves: Any, *inputs: Any) -> Any:
    """The outputs of a library's own layer that has these leaves by path."""

    def outputs(leaves, *inputs):
        if library == "equinox":
            layer = equinox_layer(kind, settings)
            for path, leaf in leaves.items():
                layer = equinox.tree_at(partial(reduce, getattr, path), layer, leaf)
            return jax.vmap(layer)(*inputs)
        if library == "haiku":
            params: dict[str, Any] = {}
            for (*module, name), leaf in leaves.items():
                params.setdefault("/".join(("layer", *module)), {})[name] = leaf
            model = haiku.transform_with_state(lambda *args: haiku_layer(kind, settings)(*args))
            _, state = model.init(jax.random.key(0), *inputs)
            return model.apply(params, state, None, *inputs)[0]
        variables = {"params": tree_of(leaves, library)}
        return linen_layer(kind, settings).apply(variables, *inputs, mutable=["batch_stats"])[0]

    return jax.jit(outputs)(leaves, *inputs)  # compiled once, not operation by operation


def twin_outputs(library: str, node: Node, leaves: Any, *inputs: Any) -> Any:
    """The outputs of the twin of a layer."""
    kind, settings = node.kind, node.settings
    if kind == "recurrent":
        params = {name: leaf for (name,), leaf in leaves.items()}
        return {"LSTM": lstm, "GRU": gru}[settings["kind"]](params, jnp.asarray(*inputs))[0]
    if kind == "tied":
        (table,) = leaves.values()
        return table[inputs[0]] @ table.T
    if kind == "fused":
        size, depth, found = settings["size"], settings["depth"], []
        for role, heads in zip("qkv", settings["heads"], strict=True):
            name = LIBRARIES[library][role]
            of_role = {tuple(path[1:]): leaf for path, leaf in leaves.items() if path[0] == name}
            sizes = {"inputs": size, "outputs": heads * depth, "size": size, "heads": heads}
            kind = "projection" if settings["has_heads"] else "linear"
            sizes |= {"depth": depth, "from_heads": False}
            found.append(layer_outputs(library, kind, sizes, of_role, *inputs))
        return np.concatenate([np.reshape(each, (len(each), -1)) for each in found], -1)
    return layer_outputs(library, kind, settings, leaves, *inputs)


def torch_outputs(node: Node, layer: Any, *inputs: Any) -> Any:
    match node.kind:
        case "attention":
            return layer(*inputs, need_weights=False)[0]
        case "recurrent":
            return layer(*inputs)[0]
        case "tied":
            return layer.head(layer.embed(*inputs))
    return layer(*inputs)


def inputs_of(kind: str, s: Mapping[str, Any]) -> list[Any]:
    """Random inputs of a layer of torch."""
    match kind:
        case "embedding" | "tied":
            return [torch.arange(s["count"])]
        case "attention":
            other = s.get("other") or s["size"]
            shapes = [(2, 4, s["size"]), (2, 12, other), (2, 12, other)]
        case "norm":
            shapes = [(4, *(s.get("shape") or (s["size"], *(3,) * s.get("rank", 0))))]
        case "projection" if s["from_heads"]:
            shapes = [(2, s["heads"] * s["depth"])]
        case "projection" | "fused":
            shapes = [(2, s["size"])]
        case _:
            shapes = [(2, s["inputs"], *(5,) * len(s.get("size", ())))]
    return [torch.randn(shape) for shape in shapes]


def prove(node: Node, library: str) -> None:
    """Raise unless the twins that the definitions make of layers have their outputs."""
    whole = node if node.children else Node("modules", {}, (("layer", node),))
    built, step, image = build(whole, library), whole.settings.get("step", 1), torch.empty(0)
    for parameter in built.module.parameters():
        torch.nn.init.normal_(parameter)
    tensors = {name: tensor.numpy() for name, tensor in built.module.state_dict().items()}

    def there(tensor: Any, is_image: bool) -> np.ndarray:
        moves = is_image and library != "equinox"
        return np.moveaxis(tensor.numpy(), 1, -1) if moves else tensor.numpy()

    for index, (name, child) in enumerate(whole.children):
        first = ("sequential", step * index) if whole.kind == "sequential" else name
        kind, settings = child.kind, child.settings
        leaves = {
            leaf.path[1:]: leaf.value(tensors)
            for leaf in built.leaves
            if leaf.path[0] == first and leaf.path[-1] not in STATISTICS
        }
        has_image = kind in ("conv", "conv_transpose", "norm")
        reads = settings.get("image", ())
        if reads:
            image = image[(..., *map(slice, reads[1:]))]
            inputs, of_twin = [image.flatten(1)], [there(image, True).reshape(len(image), -1)]
        else:
            inputs = [image] if kind == "norm" and len(image) else inputs_of(kind, settings)
            of_twin = [there(each, has_image) for each in inputs]
        if kind == "projection" and settings["from_heads"] and LIBRARIES[library] is FLAX:
            of_twin = [each.reshape(-1, settings["heads"], settings["depth"]) for each in of_twin]
        layer = built.module.get_submodule(name if first == name else str(step * index))
        outputs = torch_outputs(child, layer, *inputs)
        shape = settings.get("onto") or (reads if kind == "norm" else ())
        outputs = outputs.reshape(len(outputs), *shape) if shape else outputs
        expected = there(outputs, has_image or bool(shape))
        actual = twin_outputs(library, child, leaves, *of_twin)
        np.testing.assert_allclose(np.reshape(actual, expected.shape), expected, atol=3e-4)
        image = outputs if has_image and not reads else image


def has_outputs(layer: Node, library: str) -> bool:
    """Whether there is a layer with one array of outputs on both sides."""
    has_state = library == "equinox" and layer.settings.get("kind") == "batch"
    differs = layer.settings.get("as_cell") or layer.settings.get("bias_kv")
    return not (has_state or differs or layer.kind == "parameter")


# Seeds whose architectures have every kind of layer with every pattern that a leaf can have.
PROOFS = {
    "linen": (1630, 990, 521, 1914, 559, 2149, 1336),
    "equinox": (1791, 2091, 1833, 2395, 958),
    "haiku": (565, 923, 1796, 710, 1460, 151, 63),
}


@pytest.mark.parametrize("library", PROOFS)
def test_a_layer_gives_the_outputs_of_torch_with_the_leaves_of_its_definition(library):
    proven: set[tuple[str, str]] = set()
    for node in (node for seed in PROOFS[library] for node in layers_of(draw(seed).root)):
        layers = [child for _, child in node.children] or [node]
        patterns = {
            (each.kind, leaf.pattern) for each in layers for leaf in build(each, library).leaves
        }
        if not patterns <= proven and all(has_outputs(layer, library) for layer in layers):
            with torch.no_grad():
                prove(node, library)
            proven |= patterns
    assert {kind for kind, _ in proven} == LAYERS.keys() - {"parameter"}
