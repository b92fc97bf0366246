"""Every check of what a user passes, and its words.

Hyperparameters are checked where they are concrete: inside `jit`, `vmap` or
`optax.inject_hyperparams` a value may be a tracer, which has no value yet.
"""

import contextlib
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

LARGEST_EPS = 1e30  # next to the largest float32 it makes no difference
ACCUMULATOR_DTYPES = ("float32", "float64", "bfloat16", "float16", "int8")


def check_hyperparameters(
    *, learning_rate: Any = 1.0, rho: Any = 0.9, eps: Any = 1e-6, weight_decay: Any = 0.0
) -> None:
    """Raise unless every setting is one with which Adadelta can run; schedules pass."""
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not callable(value):
            _check_number(name, value, "a number, a 0-d array or a schedule")
    _check_number("rho", rho, "a number or a 0-d array", highest=1)
    _check_number("eps", eps, "a number or a 0-d array")
    if not isinstance(eps, jax.core.Tracer) and float(eps) > LARGEST_EPS:
        raise ValueError(f"eps must be at most {LARGEST_EPS:g}, got {float(eps):g}")


def _check_number(name: str, value: Any, expected: str, highest: float | None = None) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    try:
        array = np.asarray(value)
        number = float(array) if array.ndim == 0 else None
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, str):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if highest is not None and not 0 <= number <= highest:
        raise ValueError(f"{name} must lie in [0, {highest}], got {number:g}")
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number:g}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number:g}")


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_accumulator_dtype(accumulator_dtype: Any) -> None:
    """Raise unless accumulators can be stored so."""
    if accumulator_dtype is None:
        return
    expected = f"accumulator_dtype must be None or one of {', '.join(ACCUMULATOR_DTYPES)}"
    try:
        name = jnp.dtype(accumulator_dtype).name
    except TypeError:
        raise TypeError(f"{expected}, got {accumulator_dtype!r}") from None
    if name not in ACCUMULATOR_DTYPES:
        raise ValueError(f"{expected}, got {name}")
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "accumulator_dtype float64 needs jax.config.update('jax_enable_x64', True)"
        )


def check_params(params: Any) -> None:
    """Raise unless every parameter is a floating-point or complex array."""
    for path, param in jax.tree.leaves_with_path(params):
        dtype = getattr(param, "dtype", None)
        if dtype is None:
            dtype = np.asarray(param).dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"parameter {path_name(path)} has dtype {dtype}, which has no gradient: "
                "use floating-point or complex parameters, or leave it out with optax.masked"
            )


def check_weight_decay_has_params(params: Any) -> None:
    """Raise where weight decay lacks the parameters that it acts on."""
    if params is None:
        raise ValueError(
            "weight_decay needs the parameters: call update(grads, state, params), got params=None"
        )


def check_gradients(grads: Any, like: Any, like_name: str) -> None:
    """Raise unless `grads` has a gradient or None for every leaf of `like`, of the same shape.

    `like` is the accumulators or the parameters, and `like_name` what to call them.
    """
    grad_leaves, grad_structure = jax.tree.flatten(grads, is_leaf=is_leaf)
    like_leaves, like_structure = jax.tree.flatten(like, is_leaf=is_leaf)
    for index, grad in enumerate(grad_leaves):
        if is_sparse(grad):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} is sparse ({type(grad).__name__}): "
                "Adadelta needs a dense one, as grad.todense() gives"
            )
    if grad_structure != like_structure:
        raise ValueError(_difference(grads, like, like_name))
    for index, (grad, expected) in enumerate(zip(grad_leaves, like_leaves, strict=True)):
        if grad is None:
            continue
        if expected is None:
            raise ValueError(f"{_nth_path(grads, index)} has a gradient, but no {like_name}")
        if jnp.shape(grad) != jnp.shape(expected):
            raise ValueError(
                f"the gradient of {_nth_path(grads, index)} has shape {jnp.shape(grad)}, "
                f"but the {like_name} have shape {jnp.shape(expected)}"
            )
        dtype = jnp.result_type(grad)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} has dtype {dtype}: "
                "it must be floating-point or complex"
            )
        if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(expected):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} is complex, "
                f"but the {like_name} are real"
            )


def check_same_shapes(square_avg: Any, acc_delta: Any) -> None:
    """Raise unless v and u, given as shapes and dtypes, are those of the same parameters."""
    if jax.tree.structure(square_avg) != jax.tree.structure(acc_delta):
        raise ValueError(
            f"acc_delta does not match square_avg: it is a {jax.tree.structure(acc_delta)}, "
            f"square_avg a {jax.tree.structure(square_avg)}"
        )
    of_square_avg = jax.tree.leaves_with_path(square_avg)
    for (path, v), u in zip(of_square_avg, jax.tree.leaves(acc_delta), strict=True):
        if u.shape != v.shape:
            raise ValueError(
                f"acc_delta of {path_name(path)} has shape {u.shape}, "
                f"but square_avg has shape {v.shape}"
            )


def _difference(grads: Any, like: Any, like_name: str) -> str:
    grad_paths = [path_name(path) for path, _ in leaves_with_path(grads)]
    like_paths = [path_name(path) for path, _ in leaves_with_path(like)]
    missing = [path for path in like_paths if path not in set(grad_paths)]
    unknown = [path for path in grad_paths if path not in set(like_paths)]
    reasons = []
    if missing:
        reasons.append(f"they lack {', '.join(missing)} (None stands for no gradient)")
    if unknown:
        reasons.append(f"they have {', '.join(unknown)}, which the {like_name} lack")
    if not reasons:
        reasons.append(
            f"they are a {jax.tree.structure(grads)}, the {like_name} a {jax.tree.structure(like)}"
        )
    return f"the gradients do not match the {like_name}: {' and '.join(reasons)}"


def is_leaf(node: Any) -> bool:
    """Whether a node of a gradient tree stands for one parameter, though JAX would look inside."""
    return node is None or is_sparse(node)


def is_sparse(node: Any) -> bool:
    """Whether a node is one of `jax.experimental.sparse`, without importing that module."""
    return type(node).__module__.startswith("jax.experimental.sparse")


def leaves_with_path(tree: Any) -> list[tuple[Any, Any]]:
    """The leaves of a gradient-like tree, None among them, each with its path."""
    return jax.tree.leaves_with_path(tree, is_leaf=is_leaf)


def path_name(path: Any) -> str:
    """A tree path as users write it, "dense/kernel"; that of a bare array is "the parameter".

    The array of a Flax variable, as in an NNX state, goes by the name of the variable.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the parameter"


def _nth_path(tree: Any, index: int) -> str:
    return path_name(leaves_with_path(tree)[index][0])


def check_groups(groups: Any, keywords: tuple[str, ...]) -> None:
    """Raise unless `groups` gives every label a mapping from some of `keywords`, or None."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups must be a mapping from labels to settings, got {groups!r}")
    for label, settings in groups.items():
        if not isinstance(label, str):
            raise TypeError(f"groups: a label must be a string, got {label!r}")
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise TypeError(
                f"group {label!r} must be a mapping of adadelta's keywords to values, "
                f"or None to freeze it, got {settings!r}"
            )
        unknown = [repr(keyword) for keyword in settings if keyword not in keywords]
        if unknown:
            raise TypeError(
                f"group {label!r} has {', '.join(unknown)}, which adadelta does not take: "
                f"it takes {', '.join(keywords)}"
            )


def check_labels(labels: Any, params: Any, groups: Collection[Any]) -> None:
    """Raise unless every parameter has the label of a group, and every group a parameter."""
    labelled = paths_by_label(labels, params, "parameters")
    for label, paths in labelled.items():
        if label not in groups:
            raise ValueError(
                f"no group for the label {label!r} of {_listed(paths)}: "
                f"the groups are {_listed(map(repr, groups))}"
            )
    for label in groups:
        if label not in labelled and not _may_hide_parameters(params):
            raise ValueError(
                f"group {label!r} has no parameter: "
                f"the parameters' labels are {_listed(map(repr, labelled))}"
            )


def paths_by_label(labels: Any, tree: Any, tree_name: str) -> dict[str, list[str]]:
    """The paths of `tree` under each label; raise unless `labels` is a prefix of `tree`."""
    try:
        subtrees = jax.tree.structure(labels).flatten_up_to(tree)
    except ValueError:
        raise ValueError(_label_difference(labels, tree, tree_name)) from None
    paths: dict[str, list[str]] = {}
    for (prefix, label), subtree in zip(jax.tree.leaves_with_path(labels), subtrees, strict=True):
        if not isinstance(label, str):
            raise TypeError(f"the label of {path_name(prefix)} must be a string, got {label!r}")
        for path, _ in leaves_with_path(subtree):
            paths.setdefault(label, []).append(path_name((*prefix, *path)))
    return paths


def _label_difference(labels: Any, tree: Any, tree_name: str) -> str:
    label_paths = [path for path, _ in jax.tree.leaves_with_path(labels)]
    tree_paths = [path for path, _ in leaves_with_path(tree)]

    def is_under(path, prefix):
        return path[: len(prefix)] == prefix

    missing = [path for path in tree_paths if not any(is_under(path, p) for p in label_paths)]
    unknown = [path for path in label_paths if not any(is_under(p, path) for p in tree_paths)]
    reasons = []
    if missing:
        reasons.append(f"they lack {_listed(map(path_name, missing))}")
    if unknown:
        reasons.append(f"they have {_listed(map(path_name, unknown))}, which the {tree_name} lack")
    if not reasons:
        reasons.append(
            f"they are a {jax.tree.structure(labels)}, the {tree_name} a {jax.tree.structure(tree)}"
        )
    return f"the labels do not match the {tree_name}: {' and '.join(reasons)}"


def check_rules(rules: Any, default: Any) -> None:
    """Raise unless `rules` maps regular expressions to labels, and `default` is a label."""
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules must map regular expressions to labels, got {rules!r}")
    if not isinstance(default, str):
        raise TypeError(f"default must be a label, a string, got {default!r}")
    for regex, label in rules.items():
        if not isinstance(regex, str):
            raise TypeError(f"rules: a regular expression must be a string, got {regex!r}")
        if not isinstance(label, str):
            raise TypeError(f"rules: the label of {regex!r} must be a string, got {label!r}")
        try:
            re.compile(regex)
        except re.error as error:
            raise ValueError(f"rules: {regex!r} is not a regular expression: {error}") from None


def check_rules_apply(rules: Any, applied: set[str], params: Any) -> None:
    """Raise unless every rule is among the `applied` ones, which gave some parameter its label."""
    if _may_hide_parameters(params):
        return
    paths = [path_name(path) for path, _ in leaves_with_path(params)]
    for regex in rules:
        if regex in applied:
            continue
        if any(re.search(regex, path) for path in paths):
            raise ValueError(
                f"rules: {regex!r} only matches parameters that an earlier rule has labelled: "
                "put the more specific rule first"
            )
        raise ValueError(f"rules: {regex!r} matches no parameter: there are {_listed(paths)}")


def _may_hide_parameters(tree: Any) -> bool:
    """Whether a tree can stand for more parameters than it shows, as a masked one does."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return not nodes or any(isinstance(node, optax.MaskedNode) for node in nodes)


def _listed(names: Iterable[str]) -> str:
    """Names to read in a message: the first eight, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def check_accumulators_in_common(old: Any, new: Any, held: list[str], params: Any) -> None:
    """Raise unless an old and a new state, keyed by path, share a parameter.

    `held` names the parameters whose accumulators the old state holds.
    """
    if old.keys() & new.keys():
        return
    if not held:
        raise ValueError(
            "old_state holds no ScaleByAdadeltaState: pass the state of an optimizer made with "
            "adadelta; a checkpoint is to be restored into the structure of optimizer.init(params)"
        )
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    raise ValueError(
        f"nothing to carry over: old_state holds accumulators of {_listed(held)}, none of which "
        f"optimizer keeps for the parameters {_listed(names)}"
    )


def accumulators_fit(path: Any, old: Any, new: Any) -> bool:
    """Whether the accumulators of a parameter can go on as the new ones; warn if they cannot.

    `old` and `new` are the shapes and dtypes of v and u.
    """

    def kind(node):
        complex_ = jnp.complexfloating
        return jax.tree.map(lambda x: (x.shape, jnp.issubdtype(x.dtype, complex_)), node)

    if kind(old) == kind(new):
        return True
    description = [
        str(jax.tree.map(lambda x: jax.core.ShapedArray(x.shape, x.dtype), node[0]))
        for node in (old, new)
    ]
    warnings.warn(
        f"the accumulators of {path_name(path)} start from zero: old_state holds "
        f"{description[0]}, the parameter needs {description[1]}",
        stacklevel=3,
    )
    return False


def check_holds_accumulators(states: Collection[Any]) -> None:
    """Raise unless there is a state of Adadelta's to look into."""
    if not states:
        raise ValueError(
            "opt_state holds no ScaleByAdadeltaState: pass the state of an optimizer made with "
            "adadelta or scale_by_adadelta"
        )


def check_hook(name: str, hook: Any) -> None:
    """Raise unless a hook can be called."""
    if hook is not None and not callable(hook):
        raise TypeError(f"{name} must be a function (updates, state, params), got {hook!r}")


def check_hook_result(name: str, returned: Any, given: Any) -> None:
    """Raise unless a hook returned a tree like the one that it was given.

    None may take the place of a gradient, but not that of an update, which has to be applied.
    """
    noun = "gradient" if name == "pre_step" else "update"
    returned_leaves, returned_structure = jax.tree.flatten(returned, is_leaf=is_leaf)
    given_leaves, given_structure = jax.tree.flatten(given, is_leaf=is_leaf)
    if returned_structure != given_structure:
        raise ValueError(
            f"{name} must return a tree like the {noun}s, {given_structure}, or None, "
            f"got {returned_structure}"
        )
    for index, (leaf, expected) in enumerate(zip(returned_leaves, given_leaves, strict=True)):
        if expected is None or (leaf is None and noun == "gradient"):
            continue
        shape = None if leaf is None else jnp.shape(leaf)
        if shape != jnp.shape(expected):
            raise ValueError(
                f"{name} must keep the shapes of the {noun}s: that of {_nth_path(given, index)} "
                f"is {jnp.shape(expected)}, got {shape}"
            )


def check_param_shardings(param_shardings: Any, params: Any, zero_axis: str | None) -> Any:
    """The sharding of every parameter; raise unless `param_shardings` gives fit ones."""
    paths = jax.tree.leaves_with_path(params)
    if not paths:
        raise ValueError("params has no parameter, so that there is no mesh to put the state on")
    try:
        shardings = jax.tree.broadcast(param_shardings, params)
    except ValueError as error:
        raise ValueError(f"param_shardings does not match params: {error}") from None
    for (path, param), sharding in zip(paths, jax.tree.leaves(shardings), strict=True):
        name = path_name(path)
        if not isinstance(sharding, jax.sharding.NamedSharding):
            raise TypeError(f"the sharding of {name} must be a NamedSharding, got {sharding!r}")
        try:
            sharding.shard_shape(jnp.shape(param))
        except (ValueError, IndexError):
            raise ValueError(
                f"{name}, of shape {jnp.shape(param)}, cannot be sharded as {sharding.spec} "
                f"over the mesh axes {dict(sharding.mesh.shape)}"
            ) from None
        if zero_axis is None:
            continue
        if zero_axis not in sharding.mesh.shape:
            raise ValueError(
                f"zero_axis must be an axis of the mesh, one of "
                f"{_listed(map(repr, sharding.mesh.shape))}, got {zero_axis!r}"
            )
        for names in sharding.spec:
            if zero_axis in (names if isinstance(names, tuple) else (names,)):
                raise ValueError(
                    f"zero_axis must be an axis over which no parameter is sharded, got "
                    f"{zero_axis!r}, over which {name} is: its spec is {sharding.spec}"
                )
    return shardings


@contextlib.contextmanager
def finding_parameters_in_state() -> Iterator[None]:
    """Within it, what stops `optax.tree_map_params` says that it is the optimizer."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            "optimizer must have a state in which optax.tree_map_params finds what belongs to "
            f"which parameter, unlike that of optax.flatten: {error}"
        ) from error
