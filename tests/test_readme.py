"""The README's code runs, and its example adapter keeps the contract."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from harness import registry
from harness.check import contract
from harness.evidence import records as results

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The fenced block behind a comment in the README."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block behind <!-- {marker} -->"
    return found[1]


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "bag_of_bases.py"
    path.write_text(block("example: bag_of_bases.py"))
    return path


def test_example_is_short(example):
    code = [line for line in example.read_text().splitlines() if line.strip()]
    body = [line for line in code if not line.startswith(("import", "from"))]
    assert len(body) <= 25


def test_example_runs(example, harness):
    done = harness("run", "--model", "./bag_of_bases.py", "--task", "QKI", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    (record,) = results.read_all(example.parent / "results")
    assert record.model["name"] == "bag_of_bases"


def test_example_keeps_the_contract(example):
    assert [verdict for verdict in contract.check(str(example)) if verdict.state == "violated"] == []


def test_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("example: notebook"), names)
    assert names["record"].finished
    assert [record.finished for record in names["records"]] == [True] * 8
    assert len(names["frame"]) == 8
    assert names["embeddings"].shape == (4, names["model"].embedding_dim)
    assert "PTBP1 (sample)" in capsys.readouterr().out


def test_commands_are_those_of_the_command_line(harness):
    text = harness("run", "--help").stdout + harness("--help").stdout + harness("data", "--help").stdout
    for option in set(re.findall(r"(?<=\s)--[a-z-]+", block("command: run"))):
        assert option in text


def test_every_model_and_task_is_in_the_readme():
    for name in registry.model_files():
        assert f"`{name}`" in README, f"{name} is not in the README"
    for name in registry.tasks():
        assert f"`{name}`" in README, f"{name} is not in the README"
