"""The shape of the house: who imports whom, what is imported when, and that no name of PyPI is taken."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("adapters", "tasks", "kernels")

ROOMS = ("files", "engine", "evidence", "study", "inference", "check", "cli")
# What each room may import besides itself; every room may use the vocabulary, harness/*.py.
BELOW = {
    "files": set(),
    "engine": {"files", "kernels"},
    "evidence": {"files"},
    "study": {"files", "engine", "evidence", "kernels"},
    "inference": {"files", "engine", "evidence", "study"},
    "check": {"files", "engine"},
    "cli": {"files", "engine", "evidence", "study", "inference", "check"},
    "adapters": {"files", "kernels"},
    "tasks": {"files"},
    "kernels": set(),
}
# The vocabulary, from the ground up: each may import the ones before it.
VOCABULARY = ("errors", "data", "card", "recipe", "task", "objective", "adapter", "facts", "registry", "progress")
LONGEST = 400  # lines of a file


def imports(path: Path, tree: ast.AST | None = None) -> set[str]:
    """The first part below ``harness`` of everything that a file imports from the package, wherever it does."""
    found = set()
    inside = path.relative_to(ROOT).parts
    package = ["harness", *inside[:-1]] if inside[0] != "harness" else list(inside[:-1])
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            names = [base + (node.module or "")]
            if names == ["harness"] or names == ["harness."]:
                names = [f"harness.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("harness.")}
    return found - {"__version__"}


def executed_imports(path: Path) -> set[str]:
    """Those of :func:`imports` that are no hints for type checkers."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return imports(path, tree)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_vocabulary_imports_downward():
    files = {path.stem: path for path in (ROOT / "harness").glob("*.py") if not path.stem.startswith("__")}
    assert sorted(files) == sorted(VOCABULARY)
    for rank, name in enumerate(VOCABULARY):
        assert executed_imports(files[name]) <= set(VOCABULARY[:rank]), f"harness/{name}.py imports upward"


@pytest.mark.parametrize("path", [path for room in ROOMS for path in sources(f"harness/{room}")] + sources(*FOLDERS), ids=str)
def test_rooms_import_downward(path):
    inside = path.relative_to(ROOT).parts
    room = inside[1] if inside[0] == "harness" else inside[0]
    vocabulary = set() if room == "kernels" else set(VOCABULARY)
    assert imports(path) <= vocabulary | BELOW[room] | {room}


def test_no_file_is_long():
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources("harness", *FOLDERS, "tests", "benchmarks")
        if (count := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long


def test_tasks_and_kernels_know_no_model():
    for path in (ROOT / "tasks").rglob("*.py"):
        assert "torch" not in path.read_text(), f"{path} mentions torch"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_no_packages_of_their_own(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def fresh(code: str) -> dict:
    """What a snippet prints as JSON in a new interpreter, started in the repository's root."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_names_of_pypi_are_left_alone():
    code = """
import importlib.util, json
specs = {name: importlib.util.find_spec(name) for name in ("adapters", "kernels", "tasks")}
print(json.dumps({name: bool(spec and spec.origin) for name, spec in specs.items()}))"""
    origins = fresh(code)
    assert not origins["tasks"]
    for name in ("adapters", "kernels"):  # may be installed packages, but never this repository's folder
        if origins[name]:
            code = f"import importlib.util, json; print(json.dumps(importlib.util.find_spec({name!r}).origin))"
            assert not fresh(code).startswith(str(ROOT))


@pytest.mark.parametrize(
    "statement",
    [
        "import harness",
        "import harness.cli",
        "import harness.engine.build, harness.study.run, harness.evidence.tables",
        "from harness.registry import model_cards, tasks; model_cards(); tasks()",
    ],
)
def test_light_imports(statement):
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(set(sys.modules) & {{'torch', 'transformers', 'pandas', 'sklearn', 'numba'}})))"
    assert fresh(code) == []


def test_evidence_needs_no_torch():
    paths = [path.relative_to(ROOT).with_suffix("") for path in sources("harness/evidence") if path.stem != "__init__"]
    modules = [".".join(path.parts) for path in paths]
    code = f"import sys, json, {', '.join(modules)}\nprint(json.dumps('torch' in sys.modules))"
    assert fresh(code) is False
