"""Replace sources with byte code without docstrings: `sourceless.py FOLDER [PACKAGE...]`, run within the build.

Tracebacks still show file and line, but not the line's text. Assertions are kept. The given packages keep their
docstrings. Files that their packages read as text remain.
"""

import ast
import importlib.util
import os
import sys
from importlib._bootstrap_external import _code_to_timestamp_pyc  # as py_compile does
from pathlib import Path

READ_AS_TEXT = {"_static_version.py"}  # by miniver, which ADBC's drivers have


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            text = node.body.pop(0)
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.copy_location(ast.Pass(), text))
    return tree


def main(folder: Path, documented: list[str]) -> None:
    for cached in list(folder.rglob("__pycache__/*.pyc")):
        cached.unlink()
    for source in list(folder.rglob("*.py")):
        if source.name in READ_AS_TEXT:
            continue
        try:
            tree = ast.parse(importlib.util.decode_source(source.read_bytes()), str(source))
        except SyntaxError:  # a template, or code for another Python version
            continue
        if source.relative_to(folder).parts[0] not in documented:
            tree = without_docstrings(tree)
        code = compile(tree, os.fspath(source), "exec", dont_inherit=True, optimize=0)
        source.with_suffix(".pyc").write_bytes(_code_to_timestamp_pyc(code))
        source.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
