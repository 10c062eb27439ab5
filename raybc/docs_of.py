"""The docstrings below the fields of dataclasses, which Python does not keep."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
from pathlib import Path


def field_docs(cls: type) -> dict[str, str]:
    """Field -> the docstring below it in `cls` itself, on one line; empty if the source is not available."""
    try:
        path = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return {}
    return _docs_in(path).get(cls.__qualname__, {}) if path else {}


def all_field_docs(cls: type) -> dict[str, str]:
    """Field -> the docstring below it in `cls` or in what it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ != "builtins":
            found |= field_docs(base)
    return found


@functools.cache
def _docs_in(path: str) -> dict[str, dict[str, str]]:
    """Qualified name of a class in a file -> its fields with docstrings. A file is parsed once, since that takes longer
    than everything else that --help does."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, dict[str, str]] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[prefix + child.name] = _docs_of(child)
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(child, f"{prefix}{child.name}.<locals>.")
            else:
                visit(child, prefix)

    visit(tree, "")
    return found


def _docs_of(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for before, after in itertools.pairwise(node.body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[before.target.id] = " ".join(value.value.split())
    return found
