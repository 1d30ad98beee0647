"""Study files: what they say, what they refuse, and that writing one and reading it back plans the same runs."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

import adapters
from harness.errors import BadData, UserError
from harness.evidence.records import read_all
from harness.study.plan import plan
from harness.study.study import OF_MODEL, OF_TASK, Study


def read(folder: Path, text: str) -> Study:
    path = folder / "study.toml"
    path.write_text(text)
    return Study.read(path)


def described(study: Study) -> list[tuple]:
    return [(run.name, run.label, run.seed, run.size, run.recipe) for run in study.plan()]


def test_its_words_are_arguments_of_a_plan():
    assert {*OF_MODEL, *OF_TASK} <= set(inspect.signature(plan).parameters)


def test_a_whole_file(tmp_path):
    (tmp_path / "own.csv").write_text(
        "sequence,label\n"
        + "".join(f"{a}{b}{c}ACGTTGCA,{'yes' if a < 'G' else 'no'}\n" for a in "ACGT" for b in "ACGT" for c in "ACGT")
    )
    study = read(
        tmp_path,
        """
        models = ["kmer"]
        tasks = ["QKI"]
        seeds = "0..1"
        device = "cpu"

        [budget]
        max_epochs = 4
        max_hours = 0.5

        [[model]]
        name = "msamamba"
        init = "random:tiny"
        options = {layout = "column"}
        recipe = {learning_rate = 1e-4}

        [[model]]
        name = "cnn"
        recipe = {epochs = 2}

        [[task]]
        name = "own.csv"
        called = "mine"
        """,
    )
    assert described(study) == [
        (name, label, seed, size, recipe)
        for label in ("QKI (sample)", "mine")
        for name, size, recipe in (
            ("kmer", "base", {}),
            ("msamamba", "tiny", {"learning_rate": 1e-4, "max_hours": 0.5, "epochs": 4}),
            ("cnn", "base", {"epochs": 2, "max_hours": 0.5}),
        )
        for seed in (0, 1)
    ]


def test_a_command_line_and_its_file_mean_the_same_runs(harness, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("train", "test"):
        rows = [
            f"{a}{b}{c}ACGT{name[0].upper().replace('T', 'G')},{(a < 'G') * 1}" for a in "ACGT" for b in "ACGT" for c in "ACGT"
        ]
        (tmp_path / f"{name}.csv").write_text("seq,y\n" + "\n".join(rows) + "\n")
    words = ["--model", "gc,cnn", "--train", "train.csv", "--test", "test.csv", "--sequence-column", "seq", "--label-column", "y"]
    words += ["--seed", "0..2", "--lr", "1e-3", "--max-epochs", "2", "--device", "cpu", "--name", "mine"]
    assert harness("sweep", *words, "--write", "sub/study.toml").returncode == 0
    shown = harness("sweep", *words, "--dry-run").stdout
    assert harness("sweep", "sub/study.toml", "--dry-run").stdout == shown
    assert len(shown.splitlines()) == 6
    content = tomllib.loads((tmp_path / "sub" / "study.toml").read_text())
    assert content["models"] == ["gc", "cnn"]
    assert content["seeds"] == "0..2"
    assert content["recipe"] == {"learning_rate": 1e-3}
    assert content["task"][0]["train"] == [str(tmp_path / "train.csv")]  # not below the study's folder
    assert not (tmp_path / "results").exists()


def test_paths_below_the_file_are_relative_to_it(harness, tmp_path, monkeypatch):
    rows = [f"{a}{b}{c}ACGTTGCA,{(a < 'G') * 1}" for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    (tmp_path / "own.csv").write_text("sequence,label\n" + "\n".join(rows) + "\n")
    assert harness("sweep", "--model", "gc", "--task", "own.csv", "--write", "study.toml", "--device", "cpu").returncode == 0
    assert tomllib.loads((tmp_path / "study.toml").read_text())["task"] == [{"name": ["own.csv"]}]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [run.label for run in Study.read(Path("../study.toml")).plan()] == ["own.csv"]


def test_a_budget_cuts_and_never_stretches(tmp_path):
    study = read(tmp_path, 'models = ["cnn"]\ntasks = ["QKI"]\ndevice = "cpu"\n[recipe]\nepochs = 3\n[budget]\nmax_epochs = 50\n')
    assert [run.recipe for run in study.plan()] == [{"epochs": 3}]


def test_a_setting_for_some_models_only_is_left_out_of_the_others(tmp_path):
    study = read(
        tmp_path,
        'models = ["gc", "cnn"]\ntasks = ["QKI"]\ndevice = "cpu"\n[recipe]\nlearning_rate = 1e-3\n[[model]]\nname = "kmer"\n',
    )
    assert {run.name: run.recipe for run in study.plan()} == {"gc": {}, "kmer": {}, "cnn": {"learning_rate": 1e-3}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = [", "cannot be read"),
        ("tasks = ['QKI']", "it names no model"),
        ("models = ['gc']", "it names no task"),
        ("models = 'gc'\ntasks = ['QKI']", "models is 'gc': expected a list of names"),
        ("models = ['gc']\ntasks = ['QKI']\nseed = 1", "it has 'seed', which no study has; did you mean seeds?"),
        ("models = ['gc']\ntasks = ['QKI']\n[budget]\nmax_hours = 0", "max_hours is 0: expected a number above 0"),
        ("models = ['gc']\ntasks = ['QKI']\n[budget]\nmax_epochs = 1.5", "max_epochs is 1.5"),
        ("models = ['gc']\ntasks = ['QKI']\n[budget]\nhours = 1", "[budget] has 'hours'"),
        (
            "models = ['gc']\ntasks = ['QKI']\n[search]\ntrial = 1",
            "[search] has 'trial', which no study has; did you mean trials?",
        ),
        ("tasks = ['QKI']\n[[model]]\ncheckpoint = 'x'", "[[model]] lacks name"),
        ("models = ['gc']\n[[task]]\nsplit = 'thesis'", "[[task]] lacks name"),
        ("models = ['gc']\n[task]\nname = 'QKI'", "expected [[task]] tables"),
        ("tasks = ['QKI']\n[[model]]\nname = 'cnn'\noptions = 3", "options is 3"),
        ("tasks = ['QKI']\n[[model]]\nname = 'cnn'\nallow_partial = 'yes'", "allow_partial is 'yes'"),
        ("tasks = ['QKI']\n[[model]]\nname = 'cnn'\ncheckpoint = ['a']", "checkpoint is ['a']"),
        ("models = ['cnn']\n[[task]]\nname = 'QKI'\ngenome = ['a']", "genome is ['a']"),
        ("models = ['cnn']\n[[task]]\nname = ['QKI', 3]", "name is ['QKI', 3]"),
        ("models = ['cnn']\n[[task]]\nname = 'QKI'\nsplit = ['a']", "split is ['a']"),
        ("tasks = ['QKI']\nbudget = 3\nmodels = ['gc']", "budget is 3: expected a table, [budget]"),
    ],
)
def test_refused(tmp_path, text, words):
    with pytest.raises(BadData) as raised:
        read(tmp_path, text)
    assert words in str(raised.value)
    assert "study.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = ['gcc']\ntasks = ['QKI']", "gcc"),
        ("models = ['gc']\ntasks = ['QKII']", "QKII"),
        ("models = ['gc']\ntasks = ['QKI']\nseeds = [-1]", "seed -1"),
        ("models = ['gc']\ntasks = ['QKI']\nseeds = ['a']", "seed 'a'"),
        ("models = ['cnn']\ntasks = ['QKI']\n[recipe]\nlearning_rat = 1", "learning_rat"),
        ("models = ['cnn']\ntasks = ['QKI']\n[recipe]\nepochs = 0", "epochs 0"),
        ("models = ['gc', 'cnn']\ntasks = ['QKI']\n[recipe]\nlearning_rat = 1", "learning_rat"),
        ("models = ['gc', 'kmer']\ntasks = ['QKI']\n[recipe]\nlearning_rate = 1e-3", "learning-rate 0.001: not used by any"),
        ("models = ['gc']\ntasks = ['QKI']\n[[model]]\nname = 'cnn'\nrecipe = {epoch = 1}", "'epoch'"),
        ("models = ['cnn']\ntasks = ['QKI']\n[[model]]\nname = 'gc'\nrecipe = {epochs = 1}", "epochs: not used by gc"),
    ],
)
def test_mistakes_are_those_of_a_plan(tmp_path, text, words):
    with pytest.raises(UserError) as raised:
        read(tmp_path, text).plan()
    assert words in str(raised.value)


def test_options_beside_a_file_are_refused(harness, tmp_path):
    (tmp_path / "study.toml").write_text("models = ['gc']\ntasks = ['QKI']\n")
    done = harness("sweep", "study.toml", "--seed", "3")
    assert done.returncode == 2
    assert "seed: stands in study.toml" in done.stderr


def test_zero_beside_a_file_is_refused_like_any_value(harness, tmp_path):
    (tmp_path / "study.toml").write_text("models = ['cnn']\ntasks = ['QKI']\n")
    done = harness("sweep", "study.toml", "--weight-decay", "0", "--dry-run")
    assert done.returncode == 2
    assert "weight-decay: stands in study.toml" in done.stderr


@pytest.mark.parametrize("models", [["./own.py"], ["gc,./own.py"], ["gc", "./own.py"]])
def test_a_model_s_path_is_written_too(tmp_path, monkeypatch, models):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text((Path(adapters.__path__[0]) / "gc.py").read_text().replace('"gc"', '"own"'))
    asked = Study.asked({"model": models, "task": ["QKI"], "device": "cpu"})
    asked.write(tmp_path / "study.toml")
    monkeypatch.chdir("/")
    again = Study.read(tmp_path / "study.toml")
    monkeypatch.chdir(tmp_path)
    assert [run.to_json() for run in again.plan()] == [run.to_json() for run in asked.plan()]


def test_a_model_s_own_hours_may_be_fewer_than_the_budget_and_not_more(tmp_path):
    study = read(
        tmp_path,
        "models = ['cnn']\ntasks = ['QKI']\n[budget]\nmax_hours = 2\n"
        "[[model]]\nname = 'cnn'\nrecipe = {max_hours = 0.5}\n[[model]]\nname = 'cnn'\nrecipe = {max_hours = 9, epochs = 3}\n",
    )
    assert sorted(run.recipe["max_hours"] for run in study.plan()) == [0.5, 2, 2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--cpus", "4"), "cpus: only with --on ray"),
        (("--gpus", "1"), "gpus: only with --on ray"),
        (("--on", "ray", "--jobs", "3"), "jobs: not with --on ray"),
        (("--on", "slurm", "--no-wait"), "no-wait: not with --on slurm"),
        (("--write", "w.toml", "--shard", "1/2"), "shard: not with --write"),
        (("--write", "w.toml", "--retry", "failed"), "retry: not with --write"),
        (("--write", "w.toml", "--dry-run"), "dry-run: not with --write"),
    ],
)
def test_options_that_would_do_nothing_are_refused(harness, tmp_path, given, words):
    done = harness("sweep", "--model", "gc", "--task", "QKI", *given)
    assert done.returncode == 2
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("epochs = 9", "search epochs 9: above max_epochs 2"),
        ("trials = '2'", "trials '2'"),
        ("pruner = 'x'", "pruner 'x'"),
        ("epochs = 0", "epochs 0"),
        ("preset = 3", "preset 3"),
        ("space = 'nope.toml'", "space nope.toml: cannot be read"),
        ("space = {learning_rat = [1]}", "learning_rat: is no setting"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_else(tmp_path, search, words):
    text = f"models = ['gc', 'cnn']\ntasks = ['QKI']\n[budget]\nmax_epochs = 2\n[search]\n{search}\n"
    with pytest.raises(UserError) as raised:
        read(tmp_path, text).searches()
    assert words in str(raised.value)


def test_a_dry_run_shows_searches(harness, tmp_path):
    (tmp_path / "study.toml").write_text("models = ['gc', 'cnn']\ntasks = ['QKI']\n[search]\ntrials = 3\n")
    done = harness("sweep", "study.toml", "--dry-run")
    assert "search of 3 trials: cnn on QKI; then runs with what is chosen" in done.stdout


def test_a_search_is_for_models_that_are_trained(tmp_path):
    study = read(
        tmp_path,
        "models = ['kmer']\ntasks = ['QKI']\nseeds = '0..1'\ndevice = 'cpu'\n[[model]]\nname = 'cnn'\n"
        "[budget]\nmax_epochs = 2\n[search]\ntrials = 3\n[search.space]\nlearning_rate = [1e-3, 1e-2]\n",
    )
    (words,) = study.searches()
    assert (words["model"], words["trials"], words["epochs"], words["seed"]) == ("cnn", 3, 2, [0, 1])
    assert words["space"] == {"space": {"learning_rate": [1e-3, 1e-2]}}
    assert [run.name for run in study.unsearched()] == ["kmer", "kmer"]


def test_a_study_with_a_search(harness, tmp_path):
    (tmp_path / "study.toml").write_text(
        "models = ['gc', 'cnn']\ntasks = ['QKI']\ndevice = 'cpu'\n[budget]\nmax_epochs = 1\n[search]\ntrials = 2\n"
        "[search.space]\nlearning_rate = [1e-3, 1e-2]\n"
    )
    done = harness("sweep", "study.toml")
    assert done.returncode == 0, done.stderr
    found = {record.model["name"]: record.model.get("search") for record in read_all(tmp_path / "results")}
    assert found["gc"] is None
    assert (found["cnn"]["trials"], found["cnn"]["epochs"]) == (2, 1)
    assert "[search] is done on this machine alone" in harness("sweep", "study.toml", "--on", "ray").stderr


def test_the_readmes_example(tmp_path):
    text = (ROOT / "README.md").read_text().split("```toml\n", 1)[1].split("```", 1)[0]
    study = read(tmp_path, text)
    assert (study.max_epochs, len(study.seeds)) == (10, 5)
    assert [model["model"] for model in study.models] == [["floors"], ["msamamba"], "dnabert2"]
