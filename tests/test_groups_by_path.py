"""`label_by_path`: which rule gives a parameter its label."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from adadelta_jax import (
    adadelta,
    label_by_path,
    param_groups,
)
from tests.grouped_parameters import LABELS, PARAMS, PATHS, without_body


def test_the_first_rule_found_anywhere_in_the_path_decides():
    labels = label_by_path({"^head": "a", "bias": "b", "kernel$": "c"}, default="d")
    expected = {"body": [{"bias": "b", "kernel": "c"}, {"kernel": "c"}], "head": {"kernel": "a"}}
    assert labels(PARAMS) == expected
    assert label_by_path({"dy/1/k": "a"}, "b")(PARAMS)["body"][1] == {"kernel": "a"}
    assert label_by_path({}, "a")(PARAMS)["head"] == {"kernel": "a"}


def test_where_there_is_no_gradient_it_is_labelled_as_its_parameter_is():
    labels = label_by_path({"^body/0": "a", "^head": "b"}, default="c")
    assert labels(without_body(PARAMS)) == labels(PARAMS)


def test_labels_by_path_serve_optax_partition_too():
    transforms = {"slow": optax.sgd(0.1), "fast": adadelta()}
    states = [
        optax.partition(transforms, LABELS[k]).init(PARAMS) for k in ("label_by_path", "tree")
    ]
    chex.assert_trees_all_equal(*states)


def test_an_nnx_state_is_labelled_by_the_names_of_its_modules():
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = param_groups({"b": None, "rest": {}}, label_by_path({"^bias": "b"}, "rest"))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert jnp.all(updates["bias"].get_value() == 0)
    assert jnp.all(updates["kernel"].get_value() < 0)


@pytest.mark.parametrize(
    ("rules", "default", "error", "message"),
    [
        (["a"], "x", TypeError, "rules must map regular expressions to labels, got ['a']"),
        ({"a": None}, "x", TypeError, "rules: the label of 'a' must be a string, got None"),
        ({3: "a"}, "x", TypeError, "rules: a regular expression must be a string, got 3"),
        ({"a": "x"}, None, TypeError, "default must be a label, a string, got None"),
        (
            {"a": "x", "b(": "x"},
            "x",
            ValueError,
            "rules: 'b(' is not a regular expression: missing ), unterminated subpattern at "
            "position 1",
        ),
    ],
)
def test_wrong_rules_are_named_at_once(rules, default, error, message):
    with pytest.raises(error) as raised:
        label_by_path(rules, default)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"tail": "a"}, f"rules: 'tail' matches no parameter: there are {', '.join(PATHS)}"),
        (
            {"kernel": "a", "^head/kernel": "b"},
            "rules: '^head/kernel' only matches parameters that an earlier rule has labelled: "
            "put the more specific rule first",
        ),
    ],
)
def test_a_rule_that_labels_nothing_is_named(rules, message):
    with pytest.raises(ValueError, match="rules") as error:
        label_by_path(rules, "x")(PARAMS)
    assert str(error.value) == message
