"""harness verify: correct records pass to the last bit, and whatever is edited by hand afterwards is named."""

import copy
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import motif_examples, planned_run
from made_kinds import multilabel_task, regression_task

from harness.errors import UserError
from harness.evidence.recompute import examine
from harness.evidence.records import read, read_predictions, write
from harness.evidence.verify import deterministic, verify
from harness.study.run import execute
from harness.task import Splits, Task


def binary_task() -> tuple[Task, Splits]:
    """Two classes, examples in blocks, and some test examples that repeat training ones."""
    parts = [motif_examples(count, 60, seed) for seed, count in enumerate((120, 40, 60))]
    parts[2][:6] = [replace(one, id=f"again {one.id}") for one in parts[0][:6]]
    splits = Splits(*parts, files={"made": "binary"}, block=lambda id: f"block {int(id.split('w')[1]) // 2}")
    return Task("motif", "made", "made here", ("unbound", "bound"), lambda rule: splits, ("drawn",)), splits


MADE = {"classification": binary_task, "regression": regression_task, "multilabel": multilabel_task}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A results folder of gc and kmer on a task of each kind, and cnn on the first with two seeds."""
    results = tmp_path_factory.mktemp("verify") / "results"
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        for make in MADE.values():
            task, splits = make()
            for model in ("gc", "kmer"):
                assert execute(planned_run(model, task, splits), results, opened=(task, splits)).finished
        task, splits = binary_task()
        run = planned_run("cnn", task, splits, epochs=2)
        for seed in (0, 1):
            assert execute(replace(run, seed=seed), results, opened=(task, splits)).finished
    return results


@pytest.fixture
def results(originals, tmp_path):
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(originals, tmp_path / "results"))


def folder_of(results: Path, kind: str, model: str = "kmer") -> Path:
    task = {"classification": "motif", "regression": "expression", "multilabel": "motifs"}[kind]
    return sorted((results / task / model).iterdir())[0]


def content_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def put(folder: Path, content: dict) -> None:
    (folder / "record.json").write_text(json.dumps(content))


def unsealed(folder: Path) -> dict:
    """The record as one of a version that made no checksums, so that each edit has to be found by what it says."""
    content = content_of(folder)
    del content["checksums"]
    put(folder, content)
    return content


def said(found) -> list[str]:
    return [str(problem) for problem in found.problems]


def numbers(value, path=()):
    """The paths of all numbers in a JSON value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            yield from numbers(item, (*path, key))
        elif isinstance(item, int | float):
            yield (*path, key)


def changed(content: dict, path, change) -> dict:
    made = copy.deepcopy(content)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = change(holder[path[-1]])
    return made


def nudged(value):
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value + 1e-6


class TestCorrectRecords:
    def test_all_scores_agree_to_the_last_bit(self, results):
        found = verify(results)
        assert said(found) == []
        assert found.notes == ("8 files of data whose checksum the registry does not know",)
        counts = found.counts
        assert (counts["records"], counts["finished"], counts["sealed"], counts["close"]) == (8, 8, 8, 0)
        assert counts["exact"] > 300
        assert counts["searches"] == 0
        assert found.summary == f"8 records: all scores recomputed, {counts['exact']:,} numbers agree to the last bit"

    def test_several_processes_find_the_same(self, results, monkeypatch):
        unsealed(folder_of(results, "regression"))
        monkeypatch.setattr("harness.evidence.verify.MIN_FOR_PROCESSES", 1)
        heard = []
        assert verify(results, jobs=2, say=lambda *numbers: heard.append(numbers)) == verify(results)
        assert heard[-1] == (8, 8)

    def test_a_failed_run_needs_no_predictions(self, results):
        folder = folder_of(results, "multilabel")
        record = read(folder)
        shutil.rmtree(folder)
        failed = {"status": "failed", "error": "RunFailed: loss is nan", "metrics": {}, "intervals": {}, "leakage": {}}
        write(replace(record, **failed, without_interval={}), None, results)
        found = verify(results)
        assert said(found) == []
        assert (found.counts["failed"], found.counts["finished"]) == (1, 7)

    def test_numbers_of_another_processor_agree_within_the_tolerance_and_are_counted(self, results):
        folder = folder_of(results, "classification")
        content = unsealed(folder)
        put(folder, changed(content, ("metrics", "log_loss"), lambda value: value * (1 + 1e-12)))
        found = verify(results)
        assert said(found) == []
        assert found.counts["close"] == 1
        assert found.summary.endswith(", 1 of them within 1e-09 only")


class TestEdits:
    @pytest.mark.parametrize("kind", MADE)
    def test_every_number_that_follows_from_the_predictions_is_compared(self, results, kind):
        folder = folder_of(results, kind)
        content = unsealed(folder)
        assert examine(folder).problems == []
        tested = {name: content[name] for name in ("metrics", "intervals", "seed", "collapsed")}
        tested |= {"task": {"counts": {"test": content["task"]["counts"]["test"]}}}
        tested |= {"leakage": {name: content["leakage"][name] for name in ("counts", "subsets")}}
        places = list(numbers(tested))
        assert len(places) > 20
        for place in places:
            put(folder, changed(content, place, nudged))
            problems = examine(folder).problems
            assert problems, place
            assert all(name == "record.json" for name, _ in problems)
            assert any(str(place[-1]) in what or str(place[-2]) in what for _, what in problems), place

    @pytest.mark.parametrize("kind", MADE)
    def test_every_cell_of_the_predictions_counts(self, results, kind):
        """Without checksums, from the scores alone; what leaks come from has no score, and ids need another record."""
        folder = folder_of(results, kind)
        unsealed(folder)
        path = folder / "predictions.csv"
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        flips = {"unbound": "bound", "bound": "unbound", "0": "1", "none": "exact", "near": "none", "exact": "none"}
        cells = [
            (number, column)
            for number in range(0, len(rows), max(len(rows) // 8, 1))
            for column, name in enumerate(header)
            if name not in ("id", "leak_from")
        ]
        for number, column in cells:
            cell = rows[number][column]
            if header[column] == "labels":
                edited = ";".join("10"[int(mark)] for mark in cell.split(";"))
            elif header[column] == "block":
                edited = "elsewhere"
            else:
                edited = flips[cell] if cell in flips else repr(float(cell) + 1e-5)
            lines = [list(row) for row in rows]
            lines[number][column] = edited
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([header, *lines])
            assert examine(folder).problems, (number, header[column], cell, edited)

    def test_an_id_is_held_against_the_other_records_of_the_question(self, results):
        for model in ("gc", "kmer"):
            unsealed(folder_of(results, "regression", model))
        path = folder_of(results, "regression") / "predictions.csv"
        path.write_text(path.read_text().replace('"w3"', '"w3 "'))
        what = "ids of the test examples are not those of 1 other record with the same task.question"
        assert [line.split(": ")[1] for line in said(verify(results))] == [what] * 2  # nobody knows which of the two was edited

    def test_of_two_records_the_one_that_is_wrong_otherwise_is_named(self, results):
        folder = folder_of(results, "regression")
        lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
        (folder / "predictions.csv").write_text("".join([lines[0], *reversed(lines[1:])]))
        problems = verify(results).problems
        assert {problem.path for problem in problems} == {folder / "predictions.csv"}
        assert sum("are not those of 1 other record with the same task.question" in problem.what for problem in problems) == 2

    def test_deleted_and_repeated_lines_are_named(self, results):
        folder = folder_of(results, "classification")
        unsealed(folder)
        path = folder / "predictions.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[:-1]) + "\n")
        assert any("task.counts.test.bound is stated as 30, recomputed 29" in what for _, what in examine(folder).problems)
        path.write_text("\n".join([*lines, lines[-1]]) + "\n")
        assert any("is there more than once" in what for _, what in examine(folder).problems)

    @pytest.mark.parametrize(
        "place", [("recipe", "patience"), ("history", 0, "validation_log_loss"), ("timing", "seconds", "total"), ("created",)]
    )
    def test_what_no_score_depends_on_has_a_checksum(self, results, place):
        folder = folder_of(results, "classification")
        put(
            folder,
            changed(
                content_of(folder), place, lambda value: value.replace("20", "21", 1) if place == ("created",) else value + 1
            ),
        )
        assert ("record.json", "it was edited after it was written: its checksum is that of another content") in examine(
            folder
        ).problems

    def test_predictions_have_a_checksum(self, results):
        path = folder_of(results, "classification") / "predictions.csv"
        path.write_text(path.read_text().replace('"w0"', '"w00"'))  # leak_from, or an id
        assert examine(path.parent).problems[0][1].startswith("it is not the file that was written with the record")

    def test_odd_probabilities_are_named_by_example(self, results):
        folder = folder_of(results, "classification")
        predictions = read_predictions(folder)
        for value, words in ((1.5, "a probability below 0 or above 1"), (0.9, "probabilities that do not sum to 1")):
            outputs = predictions.outputs.copy()
            outputs[7] = [value, 0.5]
            write(read(folder), replace(predictions, outputs=outputs), results)
            assert f"1 example has {words}: {predictions.ids[7]!r}" in [what for _, what in examine(folder).problems]


class TestPlaces:
    def test_a_folder_of_another_model_or_task(self, results):
        folder = folder_of(results, "classification")
        moved = shutil.move(folder, results / "motif" / "gc" / folder.name)
        (line,) = said(verify(results))
        assert line == f"{moved}/record.json: it does not belong here: its model's folder would be kmer, not gc"

    def test_a_copy_under_another_seed(self, results):
        folder = folder_of(results, "classification", "cnn")
        content = unsealed(folder)
        copied = folder.with_name(content["run_id"].replace("seed0", "seed7"))
        shutil.copytree(folder, copied)
        put(copied, content | {"seed": 7, "run_id": copied.name})
        found = verify(results)
        assert any(note.startswith("the same predictions to the last bit for seeds 0, 7") for note in found.notes)
        put(copied, content | {"seed": 7})
        assert any("seed is 7, but the run id" in line for line in said(verify(results)))

    def test_a_copy_under_another_model(self, results):
        folder = folder_of(results, "classification")
        content = content_of(folder)
        copied = results / "motif" / "cnn" / folder.name
        shutil.copytree(folder, copied)
        content["model"]["name"] = "cnn"
        put(copied, content)
        found = verify(results)
        assert f"{copied}/record.json: it was edited after it was written: its checksum is that of another content" in said(found)
        assert any(f"run id {folder.name} is also that of {folder}" in line for line in said(found))
        assert any("for models cnn, kmer; is one a copy?" in note for note in found.notes)

    def test_predictions_of_another_run(self, results):
        folder, other = (folder_of(results, "classification", model) for model in ("kmer", "gc"))
        unsealed(folder)
        shutil.copy(other / "predictions.csv", folder / "predictions.csv")
        assert any("metrics.log_loss is stated as" in what for _, what in examine(folder).problems)

    def test_missing_and_left_over_predictions(self, results):
        folder = folder_of(results, "regression")
        record, kept = read(folder), (folder / "predictions.csv").read_bytes()
        (folder / "predictions.csv").unlink()
        assert examine(folder).problems[-1] == (
            "predictions.csv",
            "a finished run without predictions: its scores cannot be computed again",
        )
        write(replace(record, status="failed", error="out of memory"), None, results)
        (folder / "predictions.csv").write_bytes(kept)
        problems = [what for _, what in examine(folder).problems]
        assert problems == ["a failed run has predictions", "a failed run states metrics, intervals, leakage"]

    def test_seeds_of_a_probe_may_agree_but_not_those_of_a_trained_model(self, results):
        assert deterministic(read(folder_of(results, "classification", "kmer")))
        assert not deterministic(read(folder_of(results, "classification", "cnn")))

    def test_without_records_it_says_where_they_are_looked_for(self, tmp_path):
        for folder, words in ((tmp_path, "no records in it"), (tmp_path / "gone", "no such folder")):
            with pytest.raises(UserError, match=words):
                verify(folder)

    def test_what_is_no_record_is_named(self, results):
        (results / "motif" / "kmer" / "notes").mkdir()
        (results / "motif" / "gc" / "seed9-0").mkdir()
        (results / "motif" / "gc" / "seed9-0" / "record.json").write_text("{}")
        lines = said(verify(results))
        assert f"{results}/motif/kmer/notes: has no record.json" in lines
        assert any(line.startswith(f"{results}/motif/gc/seed9-0/record.json: not a readable record") for line in lines)
