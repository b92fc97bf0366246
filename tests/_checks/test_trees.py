"""The leaves of parameter trees, their names in messages, and where two trees differ."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import sparse

from adadelta_jax._checks.trees import (
    difference,
    leaves_with_path,
    listed,
    nth_path,
    path_name,
    prefix_difference,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (1, "0"),
        (8, "0, 1, 2, 3, 4, 5, 6, 7"),
        (9, "0, 1, 2, 3, 4, 5, 6, 7 and 1 more"),
        (20, "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"),
    ],
)
def test_the_first_eight_names_are_listed_and_the_others_counted(count, text):
    assert listed(map(str, range(count))) == text


def test_a_path_is_named_as_users_write_it():
    tree = {"dense": {"kernel": 1}, "layers": [2, (3, 4)]}
    names = [path_name(path) for path, _ in leaves_with_path(tree)]
    assert names == ["dense/kernel", "layers/0", "layers/1/0", "layers/1/1"]
    assert [nth_path(tree, index) for index in range(4)] == names
    assert path_name(()) == "the parameter"


def test_none_and_sparse_arrays_are_leaves_of_a_gradient():
    grads = {"a": None, "b": sparse.BCOO.fromdense(jnp.eye(2)), "c": 1.0}
    assert [path_name(path) for path, _ in leaves_with_path(grads)] == ["a", "b", "c"]


def test_the_difference_of_two_trees_says_what_is_missing_and_what_is_too_much():
    assert difference("gradients", {"a": 1, "c": 2}, "parameters", {"a": 1, "b": 2}, " (hint)") == (
        "the gradients do not match the parameters: they lack b (hint) and they have c, which the "
        "parameters lack"
    )


def test_trees_of_the_same_names_differ_in_their_structures():
    assert difference("gradients", [1, 2], "parameters", (1, 2)) == (
        "the gradients do not match the parameters: they are a PyTreeDef([*, *]), the parameters "
        "a PyTreeDef((*, *))"
    )


def test_a_prefix_that_covers_a_branch_lacks_nothing_of_it():
    params = {"a": {"b": 1, "c": 2}, "d": {"e": 3}}
    assert prefix_difference("labels", {"a": "x", "d": {"f": "y"}}, "parameters", params) == (
        "the labels do not match the parameters: they lack d/e and they have d/f, which the "
        "parameters lack"
    )
    with pytest.raises(ValueError, match="prefix"):
        jax.tree.broadcast({"a": "x", "d": {"f": "y"}}, params)
