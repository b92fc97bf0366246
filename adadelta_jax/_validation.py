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
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


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
    number = None
    if isinstance(value, (int, float, np.generic, np.ndarray, jax.Array)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            array = np.asarray(value)  # of NumPy: one of JAX would start a backend
            is_real = array.dtype.kind in "biuf" or array.dtype == jnp.bfloat16
            number = float(value) if array.ndim == 0 and is_real else None
    if number is None:
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


def check_schedule(name: str, schedule: Any) -> Any:
    """The schedule, which now raises unless it returns a scalar; what is no schedule passes."""
    if not callable(schedule):
        return schedule

    def checked(count):
        value = schedule(count)
        if not _is_array(value) or getattr(value, "shape", ()) != ():
            raise TypeError(f"{name} must return a number or a 0-d array, got {value!r}")
        return value

    return checked


def check_params(params: Any) -> None:
    """Raise unless every parameter is a floating-point or complex array."""
    try:
        params_with_path = jax.tree.leaves_with_path(params)
    except ValueError as error:
        raise ValueError(f"params is no tree that JAX can walk through: {error}") from None
    for path, param in params_with_path:
        name = f"parameter {path_name(path)}" if path else "the parameter"
        dtype = _dtype(name, param)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name} has dtype {dtype}, which has no gradient: "
                "use floating-point or complex parameters, or leave it out with optax.masked"
            )
        _check_float(name, dtype)


def check_arrays(tree: Any) -> None:
    """Raise unless every leaf is an array or a number."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        _dtype(path_name(path) if path else "tree", leaf)


def _is_array(leaf: Any) -> bool:
    """Whether JAX can compute with a leaf, or, of a ShapeDtypeStruct, with what it stands for."""
    if isinstance(leaf, (int, float, complex)) or hasattr(leaf, "__jax_array__"):
        return True
    dtype = getattr(leaf, "dtype", None)
    if not isinstance(dtype, np.dtype):
        return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))  # random keys
    return hasattr(leaf, "shape") and dtype.kind not in "OSUMm"


def _dtype(name: str, leaf: Any) -> Any:
    """The dtype of a leaf; raise unless it is an array or a number."""
    if not _is_array(leaf):
        raise TypeError(f"{name} must be an array, got {_kind(leaf)}")
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _check_float(name: str, dtype: Any) -> None:
    if dtype.name not in DTYPES:
        raise TypeError(f"{name} has dtype {dtype}: it must be one of {', '.join(DTYPES)}")


def _kind(value: Any) -> str:
    """What a value is, in a message: that of an array of objects is not of use otherwise."""
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ + (f" of {dtype}" if isinstance(dtype, np.dtype) else "")


def check_weight_decay_mask(mask: Any, params: Any) -> None:
    """Raise unless `mask` is a tree of booleans like the parameters, or a prefix of one."""
    for path, leaf in jax.tree.leaves_with_path(mask):
        if not isinstance(leaf, (bool, np.bool_)) and getattr(leaf, "shape", None) != ():
            where = f" for {path_name(path)}" if path else ""
            raise TypeError(
                f"weight_decay_mask must be a tree of booleans like the parameters, "
                f"got {leaf!r}{where}"
            )
    try:
        jax.tree.structure(mask).flatten_up_to(params)
    except ValueError:
        difference = _prefix_difference("booleans", mask, "parameters", params)
        raise ValueError(f"weight_decay_mask: {difference}") from None


def check_optimizer(optimizer: Any) -> None:
    """Raise unless it is an Optax transformation."""
    if not callable(getattr(optimizer, "init", None)) or not hasattr(optimizer, "update"):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r}")


def check_state(optimizer: str, state: Any, holds: bool) -> None:
    """Raise unless a state holds what that of the optimizer of this name has to."""
    if not holds:
        got = state if state is None or state == () else type(state).__name__
        raise TypeError(f"state must be that of {optimizer}, as init makes it, got {got}")


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
    _check_are_gradients(grads, grad_leaves)
    if grad_structure != like_structure:
        raise ValueError(
            _difference("gradients", grads, like_name, like, " (None stands for no gradient)")
        )
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
        if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(expected):
            raise TypeError(
                f"the gradient of {_nth_path(grads, index)} is complex, "
                f"but the {like_name} are real"
            )


def check_are_gradients(grads: Any) -> None:
    """Raise unless every leaf is None or a dense array of floats or complex numbers."""
    _check_are_gradients(grads, jax.tree.leaves(grads, is_leaf=is_leaf))


def _check_are_gradients(grads: Any, leaves: list[Any]) -> None:
    for index, grad in enumerate(leaves):
        if grad is None or (isinstance(grad, jax.Array) and grad.dtype.name in DTYPES):
            continue
        name = f"the gradient of {_nth_path(grads, index)}"
        if is_sparse(grad):
            raise TypeError(
                f"{name} is sparse ({type(grad).__name__}): "
                "Adadelta needs a dense one, as grad.todense() gives"
            )
        dtype = _dtype(name, grad)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"{name} has dtype {dtype}: it must be floating-point or complex")
        _check_float(name, dtype)


def check_same_shapes(square_avg: Any, acc_delta: Any) -> None:
    """Raise unless v and u, given as shapes and dtypes, are those of the same parameters."""
    if jax.tree.structure(square_avg) != jax.tree.structure(acc_delta):
        raise ValueError(
            _difference("arrays of acc_delta", acc_delta, "arrays of square_avg", square_avg)
        )
    of_square_avg = jax.tree.leaves_with_path(square_avg)
    for (path, v), u in zip(of_square_avg, jax.tree.leaves(acc_delta), strict=True):
        if u.shape != v.shape:
            raise ValueError(
                f"acc_delta of {path_name(path)} has shape {u.shape}, "
                f"but square_avg has shape {v.shape}"
            )


def _difference(name: str, tree: Any, like_name: str, like: Any, hint: str = "") -> str:
    """Where a tree that should be like another is not, by the paths of its leaves."""
    paths = [path_name(path) for path, _ in leaves_with_path(tree)]
    like_paths = [path_name(path) for path, _ in leaves_with_path(like)]
    missing = [path for path in like_paths if path not in set(paths)]
    unknown = [path for path in paths if path not in set(like_paths)]
    return _described(name, tree, like_name, like, missing, unknown, hint)


def _prefix_difference(name: str, tree: Any, like_name: str, like: Any) -> str:
    """Where a tree that should be like another, or a prefix of it, is not."""
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    like_paths = [path for path, _ in leaves_with_path(like)]

    def is_under(path, prefix):
        return path[: len(prefix)] == prefix

    missing = [path for path in like_paths if not any(is_under(path, p) for p in paths)]
    unknown = [path for path in paths if not any(is_under(p, path) for p in like_paths)]
    missing, unknown = (list(map(path_name, paths)) for paths in (missing, unknown))
    return _described(name, tree, like_name, like, missing, unknown)


def _described(
    name: str,
    tree: Any,
    like_name: str,
    like: Any,
    missing: list[str],
    unknown: list[str],
    hint: str = "",
) -> str:
    reasons = []
    if missing:
        reasons.append(f"they lack {_listed(missing)}{hint}")
    if unknown:
        reasons.append(f"they have {_listed(unknown)}, which the {like_name} lack")
    if not reasons:
        structures = jax.tree.structure(tree), jax.tree.structure(like)
        reasons.append(f"they are a {structures[0]}, the {like_name} a {structures[1]}")
    return f"the {name} do not match the {like_name}: {' and '.join(reasons)}"


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
    if not groups:
        raise ValueError("groups must have a label at least, got {}")
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
        raise ValueError(_prefix_difference("labels", labels, tree_name, tree)) from None
    paths: dict[str, list[str]] = {}
    for (prefix, label), subtree in zip(jax.tree.leaves_with_path(labels), subtrees, strict=True):
        if not isinstance(label, str):
            raise TypeError(f"the label of {path_name(prefix)} must be a string, got {label!r}")
        for path, _ in leaves_with_path(subtree):
            paths.setdefault(label, []).append(path_name((*prefix, *path)))
    return paths


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
        except RecursionError:
            raise ValueError(f"rules: {regex!r} is nested too deeply") from None
        except (re.error, OverflowError) as error:
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


def check_accumulators(name: str, states: Iterable[Any]) -> None:
    """Raise unless each of the states of Adadelta's that `name` holds is whole."""
    for state in states:
        counts = jax.tree.leaves(state.count)  # which NNX keeps in a variable
        if not all(map(_is_array, counts)) or [jnp.result_type(n).kind for n in counts] != ["i"]:
            raise ValueError(f"the count of {name} must be an integer scalar, got {state.count!r}")
        held = {}
        for field in ("square_avg", "acc_delta"):
            tree = jax.tree.leaves_with_path(getattr(state, field))
            leaves = [(path_name(path), leaf) for path, leaf in tree]
            for path, leaf in leaves:
                if not _is_array(leaf):
                    raise TypeError(f"{field} of {path} must be an array, got {_kind(leaf)}")
            held[field] = {path for path, _ in leaves}
        for field, other in (("square_avg", "acc_delta"), ("acc_delta", "square_avg")):
            if missing := sorted(held[field] - held[other]):
                raise ValueError(f"{name} holds {field} of {_listed(missing)}, but no {other}")


def check_holds_accumulators(states: Collection[Any]) -> None:
    """Raise unless there is a state of Adadelta's to look into, and each is whole."""
    if not states:
        raise ValueError(
            "opt_state holds no ScaleByAdadeltaState: pass the state of an optimizer made with "
            "adadelta or scale_by_adadelta"
        )
    check_accumulators("opt_state", states)


@contextlib.contextmanager
def merging_states() -> Iterator[None]:
    """Within it, what stops the states of different parameters from forming one tree is said."""
    try:
        yield
    except ValueError:
        raise ValueError(
            "opt_state holds the states of several trees of parameters: pass one of them"
        ) from None


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
        if leaf is not None and not _is_array(leaf):
            raise TypeError(
                f"{name} must return arrays, but that of {_nth_path(given, index)} is a "
                f"{type(leaf).__name__}"
            )
        shape = None if leaf is None else jnp.shape(leaf)
        if shape != jnp.shape(expected):
            raise ValueError(
                f"{name} must keep the shapes of the {noun}s: that of {_nth_path(given, index)} "
                f"is {jnp.shape(expected)}, got {shape}"
            )


def check_shardings(name: str, shardings: Any, tree_name: str, tree: Any) -> Any:
    """The sharding of every array of a tree; raise unless it has one that fits."""
    try:
        shardings = jax.tree.broadcast(shardings, tree)
    except ValueError as error:
        raise ValueError(f"{name} does not match {tree_name}: {error}") from None
    leaves = jax.tree.leaves_with_path(tree)
    for (path, array), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        where = path_name(path)
        if not isinstance(sharding, jax.sharding.Sharding):
            raise TypeError(f"the sharding of {where} must be a NamedSharding, got {sharding!r}")
        if not hasattr(array, "shape") or not _is_array(array):
            raise TypeError(f"{where} must be an array, got {_kind(array)}")
        try:
            sharding.shard_shape(array.shape)
        except (ValueError, IndexError):
            how = (
                f"{sharding.spec} over the mesh axes {dict(sharding.mesh.shape)}"
                if isinstance(sharding, jax.sharding.NamedSharding)
                else sharding
            )
            raise ValueError(
                f"{where}, of shape {array.shape}, cannot be sharded as {how}"
            ) from None
    return shardings


def check_param_shardings(param_shardings: Any, params: Any, zero_axis: str | None) -> Any:
    """The sharding of every parameter; raise unless `param_shardings` gives fit ones."""
    paths = jax.tree.leaves_with_path(params)
    if not paths:
        raise ValueError("params has no parameter, so that there is no mesh to put the state on")
    if zero_axis is not None and not isinstance(zero_axis, str):
        raise TypeError(f"zero_axis must be the name of a mesh axis, got {zero_axis!r}")
    shardings = check_shardings("param_shardings", param_shardings, "params", params)
    meshes = {}
    for (path, _), sharding in zip(paths, jax.tree.leaves(shardings), strict=True):
        name = path_name(path)
        if not isinstance(sharding, jax.sharding.NamedSharding):
            raise TypeError(f"the sharding of {name} must be a NamedSharding, got {sharding!r}")
        meshes.setdefault(sharding.mesh, f"{dict(sharding.mesh.shape)} for {name}")
        if len(meshes) > 1:
            raise ValueError(
                f"param_shardings must be on one mesh, got {' and '.join(meshes.values())}"
            )
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
