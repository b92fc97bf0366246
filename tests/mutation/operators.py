"""Mutations for code that is mostly calls, next to cosmic-ray's for operators and numbers."""

import functools
from abc import abstractmethod
from collections.abc import Iterator

import parso
from cosmic_ray.operators.operator import Operator
from parso.python.tree import ExprStmt, Name
from parso.tree import NodeOrLeaf

OPPOSITES = {
    "all": "any",
    "any": "all",
    "floor": "ceil",
    "imag": "real",
    "max": "min",
    "maximum": "minimum",
    "min": "max",
    "minimum": "maximum",
    "real": "imag",
    "zeros_like": "ones_like",
}


class Rewriting(Operator):
    """An operator that is given by the code that it writes in place of a node."""

    @abstractmethod
    def rewritten(self, node: NodeOrLeaf) -> Iterator[str]:
        """Each code that replaces the node."""

    def mutation_positions(self, node):
        """One position for each code; none in text, where an f-string has expressions."""
        if node.search_ancestor("fstring") is None:
            for _ in self.rewritten(node):
                yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        """The node rewritten, after the white space before it."""
        return parso.parse(node.get_first_leaf().prefix + list(self.rewritten(node))[index])

    @classmethod
    def examples(cls):
        return ()


class CallToArgument(Rewriting):
    """f(x, y) becomes x, and x.method(y) becomes x: as if the call did nothing."""

    def rewritten(self, node):
        if not _is_call(node) or node.parent.type == "raise_stmt":
            return
        *function, call = node.children
        arguments = [child for child in _arguments(call) if child.type != "argument"]
        receiver = function[:-1]
        if receiver and _code(receiver[:1]) not in _imported(node.get_root_node()):
            yield _code(receiver)
        elif arguments:
            yield f"({arguments[0].get_code(include_prefix=False)})"


class RemoveKeywordArgument(Rewriting):
    """f(x, axis=-1) becomes f(x): the default takes the argument's place."""

    def rewritten(self, node):
        if not _is_call(node):
            return
        *function, call = node.children
        arguments = list(_arguments(call))
        for removed in arguments:
            if removed.type == "argument" and removed.children[1] == "=":
                kept = [argument for argument in arguments if argument is not removed]
                yield f"{_code(function)}({', '.join(_code([argument]) for argument in kept)})"


class ReplaceWithOpposite(Rewriting):
    """A function becomes its opposite: min becomes max, any all, real imag."""

    def rewritten(self, node):
        if isinstance(node, Name) and node.value in OPPOSITES:
            following = node.get_next_sibling()
            is_called = following is not None and following.type == "trailer"
            if is_called or node.parent.type == "trailer":  # as in map(jnp.real, arrays)
                yield OPPOSITES[node.value]


class RemoveStatement(Rewriting):
    """A statement that raises, or changes the value of a name, becomes `pass`."""

    def rewritten(self, node):
        if node.type == "raise_stmt":
            yield "pass"
        if isinstance(node, ExprStmt) and node.type == "expr_stmt":
            read = {leaf.value for leaf in _leaves(node.get_rhs()) if isinstance(leaf, Name)}
            changed = {name.value for name in node.get_defined_names()}
            is_augmented = any(str(c.type) == "operator" and c != "=" for c in node.children)
            if is_augmented or changed & read:
                yield "pass"


class NegateMembership(Rewriting):
    """`in` becomes `not in`, and the condition of a comprehension its negation."""

    def rewritten(self, node):
        if node.type == "keyword" and node.value == "in" and node.parent.type == "comparison":
            yield "not in"
        if node.type == "comp_op" and _code(node.children) == "not in":
            yield "in"
        if node.type == "comp_if":
            yield f"if not ({_code(node.children[1:2])})"


class ReplaceException(Rewriting):
    """The exception caught becomes one that is not raised. (cosmic-ray's operator takes no a.b.)"""

    def rewritten(self, node):
        if node.type == "except_clause":
            caught_as = f" {_code(node.children[2:])}" if node.children[2:] else ""
            yield f"except ZeroDivisionError{caught_as}"


OPERATORS = {
    each.__name__: each
    for each in (
        CallToArgument,
        RemoveKeywordArgument,
        ReplaceWithOpposite,
        RemoveStatement,
        NegateMembership,
        ReplaceException,
    )
}


@functools.cache
def _imported(module):
    """The names that a module imports, most of them modules: jnp.abs(x) becomes x, not jnp."""
    return {name.value for each in module.iter_imports() for name in each.get_defined_names()}


def _is_call(node):
    if node.type != "atom_expr" or node.children[-1].type != "trailer":
        return False
    return node.children[-1].children[0] == "("


def _arguments(call):
    inside = call.children[1:-1]
    if inside and inside[0].type == "arglist":
        inside = inside[0].children
    return (child for child in inside if child != ",")


def _code(nodes):
    return "".join(node.get_code() for node in nodes).strip()


def _leaves(node):
    if not hasattr(node, "children"):
        return [node]
    return [leaf for child in node.children for leaf in _leaves(child)]
