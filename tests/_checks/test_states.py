"""States that are incomplete, or hold no accumulators to use, are refused by name."""

import jax.numpy as jnp
import optax

from adadelta_jax import adadelta, carry_over_state, param_groups, scale_by_adadelta
from adadelta_jax.diagnostics import effective_learning_rate
from tests.refusals import OPTIMIZER, PARAMS, SCALE_STATE, STATE, assert_refused, each_refusal

LIST = [jnp.ones(2), jnp.ones(3)]
LIST_STATE = scale_by_adadelta().init(LIST)


def update(**fields):
    """A step with a state of two parameters in a list, some of whose fields are replaced."""
    return lambda: scale_by_adadelta().update(LIST, LIST_STATE._replace(**fields))


STEPS = {
    **{
        f"a count of {count!r}": (
            update(count=count),
            ValueError,
            f"the count of state must be an integer of at least 0, got {count!r}",
        )
        for count in (None, "text", (jnp.int32(1), "text"), 1.0, [1, 2], jnp.ones(()))
    },
    **{
        f"{field} of text": (
            update(**{field: [jnp.ones(2), "text"]}),
            TypeError,
            f"{field} of 1 must be an array, got str",
        )
        for field in ("square_avg", "acc_delta")
    },
    "a number as acc_delta": (
        update(acc_delta=3),
        ValueError,
        "state holds square_avg of 0, 1, but no acc_delta",
    ),
    "acc_delta in another container": (
        update(acc_delta=tuple(LIST)),
        ValueError,
        "the arrays of acc_delta do not match the arrays of square_avg: "
        "they are a PyTreeDef((*, *)), the arrays of square_avg a PyTreeDef([*, *])",
    ),
    "acc_delta of another shape": (
        update(acc_delta=[jnp.ones(2), jnp.ones(4)]),
        ValueError,
        "acc_delta of 1 has shape (4,), but square_avg has shape (3,)",
    ),
    "the state of the whole for the part": (
        lambda: scale_by_adadelta().update(PARAMS, STATE),
        TypeError,
        "state must be that of scale_by_adadelta, as init makes it, got tuple",
    ),
    "an empty state for groups": (
        lambda: param_groups({"a": {}}, "a").update(PARAMS, (), PARAMS),
        TypeError,
        "state must be that of param_groups, as init makes it, got ()",
    ),
}


def carry_over(old_state, optimizer=OPTIMIZER):
    return lambda: carry_over_state(optimizer, PARAMS, old_state)


NO_STATE = "holds no ScaleByAdadeltaState: pass the state of an optimizer made with adadelta"
LACKS_ACC_DELTA = SCALE_STATE._replace(acc_delta={})
OTHERS_STATE = optax.sgd(0.1, momentum=0.9).init(PARAMS)
CARRIED_OVER = {
    **{
        f"carry over {name}": (
            carry_over(old_state),
            ValueError,
            f"old_state {NO_STATE}; a checkpoint is to be restored into the structure of "
            "optimizer.init(params)",
        )
        for name, old_state in (("None", None), ("the state of another optimizer", OTHERS_STATE))
    },
    "carry over to another optimizer": (
        carry_over(STATE, optax.sgd(0.1)),
        ValueError,
        "nothing to carry over: old_state holds accumulators of dense/bias, dense/kernel, none of "
        "which optimizer keeps for the parameters dense/bias, dense/kernel",
    ),
    "carry over from other parameters": (
        carry_over(adadelta().init({"params": PARAMS})),
        ValueError,
        "nothing to carry over: old_state holds accumulators of params/dense/bias, "
        "params/dense/kernel, none of which optimizer keeps for the parameters dense/bias, "
        "dense/kernel",
    ),
    "carry over no count": (
        carry_over(SCALE_STATE._replace(count=None)),
        ValueError,
        "the count of old_state must be an integer of at least 0, got None",
    ),
    "carry over no acc_delta": (
        carry_over(LACKS_ACC_DELTA),
        ValueError,
        "old_state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
}


def rates_of(opt_state):
    return lambda: effective_learning_rate(opt_state)


EIGHT = dict.fromkeys("gcfahbed", jnp.ones(2))
ONE = {"i": jnp.ones(2)}
WHOLE = scale_by_adadelta().init(EIGHT | ONE)
RATES = {
    **{
        f"rates of {name}": (
            rates_of(opt_state),
            ValueError,
            f"opt_state {NO_STATE} or scale_by_adadelta",
        )
        for name, opt_state in (("None", None), ("another optimizer", OTHERS_STATE))
    },
    "rates of no acc_delta": (
        rates_of(LACKS_ACC_DELTA),
        ValueError,
        "opt_state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
    **{
        f"rates of a state that lacks most of {lacking}": (
            rates_of(WHOLE._replace(**{lacking: ONE})),
            ValueError,
            f"opt_state holds {held} of a, b, c, d, e, f, g, h, but no {lacking}",
        )
        for held, lacking in (("square_avg", "acc_delta"), ("acc_delta", "square_avg"))
    },
    "rates of two models": (
        rates_of((STATE, OPTIMIZER.init({"other": jnp.ones(2)}))),
        ValueError,
        "opt_state holds the states of several trees of parameters: pass one of them",
    ),
}


@each_refusal(STEPS | CARRIED_OVER | RATES)
def test_an_incomplete_state_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
