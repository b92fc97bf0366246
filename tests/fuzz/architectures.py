"""Random architectures: a torch module, and the parameters of its twin in JAX.

Each layer says by its definition which number of a torch tensor is which number of a leaf. These
definitions know nothing of the layouts of the package; a test proves them by forward passes.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

# What each library calls its leaves, and how they follow from the tensors of torch. "*" stands for
# the axes of an image, "&" for as many of size one, "~" for an axis in reverse.
FLAX = {
    "weight": "kernel",
    "bias": "bias",
    "scale": "scale",
    "shift": "bias",
    "table": "embedding",
    "q": "query",
    "k": "key",
    "v": "value",
    "out": "out",
    "linear": "o i -> i o",
    "Conv1D": "i o -> i o",
    "to heads": "(n d) i -> i n d",
    "Conv1D to heads": "i (n d) -> i n d",
    "bias to heads": "(n d) -> n d",
    "from heads": "o (n d) -> n d o",
    "conv": "o i * -> * i o",
    "conv_transpose": "i o * -> ~* i o",
    "transpose_kernel": "i o * -> * o i",
    "bias of conv": "o -> o",
    "from image": "o (c *) -> (* c) o",
    "gates from image": "o (c *) -> o (* c)",
    "to image": "(c *) i -> i (* c)",
    "flat image": "(c *) -> (* c)",
    "image": "c * -> * c",
    "batch": "c -> c",
    "batch of flat image": "(c *) -> (* c)",
}
HAIKU = FLAX | {
    "weight": "w",
    "bias": "b",
    "shift": "offset",
    "table": "embeddings",
    "out": "linear",
    "to heads": "o i -> i o",
    "Conv1D to heads": "i o -> i o",
    "bias to heads": "o -> o",
    "from heads": "o i -> i o",
    "conv_transpose": "i o * -> ~* o i",
    "image": "c * -> 1 * c",
    "batch": "c -> 1 & c",
    "batch of flat image": "(c *) -> 1 (* c)",
}
EQUINOX = FLAX | {
    "weight": "weight",
    "scale": "weight",
    "table": "weight",
    "q": "query_proj",
    "k": "key_proj",
    "v": "value_proj",
    "out": "output_proj",
    **dict.fromkeys(("linear", "to heads", "from heads"), "o i -> o i"),
    **dict.fromkeys(("from image", "gates from image", "to image"), "o i -> o i"),
    **dict.fromkeys(("Conv1D", "Conv1D to heads"), "i o -> o i"),
    **dict.fromkeys(("bias to heads", "flat image", "batch of flat image"), "o -> o"),
    "image": "c * -> c *",
    "conv": "o i * -> o i *",
    "conv_transpose": "(g i) o * -> (g o) i ~*",
    "bias of conv": "o -> o &",
}
LIBRARIES = {"linen": FLAX, "nnx": FLAX, "equinox": EQUINOX, "haiku": HAIKU}
Library = Mapping[str, str]


def rearranged(tensor: np.ndarray, pattern: str, sizes: Mapping[str, int]) -> np.ndarray:
    """A tensor with its axes split, reordered, reversed and merged.

    In "(c h) o -> ~h 1 (o c)" the first axis is split into c times h.
    """
    before, after = (re.findall(r"\(.*?\)|~?\w", side) for side in pattern.split(" -> "))
    known = {"1": 1, **sizes}
    for group, size in zip(before, tensor.shape, strict=True):
        axes = re.findall(r"\w", group)
        for axis in set(axes) - set(known):
            known[axis] = size // math.prod(known[each] for each in axes if each != axis)
    axes = re.findall(r"\w", "".join(before))
    kept = re.findall(r"~?[a-z]", "".join(after))
    array = tensor.reshape([known[axis] for axis in axes])
    array = array.transpose([axes.index(axis[-1]) for axis in kept])
    array = np.flip(array, [index for index, axis in enumerate(kept) if axis[0] == "~"])
    return array.reshape([math.prod(known[a] for a in re.findall(r"\w", each)) for each in after])


class Leaf(NamedTuple):
    """A leaf of the twin: its keys, and what it is made of.

    It has a tensor, or one for each layer of a stack. Of each tensor, or of a part of it, the
    pattern and the sizes in it say how the leaf or its layer follows.
    """

    path: tuple[Any, ...]
    names: tuple[str, ...]
    pattern: str = ""
    sizes: Mapping[str, int] = {}
    part: tuple[slice, ...] = ()
    stack: tuple[int, ...] = ()

    def value(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The leaf that the tensors become."""
        arrays = [tensors[name][self.part] for name in self.names]
        if self.pattern:
            arrays = [rearranged(array, self.pattern, self.sizes) for array in arrays]
        return np.stack(arrays).reshape(*self.stack, *arrays[0].shape)


class Built(NamedTuple):
    """A module, its twin, and what a user knows of them.

    Attributes:
        module: The torch module.
        leaves: The leaves of the twin.
        lists: The torch modules that a user would list, each after an argument of
            `match_flax_params`; and after "as_conv" those of another layout than their class says.
        pairs: What a user must pair: a torch name, and paths.
        tied: The two names of each tied tensor, and its path.
        reasons: Why it may be refused or warned of, whatever the user says.
    """

    module: Any
    leaves: tuple[Leaf, ...] = ()
    lists: tuple[tuple[str, str], ...] = ()
    pairs: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    tied: tuple[tuple[str, str, Any], ...] = ()
    reasons: tuple[str, ...] = ()

    def within(self, name: str, *path: Any) -> "Built":
        """The same as a part of a module, where it has this name and its twin this path."""

        def named(inner: str) -> str:
            return ".".join(filter(None, (name, inner)))

        leaves = (
            leaf._replace(path=(*path, *leaf.path), names=tuple(map(named, leaf.names)))
            for leaf in self.leaves
        )
        pairs = ((named(a), tuple((*path, *each) for each in paths)) for a, paths in self.pairs)
        return self._replace(
            leaves=tuple(leaves),
            lists=tuple((argument, named(inner)) for argument, inner in self.lists),
            pairs=tuple(pairs),
            tied=tuple((named(a), named(b), (*path, *keys)) for a, b, keys in self.tied),
        )


def leaf(
    library: Library,
    tensor: str,
    key: str,
    pattern: str = "",
    axes: tuple[int, ...] = (),
    *,
    role: str = "",
    part: tuple[slice, ...] = (),
    **sizes: int,
) -> Leaf:
    """A leaf in the words of a library, perhaps in one of the layers of an attention.

    `axes` are the sizes of an image.
    """
    pattern, hw = library.get(pattern, ""), "hw"[: len(axes)]
    for short, long in (("~*", [f"~{axis}" for axis in hw]), ("*", hw), ("&", "1" * len(hw))):
        pattern = pattern.replace(short, " ".join(long))
    path = tuple(library.get(each, each) for each in (role, key) if each)
    return Leaf(path, (tensor,), pattern, {**dict(zip(hw, axes, strict=True)), **sizes}, part)


def linear(library, inputs, outputs, bias=True, image=(), onto=()):
    """y_o = Σ_i W_oi x_i + b_o, perhaps from an image (c, h, w) or onto one."""
    pattern = "from image" if image else "to image" if onto else "linear"
    leaves = [leaf(library, "weight", "weight", pattern, (image or onto)[1:])]
    if bias:
        leaves.append(leaf(library, "bias", "bias", "flat image" if onto else "", onto[1:]))
    has_channels_last = library is not EQUINOX
    return Built(
        torch.nn.Linear(inputs, outputs, bias),
        tuple(leaves),
        lists=(("flattened", ""),) if (image or onto) and has_channels_last else (),
    )


class Conv1D(torch.nn.Module):
    """y_o = Σ_i W_io x_i + b_o, as in the published layout of GPT-2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(inputs, outputs))
        self.bias = torch.nn.Parameter(torch.empty(outputs))

    def forward(self, x: Any) -> Any:
        return x @ self.weight + self.bias


def untransposed(library, inputs, outputs):
    """The linear layer of the class above."""
    leaves = leaf(library, "weight", "weight", "Conv1D"), leaf(library, "bias", "bias")
    return Built(
        Conv1D(inputs, outputs),
        leaves,
        lists=(("untransposed", ""),),
        reasons=("Conv1D in Equinox",) if library is EQUINOX else (),
    )


def projection(library, size, heads, depth, from_heads):
    """A linear layer to heads, or from heads, which have an axis of their own in Flax."""
    sizes = (heads * depth, size) if from_heads else (size, heads * depth)
    patterns = ("from heads", "") if from_heads else ("to heads", "bias to heads")
    leaves = [
        leaf(library, key, key, pattern, n=heads)
        for key, pattern in zip(("weight", "bias"), patterns, strict=True)
    ]
    return Built(torch.nn.Linear(*sizes), tuple(leaves))


def fused(library, size, depth, heads, is_conv1d, has_heads):
    """Query, key and value in one layer of torch; the last two may have fewer heads."""
    patterns = {"weight": "Conv1D" if is_conv1d else "linear", "bias": ""}
    if has_heads:
        of_weight = "Conv1D to heads" if is_conv1d else "to heads"
        patterns = {"weight": of_weight, "bias": "bias to heads"}
    leaves, stop = [], 0
    for role, count in zip("qkv", heads, strict=True):
        start, stop = stop, stop + count * depth
        for key, pattern in patterns.items():
            part = (slice(start, stop),)
            if is_conv1d and key == "weight":
                part = (slice(None), *part)
            leaves.append(leaf(library, key, key, pattern, role=role, part=part, n=count))
    built = untransposed(library, size, stop) if is_conv1d else linear(library, size, stop)
    roles = tuple((library[role],) for role in "qkv")
    return built._replace(leaves=tuple(leaves), pairs=(("", roles),))


def attention(library, size, heads, bias, other=0, bias_kv=False):
    """`torch.nn.MultiheadAttention`, whose keys and values may have another size."""
    of_weight = ("to heads", "from heads")
    rows = {role: (slice(i * size, (i + 1) * size),) for i, role in enumerate("qkv")}
    leaves = [
        leaf(library, f"{role}_proj_weight", "weight", of_weight[0], role=role, n=heads)
        if other
        else leaf(library, "in_proj_weight", "weight", of_weight[0], role=role, part=part, n=heads)
        for role, part in rows.items()
    ]
    leaves.append(leaf(library, "out_proj.weight", "weight", of_weight[1], role="out", n=heads))
    if bias:
        name, pattern = "in_proj_bias", "bias to heads"
        for role, part in rows.items():
            leaves.append(leaf(library, name, "bias", pattern, role=role, part=part, n=heads))
        leaves.append(leaf(library, "out_proj.bias", "bias", role="out"))
    options = {"bias": bias, "add_bias_kv": bias_kv, "batch_first": True}
    sizes = {"kdim": other, "vdim": other} if other else {}
    module = torch.nn.MultiheadAttention(size, heads, **options, **sizes)
    return Built(module, tuple(leaves), reasons=("biases that Flax lacks",) if bias_kv else ())


def conv(library, inputs, outputs, size, groups=1, bias=True):
    """y_o = Σ_ihw W_oihw x_ihw + b_o."""
    leaves = [leaf(library, "weight", "weight", "conv", size)]
    if bias:
        leaves.append(leaf(library, "bias", "bias", "bias of conv", size))
    kind = (torch.nn.Conv1d, torch.nn.Conv2d)[len(size) - 1]
    return Built(kind(inputs, outputs, size, groups=groups, bias=bias), tuple(leaves))


def conv_transpose(library, inputs, outputs, size, groups=1, bias=True, as_conv=False):
    """The transpose of a convolution; `as_conv` is the transpose_kernel=True of Linen."""
    pattern = "transpose_kernel" if as_conv else "conv_transpose"
    leaves = [leaf(library, "weight", "weight", pattern, size, g=groups)]
    if bias:
        leaves.append(leaf(library, "bias", "bias", "bias of conv", size))
    kind = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d)[len(size) - 1]
    return Built(
        kind(inputs, outputs, size, groups=groups, bias=bias),
        tuple(leaves),
        lists=(("as_conv" if as_conv else "conv_transpose", ""),),
        reasons=("groups of a transposed convolution",) if groups > 1 else (),
    )


def norm(library, kind, size, rank=0, shape=(), image=()):
    """γ x + β for each channel; or for each number of an image, in its shape or flat."""
    pattern, axes = "image" if shape else "", (image or shape)[1:]
    if image:
        pattern = "batch of flat image" if kind == "batch" else "flat image"
    elif kind == "batch":
        pattern, axes = "batch", (1,) * rank
    module = {
        "layer": lambda: torch.nn.LayerNorm(shape or size),
        "group": lambda: torch.nn.GroupNorm(1, size),
        "batch": lambda: (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)[rank // 2](size),
    }[kind]()
    tensors = {"weight": "scale", "bias": "shift"}
    if kind == "batch" and library is FLAX:  # elsewhere they are no leaves of such names
        tensors |= {"running_mean": "mean", "running_var": "var"}
    leaves = tuple(leaf(library, name, key, pattern, axes) for name, key in tensors.items())
    differs = shape or (image and library is not EQUINOX)
    return Built(module, leaves, reasons=("a norm of each number of an image",) if differs else ())


def embedding(library, count, size):
    return Built(torch.nn.Embedding(count, size), (leaf(library, "weight", "table"),))


def tied(library, count, size, head_first):
    """An embedding whose table the last layer has too; the twin has it once."""
    module, embed = torch.nn.Module(), torch.nn.Embedding(count, size)
    head = torch.nn.Linear(size, count, bias=False)
    head.weight = embed.weight
    layers = {"head": head, "embed": embed} if head_first else {"embed": embed, "head": head}
    for name, layer in layers.items():
        module.add_module(name, layer)
    names, path = tuple(f"{name}.weight" for name in layers), ("embed", library["table"])
    return Built(module, (Leaf(path, names[:1]),), tied=((*names, path),))


def parameter(library, shape):
    return Built(torch.nn.Parameter(torch.empty(shape)), (Leaf((), ("",)),))


def recurrent(library, kind, inputs, hidden, layers=1, image=(), as_cell=False):
    """An LSTM or GRU whose twin keeps torch's tensors, or is a cell with one bias for each gate."""
    module = getattr(torch.nn, kind)(inputs, hidden, layers, bidirectional=layers > 1)
    names = [name for name, _ in module.named_parameters()]
    leaves = [leaf(library, name, name) for name in names]
    leaves[0] = leaf(library, names[0], names[0], "gates from image" if image else "", image[1:])
    if as_cell:
        leaves = [Leaf(("hi", "bias"), ("bias_hh_l0",), part=(slice(hidden),))]
        for way, (index, gate) in itertools.product("ih", enumerate("ifgo")):
            part = (slice(index * hidden, (index + 1) * hidden),)
            path, name = (way + gate, "kernel"), f"weight_{way}h_l0"
            leaves.append(Leaf(path, (name,), "o i -> i o", part=part))
    return Built(
        module,
        tuple(leaves),
        lists=(("flattened", ""),) if image and library is not EQUINOX else (),
        reasons=("two biases for each gate",) if as_cell else (),
    )


LAYERS: dict[str, Callable[..., Built]] = {
    each.__name__: each
    for each in (
        *(linear, untransposed, projection, fused, attention, conv, conv_transpose, norm),
        *(embedding, tied, parameter, recurrent),
    )
}
MODULES: dict[str, Callable[[], Any]] = {
    "modules": torch.nn.Module,
    "list": torch.nn.ModuleList,
    "sequential": torch.nn.Sequential,
    "stack": torch.nn.ModuleList,
}


class Node(NamedTuple):
    """A layer, or a module of others by name, which belong together if it is whole."""

    kind: str
    settings: Mapping[str, Any] = {}
    children: tuple[tuple[str, "Node"], ...] = ()
    is_whole: bool = False

    def __str__(self) -> str:
        inside = [f"{key}={value}" for key, value in (*self.settings.items(), *self.children)]
        return f"{self.kind}({', '.join(inside)})"


class Architecture(NamedTuple):
    """A model, the library of its twin, and the modules around all names of each side."""

    library: str
    torch_prefix: str
    prefix: tuple[str, ...]
    root: Node

    def __str__(self) -> str:
        return f"{self.library}, within {self.torch_prefix!r} and {self.prefix}: {self.root}"


def build(node: Node, library: str) -> Built:
    """The module of a node and its twin."""
    if node.kind in LAYERS:
        return LAYERS[node.kind](LIBRARIES[library], **node.settings)
    module, parts, pairs = MODULES[node.kind](), [], []
    step, twins = node.settings.get("step", 1), node.settings.get("twins", {})
    for index, (name, child) in enumerate(node.children):
        part = build(child, library)
        if node.kind == "modules":
            parts.append(part.within(name, twins.get(name, name)))
            pairs += [(name, ((twins[name],),))] if name in twins else []
        else:
            name = str(step * index)
            parts.append(part.within(name, (node.kind, step * index)))
        is_module = isinstance(part.module, torch.nn.Module)
        (module.add_module if is_module else module.register_parameter)(name, part.module)
        for other in range(step * index + 1, step * (index + 1)):
            module.add_module(str(other), torch.nn.ReLU())
    fields = ([getattr(part, field) for part in parts] for field in Built._fields[1:])
    built = Built(module, *(tuple(itertools.chain(*each)) for each in fields))
    if node.kind == "stack":
        of_each = zip(*(part.leaves for part in parts), strict=True)
        built = built._replace(leaves=tuple(map(_stacked, of_each)))
    return built._replace(pairs=(*pairs, *built.pairs))


def _stacked(leaves: tuple[Leaf, ...]) -> Leaf:
    """The leaf that has the leaves of all layers."""
    names = tuple(itertools.chain.from_iterable(each.names for each in leaves))
    return leaves[0]._replace(names=names, stack=(len(leaves), *leaves[0].stack))


def finished(architecture: Architecture) -> Built:
    """The whole model, each number of its tensors another one, and paths as in the library."""
    library, prefix = architecture.library, architecture.torch_prefix
    built = build(architecture.root, library).within(prefix, *architecture.prefix)
    module, first = built.module, 1
    for name in filter(None, reversed(prefix.split("."))):
        inner, module = module, torch.nn.Module()
        module.add_module(name, inner)
    for tensor in (*module.parameters(), *module.buffers()):
        stop = first + tensor.numel()
        tensor.data = torch.arange(first, stop, dtype=tensor.dtype).view(tensor.shape)
        first = stop

    def path(each: tuple[Any, ...]) -> str:
        *around, last = keys(each, library, with_stacks=True)
        return f"{('/~/' if library == 'haiku' else '/').join(map(str, around))}/{last}".lstrip("/")

    return built._replace(
        module=module,
        leaves=tuple(leaf._replace(path=keys(leaf.path, library)) for leaf in built.leaves),
        pairs=tuple((name, tuple(map(path, paths))) for name, paths in built.pairs),
        tied=tuple((one, other, path(each)) for one, other, each in built.tied),
    )


def keys(path: tuple[Any, ...], library: str, *, with_stacks: bool = False) -> tuple[Any, ...]:
    """A path as a library has it: in Linen and Haiku each layer of a list has a name."""
    found, has_lists = [], library in ("nnx", "equinox")
    for key in path:
        match key:
            case "list", index:
                found = [*found, index] if has_lists else [*found[:-1], f"{found[-1]}_{index}"]
            case "sequential", index:
                found += ["layers", index] if has_lists else [f"layers_{index}"]
            case "stack", index:
                found += [index] if with_stacks else []
            case _:
                found.append(key)
    return tuple(found)


def tree_of(values: Mapping[tuple[Any, ...], Any], library: str) -> Any:
    """Values by path as the library nests them."""
    if library == "nnx":
        return nnx.from_flat_state({path: nnx.Param(value) for path, value in values.items()})
    tree: dict[Any, Any] = {}
    for (*module, name), value in values.items():
        node, inner = tree, ["/~/".join(module) or "~"] if library == "haiku" else module
        for key in inner:
            node = node.setdefault(key, {})
        node[name] = value
    return _with_lists(tree)


def _with_lists(node: Any) -> Any:
    """A tree with lists in place of dicts by number."""
    if not isinstance(node, dict):
        return node
    node = {key: _with_lists(value) for key, value in node.items()}
    if node and all(isinstance(key, int) for key in node):
        return [node.get(index) for index in range(max(node) + 1)]
    return node


# Names that people give to layers. The name of a module says nothing of the layers inside.
NAMES = {
    "linear": ("fc", "dense", "proj", "out", "head"),
    "conv": ("conv", "stem", "down", "up", "shortcut"),
    "conv_transpose": ("up", "deconv", "conv_transpose", "upconv", "t_conv"),
    "norm": ("norm", "ln", "bn"),
    "embedding": ("embed", "wte"),
    "attention": ("attn", "self_attn"),
    "recurrent": ("rnn", "lstm"),
    "parameter": ("cls_token", "pos_embed"),
    "tied": ("lm", "text"),
    "fused": ("c_attn", "in_proj"),
    "untransposed": ("mlp", "ff"),
    "heads": ("attention", "attn"),
    "image": ("cnn", "vision"),
    "modules": ("encoder", "decoder", "block", "conv_net", "deconv_block"),
    "list": ("layers", "h", "blocks"),
    "sequential": ("net", "features", "downsample", "layers"),
    "stack": ("blocks", "layers", "h"),
}


def _size(random: Random) -> int:
    return random.choice((2, 3, 6))


def _sizes(random: Random) -> dict[str, int]:
    """Inputs and outputs, most often as many."""
    inputs = _size(random)
    return {"inputs": inputs, "outputs": random.choice((inputs, _size(random)))}


def _kernel(random: Random) -> tuple[int, ...]:
    return random.choice(((3,), (1, 1), (2, 3)))


def _whole(random: Random, layers: Mapping[str, Node]) -> Node:
    """Layers that belong together, by their names or by numbers."""
    kind = random.choice(("modules", "modules", "sequential"))
    settings = {"step": 2} if kind == "sequential" and random.random() < 0.5 else {}
    return Node(kind, settings, tuple(layers.items()), is_whole=True)


def _linear(random: Random, _: str) -> Node:
    return Node("linear", {**_sizes(random), "bias": random.random() < 0.7})


def _conv(random: Random, _: str) -> Node:
    sizes, groups = _sizes(random), random.choice((1, 1, 2))
    sizes = {key: size * groups for key, size in sizes.items()}
    if random.random() < 0.1:  # each channel for itself
        groups = sizes["outputs"] = sizes["inputs"]
    bias = random.random() < 0.7
    return Node("conv", {**sizes, "size": _kernel(random), "groups": groups, "bias": bias})


def _conv_transpose(random: Random, library: str) -> Node:
    settings = {**_sizes(random), "size": _kernel(random), "bias": random.random() < 0.7}
    if library == "equinox" and random.random() < 0.2:
        settings |= {"inputs": 4, "outputs": 4, "groups": random.choice((2, 4))}
    return Node("conv_transpose", _perhaps_as_conv(random, library, settings))


def _perhaps_as_conv(random: Random, library: str, settings: dict[str, Any]) -> dict[str, Any]:
    """With another layout at times, if it is not square: only shapes tell of that layout."""
    is_square = settings["inputs"] == settings["outputs"]
    if library in ("linen", "nnx") and not is_square and random.random() < 0.2:
        return settings | {"as_conv": True}
    return settings


def _untransposed(random: Random, _: str) -> Node:
    """Two layers, of which one is not square: only such a one tells that a model has them."""
    size, width = random.sample((2, 3, 6), 2)
    sizes = ((size, width), (width, random.choice((size, width))))
    nodes = [Node("untransposed", {"inputs": a, "outputs": b}) for a, b in sizes]
    return _whole(random, dict(zip(("c_fc", "c_proj"), nodes, strict=True)))


def _heads(random: Random, _: str) -> Node:
    """Query, key, value and what reads them in a layer each."""
    heads = {"heads": random.choice((1, 2, 3)), "depth": random.choice((1, 2, 3))}
    size = random.choice((heads["heads"] * heads["depth"], _size(random)))
    names = random.choice((("query", "key", "value", "out"), ("q_proj", "k_proj", "o_proj")))
    settings = ({"size": size, **heads, "from_heads": name[0] == "o"} for name in names)
    nodes = (Node("projection", each) for each in settings)
    return Node("modules", {}, tuple(zip(names, nodes, strict=True)))


def _fused(random: Random, _: str) -> Node:
    depth, count, others = random.choice((1, 2, 3)), *random.sample((1, 2, 4), 2)
    settings = {"size": depth * count, "depth": depth, "heads": (count, others, others)}
    kinds = {"is_conv1d": random.random() < 0.4, "has_heads": random.random() < 0.5}
    return Node("fused", settings | kinds)


def _attention(random: Random, _: str) -> Node:
    heads, depth = random.choice((1, 2, 3)), random.choice((1, 2, 3))
    settings = {"size": heads * depth, "heads": heads, "bias": random.random() < 0.8}
    if random.random() < 0.2:
        settings["other"] = heads * depth + random.randint(1, 2)
    return Node("attention", settings | ({"bias_kv": True} if random.random() < 0.05 else {}))


def _norm(random: Random, _: str) -> Node:
    if random.random() < 0.1:
        shape = random.choice(((2, 3, 3), (3, 3, 3), (2, 4, 3)))
        return Node("norm", {"kind": "layer", "size": 0, "shape": shape})
    kind = random.choice(("layer", "group", "batch"))
    rank = random.choice((0, 2)) if kind == "batch" else 0
    return Node("norm", {"kind": kind, "size": _size(random), "rank": rank})


def _recurrent(random: Random, library: str) -> Node:
    settings = {"inputs": _size(random), "hidden": _size(random)}
    if library in ("linen", "nnx") and random.random() < 0.2:
        return Node("recurrent", {"kind": "LSTM", **settings, "as_cell": True})
    kind, layers = random.choice(("LSTM", "GRU")), random.choice((1, 1, 2))
    return Node("recurrent", {"kind": kind, **settings, "layers": layers})


def _image(random: Random, library: str) -> Node:
    """Layers that make an image and read it, in one of many ways."""
    channels, shape = _size(random), random.choice(((2,), (1, 2), (2, 3), (2, 2)))
    image, flat, size = (channels, *shape), channels * math.prod(shape), _size(random)
    kind = random.choice(("conv",) * 6 + ("conv_transpose",))
    sizes = {"inputs": _size(random), "outputs": channels, "size": (3,) * len(shape)}
    if kind == "conv_transpose":
        sizes = _perhaps_as_conv(random, library, sizes)
    layers = {random.choice(NAMES[kind]): Node(kind, sizes)}
    if random.random() < 0.4:
        of_norm = {"kind": random.choice(("batch", "group")), "size": channels}
        layers["norm"] = Node("norm", of_norm | {"rank": len(shape)})
    reads = Node("linear", {"inputs": flat, "outputs": size, "image": image})
    match random.randrange(9):
        case 0 | 1 | 3:
            layers["fc"] = reads
        case 2:
            layers |= {"mu": reads, "logvar": reads}
        case 4:
            layers["squeeze"] = Node("linear", {"inputs": channels, "outputs": 2})
            layers["excite"] = Node("linear", {"inputs": 2, "outputs": channels})
            layers["fc"] = reads
        case 5:
            of_rnn = {"kind": "LSTM", "inputs": flat, "hidden": size, "image": image}
            layers["rnn"] = Node("recurrent", of_rnn)
        case 6:  # pooled
            layers["fc"] = Node("linear", {"inputs": channels, "outputs": size})
        case 7:  # flattened with the channels last in torch too
            layers["fc"] = Node("linear", {"inputs": flat, "outputs": size})
        case _:  # one that is not square shows that a convolution may be transposed
            makes = Node("linear", {"inputs": size, "outputs": flat, "onto": image})
            ups = {"inputs": channels, "outputs": channels + 1, "size": (3,) * len(shape)}
            layers = {"fc": makes, "deconv": Node("conv_transpose", ups)}
            layers["conv_out"] = Node("conv_transpose", {**ups, "inputs": channels + 1})
    return _whole(random, layers)


DRAWN: dict[str, Callable[[Random, str], Node]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "norm": _norm,
    "embedding": lambda random, _: Node(
        "embedding", {"count": _size(random), "size": _size(random)}
    ),
    "attention": _attention,
    "recurrent": _recurrent,
    "parameter": lambda random, _: Node(
        "parameter", {"shape": random.choice(((3,), (1, 1, 3), (2, 2), (1, 3, 2)))}
    ),
    "tied": lambda random, _: Node(
        "tied",
        {"count": _size(random), "size": _size(random), "head_first": random.random() < 0.3},
    ),
    "fused": _fused,
    "untransposed": _untransposed,
    "heads": _heads,
    "image": _image,
}


def draw(seed: int) -> Architecture:
    """The architecture of a seed. Its last layer keeps both sides comparable."""
    random = Random(seed)
    library = random.choice(list(LIBRARIES))
    kinds = random.sample(list(DRAWN), random.randint(2, 6))
    prefixes = ("", "", "", "module", "_orig_mod", "model", "module._orig_mod.model")
    torch_prefix = random.choice(prefixes)
    prefix = () if torch_prefix or random.random() < 0.8 else ("model",)
    root = _modules(random, library, kinds, 2)
    last = ("final", Node("norm", {"kind": "layer", "size": 5}))
    root = root._replace(children=(*root.children, last))
    return Architecture(library, torch_prefix, prefix, root)


def _modules(random: Random, library: str, kinds: list[str], depth: int) -> Node:
    """A module with one to three others, of which one may have another name in the twin."""
    children: dict[str, Node] = {}
    for _ in range(random.randint(1, 3)):
        kind, node = _node(random, library, kinds, depth)
        name = random.choice(NAMES[kind])
        children[f"{name}{len(children)}" if name in children else name] = node
    renamed = [name for name, node in children.items() if node.kind != "parameter"]
    twins = {random.choice(renamed): "other"} if renamed and random.random() < 0.05 else {}
    return Node("modules", {"twins": twins} if twins else {}, tuple(children.items()))


def _node(random: Random, library: str, kinds: list[str], depth: int) -> tuple[str, Node]:
    """A layer or a module of others, and of which kind it is for its name."""
    if depth == 0 or random.random() < 0.7:
        kind = random.choice(kinds)
        return kind, DRAWN[kind](random, library)
    form = random.choice(("modules", "modules", "list", "sequential", "stack"))
    if form == "modules" or (form == "stack" and library == "haiku"):
        return "modules", _modules(random, library, kinds, depth - 1)
    kinds = [kind for kind in kinds if kind != "tied"]
    count = random.randint(1, 3)
    nodes = [_node(random, library, kinds, depth - 1)[1] for _ in range(count)]
    nodes = nodes[:1] * count if form == "stack" else nodes
    nodes = [
        Node("modules", {}, (("inner", node),))
        if node.kind in ("parameter", "stack", "list")
        else node
        for node in nodes
    ]
    settings = {"step": 2} if form == "sequential" and random.random() < 0.5 else {}
    return form, Node(form, settings, tuple((str(i), node) for i, node in enumerate(nodes)))
