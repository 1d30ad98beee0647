"""The contract as a whole: what is said of an adapter's file, what cannot be built, and that nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT

from harness.check import contract
from harness.check.template import SIZES, Template
from harness.errors import UserError

TEMPLATE = ROOT / "harness/check/template.py"


class TestFacts:
    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ('name = "template"', 'name = "other"', "name 'other', but the file is template.py"),
            ('licence="?"', "licence=str(1)", "literal keyword arguments"),
            ('alphabet="ACGT"', 'alphabet="ACGT", reads="both"', "card.reads 'both'"),
            ('"""Embedding: ', '"""Output: ', "the docstring of Template does not say"),
            ('    name = "template"', "", "has no attribute 'name'"),
        ],
    )
    def test_facts(self, tmp_path, before, after, words):
        text = TEMPLATE.read_text()
        assert before in text
        (tmp_path / "template.py").write_text(text.replace(before, after, 1))
        first = contract.check(str(tmp_path / "template.py"))[0]
        assert (first.clause, first.state) == ("facts", "violated")
        assert words in first.detail

    def test_card_that_is_changed_later(self, tmp_path):
        text = TEMPLATE.read_text()
        (tmp_path / "template.py").write_text(f"{text}\n\nTemplate.card = ModelCard('', '', '', '')\n")
        assert "not the card of the class" in contract.check(str(tmp_path / "template.py"))[0].detail


class TestCheck:
    def test_the_template_keeps_the_contract(self):
        found = contract.check(str(TEMPLATE))
        assert [verdict.clause for verdict in found] == [clause.__name__ for clause in contract.CLAUSES]
        assert {verdict.state for verdict in found} == {"ok", "skipped"}

    def test_random_state_is_left_alone(self):
        before = torch.get_rng_state()
        contract.check("cnn")
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name' (mine.py, line 1)"),
            ("class Mine(", "SyntaxError"),
            ("x = 1", "expected one Adapter"),
            (
                "from harness.check.template import Template\nclass Mine(Template):\n    def __init__(self, width):\n        self.a = b",
                "NameError: name 'b' is not defined (mine.py, line 4)",
            ),
        ],
    )
    def test_what_cannot_be_built_is_one_line(self, tmp_path, text, words):
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(UserError) as error:
            contract.check(str(tmp_path / "mine.py"))
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    def test_unknown_model_and_size(self):
        with pytest.raises(UserError, match="did you mean"):
            contract.check("knn")
        with pytest.raises(UserError, match="size 'huge'"):
            contract.check("cnn", "huge")


class TestLoading:
    """`check-adapter --checkpoint`: what the audit says of a file is true."""

    def verdict(self, tmp_path, audit: str = "load_tensors(model, read_tensors(file), file)") -> contract.Verdict:
        text = TEMPLATE.read_text().replace("template", "mine")
        line = "            model.audit = load_tensors(model, read_tensors(file), file)\n"
        assert line in text
        (tmp_path / "mine.py").write_text(text.replace(line, f"            model.audit = {audit}\n"))
        torch.save(Template(SIZES["base"]).state_dict(), tmp_path / "pytorch_model.bin")
        found = contract.check(str(tmp_path / "mine.py"), checkpoint=str(tmp_path / "pytorch_model.bin"))
        return next(verdict for verdict in found if verdict.clause == "loading")

    def test_an_honest_adapter(self, tmp_path):
        found = self.verdict(tmp_path)
        assert (found.state, found.detail[:14]) == ("ok", "5 of 5 tensors")

    def test_weights_that_are_random_after_all(self, tmp_path):
        found = self.verdict(tmp_path, "load_tensors(model, read_tensors(file), file); nn.init.normal_(model.dense.weight)")
        assert found.state == "violated"
        assert "1 tensors are random, and the audit does not say so: dense.weight" in found.detail

    def test_an_adapter_that_loads_nothing_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="mine loads no weights"):
            self.verdict(tmp_path, "None")
