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

# Each module may import only modules of a lower rank.
RANK = {
    name: rank
    for rank, names in enumerate(
        (
            ("errors", "kernels"),
            ("data",),
            ("card", "recipe", "task"),
            ("adapter", "sources", "readers"),
            ("genome",),
            ("alignments", "cache", "checkpoint", "classifier", "hardware", "metrics", "weights"),
            ("registry", "results", "sensitivity", "train"),
            ("contract", "screen", "tables", "template"),
            ("run",),
            ("pretrain",),
            ("cli",),
        )
    )
    for name in names
}
# What a file of each folder may import from the package; siblings are free.
ALLOWED = {
    "adapters": {"adapter", "card", "checkpoint", "data", "errors", "genome", "recipe", "sources", "kernels", "adapters"},
    "tasks": {"alignments", "data", "errors", "genome", "readers", "sources", "task", "tasks"},
    "kernels": {"kernels"},
}


def imports(path: Path) -> set[str]:
    """The first part below ``harness`` of everything that a file imports from the package, wherever it does."""
    found = set()
    inside = path.relative_to(ROOT).parts
    package = ["harness", *inside[:-1]] if inside[0] != "harness" else list(inside[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
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


@pytest.mark.parametrize("path", sorted((ROOT / "harness").glob("*.py")), ids=lambda path: path.stem)
def test_engine_imports_downward(path):
    if path.stem in ("__init__", "__main__"):
        return
    assert path.stem in RANK, f"harness/{path.name} has no place in the order of modules"
    upward = {name for name in imports(path) if RANK.get(name, 99) >= RANK[path.stem]}
    assert not upward, f"harness/{path.name} imports {upward}"


@pytest.mark.parametrize("path", sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ids=str)
def test_rooms_import_only_what_they_may(path):
    folder = path.relative_to(ROOT).parts[0]
    assert imports(path) <= ALLOWED[folder]


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
        "from harness.registry import model_cards, tasks; model_cards(); tasks()",
    ],
)
def test_light_imports(statement):
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(set(sys.modules) & {{'torch', 'transformers', 'pandas', 'sklearn', 'numba'}})))"
    assert fresh(code) == []
