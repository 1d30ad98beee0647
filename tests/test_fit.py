"""The training loop: it learns, stops early, restores the best weights, copes with little memory, and repeats itself bit for bit."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import motif_examples
from torch import nn

from harness import registry
from harness.data import Example, Window
from harness.engine.classifier import Classifier
from harness.engine.fit import _learning_rate_factor, _parameter_groups, _steps, adamw, fit
from harness.engine.kinds import log_loss
from harness.engine.predict import length, predict
from harness.errors import RunFailed, UserError
from harness.progress import Progress
from harness.recipe import PretrainingRecipe, Recipe

ACCELERATOR = Accelerator(cpu=True)


def build(name: str, recipe: Recipe, seed: int = 0, windows: int = 1) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(registry.adapter_class(name).from_checkpoint(None, size="tiny"), 2, recipe, windows)


def labels(examples: list[Example]) -> np.ndarray:
    return np.array([example.label for example in examples])


class TestFit:
    recipe = registry.adapter_class("cnn").recipe.override(epochs=8, patience=2, precision="float32")

    def test_learns_and_restores_the_best_weights(self):
        parts = [motif_examples(count, seed=seed) for seed, count in enumerate((400, 100, 100))]
        classifier = build("cnn", self.recipe)
        fitted = fit(classifier, parts[0], parts[1], self.recipe, ACCELERATOR)
        best = min(epoch["validation_log_loss"] for epoch in fitted.history)
        probabilities = predict(classifier, parts[1], ACCELERATOR)
        assert log_loss(probabilities, labels(parts[1])) == pytest.approx(best, rel=1e-6)
        assert (predict(classifier, parts[2], ACCELERATOR).argmax(axis=1) == labels(parts[2])).mean() > 0.9

    def test_stops_when_validation_no_longer_improves(self):
        """Labels of the validation split are noise, so its loss soon rises."""
        examples = motif_examples(64)
        rng = np.random.default_rng(0)
        noise = [replace(example, label=int(rng.integers(2))) for example in motif_examples(64, seed=1)]
        recipe = self.recipe.override(epochs=50, patience=3, learning_rate=1e-2)
        history = fit(build("cnn", recipe), examples, noise, recipe, ACCELERATOR).history
        losses = [epoch["validation_log_loss"] for epoch in history]
        assert len(history) < 50
        assert len(history) - 1 - int(np.argmin(losses)) == 3

    @pytest.mark.parametrize("name", ["cnn", "msamamba"])
    def test_same_seed_same_bits(self, name):
        examples = motif_examples(48, (30, 50))
        recipe = registry.adapter_class(name).recipe.override(epochs=2, batch_size=8)
        outputs = []
        for _ in range(2):
            classifier = build(name, recipe)
            fit(classifier, examples, examples, recipe, ACCELERATOR, seed=3, precision="float32")
            outputs.append(predict(classifier, examples, ACCELERATOR))
        assert np.array_equal(*outputs)

    def test_accumulation_is_the_same_step_as_a_larger_batch(self):
        """True of any model without batch statistics; here a linear one on k-mer counts."""
        examples = motif_examples(40)
        weights = []
        for batch_size, accumulation in ((16, 1), (4, 4)):
            recipe = Recipe(epochs=2, batch_size=batch_size, accumulation=accumulation, learning_rate=1e-2, dropout=0.0)
            classifier = build("kmer", recipe)
            fit(classifier, examples, examples, recipe, ACCELERATOR)
            weights.append(classifier.head[-1].weight.detach())
        torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)

    def test_out_of_memory_halves_the_batch_and_says_so(self, monkeypatch):
        examples = motif_examples(32)
        recipe = self.recipe.override(epochs=1, batch_size=16)
        classifier = build("cnn", recipe)
        forward = classifier.forward

        def small_machine(batch):
            if classifier.training and len(batch["codes"]) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return forward(batch)

        monkeypatch.setattr(classifier, "forward", small_machine)
        said = []
        fitted = fit(classifier, examples, examples, recipe, ACCELERATOR, report=said.append)
        assert fitted.events == [
            "out of memory: batches of 8 instead of 16; an optimiser step still sees 16 examples",
            "out of memory: batches of 4 instead of 8; an optimiser step still sees 16 examples",
        ]
        assert fitted.events[0] in said
        reference = build("cnn", recipe)
        assert [row["epoch"] for row in fitted.history] == [1]
        assert fit(reference, examples, examples, recipe, ACCELERATOR).history[0]["learning_rate"] == pytest.approx(
            fitted.history[0]["learning_rate"]
        )  # as many optimiser steps

    @pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"])
    def test_a_library_that_gets_no_memory_halves_the_batch_too(self, words, monkeypatch):
        classifier, recipe = (
            build("cnn", self.recipe.override(epochs=1, batch_size=8)),
            self.recipe.override(epochs=1, batch_size=8),
        )
        forward = classifier.forward

        def small_machine(batch):
            if classifier.training and len(batch["codes"]) > 4:
                raise RuntimeError(words)
            return forward(batch)

        monkeypatch.setattr(classifier, "forward", small_machine)
        assert len(fit(classifier, motif_examples(16), motif_examples(8), recipe, ACCELERATOR).events) == 1

    def test_the_step_that_ran_out_of_memory_leaves_no_gradient_and_no_graph(self, monkeypatch):
        """It had added the first micro-batch's gradient already."""
        examples, norms, graphs = motif_examples(16), [], []
        recipe = Recipe(epochs=1, batch_size=8, accumulation=2, learning_rate=1e-3, dropout=0.0)

        def noted(parameters, clip):
            norms.append(torch.stack([it.grad.norm() for it in parameters if it.grad is not None]).norm().item())

        monkeypatch.setattr(nn.utils, "clip_grad_norm_", noted)
        fit(build("dnabert2", recipe), examples, examples, recipe.override(batch_size=4, accumulation=4), ACCELERATOR)
        classifier, calls = build("dnabert2", recipe), []
        forward = classifier.forward

        def small_machine(batch):
            if classifier.training and len(batch["tokens"]) > 4:
                calls.append(1)
                if len(calls) == 2:
                    raise torch.OutOfMemoryError("out of memory")
            elif classifier.training and not graphs:
                graphs.append([logits() for logits in kept])
            logits = forward(batch)
            kept.append(weakref.ref(logits))
            return logits

        kept: list = []
        monkeypatch.setattr(classifier, "forward", small_machine)
        fit(classifier, examples, examples, recipe, ACCELERATOR)
        assert graphs == [[None]]
        assert norms[1] == norms[0]

    def test_nothing_fits(self, monkeypatch):
        classifier = build("cnn", self.recipe)

        def tiny_machine(batch):
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(classifier, "forward", tiny_machine)
        with pytest.raises(RunFailed, match="batch of one window"):
            fit(classifier, motif_examples(8), motif_examples(8), self.recipe.override(batch_size=2), ACCELERATOR)

    def test_divergence_is_an_error_that_says_what_to_do(self):
        recipe = self.recipe.override(learning_rate=1e30, clip=1e30)
        with pytest.raises(RunFailed, match=r"lower --learning-rate"):
            fit(build("cnn", recipe), motif_examples(64), motif_examples(8), recipe, ACCELERATOR)

    @pytest.mark.parametrize("part", ["training", "validation"])
    def test_a_loss_that_is_no_number_fails_the_run_even_in_the_only_epoch(self, part):
        recipe = self.recipe.override(epochs=1)
        classifier = build("cnn", recipe)
        forward = classifier.forward

        def broken(batch):
            return forward(batch) * (float("nan") if classifier.training == (part == "training") else 1.0)

        classifier.forward = broken
        with pytest.raises(RunFailed, match=rf"{part} \w+ is nan at .* epoch 1: lower --learning-rate"):
            fit(classifier, motif_examples(16), motif_examples(8), recipe, ACCELERATOR)

    def test_every_epochs_validation_and_the_best_epoch_are_reported(self):
        recipe = self.recipe.override(epochs=30, patience=2)
        examples, said = motif_examples(64), []
        noise = [replace(example, label=number % 3 % 2) for number, example in enumerate(motif_examples(32, seed=1))]
        history = fit(build("cnn", recipe), examples, noise, recipe, ACCELERATOR, report=said.append).history
        judged = [news.validation for news in said if isinstance(news, Progress) and news.validation is not None]
        assert judged == [row["validation_log_loss"] for row in history]
        best = 1 + judged.index(min(judged))
        ended = [news for news in said if isinstance(news, str) and "was spent waiting" not in news]  # said on a busy machine
        assert ended == [f"  stopped early after epoch {best + 2}; epoch {best} was best and is kept"]

    def test_bf16_agrees_within_noise(self):
        parts = [motif_examples(count, seed=seed) for seed, count in enumerate((400, 100, 200))]
        scores = {}
        for precision in ("float32", "bf16"):
            classifier = build("cnn", self.recipe)
            fit(classifier, parts[0], parts[1], self.recipe, ACCELERATOR, precision=precision)
            scores[precision] = log_loss(predict(classifier, parts[2], ACCELERATOR, precision=precision), labels(parts[2]))
        assert scores["bf16"] == pytest.approx(scores["float32"], abs=0.15)

    def test_two_windows_an_example(self):
        """What variants need: the label is whether the alternate window differs."""
        rng = np.random.default_rng(0)
        examples = []
        for example in motif_examples(300, 24):
            reference = example.windows[0].sequence
            alternate = reference[:12] + "G" * 6 + reference[18:] if rng.random() < 0.5 else reference
            examples.append(Example(example.id, (Window(reference), Window(alternate)), int(alternate != reference)))
        recipe = self.recipe.override(epochs=15)
        classifier = build("cnn", recipe, windows=2)
        fit(classifier, examples[:200], examples[200:], recipe, ACCELERATOR)
        probabilities = predict(classifier, examples, ACCELERATOR)
        assert probabilities.shape == (300, 2)
        assert (probabilities.argmax(axis=1) == labels(examples)).mean() > 0.8


class TestBatches:
    def test_an_epoch_shows_every_example_once(self):
        examples = motif_examples(101, (20, 90))
        recipe = Recipe(batch_size=8, accumulation=2)
        steps = list(_steps(examples, recipe, recipe.batch_size, np.random.default_rng(0), ACCELERATOR))
        assert sorted(example.id for step in steps for batch in step for example in batch) == sorted(
            example.id for example in examples
        )
        assert len(steps) == math.ceil(101 / 16)
        assert all(len(batch) <= 8 for step in steps for batch in step)

    def test_like_lengths_go_together(self):
        examples = motif_examples(400, (20, 200))
        recipe = Recipe(batch_size=8)

        def padding(steps):
            return sum(max(map(length, batch)) * len(batch) - sum(map(length, batch)) for step in steps for batch in step)

        shuffled = np.random.default_rng(0).permutation(400)
        naive = [[[examples[index] for index in shuffled[start : start + 8]]] for start in range(0, 400, 8)]
        assert padding(_steps(examples, recipe, recipe.batch_size, np.random.default_rng(0), ACCELERATOR)) < 0.2 * padding(naive)

    def test_a_short_batch_does_not_mix_the_lengths_of_others(self):
        """Were it anywhere but at the end, every later batch would straddle two pools of lengths."""
        examples = motif_examples(397, (20, 200))
        steps = list(_steps(examples, Recipe(batch_size=8), 8, np.random.default_rng(0), ACCELERATOR))
        assert [len(batch) for step in steps for batch in step] == [8] * 49 + [5]
        padded = sum(max(map(length, batch)) * len(batch) for step in steps for batch in step)
        assert padded < 1.03 * sum(map(length, examples))

    def test_halved_batches_of_odd_size_leave_the_step_as_it_is(self):
        examples = motif_examples(100)
        for size in (25, 12, 6, 1):
            steps = list(_steps(examples, Recipe(batch_size=25, accumulation=2), size, np.random.default_rng(0), ACCELERATOR))
            assert [sum(map(len, step)) for step in steps] == [50, 50]
            assert max(len(batch) for step in steps for batch in step) == size

    def test_two_processes_share_a_step_and_drop_nothing(self):
        examples = motif_examples(30)
        recipe = Recipe(batch_size=8)

        class Process:
            num_processes = 2

            def __init__(self, index):
                self.process_index = index

        shares = [
            list(_steps(examples, recipe, recipe.batch_size, np.random.default_rng(0), Process(index))) for index in range(2)
        ]
        assert len(shares[0]) == len(shares[1])
        assert all(sum(map(len, left)) == sum(map(len, right)) for left, right in zip(*shares))
        seen = {example.id for share in shares for step in share for batch in step for example in batch}
        assert seen == {example.id for example in examples}


class TestSchedule:
    @pytest.mark.parametrize("schedule", ["cosine", "linear"])
    def test_warms_up_then_decays_to_zero(self, schedule):
        recipe = Recipe(schedule=schedule, warmup=0.1)
        factors = [_learning_rate_factor(step, 100, recipe) for step in range(101)]
        assert max(factors) == factors[9] == factors[10] == 1.0
        assert factors[:10] == sorted(factors[:10])
        assert factors[10:] == sorted(factors[10:], reverse=True)
        assert factors[100] == pytest.approx(0.0)

    @pytest.mark.parametrize("floor", [0.0, 0.0125, 0.1])
    def test_a_cosine_ends_at_the_floor_as_torchs_own_does(self, floor):
        recipe = PretrainingRecipe(learning_rate=8e-3, schedule="cosine", warmup=0.1, floor=floor)
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.AdamW([parameter], lr=8e-3)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=floor * 8e-3)
        for step in range(10, 101):
            found = 8e-3 * _learning_rate_factor(step, 100, recipe)
            assert found == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
            optimizer.step()
            theirs.step()

    def test_a_line_ends_at_the_floor_and_a_constant_stays(self):
        line, constant = (PretrainingRecipe(schedule=name, warmup=0.1, floor=0.5) for name in ("linear", "constant"))
        found = [_learning_rate_factor(step, 100, line) for step in (0, 9, 10, 55, 100)]
        assert found == pytest.approx([0.1, 1.0, 1.0, 0.75, 0.5])
        assert _learning_rate_factor(100, 100, constant) == 1.0

    def test_an_inverse_square_root(self):
        recipe = PretrainingRecipe(schedule="inverse_sqrt", warmup=0.1)
        found = [_learning_rate_factor(step, 100, recipe) for step in (0, 9, 39, 99)]
        assert found == pytest.approx([0.1, 1.0, math.sqrt(10 / 40), math.sqrt(10 / 100)])
        assert _learning_rate_factor(99, 100, recipe.override(floor=0.4)) == 0.4
        without = recipe.override(warmup=0.0)
        assert [_learning_rate_factor(step, 100, without) for step in (0, 3)] == [1.0, 0.5]
        with pytest.raises(UserError, match="schedule 'inverse_sqrt': choose one of cosine, linear, constant"):
            Recipe(schedule="inverse_sqrt")

    def test_epsilon_and_floor_reach_the_optimizer(self):
        module, recipe = nn.Linear(2, 2), PretrainingRecipe(warmup=0.0, epsilon=1e-6, floor=0.25)
        optimizer, schedule = adamw(module, recipe, 2, torch.device("cpu"))
        assert {group["eps"] for group in optimizer.param_groups} == {1e-6}
        for _ in range(2):
            optimizer.step()
            schedule.step()
        assert schedule.get_last_lr()[0] == pytest.approx(0.25 * recipe.learning_rate)
        usual, _ = adamw(module, Recipe(), 2, torch.device("cpu"))
        assert {group["eps"] for group in usual.param_groups} == {1e-8}

    def test_only_matrices_decay(self):
        groups = _parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), 0.1)
        assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0.0)]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("epochs", 0),
        ("warmup", 1.0),
        ("tune", "lora!"),
        ("precision", "fp8"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, value):
    with pytest.raises(UserError, match=setting.replace("_", "[-_]")):
        Recipe(**{setting: value})
