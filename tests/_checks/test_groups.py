"""Groups, labels and rules that cannot work are refused by name."""

import inspect
import re

import jax.numpy as jnp

from adadelta_jax import adadelta, label_by_path, param_groups
from tests.grouped_parameters import LABELS, PARAMS, PATHS
from tests.refusals import assert_refused, each_refusal

KEYWORDS = ", ".join(inspect.signature(adadelta).parameters)
A_GROUP = "must be a mapping of adadelta's keywords to values, or None to freeze it, got"


def make(groups, labels="slow"):
    return lambda: param_groups(groups, labels)


GROUPS = {
    "no groups": (
        make(None),
        TypeError,
        "groups must be a mapping from labels to settings, got None",
    ),
    "a list of groups": (
        make([1]),
        TypeError,
        "groups must be a mapping from labels to settings, got [1]",
    ),
    "an empty mapping": (make({}), ValueError, "groups must have a label at least, got {}"),
    "a number as a label": (
        make({1: {}}),
        TypeError,
        "groups: a label must be a string, got 1",
    ),
    "a number as a group": (make({"slow": 0.1}), TypeError, f"group 'slow' {A_GROUP} 0.1"),
    "a number as a group after a frozen one": (
        make({"frozen": None, "slow": 3}),
        TypeError,
        f"group 'slow' {A_GROUP} 3",
    ),
    "a keyword of torch": (
        make({"slow": {"lr": 0.1, "rho": 0.9}}),
        TypeError,
        f"group 'slow' has 'lr', which adadelta does not take: it takes {KEYWORDS}",
    ),
    "an unknown keyword after a frozen group": (
        make({"frozen": None, "slow": {"momentum": 0.9}}),
        TypeError,
        f"group 'slow' has 'momentum', which adadelta does not take: it takes {KEYWORDS}",
    ),
    "a number as a keyword": (
        make({"slow": {1: 2}}),
        TypeError,
        f"group 'slow' has 1, which adadelta does not take: it takes {KEYWORDS}",
    ),
    "a setting out of range": (
        make({"slow": {"rho": 1.5}}),
        ValueError,
        "group 'slow': rho must lie in [0, 1], got 1.5",
    ),
    "a setting of the wrong type": (
        make({"slow": {"eps": "1"}}),
        TypeError,
        "group 'slow': eps must be a number or a 0-d array, got '1'",
    ),
}

SLOW_AND_FAST = {"slow": {}, "fast": None}
WRONG_LABELS = {
    "a label without a group": (
        {"body": "slow", "head": "fats"},
        ValueError,
        "no group for the label 'fats' of head/kernel: the groups are 'slow', 'fast'",
    ),
    "a group without a parameter": (
        "slow",
        ValueError,
        "group 'fast' has no parameter: the parameters' labels are 'slow'",
    ),
    "a number for a branch": (
        {"body": "slow", "head": 3},
        TypeError,
        "the label of head must be a string, got 3",
    ),
    "bytes": (b"slow", TypeError, "the label of the parameter must be a string, got b'slow'"),
    "None": (
        None,
        ValueError,
        f"the labels do not match the parameters: they lack {', '.join(PATHS)}",
    ),
    "a branch too few": (
        {"body": "slow"},
        ValueError,
        "the labels do not match the parameters: they lack head/kernel",
    ),
    "a branch too many": (
        {"body": "slow", "head": "fast", "tail": "fast"},
        ValueError,
        "the labels do not match the parameters: they have tail, which the parameters lack",
    ),
}


def init(labels):
    return lambda: param_groups(SLOW_AND_FAST, labels).init(PARAMS)


def update_body_alone():
    optimizer = param_groups(SLOW_AND_FAST, LABELS["prefix"])
    return optimizer.update({"body": PARAMS["body"]}, optimizer.init(PARAMS), PARAMS)


LABELLINGS = {
    **{f"labels: {name}": (init(row[0]), *row[1:]) for name, row in WRONG_LABELS.items()},
    **{
        f"a function that returns labels: {name}": (init(lambda _, labels=row[0]: labels), *row[1:])
        for name, row in WRONG_LABELS.items()
    },
    "gradients of another tree": (
        update_body_alone,
        ValueError,
        "the labels do not match the gradients: they have head, which the gradients lack",
    ),
}


def label(rules, default="rest", params=PARAMS):
    return lambda: label_by_path(rules, default)(params)


REPETITION, PARENTHESES = "a{99999999999}", "(" * 5000 + ")" * 5000
NOT_AN_EXPRESSION = "is not a regular expression: .+"
RULES = {
    "a list of rules": (
        label(["a"]),
        TypeError,
        "rules must map regular expressions to labels, got ['a']",
    ),
    **{
        f"{default!r} as the default": (
            label({"bias": "a"}, default),
            TypeError,
            f"default must be a label, a string, got {default!r}",
        )
        for default in (None, 3, ("a",))
    },
    **{
        f"{value!r} as a label": (
            label({"bias": value}),
            TypeError,
            f"rules: the label of 'bias' must be a string, got {value!r}",
        )
        for value in (None, 3, ("a",))
    },
    **{
        f"{expression!r} as an expression": (
            label({expression: "a"}),
            TypeError,
            f"rules: a regular expression must be a string, got {expression!r}",
        )
        for expression in (3, b"x")
    },
    "a parenthesis that stays open": (
        label({"a": "x", "b(": "x"}),
        ValueError,
        re.compile(rf"rules: 'b\(' {NOT_AN_EXPRESSION}"),
    ),
    "a repetition past all numbers": (
        label({REPETITION: "x"}),
        ValueError,
        re.compile(f"rules: {re.escape(repr(REPETITION))} {NOT_AN_EXPRESSION}"),
    ),
    "parentheses past all depth": (
        label({PARENTHESES: "x"}),
        ValueError,
        f"rules: {PARENTHESES!r} is nested too deeply",
    ),
    "a rule that matches nothing": (
        label({"tail": "a"}),
        ValueError,
        f"rules: 'tail' matches no parameter: there are {', '.join(PATHS)}",
    ),
    "a rule that matches no bare array": (
        label({"kernel": "a"}, params=jnp.ones(())),
        ValueError,
        "rules: 'kernel' matches no parameter: there are the parameter",
    ),
    "a rule after a more general one": (
        label({"kernel": "a", "^head/kernel": "b"}),
        ValueError,
        "rules: '^head/kernel' only matches parameters that an earlier rule has labelled: "
        "put the more specific rule first",
    ),
}


@each_refusal(GROUPS | LABELLINGS | RULES)
def test_wrong_groups_are_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
