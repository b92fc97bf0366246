"""Parameters in groups, with gradients and labels, and steps with them."""

import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import label_by_path

PATHS = ("body/0/bias", "body/0/kernel", "body/1/kernel", "head/kernel")
SETTINGS = {"rho": 0.95, "eps": 1e-4, "weight_decay": 0.1}


def random_tree(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    bias, kernel, second, head = (jax.random.normal(key, (2, 3), dtype) for key in keys)
    return {
        "body": [{"bias": bias, "kernel": kernel}, {"kernel": second}],
        "head": {"kernel": head},
    }


PARAMS = random_tree(0)
GRADS = [random_tree(seed) for seed in range(1, 7)]


def label(path, _):
    return "fast" if path[0].key == "head" else "slow"


# The same labels as a prefix, as a tree like the parameters and as two functions.
LABELS = {
    "prefix": {"body": "slow", "head": "fast"},
    "tree": jax.tree.map_with_path(label, PARAMS),
    "function": lambda params: jax.tree.map_with_path(label, params),
    "label_by_path": label_by_path({"^head/": "fast"}, default="slow"),
}
each_kind_of_labels = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


def steps(optimizer, state, gradients, params=PARAMS):
    """The updates of each of `gradients` in turn, and the last state."""
    all_updates = []
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        all_updates.append(updates)
    return all_updates, state


def without_body(grads):
    return {**grads, "body": jax.tree.map(lambda _: None, grads["body"])}


def group_states(state):
    """The Adadelta states of the groups "slow" and "fast"."""
    return [adadelta_states(state.inner_states[label])[0] for label in ("slow", "fast")]


def adadelta_states(state):
    return [found for _, found in optax.tree.get_all_with_path(state, "ScaleByAdadeltaState")]
