"""Run Optax's own tests, as its wheel ships them, on this package's adadelta instead of Optax's.

In a process of its own, since one of them asks for eight devices when it is imported. Prints a JSON
list with the name, the parameters and the outcome of every case: "passed", "skipped", or an error.
"""

import ast
import importlib.util
import json
import sys
import types
import unittest

import jax
import optax
from optax._src import alias, transform

import adadelta_jax

# Optax's tests skip cases by the name "adadelta"; under this one, none is skipped.
alias.adadelta_jax = adadelta_jax.adadelta
ALIAS_CASES = [
    {"opt_name": "adadelta_jax", "opt_kwargs": kwargs} for kwargs in ({"learning_rate": 0.1}, {})
]
transform.scale_by_adadelta = adadelta_jax.scale_by_adadelta
optax.adadelta = adadelta_jax.adadelta


def load(name: str, **replaced: object) -> types.ModuleType:
    """The module, with other values where its top level assigns to the names in `replaced`."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin) as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in replaced:
            node.value = ast.parse(repr(replaced[ast.unparse(node.targets[0])]), mode="eval").body
    module = types.ModuleType(name)
    module.__file__ = spec.origin
    sys.modules[name] = module
    exec(compile(tree, spec.origin, "exec"), module.__dict__)
    return module


class Outcomes(unittest.TestResult):
    """The first outcome that is not a pass, of every case; its parts count as the case."""

    def __init__(self):
        super().__init__()
        self.by_case = {}

    def startTest(self, test):  # noqa: N802
        super().startTest(test)
        self.by_case[test.id()] = {"name": str(test), "outcome": "passed"}

    def _note(self, test, outcome):
        case = self.by_case[getattr(test, "test_case", test).id()]
        if case["outcome"] == "passed":
            case["outcome"] = outcome

    def addError(self, test, err):  # noqa: N802
        self._note(test, f"{err[0].__name__}: {err[1]}")

    addFailure = addError  # noqa: N815

    def addSubTest(self, test, subtest, err):  # noqa: N802
        if err is not None:
            self.addError(subtest, err)

    def addSkip(self, test, reason):  # noqa: N802
        self._note(test, f"skipped: {reason}")


def main() -> None:
    """Run the cases that name adadelta and print their outcomes."""
    loader = unittest.defaultTestLoader
    sharding = load("optax._src.sharding_test").ShardingTest
    aliases = load("optax._src.alias_test", _OPTIMIZERS_UNDER_TEST=ALIAS_CASES).AliasTest
    transforms = load("optax._src.transform_test").TransformTest
    # Optax compares versions as strings, by which "0.10.2" comes before "0.7.2" and is skipped.
    jax.__version__ = "9"
    suite = unittest.TestSuite()
    for case in (sharding, aliases, transforms):
        for name in loader.getTestCaseNames(case):
            test = case(name)
            if "adadelta" in f"{name} {test.shortDescription() or ''} {test}":
                suite.addTest(test)
    outcomes = Outcomes()
    suite.run(outcomes)
    print(json.dumps(list(outcomes.by_case.values())))


if __name__ == "__main__":
    main()
