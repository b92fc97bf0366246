"""States that are not whole are refused, in words that say what is wrong with them."""

import jax.numpy as jnp
import pytest

from adadelta_jax import scale_by_adadelta
from adadelta_jax.diagnostics import effective_learning_rate

OPTIMIZER = scale_by_adadelta()
PARAMS = [jnp.ones(2), jnp.ones(3)]
STATE = OPTIMIZER.init(PARAMS)


@pytest.mark.parametrize("count", [None, "text", (jnp.int32(1), "text"), 1.0, [1, 2], jnp.ones(())])
def test_a_count_that_is_no_integer_is_refused(count):
    with pytest.raises(ValueError, match="count") as error:
        OPTIMIZER.update(PARAMS, STATE._replace(count=count))
    assert str(error.value) == f"the count of state must be an integer scalar, got {count!r}"


@pytest.mark.parametrize("field", ["square_avg", "acc_delta"])
def test_an_average_that_is_no_array_is_refused(field):
    state = STATE._replace(**{field: [jnp.ones(2), "text"]})
    with pytest.raises(TypeError, match="array") as error:
        OPTIMIZER.update(PARAMS, state)
    assert str(error.value) == f"{field} of 1 must be an array, got str"


@pytest.mark.parametrize(
    ("field", "other"), [("square_avg", "acc_delta"), ("acc_delta", "square_avg")]
)
def test_averages_of_one_kind_alone_are_named_in_order(field, other):
    names = ["g", "c", "f", "a", "h", "b", "e", "d"]
    whole = OPTIMIZER.init({name: jnp.ones(2) for name in [*names, "i"]})
    state = whole._replace(**{other: {"i": jnp.ones(2)}})
    with pytest.raises(ValueError, match="but no") as error:
        effective_learning_rate(state)
    assert str(error.value) == f"opt_state holds {field} of a, b, c, d, e, f, g, h, but no {other}"


def test_averages_of_the_same_names_in_other_trees_are_refused():
    with pytest.raises(ValueError, match="match") as error:
        OPTIMIZER.update(PARAMS, STATE._replace(acc_delta=tuple(STATE.acc_delta)))
    assert str(error.value) == (
        "the arrays of acc_delta do not match the arrays of square_avg: "
        "they are a PyTreeDef((*, *)), the arrays of square_avg a PyTreeDef([*, *])"
    )


def test_averages_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shape") as error:
        OPTIMIZER.update(PARAMS, STATE._replace(acc_delta=[jnp.ones(2), jnp.ones(4)]))
    assert str(error.value) == "acc_delta of 1 has shape (4,), but square_avg has shape (3,)"
