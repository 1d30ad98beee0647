"""A model's published settings can differ by family of tasks: in plans, in records, in tables and on screen."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from conftest import ROOT
from made_records import record
from test_plan import TINY, write_table

from harness import registry
from harness.check import contract
from harness.errors import UserError
from harness.evidence.tables import wide
from harness.recipe import Recipe
from harness.study.plan import plan
from harness.study.run import execute

TEMPLATE = (ROOT / "harness/check/template.py").read_text()
RECIPE = "    recipe = Recipe("


def adapter(folder, recipes: str) -> str:
    """The path of an adapter that has published settings of its own by family."""
    file = folder / "template.py"
    file.write_text(TEMPLATE.replace(RECIPE, f"    recipes = {recipes}\n{RECIPE}", 1))
    return str(file)


class TestFacts:
    def test_an_entry_changes_its_family_alone(self, tmp_path):
        facts = registry.model_facts(adapter(tmp_path, '{"files": {"epochs": 2, "dropout": 0.5}}'))
        assert facts.recipe_for("files") == facts.recipe.override(epochs=2, dropout=0.5)
        assert facts.recipe_for("rbp") == facts.recipe

    def test_recipes_that_are_no_literal_are_read_from_the_class(self, tmp_path):
        facts = registry.model_facts(adapter(tmp_path, 'dict(files=dict(epochs=2), rbp={"epochs": int("3")})'))
        assert [facts.recipe_for(family).epochs for family in ("files", "rbp", "variants")] == [2, 3, 10]

    @pytest.mark.parametrize(
        ("recipes", "words"),
        [
            ('{"rbp": {"epoch": 2}}', "model template: recipes['rbp']: setting 'epoch': choose one of tune, epochs"),
            ('{"rbp": {"epochs": 0}}', "model template: recipes['rbp']: epochs 0: must be a whole number, at least 1"),
            ('{"rbp": 5}', "model template: recipes['rbp']: "),
            ('["rbp"]', "model template: recipes ['rbp']: expected {family: {setting: value}}"),
        ],
    )
    def test_a_mistake_is_named_before_anything_starts(self, tmp_path, recipes, words):
        file = adapter(tmp_path, recipes)
        with pytest.raises(UserError) as error:
            plan(file, "QKI")
        assert words in str(error.value)
        assert words in contract.check(file)[0].detail

    def test_the_cnn_has_the_settings_of_genomic_benchmarks_there(self):
        facts = registry.model_facts("cnn")
        found = facts.recipe_for("genomic_benchmarks")
        assert (found.batch_size, found.epochs, found.learning_rate, found.schedule) == (64, 10, 1e-3, "constant")
        assert (found.weight_decay, found.warmup, found.dropout) == (0, 0, 0)
        assert (facts.recipe.batch_size, facts.recipe.epochs) == (32, 30)


class TestRuns:
    def test_a_run_has_its_familys_settings_unless_others_are_asked_for(self, tmp_path):
        table = str(write_table(tmp_path / "t.csv"))
        plain = plan(adapter(tmp_path, "{}"), table, **TINY)[0]
        (own,) = plan(adapter(tmp_path, '{"files": {"epochs": 1, "dropout": 0.0}}'), table, **TINY)
        assert (own.family, own.recipe, own.published().epochs) == ("files", {"precision": "float32"}, 1)
        (asked,) = plan(own.model, table, epochs=2, **TINY)
        assert len({plain.id, own.id, asked.id}) == 3
        record = execute(own, tmp_path / "results")
        assert record.finished
        assert (record.recipe["epochs"], record.recipe["dropout"], len(record.history)) == (1, 0.0, 1)
        assert record.model["recipe"] == asdict(own.published()) | {"betas": [0.9, 0.999]}

    def test_the_settings_that_count_are_those_of_the_families_asked_for(self, tmp_path):
        file = adapter(tmp_path, '{"variants": {"tune": "probe"}}')
        with pytest.raises(UserError, match="learning-rate: not used by template, which is tuned by 'probe'"):
            plan(file, "clinvar", learning_rate=0.1)
        probe, *_, full = plan(file, ["clinvar", "QKI"], learning_rate=0.1)
        assert (probe.recipe, full.recipe) == ({}, {"learning_rate": 0.1})

    def test_an_empty_entry_changes_no_id(self, tmp_path):
        (run,) = plan("hyenadna", "QKI", init="random:tiny")
        assert registry.model_facts("hyenadna").recipes == {"genomic_benchmarks": {}}
        assert replace(run, family="genomic_benchmarks").id == run.id


class TestTables:
    """Cells of one row whose models have different published settings."""

    def cell_notes(self, *records):
        table = wide(records, "accuracy")
        return {column.task: cell.notes for (_, column), cell in table.cells.items()}

    def run(self, task: str, family: str, published: Recipe, recipe: Recipe, minute: int = 0):
        made = record("cnn", task=task, recipe=recipe, minute=minute)
        return replace(made, task=made.task | {"family": family}, model=made.model | {"recipe": asdict(published)})

    def test_each_familys_own_recipe_is_the_models_own(self):
        short, long = Recipe(epochs=10), Recipe(epochs=30)
        notes = self.cell_notes(
            self.run("QKI", "rbp", long, long),
            self.run("nontata", "genomic_benchmarks", short, short, minute=1),
        )
        assert notes == {"QKI": (), "nontata": ()}

    def test_one_familys_recipe_on_another_is_not(self):
        short, long = Recipe(epochs=10), Recipe(epochs=30)
        notes = self.cell_notes(
            self.run("QKI", "rbp", long, short),
            self.run("nontata", "genomic_benchmarks", short, long, minute=1),
        )
        assert notes["QKI"] == ("not the model's own recipe: epochs 10 (not 30)",)
        assert notes["nontata"] == ("not the model's own recipe: epochs 30 (not 10)",)

    def test_settings_that_were_published_before_are_not_todays_in_any_column_of_the_family(self):
        before, now = Recipe(epochs=5), Recipe(epochs=30)
        notes = self.cell_notes(self.run("QKI", "rbp", before, before), self.run("KHSRP", "rbp", now, now, minute=1))
        assert notes == {"QKI": ("not the model's own recipe: epochs 5 (not 30)",), "KHSRP": ()}


class TestScreen:
    def test_show_says_what_differs(self, harness):
        text = harness("show", "cnn").stdout
        assert "recipe for genomic_benchmarks  epochs 10, batch_size 64, weight_decay 0.0" in text
        assert "dropout 0.0; else the same" in text
        assert "recipe for genomic_benchmarks  the same, published for these tasks" in harness("show", "caduceus").stdout
