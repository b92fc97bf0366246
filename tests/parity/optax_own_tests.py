"""Runs Optax's tests of Adadelta on this package: python -m tests.parity.optax_own_tests MODULE.

MODULE is a test module that Optax ships, such as optax._src.alias_test. Only its cases of Adadelta
are made, with this package in the place of Optax's Adadelta. They get the name "adadelta_jax",
because for "adadelta" they skip complex parameters and a missing learning rate.
Prints the outcome of each case as JSON: null if it passed, otherwise why it did not.
"""

import importlib
import json
import re
import sys
import unittest

import jax
import optax
from absl.testing import parameterized
from optax._src import alias, transform
from packaging.version import Version

import adadelta_jax

MODULES = ("optax._src.alias_test", "optax._src.sharding_test", "optax._src.transform_test")


class ComparableVersion(str):
    """A version that compares as one; as text, by which Optax skips tests, 0.10 is below 0.7."""

    __slots__ = ()

    def __lt__(self, other):
        return Version(self) < Version(other)


def substitute_adadelta():
    """Put this package's Adadelta wherever a test module looks for Optax's."""
    alias.adadelta_jax = alias.adadelta = optax.adadelta = adadelta_jax.adadelta
    transform.scale_by_adadelta = optax.scale_by_adadelta = adadelta_jax.scale_by_adadelta
    jax.__version__ = ComparableVersion(jax.__version__)


def keep_only_adadelta():
    """Make absl leave out the cases of other optimizers, and return the list of tests kept."""
    product, named_parameters = parameterized.product, parameterized.named_parameters
    kept = []

    def keep(ours, decorate):
        def decorate_if_any(test):
            if not ours:
                return None  # absl takes only functions for tests
            kept.append(test.__name__)
            return decorate(test)

        return decorate_if_any

    def product_of_adadelta(*tables, **axes):
        cases = (case for table in tables for case in table)
        ours = [
            {**case, "opt_name": "adadelta_jax"} for case in cases if case["opt_name"] == "adadelta"
        ]
        return keep(ours, lambda test: product(ours, **axes)(test))

    def named_parameters_of_adadelta(*cases):
        cases = cases[0] if len(cases) == 1 else cases
        ours = [case for case in cases if case[0] == "adadelta"]
        return keep(ours, lambda test: named_parameters(*ours)(test))

    parameterized.product = product_of_adadelta
    parameterized.named_parameters = named_parameters_of_adadelta
    return kept


def run(module_name):
    """The outcome of each case of Adadelta in a test module of Optax."""
    substitute_adadelta()
    kept = keep_only_adadelta()
    module = importlib.import_module(module_name)
    classes = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, unittest.TestCase)
    ]
    suite = unittest.TestSuite(
        cls(name)
        for cls in classes
        for name in unittest.TestLoader().getTestCaseNames(cls)
        if re.sub(r"(_adadelta|\d+)$", "", name) in kept
    )
    cases = [case_name(test) for test in suite]
    result = unittest.TestResult()
    suite.run(result)
    outcomes = dict.fromkeys(cases)
    for test, reason in (*result.failures, *result.errors, *result.skipped):
        outcomes[case_name(getattr(test, "test_case", test))] = reason
    return outcomes


def case_name(test):
    """The test's name and parameters, with no address in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", test.id())


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1]), indent=2))
