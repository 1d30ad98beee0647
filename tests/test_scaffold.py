"""`harness new-adapter` writes an adapter that passes `harness check-adapter` and runs, and overwrites nothing."""

from __future__ import annotations

import re

import pytest
import torch
from test_cli import refused

from harness import registry
from harness.check.clauses import CLAUSES
from harness.check.scaffold import new_adapter
from harness.errors import UserError
from harness.evidence import records


class TestNewAdapter:
    def test_written_checked_and_run(self, harness, tmp_path):
        done = harness("new-adapter", "my_model")
        assert done.returncode == 0, done.stderr
        check, run = done.stdout.splitlines()
        assert (check, run) == ("harness check-adapter my_model.py", "harness run --model my_model.py --task QKI --epochs 1")
        assert "template" not in (tmp_path / "my_model.py").read_text().lower()

        done = harness(*check.split()[1:])
        assert done.returncode == 0, done.stdout + done.stderr
        header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert header == ["clause", "verdict", "detail"]
        assert [row[0] for row in rows] == [clause.__doc__ for clause in CLAUSES]
        assert {row[1] for row in rows} == {"ok", "skipped"}

        done = harness(*run.split()[1:])
        assert done.returncode == 0, done.stderr
        (record,) = records.read_all(tmp_path / "results")
        assert record.model["name"] == "my_model"

    def test_violations_are_shown_and_counted(self, harness, tmp_path):
        path = new_adapter("my_model", tmp_path)
        path.write_text(path.read_text().replace("known.sum(dim=1).clamp(min=1)", "known.shape[1]"))
        done = harness("check-adapter", "./my_model.py")
        assert done.returncode == 1
        assert re.search(r"padding does not change an embedding\tviolated\t.*differ by up to", done.stdout)
        refused(harness("check-adapter", "my_modle"), "unknown model 'my_modle'")
        refused(harness("new-adapter", "my_model"), "my_model.py: exists")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("My-Model", "lower-case letters"),
            ("2fast", "lower-case letters"),
            ("class", "lower-case letters"),
            ("../up", "lower-case letters"),
            ("kmer", "there is a model of that name"),
            ("floors", "there is a model of that name"),
            ("torch", "would hide"),
        ],
    )
    def test_names_that_are_refused(self, tmp_path, name, words):
        with pytest.raises(UserError, match=words):
            new_adapter(name, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_overwritten_or_created_beside(self, tmp_path):
        with pytest.raises(UserError, match="no such folder"):
            new_adapter("mine", tmp_path / "none")
        path = new_adapter("mine", tmp_path)
        path.write_text("precious")
        with pytest.raises(UserError, match="exists"):
            new_adapter("mine", tmp_path)
        assert path.read_text() == "precious"

    def test_it_is_short_and_reads_its_own_weights(self, tmp_path):
        path = new_adapter("mine", tmp_path)
        assert len([line for line in path.read_text().splitlines() if line]) <= 40
        cls = registry.adapter_class(str(path))
        model = cls.from_checkpoint(size="base")
        torch.save(model.state_dict(), tmp_path / "mine.pt")
        again = cls.from_checkpoint(tmp_path / "mine.pt")
        assert again.audit.matched == again.audit.expected == 5
        assert torch.equal(again.dense.weight, model.dense.weight)
