"""Names of torch and paths of parameters in one spelling, without what wraps a whole model."""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence

# What DistributedDataParallel, torch.compile, FSDP and checkpointing put into names.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PREFIX = "module"

Module = tuple[str, ...]


def module_and_leaf(name: str) -> tuple[Module, str]:
    """The module of a torch name or a path, in one spelling for both, and its last part."""
    *module, leaf = re.split("[./]", name)
    module = [part for part in module if part not in (*_WRAPPERS, "~")]  # "~" is Haiku's
    while module[:1] == [_PREFIX]:
        module = module[1:]
    return tuple(module), leaf


def spelled(module: Module) -> str:
    """A module as one word: "layers_0" is "layers/0", and the "0" of a Sequential "layers_0"."""
    return re.sub(r"(^|_)(layers_)+(?=\d+(_|$))", r"\1", "_".join(module))


def common_prefix(modules: Iterable[Module]) -> Module:
    """The names of the modules around all of these."""
    columns = zip(*modules, strict=False)
    same = itertools.takewhile(lambda names: len(set(names)) == 1, columns)
    return tuple(names[0] for names in same)


def lengths_to_strip(modules: Sequence[Module], others: Sequence[Module]) -> tuple[int, int]:
    """How many modules around all of one side, or of the other, to leave out so that most pair."""

    def pairs(lengths):
        ours, theirs = (
            {spelled(module[length:]) for module in side}
            for side, length in zip((modules, others), lengths, strict=True)
        )
        return len(ours & theirs)

    longest = (len(common_prefix(side)) for side in (modules, others))
    ours, theirs = (range(length + 1) for length in longest)
    candidates = [*((length, 0) for length in ours), *((0, length) for length in theirs)]
    return max(candidates, key=lambda lengths: (pairs(lengths), -sum(lengths)))


def aligned(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """The names of a checkpoint by those of a mapping, which may have other modules around all."""
    if not names or not known or set(names) & set(known):
        return {name: name for name in names}
    split, known_split = (list(map(module_and_leaf, each)) for each in (names, known))
    modules, known_modules = ([module for module, _ in each] for each in (split, known_split))
    length, known_length = lengths_to_strip(modules, known_modules)
    by_key = {
        (module[known_length:], leaf): name
        for name, (module, leaf) in zip(known, known_split, strict=True)
    }
    return {
        name: by_key.get((module[length:], leaf), name)
        for name, (module, leaf) in zip(names, split, strict=True)
    }
