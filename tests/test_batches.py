"""Batches: made ahead by a thread or on demand, the same bits in the same order; waiting is measured."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import motif_examples
from scipy.sparse import issparse

from harness.engine import batches as batches_module
from harness.engine import fit as fit_module
from harness.engine import predict as predict_module
from harness.engine.batches import AHEAD, Batches
from harness.engine.classifier import Classifier
from harness.engine.fit import fit
from harness.engine.predict import embed, predict
from harness.engine.probe import probe
from harness.recipe import Recipe
from harness.registry import adapter_class
from harness.study.plan import plan
from harness.study.run import execute

CPU, OTHER = torch.device("cpu"), torch.device("meta")
ACCELERATOR = Accelerator(cpu=True)


class InThread(Batches):
    """As where an accelerator computes."""

    def __init__(self, make, items, device):
        super().__init__(make, items, torch.device("meta"))


@pytest.fixture
def threaded(monkeypatch):
    for module in (fit_module, predict_module):
        monkeypatch.setattr(module, "Batches", InThread)


def build(name: str, **recipe) -> tuple[Classifier, Recipe]:
    torch.manual_seed(0)
    made = Recipe(batch_size=8, learning_rate=1e-3, precision="float32", **recipe)
    return Classifier(adapter_class(name).from_checkpoint(size="tiny"), 2, made), made


class TestBatches:
    @pytest.mark.parametrize("device", [CPU, OTHER])
    def test_come_in_order_and_whole(self, device):
        assert list(Batches(lambda number: number * number, range(10), device)) == [number * number for number in range(10)]
        assert list(Batches(str, [], device)) == []

    def test_are_made_by_a_thread_while_an_accelerator_computes_but_not_far_ahead(self):
        made = []

        def make(number):
            made.append((number, threading.current_thread() is threading.main_thread()))
            return number

        batches = iter(Batches(make, range(10), OTHER))
        assert next(batches) == 0
        time.sleep(0.05)
        assert made == [(number, False) for number in range(1 + AHEAD)]
        made.clear()
        assert list(Batches(make, range(2), CPU)) == [0, 1]
        assert made == [(0, True), (1, True)]

    @pytest.mark.parametrize("device", [CPU, OTHER])
    def test_what_making_raises_is_raised_in_its_turn(self, device):
        batches = iter(Batches(lambda number: 1 // (3 - number), range(10), device))
        assert [next(batches) for _ in range(3)] == [0, 0, 1]
        with pytest.raises(ZeroDivisionError):
            next(batches)

    def test_no_thread_is_left_when_the_caller_stops(self):
        before = threading.active_count()
        for batch in Batches(str, range(100), OTHER):
            assert batch == "0"
            break
        assert threading.active_count() == before

    def test_items_are_drawn_by_the_thread_in_order(self):
        drawn = []

        def items():
            for number in range(5):
                drawn.append(threading.current_thread())
                yield number

        assert list(Batches(str, items(), OTHER)) == ["0", "1", "2", "3", "4"]
        assert threading.main_thread() not in drawn
        assert len(set(drawn)) == 1

    def test_what_drawing_raises_is_raised_in_its_turn(self):
        def items():
            yield from "ab"
            raise OSError("unreadable")

        batches = iter(Batches(str.upper, items(), OTHER))
        assert [next(batches), next(batches)] == ["A", "B"]
        with pytest.raises(OSError, match="unreadable"):
            next(batches)

    @pytest.mark.parametrize("device", [CPU, OTHER])
    def test_waiting_is_measured(self, device):
        batches = Batches(lambda _: time.sleep(0.02), range(3), device)
        list(batches)
        assert 0.05 < batches.wait < 5
        idle = Batches(lambda _: time.sleep(0.05), range(4), OTHER)
        for _ in idle:
            time.sleep(0.15)
        assert idle.wait < 0.15  # the first alone is waited for


class Card:
    """A pretended GPU: its kernels take seconds of a clock of its own, and its events are stamped as CUDA's are."""

    def __init__(self, monkeypatch) -> None:
        self.now = self.busy_until = 0.0
        self.placed: list[tuple[int, str]] = []
        self.marked: set[str] = set()
        card = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self, stream):
                card.marked.add(stream)
                self.stamp = max(card.now, card.busy_until)

            def query(self):
                return self.stamp <= card.now

            def synchronize(self):
                card.now = max(card.now, self.stamp)

            def elapsed_time(self, other):
                assert self.query()
                assert other.query()
                return 1000 * (other.stamp - self.stamp)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
        monkeypatch.setattr(
            torch.cuda, "set_device", lambda index: self.placed.append((index, threading.current_thread().name[:15]))
        )
        self.pinned: list[torch.Tensor] = []
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (self.pinned.append(tensor), tensor + 0)[1])

    def launch(self, seconds: float) -> None:
        self.busy_until = max(self.now, self.busy_until) + seconds


class TestOnCuda:
    def test_all_tensors_are_pinned_by_a_thread_on_the_same_gpu(self, monkeypatch):
        card = Card(monkeypatch)
        made = {"tokens": torch.arange(6).view(2, 3), "lengths": torch.tensor([3, 1])}
        (found,) = Batches(lambda _: [(made, torch.ones(2))], [0], torch.device("cuda"))
        ((batch, target),) = found
        assert [tensor.shape for tensor in card.pinned] == [(2, 3), (2,), (2,)]
        assert torch.equal(batch["tokens"], made["tokens"])
        assert torch.equal(target, torch.ones(2))
        assert card.placed == [(1, "harness-batches")]

    def test_a_gpu_that_is_not_the_current_one_is_pinned_for_and_timed(self, monkeypatch):
        card = Card(monkeypatch)
        list(Batches(lambda _: torch.ones(2), [0], torch.device("cuda", 2)))
        assert card.placed == [(2, "harness-batches")]
        assert card.marked == {"stream of cuda:2"}

    @pytest.mark.parametrize(("making", "step", "wait"), [(1.0, 3.0, 1.0), (3.0, 1.0, 3.0 + 3 * 2.0), (2.0, 2.0, 2.0)])
    def test_the_device_waits_only_when_it_has_nothing_to_do(self, making, step, wait, monkeypatch):
        """The host asks for the next batch at once; the device still computes, and may be busy for longer than that takes."""
        card = Card(monkeypatch)
        batches = Batches(lambda number: number, range(4), torch.device("cuda"))

        def slowly():
            for number in range(4):
                card.now += making
                yield number

        monkeypatch.setattr(batches, "_ahead", slowly)
        for _ in batches:
            card.launch(step)
        assert batches.wait == pytest.approx(wait)
        assert card.busy_until == pytest.approx(batches.wait + 4 * step)

    def test_nobody_waits_for_the_clock_before_it_is_read(self, monkeypatch):
        card = Card(monkeypatch)
        batches = Batches(str, range(3), torch.device("cuda"))
        for _ in batches:
            card.launch(10.0)
            assert card.now == 0.0
        assert batches.wait == 0.0
        assert card.now > 0.0


class TestTraining:
    @pytest.mark.parametrize("name", ["cnn", "dnabert2", "msamamba"])
    def test_a_thread_changes_no_bit(self, name, threaded, monkeypatch):
        examples = motif_examples(40, (20, 60))

        def outcome():
            classifier, recipe = build(name, epochs=2, accumulation=2)
            fitted = fit(classifier, examples, examples[:10], recipe, ACCELERATOR)
            return [row["train_loss"] for row in fitted.history], predict(classifier, examples, ACCELERATOR)

        losses, outputs = outcome()
        monkeypatch.undo()
        expected_losses, expected = outcome()
        assert losses == expected_losses
        assert np.array_equal(outputs, expected)

    def test_memory_that_runs_out_starts_training_over(self, threaded, monkeypatch):
        classifier, recipe = build("cnn", epochs=1)
        whole = classifier.forward

        def forward(batch):
            if len(batch["codes"]) > 4 and classifier.training:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(batch)

        monkeypatch.setattr(classifier, "forward", forward)
        fitted = fit(classifier, motif_examples(24), motif_examples(8), recipe, ACCELERATOR)
        assert fitted.events == ["out of memory: batches of 4 instead of 8; an optimiser step still sees 8 examples"]

    def test_the_same_bits_from_packed_batches_where_there_is_no_padding(self, monkeypatch):
        """What an adapter adds for an accelerator is made with the batch."""
        examples = motif_examples(24, 40)

        def losses():
            classifier, recipe = build("dnabert1", epochs=2)
            return [row["train_loss"] for row in fit(classifier, examples, examples[:8], recipe, ACCELERATOR).history]

        expected, seen = losses(), []

        def collated(classifier, examples, _):
            seen.append(predict_module.collated(classifier, examples, True))
            return seen[-1]

        monkeypatch.setattr(fit_module, "collated", collated)
        assert losses() == expected
        assert all(len(batch["places"]) == batch["tokens"].numel() for batch in seen)

    @pytest.mark.parametrize(("share", "said"), [(0.0, True), (1.0, False)])
    def test_waiting_is_said_where_it_holds_training_up(self, share, said, monkeypatch):
        classifier, recipe = build("cnn", epochs=1)
        collate = classifier.collate
        monkeypatch.setattr(classifier, "collate", lambda examples: (time.sleep(0.02), collate(examples))[1])
        monkeypatch.setattr(fit_module, "REPORTED_WAIT", share)
        news = []
        fitted = fit(classifier, motif_examples(40), motif_examples(8), recipe, ACCELERATOR, report=news.append)
        assert fitted.wait > 5 * 0.02
        assert any("of the training's time was spent waiting for batches" in str(line) for line in news) == said

    def test_it_is_in_the_record(self, tmp_path):
        (run,) = plan("cnn", "QKI", epochs=1, init="random:tiny", device="cpu")
        record = execute(run, tmp_path)
        assert 0 < record.timing["wait"] < record.timing["seconds"]["train"]
        assert 0 < record.timing["wait_share"] < 1
        assert record.timing["wait_share"] == pytest.approx(record.timing["wait"] / record.history[0]["seconds"])


class TestSparse:
    """Counts of k-mers are mostly zeros, and are never held with them."""

    @pytest.mark.parametrize("block", [1 << 24, 1000, 7])
    def test_embeddings_are_those_with_zeros(self, block, monkeypatch):
        monkeypatch.setattr(predict_module, "BLOCK", block)
        classifier, _ = build("kmer", tune="probe")
        examples = motif_examples(150, (10, 60))
        dense = embed(classifier, examples, ACCELERATOR)
        sparse = embed(classifier, examples, ACCELERATOR, sparse=True)
        assert issparse(sparse)
        assert (sparse.dtype, sparse.indices.dtype, sparse.has_canonical_format) == (np.float32, np.int32, True)
        assert np.array_equal(sparse.toarray(), dense)
        assert isinstance(embed(build("gc", tune="probe")[0], examples, ACCELERATOR, sparse=True), np.ndarray)

    def test_parts_of_either_kind_are_joined(self, monkeypatch):
        classifier, _ = build("kmer", tune="probe")
        examples = motif_examples(70, 30)
        mixed = np.zeros((70, 4), np.float32)
        mixed[:6] = 1.0
        served = iter([torch.tensor(mixed[:64]), torch.tensor(mixed[64:])])
        monkeypatch.setattr(classifier, "embed", lambda batch: next(served))
        found = embed(classifier, examples, ACCELERATOR, sparse=True)
        assert np.array_equal(found.toarray(), mixed)
        halves = [np.ones((64, 4), np.float32), np.zeros((6, 4), np.float32)]
        served = iter(map(torch.tensor, halves))
        assert np.array_equal(embed(classifier, examples, ACCELERATOR, sparse=True), np.concatenate(halves))

    def test_a_number_that_is_not_finite_is_counted_by_row(self, monkeypatch):
        classifier, recipe = build("kmer", tune="probe")
        whole = classifier.embed

        def broken(batch):
            result = whole(batch).clone()
            result[0, :2] = float("nan")
            return result

        monkeypatch.setattr(classifier, "embed", broken)
        with pytest.raises(Exception, match="1 of 20 embeddings hold numbers that are not finite"):
            probe(classifier, motif_examples(20), motif_examples(8), recipe, ACCELERATOR)


def test_the_thread_is_for_accelerators_alone():
    assert not Batches(str, [], CPU).in_thread
    assert Batches(str, [], torch.device("cuda")).in_thread
    assert batches_module.AHEAD == 2
