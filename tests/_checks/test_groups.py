"""Groups and rules that cannot be are refused, wherever among the others they stand."""

import pytest

from adadelta_jax import label_by_path, param_groups


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"momentum": 0.9},
            "group 'wrong' has 'momentum', which adadelta does not take: it takes ",
        ),
        (3, "group 'wrong' must be a mapping of adadelta's keywords to values, or None to freeze"),
    ],
)
def test_a_wrong_group_after_a_frozen_one_is_refused(settings, message):
    with pytest.raises(TypeError) as error:
        param_groups({"frozen": None, "wrong": settings}, {"a": "frozen", "b": "wrong"})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("default", [None, 3, ("a",)])
def test_a_default_that_is_no_string_is_refused(default):
    with pytest.raises(TypeError) as error:
        label_by_path({"bias": "a"}, default)
    assert str(error.value) == f"default must be a label, a string, got {default!r}"


@pytest.mark.parametrize("label", [None, 3, ("a",)])
def test_a_label_that_is_no_string_is_refused(label):
    with pytest.raises(TypeError) as error:
        label_by_path({"bias": label}, "a")
    assert str(error.value) == f"rules: the label of 'bias' must be a string, got {label!r}"
