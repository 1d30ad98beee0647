"""The report: its numbers are the table's, it says what must be known, it escapes, and it refuses what it cannot do."""

import io
import json
import os
import re
import sys
from html import unescape
from html.parser import HTMLParser

import pandas as pd
import pytest
from made_records import PROBE, checkpoint, failed, published, record
from made_reports import HOSTILE, put, search, study, with_pairs

from harness.errors import UnknownName, UserError
from harness.evidence import tables
from harness.evidence.records import PREDICTIONS, write
from harness.evidence.report import report
from harness.evidence.report.draw import COLOURS, MARKERS, look
from harness.evidence.schema import LEAKS
from harness.progress import figure
from harness.task import MULTILABEL, REGRESSION


@pytest.fixture(autouse=True)
def _compared(monkeypatch):
    with_pairs(monkeypatch)


class Page(HTMLParser):
    """The tags, texts and comments of a page."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.words, self.comments, self._open = text, [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(" ".join(data.split()))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_comment(self, data):
        self.comments.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(results, tmp_path, **options) -> Page:
    return Page(report(results, tmp_path / "report.html", **options).read_text())


def shown(text, metric):
    """Model → task → mean, as the page's table by a metric has them."""
    table = re.search(rf'data-metric="{metric}".*?<table class="scores">(.*?)</table>', text, re.S)[1]
    heads = [unescape(name) for name in re.findall(r'<th scope="col" class="n"[^>]*data-q="([^"]*)"', table)]
    found = {}
    for row in re.findall(r"<tr[^>]*>(<th scope=\"row\">.*?)</tr>", table, re.S):
        label = unescape(re.search(r'<th scope="row">(.*?)</th>', row)[1])
        cells = re.findall(r"<td.*?</td>", row, re.S)
        for head, cell in zip(heads, cells):
            if mean := re.search(r"<b>([^<]*)", cell):
                found[label, head] = mean[1]
    return found


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "auroc", "ece"])
def test_the_numbers_are_those_of_harness_table(harness, tmp_path, metric):
    study(tmp_path / "results")
    text = page(tmp_path / "results", tmp_path).text
    done = harness("table", "--metric", metric, "--format", "csv", "--results", str(tmp_path / "results"))
    frame = pd.read_csv(io.StringIO(done.stdout))
    assert len(frame) == 12
    assert shown(text, metric) == {(line.model, line.task): figure(line.mean) for line in frame.itertuples()}
    for line in frame.itertuples():
        assert figure(line.sd) in text
        if line.low == line.low:
            assert f"[{line.low:.3f}, {line.high:.3f}]" in text


def test_published_numbers_stand_below_ours_as_they_are_printed(tmp_path, monkeypatch):
    items = [published(value="0.80", note="one run")]
    monkeypatch.setattr(tables, "read_published", lambda: items)
    put(tmp_path / "results")
    found = page(tmp_path / "results", tmp_path)
    assert list(shown(found.text, "accuracy"))[-1] == ("BERT (published: Doe 2020)", "QKI")
    assert shown(found.text, "accuracy")["BERT (published: Doe 2020)", "QKI"] == "0.80"
    assert "1 row holds numbers printed in papers" in " ".join(found.words)
    assert {"one run", "Doe 2020"} <= set(found.words)


def test_each_kind_of_task_has_tables_and_figures_of_its_own(tmp_path):
    for model in ("kmer", "bob"):
        put(tmp_path / "results", model)
        put(tmp_path / "results", model, "activity", kind=REGRESSION)
        put(tmp_path / "results", model, "tissues", kind=MULTILABEL)
    found = page(tmp_path / "results", tmp_path)
    assert [section["id"] for section in found.all("section") if section.get("id")] == [
        "classification",
        "regression",
        "multilabel",
    ]
    metrics = [(box["data-of"], box["data-metric"]) for box in found.all("div") if "data-of" in box]
    assert ("regression", "rmse") in metrics
    assert ("classification", "rmse") not in metrics
    titles = {svg["aria-label"] for svg in found.all("svg") if "aria-label" in svg}
    assert {"ROC in QKI", "reliability in tissues", "Predicted against observed in activity, bob, seed 0"} <= titles
    assert not any(title.startswith("ROC in activity") for title in titles)
    for table in re.findall(r'<table class="scores">.*?</table>', found.text, re.S):
        assert sum(f'data-q="{task}"' in table for task in ("QKI", "activity", "tissues")) == 1


def test_the_asked_metric_is_what_the_figures_are_about(tmp_path):
    study(tmp_path / "results")
    found = page(tmp_path / "results", tmp_path, metric="log-loss", title="A & B")
    first = next(box for box in found.all("div") if "data-metric" in box)
    assert (first["data-metric"], "hidden" in first) == ("log_loss", False)
    assert any(svg.get("aria-label") == "Ranks of 4 models in 3 tasks by log-loss" for svg in found.all("svg"))
    assert "A & B" in found.words


def test_every_figure_has_an_alternative_text_with_numbers(tmp_path):
    study(tmp_path / "results")
    search(tmp_path / "results")
    found = page(tmp_path / "results", tmp_path)
    figures = re.findall(r"<svg role=\"img\".*?</svg>", found.text, re.S)
    assert len(figures) == len([svg for svg in found.all("svg") if "aria-hidden" not in svg]) > 10
    for picture in figures:
        assert len(re.search(r'aria-label="([^"]+)"', picture)[1]) > 5
        assert re.search(r"<desc>[^<]*\d[^<]*</desc>", picture)
    assert all(table.count("<caption>") == 1 for table in re.findall(r"<table.*?</table>", found.text, re.S))


def test_names_cannot_break_out_of_the_page(tmp_path):
    put(tmp_path / "results", HOSTILE, "QKI")
    put(tmp_path / "results", "kmer", 'QKI "><svg onload=alert(1)>', events=["<b>bold</b>"])
    put(tmp_path / "results", "kmer", "-->")
    write(failed(model=HOSTILE, task="QKI", seed=1, options={"<i>": "$x_1$"}), None, tmp_path / "results")
    search(tmp_path / "results", model=HOSTILE)
    found = page(tmp_path / "results", tmp_path, title=HOSTILE)
    assert [tag for tag, _ in found.tags if tag in ("img", "b onload", "iframe")] == []
    assert len(found.all("script")) == 1
    assert not [attributes for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.comments == []
    assert HOSTILE in "".join(found.words)
    assert "alert(1)" not in re.search(r"<script>(.*?)</script>", found.text, re.S)[1]
    policy = next(tag["content"] for tag in found.all("meta") if "http-equiv" in tag)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    study(tmp_path / "results", 2, 1, 1)
    text = page(tmp_path / "results", tmp_path).text
    assert not re.findall(r'(?:src|href)="(?!#|data:,")', text)
    assert "@import" not in text
    assert re.findall(r"https?://[^\s\"<)]*", text) == []


def test_the_same_records_give_the_same_bytes(tmp_path):
    study(tmp_path / "results", 3, 2, 1)
    search(tmp_path / "results")
    one, other = (report(tmp_path / "results", tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_it_says_what_is_simulated_untrained_searched_or_left_out(tmp_path):
    results = tmp_path / "results"
    put(results, task="QKI (sample)")
    write(record("msamamba", seed=3), None, results)
    write(record("bob", checkpoint=checkpoint(), size="tiny"), None, results)
    write(record("bob", checkpoint=checkpoint(), size="tiny", seed=1, code="older", minute=0), None, results)
    write(record("cnn", recipe=PROBE, minute=1), None, results)
    write(record("cnn", minute=2), None, results)
    text = " ".join(page(results, tmp_path).words)
    for sentence in (
        "QKI (sample): made-up data",
        "msamamba (from scratch): weights drawn at random",
        "bob (msamamba.pt, size tiny): not the size that the papers use",
        "run with another version of the code",
        "have no readable predictions",
    ):
        assert sentence in text


def test_versions_of_the_code_are_those_of_one_model_on_one_task(tmp_path):
    for model in ("alice", "bob"):  # a digest is of the model's own code, too
        write(record(model, code=model), None, tmp_path / "results")
    assert "Versions of the code" not in page(tmp_path / "results", tmp_path).words
    write(record("bob", checkpoint=checkpoint(), seed=1, code="older"), None, tmp_path / "results")
    text = " ".join(page(tmp_path / "results", tmp_path).words)
    assert "Not all runs of bob on QKI are of one version; differences between these numbers may be due to the code" in text


def test_a_searched_model_beside_others_is_named(tmp_path):
    run = record("bob")
    run.model["search"] = {"trials": 20, "epochs": 60, "seconds": 5.0, "objective": "log_loss", "id": "a"}
    write(run, None, tmp_path / "results")
    write(record("alice"), None, tmp_path / "results")
    text = " ".join(page(tmp_path / "results", tmp_path).words)
    assert "Settings of bob were chosen by a search on the validation split, those of alice were not." in text
    assert "trials 20, epochs 60" in text


def test_flags_name_what_is_wrong_with_a_run(tmp_path):
    results, spoilt = tmp_path / "results", {"examples": 5, "intact": {"auroc": 0.5}}
    spoilt |= {name: {"auroc": 0.5, "mean_change": 0.001} for name in ("blanked", "shuffled")}
    put(results, "flat", collapsed=True, events=["3 windows were truncated to 512 tokens"])
    put(results, "deaf", alignment=spoilt)
    write(failed(model="bob", seed=2), None, results)
    partial = record("half", checkpoint=checkpoint())
    partial.model["audit"] = {"expected": 10, "matched": 7, "missing": ["a", "b", "c"], "source": "x"}
    write(partial, None, results)
    counts = dict.fromkeys(LEAKS, 0) | {"none": 80, next(name for name in LEAKS if name != "none"): 20}
    part = {"examples": 80, "metrics": {"accuracy": 0.8}, "intervals": {}}
    put(results, "leak", leakage={"counts": counts, "parameters": {}, "subsets": {"novel": part, "leaking": part}})
    text = page(results, tmp_path).text
    found = {
        (unescape(flag), unescape(model)): unescape(words)
        for flag, model, words in re.findall(
            r'<tr data-q="[^"]*"><td[^>]*>(.*?)</td><th scope="row"><a href="#c\d+">(.*?)</a></th><td>.*?</td><td>.*?</td><td>(.*?)</td></tr>',
            text,
        )
    }
    assert found["failed", "bob"] == "RunFailed: loss is nan"
    assert found["collapsed", "flat"] == "every test example was put into one class"
    assert found["truncated", "flat"] == "3 windows were truncated to 512 tokens"
    assert found["insensitive to the alignment", "deaf"] == "it predicts the same without its alignment"
    assert found["partial weights", "half (msamamba.pt)"] == "7 of 10 tensors; 3 stayed random (a, b, c…)"
    assert found["leaky", "leak"].startswith("20.0% of the test examples")


def test_each_number_leads_to_how_it_was_made(tmp_path):
    put(tmp_path / "results", "bob", checkpoint=checkpoint(), files={"train.csv": "c0ffee"}, code="abcdef")
    found = page(tmp_path / "results", tmp_path)
    links = {link["href"][1:] for link in found.all("a") if link.get("href", "").startswith("#c")} - {"classification"}
    entries = {box["id"] for box in found.all("details") if "id" in box}
    assert {link for link in links if re.fullmatch(r"c\d+", link)} == entries != set()
    text = " ".join(found.words)
    for fact in (
        "learning_rate",
        "sha256 abcdef",
        "c0ffee",
        "/weights/msamamba.pt",
        "AMD EPYC in float32",
        "python 3.11.7",
        "seed0-0000000000",
    ):
        assert fact in text


def test_without_predictions_the_rest_is_there(tmp_path, harness):
    study(tmp_path / "results", 3, 1, 1)
    lost, damaged, swapped = sorted((tmp_path / "results").rglob(PREDICTIONS))
    lost.unlink()
    damaged.write_text('"id","label","probability_unbound","probability_bound"\n"w0","bound",nan,0.5\n')
    swapped.write_text('"id","label","probability_a","probability_b"\n"w0","a",0.5,0.5\n')
    done = harness("report", str(tmp_path / "results"))
    assert (done.returncode, "3 finished runs have no readable predictions" in done.stderr) == (0, True)
    found = Page((tmp_path / "report.html").read_text())
    assert "3 finished runs have no readable predictions" in " ".join(found.words)
    assert not any(svg.get("aria-label", "").startswith("ROC") for svg in found.all("svg"))
    assert len(shown(found.text, "accuracy")) == 3


def test_differences_that_cannot_be_had_leave_a_sentence(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise UserError("no predictions to compare")

    monkeypatch.setattr(sys.modules["harness.evidence.compare"], "compare_all", broken)
    study(tmp_path / "results", 2, 1, 1)
    assert "no predictions to compare" in page(tmp_path / "results", tmp_path).words


def test_pairs_are_listed_with_their_verdicts(tmp_path):
    study(tmp_path / "results", 3, 2, 1)
    found = page(tmp_path / "results", tmp_path)
    assert sum("a verdict" in words for words in found.words) >= 6
    assert "All 6 pairs, with verdicts" in found.words
    assert "< 0.0001" in found.words
    assert {"what the tests suppose", "1.25", "1.00 to 1.75"} <= set(found.words)


def test_verdicts_are_those_of_harness_compare(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "harness.evidence.compare")
    module = pytest.importorskip("harness.evidence.compare", reason="needs the module that compares models")
    results = study(tmp_path / "results", 3, 1, 2)
    (pair, *_) = module.compare([results], say=lambda message: None).differences
    words = page(results, tmp_path).words
    assert {pair.sentence, f"{pair.difference:+.4f}", f"{pair.interval[0]:+.4f} to {pair.interval[1]:+.4f}"} <= set(words)


def test_the_first_sentence_says_who_leads_and_whether_it_can_be_told(tmp_path):
    study(tmp_path / "results", 3, 2, 1)
    first = next(words for words in page(tmp_path / "results", tmp_path).words if words.startswith("By accuracy"))
    assert first.startswith("By accuracy, model2 has the best mean rank in 2 tasks (1.00), followed by kmer (floor) (2.00).")
    assert "Of the 2 tasks in which these two were tested" in first


def test_equal_mean_ranks_have_no_leader(tmp_path):
    for model, skills in {"alice": (2.0, 1.0), "bob": (1.0, 2.0)}.items():
        for task, skill in zip(("QKI", "PUM2"), skills):
            put(tmp_path / "results", model, task, skill)
    first = next(words for words in page(tmp_path / "results", tmp_path).words if words.startswith("By accuracy"))
    assert first == "By accuracy, alice and bob share the best mean rank in 2 tasks (1.50)."


def test_one_tested_task_is_told_without_counting(tmp_path):
    study(tmp_path / "results", 3, 1, 1)
    first = next(words for words in page(tmp_path / "results", tmp_path).words if words.startswith("By accuracy"))
    assert first.startswith("By accuracy, model2 scores best in the one task where every model has a score, followed by kmer")
    assert re.search(r"In the one task in which these two were tested, (they cannot be told apart|.* is better)\.$", first)


def test_searches_show_what_was_tried(tmp_path):
    put(tmp_path / "results", "cnn")
    search(tmp_path / "results")
    broken = search(tmp_path / "results")
    broken.write_text("{")
    other = search(tmp_path / "results")
    other.write_text(json.dumps({"model": "x"}))
    found = page(tmp_path / "results", tmp_path)
    titles = {svg.get("aria-label") for svg in found.all("svg")}
    assert {
        f"{title} cnn on QKI" for title in ("Optimisation history of", "Settings of the trials of", "Importance of settings,")
    } <= titles
    text = " ".join(found.words)
    assert text.count("not a readable search") == 2
    assert "trials 6 · epochs 18 · finished 4 · pruned 1 · failed 1" in text


def test_several_folders_are_one_report(tmp_path):
    put(tmp_path / "a", "kmer")
    put(tmp_path / "b", "bob")
    put(tmp_path / "b", "kmer")
    found = page([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert list(shown(found.text, "accuracy"))[:2] == [("kmer (floor)", "QKI"), ("bob", "QKI")]
    assert "1 records are of runs that another of the folders holds too; the newest of each counts" in found.words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "acuracy"], "did you mean accuracy"),
        (["--metric", "rmse"], "only regression has it"),
        (["--out", "nowhere/report.html"], "there is no folder nowhere"),
        (["--out", "results"], "is a folder; name a file in it"),
        (["--out", "pipe"], "is no ordinary file"),
        (["--out", "x" * 300], "was not written (File name too long)"),
        (["elsewhere"], "results elsewhere: no such folder"),
        (["empty"], "no records in empty"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(harness, tmp_path, arguments, words):
    put(tmp_path / "results")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    done = harness("report", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_command_says_what_it_wrote(harness, tmp_path):
    put(tmp_path / "results")
    done = harness("report", "--title", "Mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("report.html: ")
    assert "<h1>Mine</h1>" in (tmp_path / "report.html").read_text()


def test_an_unknown_metric_is_an_unknown_name(tmp_path):
    put(tmp_path / "results")
    with pytest.raises(UnknownName, match="auroc"):
        report(tmp_path / "results", tmp_path / "a.html", metric="aurocc")


def test_models_have_looks_of_their_own():
    looks = {(style.colour, str(style.dash)) for style in (look(number, False) for number in range(4 * COLOURS))}
    assert len(looks) == 4 * COLOURS
    assert {style.marker for style in (look(number, False) for number in range(COLOURS))} == set(MARKERS)
