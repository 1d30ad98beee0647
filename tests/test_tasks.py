"""The contract that every task keeps, the RBP sets, the embedded samples, and the user's own files."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness import registry
from harness.data import Example
from harness.errors import BadData, ChecksumMismatch, DataMissing, UnknownName, UserError
from harness.files import sources
from harness.task import Splits, Task
from harness.tasks import _simulate, rbp
from harness.tasks._splits import stratified
from harness.tasks.files import from_files

SHARED = Path(__file__).parents[2] / "shared" / "data"
QKI = SHARED / "rbp" / "QKI_K562_IDR"
needs_qki = pytest.mark.skipif(not QKI.is_dir(), reason="the real QKI files (../shared/data/rbp) are not here")

TASKS = registry.tasks()
SAMPLES = {task.sample.label: task.sample for task in TASKS.values() if task.sample is not None}
PROTEINS = ("GTF2F1", "HNRNPL", "HNRNPM", "PTBP1", "ILF3", "MATR3", "KHSRP", "QKI")


@pytest.fixture(autouse=True)
def data_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    if SHARED.is_dir():
        monkeypatch.setenv("HARNESS_DATA", str(SHARED))


def parts(splits: Splits) -> dict[str, Sequence[Example]]:
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def content(splits: Splits) -> list[tuple[str, str, str, int]]:
    return [
        (part, example.id, window.sequence, example.label)
        for part, examples in parts(splits).items()
        for example in examples
        for window in example.windows
    ]


def sequences(examples: Sequence[Example]) -> list[str]:
    return [example.windows[0].sequence for example in examples]


# --- every task ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*TASKS.values(), *SAMPLES.values()], ids=lambda task: task.label)
def test_contract(task: Task) -> None:
    assert len(task.classes) >= 2
    assert task.split_rules
    assert task.summary
    if sources.missing(task.sources):
        pytest.skip(f"{task.name} has not been downloaded")
    for rule in task.split_rules:
        splits = task.load(rule)
        assert content(splits) == content(pickle.loads(pickle.dumps(task)).load(rule)), "the same load twice"
        ids = [example.id for examples in parts(splits).values() for example in examples]
        assert len(ids) == len(set(ids)), "splits share an example, or ids repeat"
        for examples in parts(splits).values():
            assert {example.label for example in examples} == set(range(len(task.classes)))
        assert splits.files
        assert all(len(digest) == 64 for digest in splits.files.values())
    with pytest.raises(UnknownName, match=f"unknown split 'none': choose one of {task.split_rules[0]}"):
        task.load("none")


def test_listing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness import registry; registry.tasks();"
        "print(*sorted({'numpy', 'pandas', 'sklearn', 'Bio', 'torch', 'urllib.request'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert answer.stdout.split() == []


# --- RBP sets -----------------------------------------------------------------------------------------------------------


def test_the_eight_proteins() -> None:
    tasks = registry.find_tasks("rbp")
    assert tuple(task.name for task in tasks) == PROTEINS
    paths = [source.path for task in tasks for source in task.sources]
    assert len(set(paths)) == len({source.sha256 for task in tasks for source in task.sources}) == 24
    for task in tasks:
        assert task.classes == ("unbound", "bound")
        assert task.split_rules == ("thesis", "published")
        assert not task.simulated
        for source, file in zip(task.sources, ("train", "dev", "test"), strict=True):
            assert source.path.startswith(f"rbp/{task.name}_")
            assert source.url.endswith(source.path.removeprefix("rbp/"))
            assert source.path.endswith(f"{file}.csv")
            assert len(source.sha256) == 64


@needs_qki
def test_qki_published_split_is_the_files() -> None:
    splits = TASKS["QKI"].load("published")
    assert [len(part) for part in parts(splits).values()] == [2822, 605, 605]
    assert splits.train[0].id == "train:1"
    assert splits.train[0].label == 1
    assert splits.validation[0].id == "dev:1"
    assert {len(window) for window in (example.windows[0] for example in splits.train)} == {101}


@needs_qki
def test_qki_thesis_split_is_the_published_recipe() -> None:
    import pandas as pd
    from sklearn.model_selection import train_test_split

    splits = TASKS["QKI"].load("thesis")
    assert [len(part) for part in parts(splits).values()] == [2419, 806, 807]
    assert {len(sequence) for part in parts(splits).values() for sequence in sequences(part)} == {101}
    assert splits.files["rbp/QKI_K562_IDR/test.csv"] == "1521f46074cef8e2d3cec5347459b0c9aa7c5d7e6bba63f9efd8da1b9ed554cf"
    # The recipe as the authors would write it, on data frames:
    rows = pd.concat([pd.read_csv(QKI / f"{name}.csv") for name in ("train", "dev", "test")])
    rows = pd.concat([rows[rows.label == 1], rows[rows.label == 0]]).sample(frac=1, random_state=42).reset_index(drop=True)
    train, rest = train_test_split(rows, test_size=0.4, stratify=rows.label, random_state=42)
    validation, test = train_test_split(rest, test_size=0.5, stratify=rest.label, random_state=42)
    for part, expected in zip(parts(splits).values(), (train, validation, test), strict=True):
        assert sequences(part) == list(expected.sequence)
        assert [example.label for example in part] == list(expected.label)


@needs_qki
def test_fasta_files_of_qki_give_the_same_split() -> None:
    task = from_files([QKI.with_name(f"QKI_K562_IDR.{kind}.fa.gz") for kind in ("positives", "negatives")])
    splits = task.load("shuffled")
    assert [(sequence, label) for _, _, sequence, label in content(splits)] == [
        (sequence, label) for _, _, sequence, label in content(TASKS["QKI"].load("thesis"))
    ]
    assert splits.changes["u_to_t"] == 135_438
    together = task.load("stratified")  # which the thesis has not: near copies in one part
    assert sorted(content(together)) != sorted(content(splits))
    assert together.changes["near_duplicates"] > 0


def test_data_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match=r"QKI: 3 of 3 files .*`harness data get QKI`"):
        TASKS["QKI"].load("thesis")


def test_data_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    for source in TASKS["QKI"].sources:
        sources.locate(source).parent.mkdir(parents=True, exist_ok=True)
        sources.locate(source).write_text("sequence,label\nACGT,1\n")
    with pytest.raises(ChecksumMismatch, match=r"train\.csv: sha256 .*`harness data get QKI`"):
        TASKS["QKI"].load("thesis")


# --- embedded samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protein", PROTEINS)
def test_a_sample_cannot_be_mistaken(protein: str) -> None:
    task, sample = TASKS[protein], SAMPLES[f"{protein} (sample)"]
    assert sample.simulated
    assert sample.family == task.family
    assert sample.classes == task.classes
    assert sample.summary.startswith(f"SIMULATED, not real sites of {protein}")
    assert not sample.sources
    (name,) = sample.load("drawn").files
    assert name.startswith(f"simulated {protein} (sample): motif ")


def test_stand_in_motifs_say_so() -> None:
    for protein in ("ILF3", "GTF2F1"):
        assert "no sequence motif of this protein is established" in SAMPLES[f"{protein} (sample)"].summary


def test_the_draw_is_the_same_everywhere() -> None:
    (digest,) = SAMPLES["QKI (sample)"].load("drawn").files.values()
    assert digest == "885ed854d8f715c68af23ce1ade42d80cbb253a78a94848a0edf148d7d224f1a"


@pytest.mark.parametrize("protein", PROTEINS)
def test_sample_splits(protein: str) -> None:
    splits = SAMPLES[f"{protein} (sample)"].load("drawn")
    assert {part: len(examples) for part, examples in parts(splits).items()} == _simulate.SIZES
    everything = [*splits.train, *splits.validation, *splits.test]
    assert Counter(example.label for example in everything) == {0: 2000, 1: 2000}
    assert len(set(sequences(everything))) == 4000
    assert {len(sequence) for sequence in sequences(everything)} == {101}
    assert splits.best_accuracy == pytest.approx(0.96, abs=0.015)


@pytest.mark.parametrize("protein", PROTEINS)
def test_the_bayes_rule_is_as_accurate_as_it_says(protein: str) -> None:
    """Posteriors that are too bold or too shy would show: expected and observed accuracy differ, and bins are off."""
    count = 20_000
    letters, labels = _simulate.draw(rbp.MOTIFS[protein], count)
    p = _simulate.posterior(rbp.MOTIFS[protein], letters)
    expected = np.maximum(p, 1 - p).mean()
    spread = np.sqrt((p * (1 - p)).sum()) / count
    assert abs(((p > 0.5) == labels).mean() - expected) < 4 * spread
    for low in np.arange(0, 1, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        noise = np.sqrt((p[inside] * (1 - p[inside])).sum()) / inside.sum()
        assert abs(labels[inside].mean() - p[inside].mean()) < 4.5 * noise


@pytest.mark.parametrize("protein", PROTEINS)
def test_composition_tells_nothing(protein: str) -> None:
    motif = rbp.MOTIFS[protein]
    assert sorted(motif.consensus) == sorted(motif.decoy)
    assert motif.consensus[-1] == motif.decoy[-1]
    letters, labels = _simulate.draw(motif, 20_000)
    counts = np.stack([(letters == letter).sum(axis=1) for letter in range(4)], axis=1)
    for count in counts.T:
        bound, unbound = count[labels == 1], count[labels == 0]
        assert abs(bound.mean() - unbound.mean()) < 4 * np.sqrt(bound.var() / 1e4 + unbound.var() / 1e4)
    gc = counts[:, 1] + counts[:, 2]
    rules = [((gc > threshold) == labels).mean() for threshold in range(101)]
    assert 0.48 < min(rules) <= max(rules) < 0.52


def test_the_background_has_the_stated_statistics() -> None:
    bare = _simulate.Motif("A", "A", 0.9, (1.0,), "", seed=3)
    letters, _ = _simulate.draw(bare, 20_000)
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (letters[:, :-1].ravel(), letters[:, 1:].ravel()), 1)
    np.testing.assert_allclose(pairs / pairs.sum(axis=1, keepdims=True), _simulate.TRANSITIONS, atol=0.004)
    np.testing.assert_allclose(np.sum(_simulate.TRANSITIONS, axis=1), 1)
    np.testing.assert_allclose(np.array(_simulate.FREQUENCIES) @ _simulate.TRANSITIONS, _simulate.FREQUENCIES, atol=0.001)


def test_likelihood_against_the_sum_over_all_placements(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recursion against its definition: every placement of every number of copies, one by one."""
    from itertools import combinations, pairwise

    monkeypatch.setattr(_simulate, "LENGTH", 12)
    motif = _simulate.Motif("AYG", "YAG", 0.8, (0.1, 0.3, 0.4, 0.2), "", seed=5)
    letters, _ = _simulate.draw(motif, 20)
    pwm = _simulate._pwm(motif.consensus, motif.fidelity)

    def ratio(window: np.ndarray, start: int) -> float:
        value = 1.0
        for j in range(3):
            here, before = window[start + j], window[start + j - 1]
            chance = _simulate.TRANSITIONS[before][here] if start + j else _simulate.FREQUENCIES[here]
            value *= pwm[j, here] / chance
        return value

    for window, found in zip(letters, _simulate._likelihood_ratio(motif, pwm, letters), strict=True):
        total = motif.copies[0]
        for copies in (1, 2, 3):
            placements = [p for p in combinations(range(10), copies) if all(b - a >= 3 for a, b in pairwise(p))]
            terms = [np.prod([ratio(window, start) for start in placement]) for placement in placements]
            total += motif.copies[copies] * np.mean(terms)
        assert found == pytest.approx(total)


# --- the user's own files -----------------------------------------------------------------------------------------------


def fasta(path: Path, windows: Sequence[str], header: str = "") -> Path:
    path.write_text("".join(f">w{number}{header}\n{window}\n" for number, window in enumerate(windows)))
    return path


def random_windows(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(row) for row in rng.choice(list("ACGT"), (count, 30))]


def test_two_fasta_files(tmp_path: Path) -> None:
    windows = random_windows(100)
    (tmp_path / "neg.fa.gz").write_bytes(gzip.compress(fasta(tmp_path / "neg.fa", windows[40:]).read_bytes()))
    task = from_files([fasta(tmp_path / "pos.fa", windows[:40]), tmp_path / "neg.fa.gz"])
    assert (task.name, task.family, task.classes) == ("pos+neg", "files", ("negative", "positive"))
    splits = task.load("stratified")
    counts = [Counter(example.label for example in part) for part in parts(splits).values()]
    assert counts == [{0: 36, 1: 24}, {0: 12, 1: 8}, {0: 12, 1: 8}]
    assert splits.changes == {}
    assert splits.files == {str(tmp_path / name): sources.sha256(tmp_path / name) for name in ("pos.fa", "neg.fa.gz")}
    by_id = {example.id: example for part in parts(splits).values() for example in part}
    assert by_id["positive:w3"].windows[0].sequence == windows[3]
    assert by_id["positive:w3"].label == 1
    assert by_id["negative:w3"].label == 0


def test_a_table_and_a_fasta_with_classes(tmp_path: Path) -> None:
    windows = random_windows(30)
    table = tmp_path / "QKI.csv"
    table.write_text("sequence,label\n" + "".join(f"{window},{'abc'[i % 3]}\n" for i, window in enumerate(windows)))
    task = from_files([table])
    assert task.name == "QKI.csv"  # never the name of a set of the project's
    assert task.classes == ("a", "b", "c")
    mixed = tmp_path / "my peaks (sample).fa"
    mixed.write_text("".join(f">w{i} class:{i % 2}\n{window}\n" for i, window in enumerate(windows)))
    task = from_files([mixed])
    assert task.name == "my_peaks__sample_.fa"
    assert not task.simulated
    assert task.classes == ("0", "1")


def test_repeated_windows_are_counted_not_refused(tmp_path: Path) -> None:
    windows = random_windows(30)
    negatives = fasta(tmp_path / "n.fa", [*windows[15:], *windows[:2], windows[20]])
    task = from_files([fasta(tmp_path / "p.fa", windows[:15]), negatives])
    assert task.load("stratified").changes == {"duplicates": 3, "in_both_classes": 2}


@pytest.mark.parametrize("sizes", [(3, 3), (3, 50), (4, 9), (5, 5), (10, 11), (3, 4, 5, 200)])
def test_small_classes_reach_every_split(sizes: tuple[int, ...]) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    split = stratified(labels)
    assert sorted(position for part in split for position in part) == list(range(len(labels)))
    for part in split:
        assert {labels[position] for position in part} == set(range(len(sizes)))


def test_files_that_make_no_task(tmp_path: Path) -> None:
    a, b = fasta(tmp_path / "a.fa", random_windows(9)), fasta(tmp_path / "b.fa", random_windows(2))
    table = tmp_path / "t.csv"
    with pytest.raises(UserError, match="3 files given: expected two FASTA files"):
        from_files([a, b, a])
    with pytest.raises(UserError, match="0 files given"):
        from_files([])
    with pytest.raises(BadData, match=r"b\.fa: class 'negative' has 2 windows; it needs 3"):
        from_files([a, b])
    with pytest.raises(BadData, match=r"a\.fa: record 'w0' has no class in its header; expected two FASTA files"):
        from_files([a])
    with pytest.raises(BadData, match=r"c\.fa: every window has the label '1'; at least two classes"):
        from_files([fasta(tmp_path / "c.fa", random_windows(9), " class:1")])
    table.write_text("sequence,label\nACGT,0.37\nACGT,0.1\n")
    with pytest.raises(BadData, match=r"t\.csv: 2 windows; at least 3 are needed"):
        from_files([table])
    with pytest.raises(UserError, match=r"t\.csv: not FASTA; expected two FASTA files"):
        from_files([a, table])
