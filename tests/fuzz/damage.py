"""Random damage to input: state dicts, checkpoint files, regular expressions.

Each case ends in a right result or in a clear error.
"""

import contextlib
import io
import math
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from adadelta_jax import label_by_path
from adadelta_jax.torch_interop import LeafLayout, params_from_torch, params_to_torch
from tests.clear_errors import is_clear, origin
from tests.fuzz.loading import checkpoint, load

torch = pytest.importorskip("torch")

SECONDS = 10.0  # far more than a case takes that ends by itself


class TimeIsUpError(Exception):
    """A case was interrupted."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Within this context, code that takes longer is interrupted, as by Ctrl-C."""

    def interrupt(*_):
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def odd_value(random: np.random.Generator, root: Any) -> Any:
    """A value that is wrong in most places of a checkpoint."""
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    dtype = random.choice(["f2", "f4", "f8", "i4", "u1", "?", "c8", "g", "O", "U3", "M8[s]"])
    shape = ((), (1,), (2,), (3,), (2, 3), (3, 2), (0,), (2, 0), (1, 2, 3))[random.integers(9)]
    values: list[Callable[[], Any]] = [
        *(lambda value=value: value for value in (None, True, False, 0, 1, -1, 2**31, 10**400)),
        *(lambda value=value: value for value in (0.5, -0.5, 1e300, 1e-320, 1j, math.nan)),
        *(lambda value=value: value for value in (math.inf, -math.inf, "", "lr", "ü\0", b"x")),
        *(lambda value=value: value for value in ([], {}, (), [0], (2, 3), {"lr": 1}, print)),
        object,
        lambda: cyclic,
        lambda: root,
        lambda: np.ones(shape).astype(dtype),
        lambda: np.full(shape, random.choice([math.nan, math.inf, 1e38, -1.0]), np.float32),
        lambda: torch.ones(shape, dtype=random.choice([torch.float16, torch.float64, torch.int8])),
        lambda: torch.ones(shape, dtype=torch.bfloat16),
        lambda: torch.ones(shape).to(torch.float8_e4m3fn),
        lambda: torch.ones(shape, device="meta"),
        lambda: torch.ones(2, 3).to_sparse(),
        lambda: torch.ones(shape, requires_grad=True),
        lambda: torch.ones(3, 2).T,
        lambda: jnp.ones(shape),
        lambda: jax.ShapeDtypeStruct(shape, jnp.float32),
    ]
    return values[random.integers(len(values))]()


def damage(random: np.random.Generator, root: Any) -> None:
    """Change one value or key in a tree of dicts and lists, in place."""
    places = [(node, key) for node in _containers(root) for key in _keys(node)]
    node, key = places[random.integers(len(places))]
    match random.integers(6):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            odd_keys = (None, 0, 7, "", "fc.weight", "momentum", "step", (1,), 1.5, b"lr")
            node[odd_keys[random.integers(len(odd_keys))]] = node[key]
        case 2:
            other, other_key = places[random.integers(len(places))]
            node[key], other[other_key] = other[other_key], node[key]
        case 3 if isinstance(node, list):
            node.append(odd_value(random, root) if random.random() < 0.5 else node[key])
        case _:
            node[key] = odd_value(random, root)


def _keys(node: Any) -> list[Any]:
    return list(node) if isinstance(node, dict) else list(range(len(node)))


def _containers(node: Any) -> list[Any]:
    """The dicts and lists of a tree that are not empty, each once."""
    found: dict[int, Any] = {}

    def visit(node):
        if isinstance(node, (dict, list)) and node and id(node) not in found:
            found[id(node)] = node
            for key in _keys(node):
                visit(node[key])

    visit(node)
    return list(found.values())


def damaged_state_dicts(random: np.random.Generator) -> None:
    """Damage a checkpoint in memory, at one to three places, and load it."""
    model, root = checkpoint(random)
    parts = [root["optimizer"]] * 6 + [root["model"]] * 3 + [root.get("lr_scheduler")] * 3
    part = random.choice(np.array([each for each in parts if each], object))
    for _ in range(random.integers(1, 4)):
        if not part:
            break
        damage(random, part)
    if random.random() < 0.1:  # a whole file, where a part of it is wanted
        key = ("model", "optimizer")[random.integers(2)]
        root[key] = {"epoch": 3, key: root[key]}
    load(model, root, random.random() < 0.5)


ODD_FIELDS = (
    *((1, 0), (0, 1), (1, 0, 2), (0,), (1,), (2, 2), (4, 2), (None, 1)),
    *(((0, 2),), ((1, 3),), None, "fc"),
)


def damaged_mapping(random: np.random.Generator) -> None:
    """Damage a mapping, which is refused, or leads there and back without loss."""
    model, root = checkpoint(random)
    mapping = {
        name: list(entry) if type(entry) is tuple else [entry]
        for name, entry in model.mapping.items()
    }
    layouts = mapping[list(mapping)[random.integers(len(mapping))]]
    index, field = random.integers(len(layouts)), LeafLayout._fields[random.integers(7)]
    match random.integers(4):
        case 0:
            del layouts[index]
        case 1:
            layouts.append(layouts[index])
        case _:
            own = [getattr(layout, field) for entry in mapping.values() for layout in entry]
            values = [*own, *ODD_FIELDS]
            value = values[random.integers(len(values))]
            layouts[index] = layouts[index]._replace(**{field: value})
    params = params_from_torch(root["model"], model.template, mapping)
    for name, tensor in params_to_torch(params, mapping).items():
        np.testing.assert_array_equal(tensor, root["model"][name], err_msg=name)


def damaged_torch_file(random: np.random.Generator) -> None:
    """Damage the bytes of a checkpoint, and load it as the documents say."""
    file, (model, sound) = io.BytesIO(), checkpoint(random)
    torch.save(sound, file)
    with _readers_own_errors() as refused:
        root = torch.load(io.BytesIO(_damaged(random, file.getvalue())), weights_only=True)
        root = {key: root[key] for key in sound}
    if not refused:
        load(model, root, random.random() < 0.5)


def damaged_safetensors(random: np.random.Generator) -> None:
    """Damage the bytes of a file of weights, and load it as the documents say."""
    model, root = checkpoint(random)
    weights = {name: tensor.numpy() for name, tensor in root["model"].items()}
    with _readers_own_errors() as refused:
        root["model"] = safetensors.numpy.load(_damaged(random, safetensors.numpy.save(weights)))
    if not refused:
        load(model, root, random.random() < 0.5)


@contextlib.contextmanager
def _readers_own_errors() -> Iterator[list[Exception]]:
    """Within this context, another package reads a file, and may refuse it in its own words."""
    refused: list[Exception] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield refused
        except TimeIsUpError:
            raise
        except Exception as error:
            refused.append(error)


def _damaged(random: np.random.Generator, content: bytes) -> bytes:
    """Bytes cut short, or up to eight of them changed."""
    if random.random() < 0.2:
        return content[: random.integers(len(content))]
    changed = bytearray(content)
    for place in random.integers(len(content), size=random.integers(1, 9)):
        changed[place] = random.integers(256)
    return bytes(changed)


TOKENS = (
    *"aab/k.^$()[]*+?|\\{}",
    *(
        "(?:",
        "(?=",
        "(?<=",
        "(?!",
        "(?i)",
        "(?P<n>",
        "(?P=n)",
        "\\1",
        "\\d",
        "\\b",
        "[^/]",
        "[a-z]",
    ),
    *("{2}", "{3,1}", "{,5}", "{99999999999}", "(a+)+", "(a|a)*", "([a-z/]+)*", "\0", "é", "[["),
)


def random_rules(random: np.random.Generator) -> None:
    """Label random paths by random expressions, valid or not."""

    def text(tokens, longest):
        return "".join(random.choice(tokens, size=random.integers(1, longest)))

    params = {
        text(list("aaabk0_"), 30): {text(list("aaabk0_"), 30): jnp.zeros(())} for _ in range(3)
    }
    rules = {text(TOKENS, 7): f"label {i}" for i in range(random.integers(1, 3))}
    labels = label_by_path(rules, "rest")(params)
    for module, leaves in params.items():
        for leaf in leaves:
            applying = [rule for rule in rules if re.search(rule, f"{module}/{leaf}")]
            expected = rules[applying[0]] if applying else "rest"
            assert labels[module][leaf] == expected, f"{module}/{leaf}: {labels[module][leaf]}"


KINDS = (
    *(damaged_state_dicts,) * 4,
    damaged_mapping,
    *(random_rules,) * 3,
    damaged_torch_file,
    damaged_safetensors,
)


def run_case(seed: int) -> str:
    """Run the case of a seed; raise unless it ends as it should. Returns how it ended."""
    kind = KINDS[seed % len(KINDS)]
    try:
        with warnings.catch_warnings(), interrupted_after(SECONDS):
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Possible (nested set|set )", FutureWarning)
            kind(np.random.default_rng([seed, 2]))
    except AssertionError as error:
        message = f"{kind.__name__}: {type(error).__name__}: {error}"
        raise AssertionError(message) from error
    except TimeIsUpError:
        # Some expressions take Python's `re` for ever. They are the user's, and Ctrl-C ends them.
        if kind is not random_rules:
            raise AssertionError(f"{kind.__name__}: not done after {SECONDS} s") from None
        return "interrupted"
    except Exception as error:
        if not is_clear(error):
            message = f"{kind.__name__}: {origin(error)}: {error}"
            raise AssertionError(message) from error
        return "clear error"
    return "right result"
