"""Type-guided stacking of RNAErnie: what upstream's functions gave, the method by hand, and that a kept run answers alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import SHARED, as_checkpoint, motif_examples, planned_run, random_windows, variant_examples
from safetensors.torch import load_file
from test_rnaernie import paddle_arrays

from harness import registry
from harness.adapters._type_guided import Guide, likely_types, open_slots, released_pieces
from harness.data import Example, Window
from harness.engine import keep, resume
from harness.engine.bases import BaseReader
from harness.engine.classifier import Classifier, ZeroShot
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.engine.pretrain_asked import choose_objective
from harness.engine.resume import StateFile
from harness.errors import BadData, UserError
from harness.evidence.records import read, read_predictions
from harness.inference.attribution import Score
from harness.inference.gradients import gradients
from harness.inference.trained import load_run
from harness.progress import Progress, Reporter
from harness.recipe import Recipe
from harness.study.plan import sealed
from harness.study.run import execute
from harness.task import Splits, Task

GOLDEN = "rnaernie_type_guided.json"
FILES = {"trimmed": Path(__file__).with_name("golden") / "pretraining" / GOLDEN}
FILES["whole"] = SHARED / "reference" / "pretraining" / "golden" / GOLDEN
CASES = [("trimmed", "edge"), ("whole", "short"), ("whole", "edge"), ("whole", "long")]
PAD, START, END, MASK, MARK, TYPES = 0, 2, 3, 4, 6, range(7, 35)
CPU = Accelerator(cpu=True)


def golden(which: str) -> dict:
    if not FILES[which].is_file():
        pytest.skip(f"needs {FILES[which]}, the whole recorded outputs")
    return json.loads(FILES[which].read_text())


def build(seed: int = 0, layout: str = "paddle", **options):
    torch.manual_seed(seed)
    options = {"guided": True, **options}
    return registry.adapter_class("rnaernie").from_checkpoint(size="tiny", layout=layout, **options).eval()


def embedded(model, windows) -> torch.Tensor:
    with torch.inference_mode():
        return model(model.collate(windows))


class Recorded(Guide):
    """A guide whose indicator gives the recorded logits, and which keeps what it was shown."""

    def logits(self, tokens, slots, places=None):
        self.indicator["seen"] = tokens
        return torch.tensor(self.indicator["logits"])


class TestAsUpstream:
    """Upstream's own functions on Paddle, with a stub for the indicator's logits."""

    @pytest.mark.parametrize(("which", "name"), CASES)
    def test_slots_types_versions_and_their_merging(self, which, name):
        (case,) = (case for case in golden(which)["cases"] if case["name"] == name)
        tokens, lengths = torch.tensor(case["batch"]), torch.tensor(case["seq_lens"])
        if tokens.ndim == 2:
            tokens, lengths = tokens[:, None], lengths[:, None]
        rows, pieces, width = tokens.shape
        slots = open_slots(tokens, lengths, MARK, END)
        assert (torch.arange(rows * pieces) * width + slots.flatten()).tolist() == case["masked_positions"]
        shown = {"logits": case["indicator_logits"]}
        guide = Recorded(shown, TYPES, MARK, 3, True)  # type: ignore[arg-type]
        # (B, k, C) → of each piece (k · N, C), as the classifier gives them
        logits = torch.tensor(case["k_logits"]).transpose(0, 1)[:, :, None].expand(-1, -1, pieces, -1)
        read = {}

        def reader(versions, slots, places):
            read["versions"] = versions
            return logits.reshape(len(versions), -1)

        merged = guide.read({"tokens": tokens, "slots": slots, "weights": torch.full((rows, pieces), 1 / pieces)}, reader)
        assert shown["seen"].tolist() == case["seen"]
        versions = read["versions"].view(3, rows, pieces, width).permute(1, 2, 0, 3)
        assert versions.reshape(torch.tensor(case["reencoded"]).shape).tolist() == case["reencoded"]
        types = versions[:, 0].gather(-1, slots[:, None, :1].expand(-1, 3, -1))[..., 0]
        assert types.tolist() == case["topk_ids"]
        merged = merged.mean(dim=1)
        torch.testing.assert_close(merged, torch.tensor(case["ensemble_logits"]), rtol=0, atol=1e-6)
        loss = torch.nn.functional.cross_entropy(merged, torch.tensor(case["labels"]))
        assert loss.item() == pytest.approx(case["loss"], abs=1e-6)

    @pytest.mark.parametrize(("which", "name"), CASES)
    def test_probabilities(self, which, name):
        (case,) = (case for case in golden(which)["cases"] if case["name"] == name)
        logits = torch.tensor(case["indicator_logits"])
        types, probabilities = likely_types(logits.view(len(case["labels"]), -1, 39).amax(dim=1), TYPES, 3)
        assert types.tolist() == case["topk_ids"]
        torch.testing.assert_close(probabilities, torch.tensor(case["topk_probs"]), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("which", FILES)
    def test_pieces_of_long_windows(self, which):
        case = golden(which)["long_collator"]
        rows = [torch.tensor(row) for row in case["inputs"]]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        size = case["chunk_size"]
        found = released_pieces(tokens, case["max_seq_len_after"] // size, size, START, END, PAD)
        assert found.tolist() == case["input_ids"]


class TestRows:
    def test_a_row_holds_a_mask_where_the_type_goes(self):
        batch = build().collate([Window("ATCG"), Window("GN")])
        assert batch["tokens"].tolist() == [[[2, 35, 36, 37, 38, 6, 4, 3]], [[2, 38, 1, 6, 4, 3, 0, 0]]]
        assert batch["slots"].tolist() == [[6], [4]]
        assert batch["weights"].tolist() == [[1.0], [1.0]]

    def test_two_more_tokens_leave_room_for_509_letters(self):
        model, (longest, window) = build(), random_windows(1, 509) + random_windows(1, 510)
        assert model.max_length == 509
        assert model.collate([longest])["tokens"].shape == (1, 1, 513)
        with pytest.raises(BadData, match=r"window of 510 nt: rnaernie takes at most 509.*--option long=chunks"):
            model.collate([window])

    @pytest.mark.parametrize(("length", "slot", "ending"), [(508, 510, 35), (509, 510, END), (510, 510, 35)])
    def test_as_released_the_ends_of_the_longest_windows_are_overwritten(self, length, slot, ending):
        """Of 512 tokens, as the recorded cases show of 16: the slot keeps padding, the end token, or the base that was there."""
        batch = build(as_released=True).collate([Window("A" * length), Window("ACG")])
        row = batch["tokens"][0, 0].tolist()
        assert len(row) == 512
        assert row[slot - 1 :] == [MARK, {508: PAD}.get(length, ending), END]
        assert row[1 : slot - 1] == [35] * (slot - 2)
        assert batch["tokens"][1, 0, :7].tolist() == [2, 35, 37, 38, 6, 0, 3]
        assert batch["slots"].tolist() == [[510], [5]]

    def test_pieces_have_a_slot_each(self):
        model = build(long="chunks")
        batch = model.collate([*random_windows(1, 1200), Window("ACG")])
        assert batch["tokens"].shape == (2, 3, 513)
        assert batch["slots"].tolist() == [[510 + 1, 511, 1200 - 2 * 509 + 2], [5, 0, 0]]
        assert not batch["tokens"][1, 1:].any()
        torch.testing.assert_close(batch["weights"], torch.tensor([[509, 509, 182], [1200, 0, 0]]) / 1200)
        assert model.unknown_tokens(model.collate([Window("N" * 600)])) == (600, 600 + 2 * 4)

    def test_as_released_every_window_has_six_pieces_that_count_alike(self):
        model = build(long="chunks", as_released=True)
        assert model.max_length == 3060
        batch = model.collate([Window("ACG"), *random_windows(1, 3060)])
        assert batch["tokens"].shape == (2, 6, 512)
        assert batch["tokens"][0, :, :5].tolist() == [[2, 35, 37, 38, 3], *[[2, 0, 0, 0, 0]] * 5]
        assert (batch["tokens"][:, :, [-3, -1]] == torch.tensor([MARK, END])).all()
        assert (batch["weights"] == 1 / 6).all()
        with pytest.raises(BadData, match="window of 3061 nt: rnaernie takes at most 3060 with as_released=true"):
            model.collate(random_windows(1, 3061))
        with pytest.raises(UserError, match="pooling='mean': the empty pieces of as_released"):
            build(long="chunks", as_released=True, pooling="mean")


class TestEmbeddings:
    """Against the method written out for one window."""

    def by_hand(self, model, pieces, top):
        """The embeddings (pieces, k, D) of a window's pieces with each type, and the types' probabilities (k,)."""
        plain = build(guided=False)
        rows = [torch.tensor([[START, *model.vocabulary.table()[list(piece.encode())], MARK, MASK, END]]) for piece in pieces]
        with torch.inference_mode():
            logits = torch.cat([plain.logits(plain.encoder(row)[:, 0]) for row in rows]).amax(dim=0)
            probabilities = torch.full((39,), 0.0).index_copy(0, torch.arange(7, 35), logits[7:35].softmax(dim=0))
            best = probabilities.argsort(descending=True)[:top]
            versions = [[torch.cat([row[:, :-2], one.view(1, 1), row[:, -1:]], dim=1) for one in best] for row in rows]
            found = torch.stack([torch.cat([plain.pooled(plain.encoder(one)) for one in row]) for row in versions])
        return found, probabilities[best] / probabilities[best].sum()

    @pytest.mark.parametrize("top", [1, 3, 28])
    def test_the_likely_types_share_in_a_window(self, top):
        model, windows = build(top_k=top), random_windows(4, (20, 60))
        assert model.forward_passes == top + 1
        found = embedded(model, windows)
        for row, window in zip(found, windows, strict=True):
            versions, probabilities = self.by_hand(model, [window.sequence], top)
            torch.testing.assert_close(row, probabilities @ versions[0], rtol=0, atol=1e-5)

    def test_of_a_window_in_pieces_the_highest_logit_of_a_type_counts(self):
        model, (window,), (other,) = build(long="chunks"), random_windows(1, 1200), random_windows(1, 30, seed=1)
        pieces = [window.sequence[at : at + 509] for at in (0, 509, 1018)]
        versions, probabilities = self.by_hand(model, pieces, 3)
        expected = torch.tensor([509, 509, 182]) / 1200 @ (probabilities @ versions)
        found = embedded(model, [other, window])
        torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[0], embedded(model, [other])[0], rtol=0, atol=1e-5)

    def test_merged_embeddings_give_the_merged_logits(self):
        torch.manual_seed(0)
        classifier = Classifier(build(), 3, Recipe(dropout=0.1)).eval()
        torch.nn.init.normal_(classifier.head[-1].bias)
        (window,) = random_windows(1, 50)
        versions, probabilities = self.by_hand(classifier.adapter, [window.sequence], 3)
        with torch.inference_mode():
            merged = classifier(classifier.collate([Example("", (window,), 0)]))[0]
            logits = classifier.head(versions[0].clone())
        torch.testing.assert_close(merged, probabilities @ logits, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("lengths", [(40, 41), (20, 60)])
    @pytest.mark.parametrize("pooling", ["pooler", "mean", "cls"])
    def test_an_accelerator_gets_the_same_and_is_asked_for_no_number(self, pooling, lengths):
        model = build(pooling=pooling)
        batch = model.for_accelerator(model.collate(random_windows(3, lengths)))
        with torch.inference_mode():
            found, expected = model(batch), model({name: it for name, it in batch.items() if name != "places"})
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        meta = torch.device("meta")
        away = model.to(meta).train()({name: it.to(meta) for name, it in batch.items()})
        assert away.device == meta

    def test_the_indicator_goes_where_the_model_goes(self):
        model, windows = build(), random_windows(2, 30)
        expected = embedded(model, windows)
        torch.testing.assert_close(embedded(model.double(), windows).float(), expected, rtol=0, atol=1e-5)
        assert model.guide.indicator.encoder.tokens.weight.dtype == torch.float64


class TestIndicator:
    def test_it_is_never_trained_and_has_no_dropout(self):
        torch.manual_seed(0)
        classifier = Classifier(build(), 2, Recipe()).train()
        guide, examples = classifier.adapter.guide, motif_examples(16)
        before = {name: tensor.clone() for name, tensor in guide.indicator.state_dict().items()}
        batch = classifier.collate(examples)
        logits = guide.logits(batch["tokens"][:, 0], batch["slots"][:, 0])
        assert not logits.requires_grad
        fit(classifier, examples, examples, Recipe(epochs=1, batch_size=8, precision="float32"), CPU)
        assert torch.equal(guide.logits(batch["tokens"][:, 0], batch["slots"][:, 0]), logits)
        assert all(torch.equal(tensor, before[name]) for name, tensor in guide.indicator.state_dict().items())
        assert not torch.equal(classifier.adapter.encoder.tokens.weight, guide.indicator.encoder.tokens.weight)
        assert not any("indicator" in name for name, _ in classifier.named_parameters())

    def test_as_released_its_dropout_stays_on(self):
        model, windows = build(as_released=True), random_windows(4, 40)
        assert not torch.equal(embedded(model, windows), embedded(model, windows))
        assert torch.equal(*(embedded(build(), windows) for _ in range(2)))

    def test_as_released_it_is_asked_at_the_slot_which_nothing_reads(self):
        model, (window,) = build(as_released=True), random_windows(1, 30)
        model.guide.indicator.eval()
        batch = model.collate([window])
        row, slot = batch["tokens"][0], batch["slots"][0]
        hidden = model.encoder(row, row != PAD)
        expected = model.logits(hidden[:, slot.item()])
        torch.testing.assert_close(model.guide.logits(row, slot), expected)
        model.encoder.tokens.weight.data[PAD] += 1  # read by the slot alone
        assert torch.equal(model.encoder(row, row != PAD)[:, 0], hidden[:, 0])


class TestOtherQuestions:
    @pytest.mark.parametrize("long", ["refuse", "chunks"])
    def test_states_of_bases_are_merged_likewise(self, long):
        """Their mean is what mean pooling gives."""
        model = build(pooling="mean", long=long)
        windows = random_windows(2, (20, 60)) + (random_windows(1, 1200) if long == "chunks" else [])
        reader, examples = BaseReader(model), [Example("", (window,), 0) for window in windows]
        with torch.inference_mode():
            batch = reader.collate(examples)
            states = reader(dict(batch))
            assert [int((~row[:, 0].isnan()).sum()) for row in states] == [len(window) for window in windows]
            torch.testing.assert_close(reader.embed(dict(batch)), embedded(model, windows), rtol=0, atol=1e-5)

    def test_overwritten_bases_have_no_state(self):
        ranges = build(as_released=True).token_ranges([Window("A" * 510), Window("AC")])
        assert ranges[0, 507:].tolist() == [[508, 509], [0, 0], [0, 0]]
        assert ranges[1, :3].tolist() == [[1, 2], [2, 3], [0, 0]]

    def test_filling_in_bases_and_gradients_are_refused(self):
        model = build()
        with pytest.raises(UserError, match="guided=true: rnaernie is guided in fine-tuning alone; leave it out"):
            ZeroShot(model).collate(variant_examples(2))
        pytest.importorskip("captum")
        classifier, score = Classifier(model, 2, Recipe()), Score("classification", 1)
        with pytest.raises(UserError, match="use --method mutagenesis"):
            gradients(classifier, random_windows(1, 30), score, torch.device("cpu"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layout": "llm-eda"}, "the 39 tokens of the paper's vocabulary.*11 others.*layout=paddle"),
            ({"layout": "multimolecule"}, "the 39 tokens of the paper's vocabulary.*28 others"),
            ({"top_k": 29}, "top_k=29: choose 1 to 28"),
            ({"top_k": 0}, "top_k=0: choose 1 to 28"),
            ({"guided": False, "top_k": 2}, "top_k=2: is about how to guide; add guided=true"),
            ({"guided": False, "as_released": True}, "as_released=true: is about how to guide; add guided=true"),
        ],
    )
    def test_what_cannot_guide_is_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            build(**options)

    def test_a_file_without_a_language_head_is_refused(self, tmp_path):
        arrays = {name: array for name, array in paddle_arrays().items() if not name.startswith("cls.")}
        np.savez(tmp_path / "model_state.npz", **arrays)
        with pytest.raises(UserError, match="has no masked-language head to tell types with; leave it out"):
            registry.adapter_class("rnaernie").from_checkpoint(tmp_path, guided=True)


@pytest.fixture
def task() -> tuple[Task, Splits]:
    examples = motif_examples(60)
    splits = Splits(examples[:40], examples[40:50], examples[50:], {"made": "0" * 64})
    return Task("made", "made", "is the motif planted?", ("no", "yes"), lambda rule: splits, ("drawn",)), splits


def guided_run(task, checkpoint=None, **settings):
    options = {"guided": True, "top_k": 2} | ({} if checkpoint else {"layout": "paddle"})
    run = planned_run("rnaernie", *task, **settings)
    return sealed(replace(run, checkpoint=checkpoint and str(checkpoint), options=options), task[0])


class TestRuns:
    """The indicator is not stored: the weights that a run started from build it again."""

    @pytest.mark.parametrize("started", ["drawn", "from a file"])
    @pytest.mark.parametrize("tune", ["full", "lora", "probe"])
    def test_a_kept_run_answers_to_the_last_bit(self, tune, started, task, tmp_path):
        checkpoint = None
        if started == "from a file":
            checkpoint = tmp_path / "model_state.npz"
            np.savez(checkpoint, **paddle_arrays())
        said: list[str] = []
        reporter = Reporter()
        reporter.say = said.append  # type: ignore[method-assign]
        run = guided_run(task, checkpoint, tune=tune, epochs=2, learning_rate=1e-2)
        record = execute(run, tmp_path / "results", opened=task, reporter=reporter)
        assert record.finished, record.error
        folder = tmp_path / "results" / record.folder
        assert read(folder).model["forward_passes"] == 3
        assert "3 forward passes for each window" in "\n".join(said)
        assert np.array_equal(load_run(folder, device="cpu").outputs(task[1].test), read_predictions(folder).outputs)
        names = load_file(folder / keep.WEIGHTS)
        assert not any("indicator" in name for name in names)
        assert (tune == "full" or not checkpoint) == ("adapter.encoder.tokens.weight" in names)

    def test_a_pretrained_folder_guides_by_its_own_weights(self, task, tmp_path):
        pretrained = build(seed=5, guided=False)
        folder = as_checkpoint(pretrained, tmp_path / "pretrained")
        model = registry.adapter_class("rnaernie").from_checkpoint(folder, guided=True).eval()
        for name, tensor in pretrained.state_dict().items():
            assert torch.equal(model.guide.indicator.state_dict()[name], tensor)
        windows = random_windows(3, 40)
        assert torch.equal(embedded(model, windows), embedded(build(seed=5), windows))
        released = registry.adapter_class("rnaernie").from_checkpoint(folder, guided=True, as_released=True)
        assert "no two predictions are alike" in released.audit.warnings[-1]
        with pytest.raises(UserError, match=r"or an option .* that is for fine-tuning alone"):
            choose_objective(model, "token", {})

    def test_the_run_that_goes_on_from_it_has_its_indicator(self, task, tmp_path):
        record = execute(guided_run(task, epochs=1, learning_rate=1e-2), tmp_path, opened=task)
        torch.manual_seed(0)
        drawn, model = build(top_k=2), keep.backbone(tmp_path / record.folder)
        assert torch.equal(model.guide.indicator.encoder.tokens.weight, drawn.encoder.tokens.weight)
        assert not torch.equal(model.encoder.tokens.weight, drawn.encoder.tokens.weight)

    def test_a_killed_training_ends_with_the_same_bits(self, tmp_path, monkeypatch):
        monkeypatch.setattr(resume, "MIN_SECONDS", 0.0)
        monkeypatch.setattr(resume, "MAX_SHARE", 1e9)
        recipe, examples = Recipe(epochs=3, learning_rate=1e-2, precision="float32"), motif_examples(32)

        def trained(kept: StateFile | None, kill: bool = False) -> np.ndarray:
            def report(news: Progress | str) -> None:
                if kill and isinstance(news, Progress) and news.epoch == 2:
                    raise KeyboardInterrupt

            torch.manual_seed(0)
            classifier = Classifier(build(), 2, recipe)
            fit(classifier, examples, examples, recipe, CPU, keep=kept, report=report)
            return predict(classifier, examples, CPU)

        with pytest.raises(KeyboardInterrupt):
            trained(StateFile(tmp_path / "state", "run"), kill=True)
        assert np.array_equal(trained(StateFile(tmp_path / "state", "run")), trained(None))
