"""Every mutant of a module: its source with one thing changed that makes another program."""

import ast
import difflib
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from tests.mutation.operators import OPERATORS


class Mutant(NamedTuple):
    """One mutant, which the first four fields name however the lines move."""

    module: str
    function: str  # that the change is in, "" outside of all
    before: str  # the lines that are changed
    after: str  # what they become
    source: str  # of the whole module


def mutants(module: str, source: str, operator_names: Iterable[str]) -> Iterator[Mutant]:
    """The mutants of a module, each program once.

    Sources that compile to the same program as the original, or as an earlier mutant, are left out.
    So are those that differ only in annotations, or in which arguments are keyword-only.
    """
    seen = {program(source)}
    names = set()
    nodes = list(ast_nodes(get_ast(source)))
    for operator_name in operator_names:
        operator = _operator(operator_name)
        for occurrence in range(sum(len(list(operator.mutation_positions(n))) for n in nodes)):
            mutated = mutate_code(source, operator, occurrence)
            compiled = program(mutated)
            if compiled is None or compiled in seen:
                continue
            seen.add(compiled)
            mutant = _named(module, source, mutated)
            while mutant[:4] in names:  # the same line, further down in the same function
                mutant = mutant._replace(before=mutant.before + " ")
            names.add(mutant[:4])
            yield mutant


def _operator(name):
    return OPERATORS[name]() if name in OPERATORS else get_operator(f"core/{name}")()


def program(source):
    """The program that a module compiles to, without docstrings and annotations; None on error."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args]
            node.posonlyargs = []
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(0, lineno=1, col_offset=0))
    try:
        return _code(compile(tree, "", "exec", optimize=2))
    except (SyntaxError, ValueError):
        return None


def _code(code):
    """A code object without line numbers and the difference that keyword-only arguments make."""
    constants = (_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    arguments = code.co_argcount + code.co_kwonlyargcount
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, arguments, *constants)


def _named(module, source, mutated):
    old, new = source.splitlines(), mutated.splitlines()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    changes = [block for block in blocks if block[0] != "equal"]
    _, first, _, first_new, _ = changes[0]
    _, _, end, _, end_new = changes[-1]
    before, after = old[first:end], new[first_new:end_new]
    return Mutant(module, _function_at(source, first + 1), _text(before), _text(after), mutated)


def _text(lines):
    return " ".join(line.strip() for line in lines)


def _function_at(source, line):
    definitions = (ast.FunctionDef, ast.ClassDef)
    found = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, definitions) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return ".".join(node.name for node in sorted(found, key=lambda node: node.lineno))
