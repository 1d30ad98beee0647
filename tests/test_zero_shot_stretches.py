"""Zero-shot scores of insertions, deletions and longer substitutions, and of causal models, against their definitions."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import planned_run, variant_examples

from harness import registry
from harness.adapter import CausalModel, MaskedModel
from harness.data import Example, Window, reverse_complement
from harness.engine import classifier
from harness.engine.classifier import ZeroShot
from harness.engine.predict import predict
from harness.errors import BadData
from harness.study.run import execute
from harness.task import Splits, Task

ACCELERATOR = Accelerator(cpu=True)
CLASSES = {name: registry.adapter_class(name) for name in registry.model_cards()}
MASKED = [name for name, made in CLASSES.items() if issubclass(made, MaskedModel)]
CAUSAL = [name for name, made in CLASSES.items() if issubclass(made, CausalModel)]
LENGTH, FIRST = 40, 20
STRETCHES = [("", "GAT"), ("AC", ""), ("ACG", "GTT"), ("A", "CC"), ("", "T")]


def tiny(name: str):
    torch.manual_seed(0)
    return CLASSES[name].from_checkpoint(None, size="tiny").eval()


def longer_examples(seed: int = 0) -> list[Example]:
    """One example for each of STRETCHES, realigned as the task does it, with an alignment of four other rows."""
    rng = np.random.default_rng(seed)
    examples = []
    for number, (reference, alternate) in enumerate(STRETCHES):
        before, after = ("".join(rng.choice(list("ACGT"), length)) for length in (FIRST, LENGTH))
        texts = [(before + allele + after)[:LENGTH] for allele in (reference, alternate)]
        others = rng.choice(np.frombuffer(b"ACGT-", np.uint8), (4, LENGTH))
        rows = [np.vstack([np.frombuffer(text.encode(), np.uint8), others]) for text in texts]
        pair = tuple(Window(text, None, own) for text, own in zip(texts, rows, strict=True))
        stretch = (FIRST, FIRST + max(len(reference), len(alternate)))
        examples.append(Example(f"v{number}", pair, number % 2, stretch))
    return examples


def ratios(adapter, examples: list[Example]) -> list[float]:
    """log p(reference) - log p(alternate) as predicted."""
    probabilities = predict(ZeroShot(adapter).eval(), examples, ACCELERATOR)
    return [math.log(harmful / benign) for benign, harmful in probabilities]


# --- masked models ------------------------------------------------------------------------------------------------------


def pseudo_likelihood(adapter, window: Window, stretch: tuple[int, int]) -> float:
    """The sum over the stretch of each base's log-probability with itself masked, one window at a time."""
    total = 0.0
    with torch.inference_mode():
        for position in range(*stretch):
            logs = adapter.base_log_probabilities(adapter.collate_masked([window], [position]))[0]
            total += float(logs["ACGT".index(window.sequence[position])])
    return total


@pytest.mark.parametrize("name", MASKED)
def test_pseudo_likelihood_of_the_changed_stretch(name):
    adapter, examples = tiny(name), longer_examples()
    expected = []
    for example in examples:
        reference, alternate = (pseudo_likelihood(adapter, window, example.changed) for window in example.windows)
        expected.append(reference - alternate)
    assert ratios(adapter, examples) == pytest.approx(expected, abs=2e-4)
    assert np.std(expected) > 1e-3


@pytest.mark.parametrize("variant", ["ps", "ph"])
def test_both_caduceus_variants_judge_longer_variants(variant):
    torch.manual_seed(0)
    adapter = CLASSES["caduceus"].from_checkpoint(None, size="tiny", variant=variant).eval()
    examples = longer_examples()
    expected = [
        pseudo_likelihood(adapter, example.windows[0], example.changed)
        - pseudo_likelihood(adapter, example.windows[1], example.changed)
        for example in examples
    ]
    assert ratios(adapter, examples) == pytest.approx(expected, abs=2e-4)


def test_many_rows_are_read_in_batches_and_snvs_beside_them(monkeypatch):
    adapter, examples = tiny("caduceus"), [*longer_examples(), *variant_examples(3, LENGTH), *longer_examples(1)]
    whole = ratios(adapter, examples)
    assert ratios(adapter, examples[5:8]) == pytest.approx(whole[5:8], abs=1e-5)
    monkeypatch.setattr(classifier, "ROWS", 4)
    monkeypatch.setattr(classifier, "ROW_LETTERS", 100)
    batch = ZeroShot(adapter).collate(examples[:2])
    assert {name.split(".")[0] for name in batch} == {"0", "1", "2", "3", "4"}
    assert max(len(tensor) for tensor in batch.values()) == 2
    assert ratios(adapter, examples) == pytest.approx(whole, abs=1e-5)


def test_a_variant_of_one_base_has_one_row_and_the_same_bits_beside_others(monkeypatch):
    adapter, examples = tiny("caduceus"), variant_examples(6, LENGTH)
    batch = ZeroShot(adapter).collate(examples)
    assert {name: tensor.shape[0] for name, tensor in batch.items()} == dict.fromkeys(batch, 6)
    with torch.inference_mode():
        plain = adapter.collate_masked([example.windows[0] for example in examples], [FIRST] * 6)
        alleles = [["ACGT".index(window.sequence[FIRST]) for window in example.windows] for example in examples]
        reference, alternate = adapter.base_log_probabilities(plain).float().gather(1, torch.tensor(alleles)).unbind(1)
        logits = ZeroShot(adapter).eval()(batch)
    assert torch.equal(logits, torch.stack([torch.zeros(6), reference - alternate], dim=1))


def test_letters_that_are_not_known_do_not_count():
    adapter = tiny("caduceus")
    windows = Window("A" * 20 + "NG" + "C" * 18), Window("A" * 20 + "TT" + "C" * 18)
    (found,) = ratios(adapter, [Example("v", windows, 0, (20, 22))])
    expected = pseudo_likelihood(adapter, windows[0], (21, 22)) - pseudo_likelihood(adapter, windows[1], (20, 22))
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_insertion_that_leaves_the_window_as_it_was():
    """Within a repeat that reaches the window's end: nothing that the model reads has changed."""
    window = Window("ACGT" * 5 + "A" * 20)
    assert ratios(tiny("caduceus"), [Example("v", (window, window), 0, (20, 21))]) == [0.0]


def test_stretches_that_are_none_are_refused():
    window, other = Window("ACGT" * 10), Window("ACGTA" * 8)
    for windows, changed in (
        ((window,), (1, 2)),
        ((window, other), (5, 5)),
        ((window, other), (38, 41)),
        ((window, Window("A")), (0, 1)),
    ):
        with pytest.raises(BadData, match=r"example 'x': expected two windows of one length with letters \d+ to \d+"):
            ZeroShot(tiny("caduceus")).collate([Example("x", windows, 0, changed)])


# --- causal models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_difference_of_log_likelihoods_averaged_over_strands(name):
    adapter, examples = tiny(name), [*variant_examples(4, LENGTH), *longer_examples()]

    def likelihood(sequence: str) -> float:
        with torch.inference_mode():
            return float(adapter.log_likelihood(adapter.collate([Window(sequence)]))[0])

    expected = []
    for example in examples:
        pair = [window.sequence for window in example.windows]
        forward, reverse = ([likelihood(turn(text)) for text in pair] for turn in (str, reverse_complement))
        expected.append((forward[0] - forward[1] + reverse[0] - reverse[1]) / 2)
    assert ratios(adapter, examples) == pytest.approx(expected, abs=2e-4)
    assert np.std(expected) > 1e-4


def test_causal_scores_do_not_depend_on_the_strand_or_the_precision():
    adapter, examples = tiny("hyenadna"), longer_examples()
    turned = [
        Example(one.id, tuple(Window(reverse_complement(window.sequence)) for window in one.windows), one.label, one.changed)
        for one in examples
    ]
    found = ratios(adapter, examples)
    assert ratios(adapter, turned) == pytest.approx(found, abs=1e-5)
    rounded = predict(ZeroShot(adapter).eval(), examples, ACCELERATOR, precision="bf16")
    assert [math.log(harmful / benign) for benign, harmful in rounded] == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("name", ["caduceus", "hyenadna"])
def test_batches_are_tensors_that_can_be_pickled(name):
    batch = ZeroShot(tiny(name)).collate(longer_examples())
    again = pickle.loads(pickle.dumps(batch))
    assert all(isinstance(tensor, torch.Tensor) and torch.equal(tensor, again[name]) for name, tensor in batch.items())


def test_hyenadna_from_request_to_record(tmp_path):
    parts = [variant_examples(20, seed=seed) for seed in range(3)]
    splits = Splits(*parts, files={"made": "here"}, block=lambda name: name)
    task = Task("pairs", "variants", "made here", ("benign", "pathogenic"), lambda rule: splits, ("position",))
    record = execute(planned_run("hyenadna", task, splits, tune="zero"), tmp_path, opened=(task, splits))
    assert record.finished
    assert record.model["parameters"]["trainable"] == 0
    assert any(note.startswith("zero-shot") for note in record.model["notes"])
