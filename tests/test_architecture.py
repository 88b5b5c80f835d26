"""The architecture's rules: who imports whom, no import cycles, and documents that match the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fitserve import states

PROJECT = Path(__file__).resolve().parent.parent
SOURCES = [path for top in ("fitserve", "services", "workers", "migrations") for path in (PROJECT / top).rglob("*.py")]
OURS = ("fitserve", "services", "workers", "migrations", "benchmarks", "tests", "docs")
CONTRACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_imports_follow_the_contracts() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def module_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def import_graph() -> dict[str, set[str]]:
    """Each module's imports of our modules, including those within functions and for type checking."""
    paths = {module_of(path): path for path in SOURCES}
    graph = {}
    for module, path in paths.items():
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module is not None, f"{path}: a relative import"  # noqa: PT018
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {name if name in paths else node.module for name in names}
        graph[module] = (imported & paths.keys()) - {module}
    for ignored in (line for contract in CONTRACTS for line in contract.get("ignore_imports", ())):
        importer, _, target = ignored.partition(" -> ")
        graph.get(importer, set()).discard(target)
    return graph


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in order:
                visit(target)
            if target in stack:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == order[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                components.append(component)

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return components


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}) == [["b", "c"]]


def test_there_are_no_import_cycles(import_graph: dict[str, set[str]]) -> None:
    assert cycles(import_graph) == []


@cache
def names_in(module: str) -> set[str]:
    """The names at the top of one of our modules, and those of a package's modules."""
    path = PROJECT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = {one.stem for one in path.iterdir()} if path.is_dir() else set()
    for node in ast.walk(ast.parse(file.read_text()) if file.exists() else ast.Module([], [])):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("folder", ["benchmarks", "tests", "docs", "deploy", "examples", ".ci"])
def test_what_is_imported_exists_also_where_no_type_checker_looks(folder: str) -> None:
    """An import within a function fails only when the function is called, such as in a benchmark or a long test."""
    missing = []
    for path in (PROJECT / folder).rglob("*.py"):
        text = path.read_text()
        if folder == "tests" and not re.search(r"^ +from \w", text, re.MULTILINE):
            continue  # at its top an import fails when tests are collected
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
                known = names_in(node.module)
                lost = [alias.name for alias in node.names if alias.name not in known and "__getattr__" not in known]
                missing += [f"{path.relative_to(PROJECT)}:{node.lineno}: {node.module}.{name}" for name in lost]
    assert not missing


def test_the_layers_in_the_document_are_those_of_the_contracts() -> None:
    """The block under "Import directions", without its explanations, lists every layer of every contract in order."""
    lines = []
    for contract in CONTRACTS:
        if contract["type"] == "layers":
            lines += [f"{container}:" for container in contract["containers"]]
            lines += [f"  {layer}" for layer in contract["layers"]]
    document = (PROJECT / "ARCHITECTURE.md").read_text()
    block = re.search(r"Import directions.*?```\n(.*?)```", document, re.DOTALL)
    assert block is not None
    assert [re.sub(r"(?<=\S)   +.*", "", line) for line in block[1].splitlines()] == lines, "as in pyproject.toml"


def test_a_wire_protocol_is_imported_by_none_but_itself(import_graph: dict[str, set[str]]) -> None:
    folder = PROJECT / "services" / "predict" / "protocols"
    packages = {module_of(path) for path in folder.glob("*/__init__.py") if path.parent.name != "proto"}
    protocol_of = {module: own for module in import_graph for own in packages if f"{module}.".startswith(f"{own}.")}
    assert len(packages) >= 2
    for module, imported in import_graph.items():
        assert {protocol_of[other] for other in imported & protocol_of.keys()} <= {protocol_of.get(module)}, module


def paths_in(document: str) -> Iterator[str]:
    """Paths named in a document: in code spans, and in the README's annotated tree."""
    for span in re.findall(r"`([^`\n]+)`", document):
        if re.fullmatch(r"(fitserve|services|workers|migrations|tests|docs|deploy|examples|benchmarks)/[\w./-]*", span):
            yield span
    for tree in re.findall(r"```\n(fitserve/ .*?)```", document, re.DOTALL):
        folders: list[str] = []
        for line in tree.splitlines():
            indent, name = re.fullmatch(r"( *)(\S+) .*", line).groups()  # type: ignore[union-attr]
            del folders[len(indent) // 2 :]
            yield "".join(folders) + name
            folders.append(name)


def test_the_paths_that_the_documents_name_exist() -> None:
    documents = [PROJECT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    for document in [*documents, *(PROJECT / "docs").rglob("*.md")]:
        for path in paths_in(document.read_text()):
            assert (PROJECT / path).exists(), f"{document.name}: {path}"
    assert len(set(paths_in((PROJECT / "README.md").read_text()))) > 30


def test_the_readme_names_every_package() -> None:
    tree = re.search(r"```\n(fitserve/ .*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    named = {path.rstrip("/") for path in paths_in(tree[0])}
    for package in (path.parent.relative_to(PROJECT) for path in SOURCES if path.name == "__init__.py"):
        if package.parent.name == "protocols":
            continue  # "one folder each"
        listed = package.parent.name == "control"  # on its parent's line
        assert str(package) in named or (listed and re.search(rf"\b{package.name}\b", tree[1])), package


def test_the_index_of_runs_names_every_module() -> None:
    modules = {path.stem for path in (PROJECT / "fitserve" / "runs").glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`(\w+)`", (PROJECT / "fitserve" / "runs" / "__init__.py").read_text())) == modules


# What processes start without. One interpreter imports them all in this order: no list names what an earlier one needs.
NOBODY = {"tensorflow", "keras", "tf2onnx", "pandas", "matplotlib", "sklearn", "scipy", "polars", "duckdb", "botocore"}
READS_NO_TABLES = {"pyarrow", "fitserve.datasets.ingest", "fitserve.spec.spec"}
NO_WEB = {"fastapi", "uvicorn", "grpc"}
STARTS_WITHOUT = {
    "workers.reaper.reaper": {*NOBODY, *READS_NO_TABLES, *NO_WEB, "redis", "alembic", "rich"},
    "services.up.serve": {*NOBODY, *READS_NO_TABLES, *NO_WEB, "redis"},
    "workers.worker": {*NOBODY, *NO_WEB, "fitserve.spec.spec", "onnxruntime"},
    "services.predict.app": {*NOBODY, "fitserve.spec.spec"},
    "services.control.app": NOBODY,
}


def test_processes_start_without_what_they_may_never_need() -> None:
    script = (
        "import importlib, sys\n"
        "from fitserve.process_start import hide_unused_modules\n"
        "hide_unused_modules()\n"
        f"for process, without in {STARTS_WITHOUT!r}.items():\n"
        "    importlib.import_module(process)\n"
        "    print(process, sorted(without & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{process} []" for process in STARTS_WITHOUT], done.stderr


def test_the_state_diagram_is_that_of_the_code() -> None:
    document = (PROJECT / "ARCHITECTURE.md").read_text()
    assert f"```mermaid\n{states.mermaid()}\n```" in document


def test_no_file_is_a_grab_bag() -> None:
    banned = {"utils.py", "util.py", "common.py", "helpers.py", "manager.py", "misc.py"}
    assert [path for path in SOURCES if path.name in banned] == []


def test_locks_contain_versions_and_hashes_but_no_addresses() -> None:
    for lock in (PROJECT / "locks").glob("*.txt"):
        text = lock.read_text()
        assert not re.search(r"https?://|file://|--index|--find-links", text), lock
        if lock.name != "overrides.txt":
            for requirement in re.split(r"\n(?=\S)", text.strip()):
                assert "==" in requirement, requirement
                assert "--hash=sha256:" in requirement, requirement
