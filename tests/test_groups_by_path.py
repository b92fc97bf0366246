"""`label_by_path`: which rule gives a parameter its label."""

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from adadelta_jax import adadelta, label_by_path, param_groups
from tests.grouped_parameters import LABELS, PARAMS, without_body


def test_the_first_rule_whose_expression_is_found_in_the_path_gives_the_label():
    labels = label_by_path({"^head": "a", "bias": "b", "kernel$": "c"}, default="d")
    expected = {"body": [{"bias": "b", "kernel": "c"}, {"kernel": "c"}], "head": {"kernel": "a"}}
    assert labels(PARAMS) == expected
    assert label_by_path({"dy/1/k": "a"}, "b")(PARAMS)["body"][1] == {"kernel": "a"}
    assert label_by_path({}, "a")(PARAMS)["head"] == {"kernel": "a"}


def test_a_gradient_of_none_is_labelled_as_its_parameter_is():
    labels = label_by_path({"^body/0": "a", "^head": "b"}, default="c")
    assert labels(without_body(PARAMS)) == labels(PARAMS)


def test_labels_by_path_work_in_optax_partition_too():
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
