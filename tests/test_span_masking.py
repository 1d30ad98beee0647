"""DNABERT's span masking: upstream's recorded masks, its rates, what may be hidden, and folders that load as the same model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import as_checkpoint, pretraining_batch, random_windows
from made_genomes import Interrupted
from made_masks import columns, drawn, pretrained, recorded, write_runs
from scipy.stats import binom

from harness import registry
from harness.adapter import IGNORED
from harness.adapters._kmer_bert import CLS, MASK, PAD, SEP, UNK, KmerBert, kmer_tokens
from harness.adapters._masking import hide
from harness.adapters._span import Span, span_offsets, spans
from harness.adapters._transformer import Shape
from harness.adapters.dnabert1 import DNABERT1
from harness.data import Window, letters
from harness.errors import UserError

FALSE_ALARM = 1e-6


def tiny(name: str = "dnabert1", **options) -> KmerBert:
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(size="tiny", **options).eval()


def attached(objective, **options):
    objective.attach(tiny(**options))
    return objective


class TestGolden:
    @pytest.mark.parametrize("source", ["trimmed", "complete"])
    def test_upstreams_draws_give_upstreams_masks(self, source):
        compared = 0
        for case in recorded(source, "dnabert_span_masking"):
            tokens, k = np.array(case["input_ids"]), case["kmer"]
            eligible, centres, fates = drawn(case["seed"], tokens, case["mlm_probability"], 5 + 4**k)
            if "error" in case:  # upstream stops at a row of which nothing is eligible
                assert not spans(centres, np.zeros_like(eligible), k).any()
                continue
            assert columns(centres) == case["centres"]
            targets = hide(tokens, spans(centres, eligible, k), fates, MASK)
            assert tokens.tolist() == case["masked_inputs"]
            assert targets.tolist() == case["labels"]
            compared += 1
        assert compared == {"trimmed": 2, "complete": 6}[source]

    @pytest.mark.parametrize(
        ("k", "offsets"), [(3, [-1, 0, 1]), (4, [-1, 0, 1, 2]), (5, [-2, -1, 0, 1, 2]), (6, [*range(-2, 4)])]
    )
    def test_a_span_is_as_many_tokens_as_a_kmer_has_letters(self, k, offsets):
        assert sorted(span_offsets(k)) == offsets

    def test_a_span_ends_with_the_kmers(self):
        eligible = np.array([[False, *[True] * 8, False]])
        for centre, expected in ((1, [1, 2, 3, 4]), (2, [1, 2, 3, 4, 5]), (8, [6, 7, 8])):
            assert columns(spans(np.arange(10)[None] == centre, eligible, 6)) == [expected]

    def test_spans_that_touch_are_united(self):
        eligible = np.array([[False, *[True] * 20, False]])
        centres = np.isin(np.arange(22), [5, 9])[None]
        assert columns(spans(centres, eligible, 6)) == [list(range(3, 13))]


class TestRates:
    def test_the_papers_share_is_raised_in_the_last_sixth_of_the_steps(self):
        objective = attached(Span())
        shares = [1 - (1 - objective.rate(progress)) ** 6 for progress in (0.0, 99_999 / 120_000, 100_000 / 120_000, 1.0, None)]
        assert shares == pytest.approx([0.15, 0.15, 0.2, 0.2, 0.15])

    @pytest.mark.parametrize(("k", "rate"), [(3, 0.05), (4, 0.0375), (5, 0.03), (6, 0.025)])
    def test_the_released_code_has_one_rate(self, k, rate):
        objective = attached(Span(as_released=True), k=k)
        assert [objective.rate(progress) for progress in (0.0, 0.9, None)] == pytest.approx([rate] * 3)

    def test_a_share_that_is_given_holds_throughout(self):
        objective = attached(Span(share=0.3), k=3)
        assert [1 - (1 - objective.rate(progress)) ** 3 for progress in (0.0, 0.9, None)] == pytest.approx([0.3] * 3)

    @pytest.mark.parametrize(
        ("options", "progress", "share"),
        [({}, 0.5, 0.15), ({}, None, 0.15), ({}, 0.9, 0.2), ({"as_released": True}, 0.9, 1 - 0.975**6), ({"k": 3}, 0.5, 0.15)],
    )
    def test_the_share_of_hidden_tokens(self, options, progress, share):
        """Windows are independent, so that the mean of 400 is normal: 4.9 standard errors for a false alarm of 1e-6.

        At the ends of a window, fewer centres reach a token, which takes about 0.1 % of the share at 510 tokens.
        """
        k = options.pop("k", 6)
        model, objective = tiny(k=k), attached(Span(**options), k=k)
        batch = objective.collate(model, random_windows(400, 509 + k), np.random.default_rng(0), progress)
        hidden = (batch["targets"] != IGNORED)[:, 1:-1].double().mean(dim=1)
        error = float(hidden.std()) / len(hidden) ** 0.5
        assert float(hidden.mean()) == pytest.approx(share * 0.9985, abs=4.9 * error)

    def test_what_becomes_of_hidden_tokens(self):
        """Of each, by itself: binomial bounds for a false alarm of 1e-6 in each of the three."""
        model, windows = tiny(k=3), random_windows(400, 512)
        objective = attached(Span(), k=3)
        plain = model.collate(windows)["tokens"][:, 0].long()
        batch = objective.collate(model, windows, np.random.default_rng(0), 0.0)
        tokens, targets = batch["tokens"][:, 0].long(), batch["targets"]
        hidden = targets != IGNORED
        assert torch.equal(targets[hidden], plain[hidden])
        assert torch.equal(tokens[~hidden], plain[~hidden])
        count, any_id = int(hidden.sum()), 1 / 69  # random ids are any of the vocabulary, special tokens included
        masked, same = tokens[hidden] == MASK, tokens[hidden] == plain[hidden]
        special = torch.isin(tokens[hidden], torch.tensor([PAD, UNK, CLS, SEP]))
        for found, share in ((masked, 0.8 + 0.1 * any_id), (same, 0.1 + 0.1 * any_id), (special, 0.4 * any_id)):
            low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], count, share)
            assert low <= int(found.sum()) <= high

    def test_tokens_of_one_span_have_fates_of_their_own(self):
        model, windows = tiny(), random_windows(200, 100)
        batch = pretraining_batch(model, windows, np.random.default_rng(0))
        hidden, masked = (batch["targets"] != IGNORED), batch["tokens"][:, 0] == MASK
        pairs = hidden[:, 1:] & hidden[:, :-1]
        assert 0.2 < float((masked[:, 1:] != masked[:, :-1])[pairs].double().mean()) < 0.45  # 2 · 0.8 · 0.2 of them differ


class TestWindows:
    def test_only_kmers_of_known_letters_are_asked_for(self):
        model = tiny()
        windows = [Window("N" * 20 + window.sequence + "N" + window.sequence[:20]) for window in random_windows(50, (11, 60))]
        batch = pretraining_batch(model, windows, np.random.default_rng(0), share=0.9)
        targets = batch["targets"]
        asked = targets != IGNORED
        plain = model.collate(windows)["tokens"][:, 0]
        assert asked.any()
        assert int(targets[asked].min()) > MASK
        assert torch.equal(batch["tokens"][:, 0][plain <= MASK], plain[plain <= MASK])

    @pytest.mark.parametrize("k", [3, 6])
    def test_published_lengths(self, k):
        """Half of the windows stay whole (a false alarm of 1e-6); the others have any length that holds a span."""
        model, objective = tiny(k=k), attached(Span(lengths="published"), k=k)
        windows = random_windows(300, 120)
        batch = objective.collate(model, windows, np.random.default_rng(0), 0.0)
        kmers = batch["lengths"][:, 0] - 2
        whole = int((kmers == 121 - k).sum())
        low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 300, 0.5)
        assert low <= whole <= high
        assert int(kmers.min()) == k  # one of 300 is shorter than a span, and all below it are brought up to it
        assert len(kmers.unique()) > 60
        first = kmer_tokens(letters(windows), k)[:, 0]
        unhidden = (batch["targets"][:, 1] == IGNORED).numpy()
        assert (batch["tokens"][:, 0, 1].numpy()[unhidden] == first[unhidden]).all()

    def test_a_window_alone_is_whole(self):
        batch = pretraining_batch(tiny(), [Window("ACGTACGTACG")], np.random.default_rng(1), share=0.99)
        assert batch["targets"].shape == (1, 8)

    def test_the_same_draws_give_the_same_batch(self):
        model, windows = tiny(), random_windows(20, 100)
        one, two = (pretraining_batch(model, windows, np.random.default_rng(7)) for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(one["targets"], pretraining_batch(model, windows, np.random.default_rng(8))["targets"])


def shaped(**sizes) -> KmerBert:
    """A model whose heads are not as wide as the published ones."""
    torch.manual_seed(0)
    shape = Shape(3, 40, 5, 72, vocabulary=5 + 4**3, positions=80, epsilon=1e-6, dropout=0.2, attention_dropout=0.05)
    return DNABERT1(shape, "mean", -1, "refuse", **sizes).eval()


def saved(folder, model: KmerBert):
    with torch.no_grad():  # what training moves away from zeros and ones
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return as_checkpoint(model, folder)


class TestFolder:
    @pytest.mark.parametrize(
        ("name", "make", "pooling"),
        [
            ("dnabert1", tiny, "pooler"),
            ("dnabert1", lambda: tiny(k=4), "cls"),
            ("dnabert1", shaped, "mean"),
            ("dnabert1", lambda: shaped(pooler=False), "mean"),
            ("genemask", lambda: tiny("genemask"), "pooler"),
        ],
        ids=["tiny", "4-mers", "another shape", "without a pooler", "genemask"],
    )
    def test_it_loads_as_the_same_model(self, tmp_path, name, make, pooling):
        model = make()
        folder = saved(tmp_path / "model", model)
        loaded = registry.adapter_class(name).from_checkpoint(folder, pooling=pooling).eval()
        assert loaded.shape == model.shape
        assert loaded.audit.matched == loaded.audit.expected
        windows = random_windows(4, (30, 60))
        batch = pretraining_batch(model, windows, np.random.default_rng(0), "span", share=0.5)
        with torch.inference_mode():
            assert torch.equal(loaded.pretraining_logits(batch), model.pretraining_logits(batch))
            if model.pooling == pooling:
                assert torch.equal(loaded(loaded.collate(windows)), model(model.collate(windows)))

    def test_transformers_reads_it(self, tmp_path):
        """Its BertForMaskedLM adds the decoder's bias once, and the authors' code, as here, twice."""
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        model = shaped()
        folder = saved(tmp_path / "model", model)
        theirs, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        window = Window("ACGTTGCAGGACCA")
        batch = pretraining_batch(model, [window], np.random.default_rng(0), share=0.5)
        with torch.inference_mode():
            logits = theirs(batch["tokens"][:, 0].long()).logits[0][batch["asked"]] + theirs.cls.predictions.bias
            assert torch.allclose(model.pretraining_logits(batch), logits, atol=1e-5)
        kmers = [window.sequence[start : start + 3] for start in range(len(window) - 2)]
        assert tokenizer.convert_tokens_to_ids(kmers) == model.collate([window])["tokens"][0, 0, 1:-1].tolist()

    def test_the_files_say_what_the_authors_files_say(self, shared):
        theirs = shared / "reference/checkpoints/dnabert1_6mer/github_bert-config-6"
        files = DNABERT1(Shape(1, 16, 2, 16, vocabulary=4101), "cls", -1, "refuse").checkpoint_files()
        assert files["vocab.txt"] == (theirs / "vocab.txt").read_text()
        assert json.loads(files["special_tokens_map.json"]) == json.loads((theirs / "special_tokens_map.json").read_text())
        assert json.loads(files["tokenizer_config.json"]) == {"do_lower_case": False, "max_len": 512}
        assert set(json.loads((theirs / "config.json").read_text())) <= set(json.loads(files["config.json"]))

    def test_logits_are_those_of_the_last_layer_at_the_places_asked_for(self):
        model = tiny(pooling="mean", layer=1)
        batch = pretraining_batch(model, random_windows(5, (20, 90)), np.random.default_rng(0), share=0.4)
        with torch.inference_mode():
            whole = model.logits(model.hidden_states(model.collate([Window("ACGTACGTACGT")]), layer=2))
            assert whole.shape == (1, 9, 4101)
            states = model.hidden_states({name: batch[name] for name in ("tokens", "lengths")}, layer=2)
            expected = model.logits(states)[batch["targets"] != IGNORED]
            assert torch.allclose(model.pretraining_logits(batch), expected, atol=1e-5)


@pytest.fixture
def genome(tmp_path):
    return write_runs(tmp_path / "genome.fa")


@pytest.mark.slow
def test_it_learns_what_token_frequencies_cannot_tell(genome, tmp_path):
    settings = {"learning_rate": 5e-3, "batch_size": 32}
    folder = pretrained(
        "dnabert1", genome, tmp_path / "out", steps=40, evaluate_every=40, tokens_per_step=1280, settings=settings
    )
    scores = json.loads((folder / "pretrain.json").read_text())["scores"]
    assert scores["validation_loss"] < 0.5 * scores["yardstick_loss"]
    assert scores["validation_accuracy"] > 2 * scores["yardstick_accuracy"]


@pytest.mark.usefixtures("quick_pretraining")
class TestRun:
    def test_a_resumed_run_ends_with_the_same_bits(self, genome, tmp_path):
        whole = pretrained("dnabert1", genome, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            pretrained("dnabert1", genome, tmp_path / "cut", reporter=Interrupted(3))
        cut = pretrained("dnabert1", genome, tmp_path / "cut")
        assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        files = ["config.json", "loss.csv", "loss.png", "model.safetensors", "pretrain.json"]
        assert sorted(path.name for path in cut.iterdir()) == [
            *files,
            "special_tokens_map.json",
            "tokenizer_config.json",
            "vocab.txt",
        ]
        assert registry.adapter_class("dnabert1").from_checkpoint(cut).k == 3

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"objective": "pmi"}, "objective 'pmi': dnabert1 has span"),
            ({"options": {"share": "1"}}, "option share=1.0: must be above 0 and below 1"),
            ({"options": {"lengths": "short"}}, "option lengths='short': choose one of full, published"),
            ({"options": {"long": "chunks"}}, "option long='chunks': pretraining reads windows in one piece"),
            ({"options": {}, "context": 10}, "context 10: objective span needs windows of at least 11 nt"),
            ({"context": 513, "tokens_per_step": 513}, "context 513: dnabert1 takes at most 512 nt"),
        ],
    )
    def test_what_is_refused(self, genome, tmp_path, change, words):
        with pytest.raises(UserError, match=words):
            pretrained("dnabert1", genome, tmp_path / "out", **change)
        assert not (tmp_path / "out").exists()

    def test_sequences_shorter_than_a_span(self, tmp_path):
        path = tmp_path / "windows.fa"
        path.write_text("".join(f">{number}\n{window.sequence}\n" for number, window in enumerate(random_windows(9, 4))))
        with pytest.raises(UserError, match=r"its longest sequence has 4 nt; windows of at least 5 are needed"):
            pretrained("dnabert1", path, tmp_path / "out")

    def test_resuming_with_another_share(self, genome, tmp_path):
        pretrained("dnabert1", genome, tmp_path / "out")
        with pytest.raises(UserError, match="objective_options"):
            pretrained("dnabert1", genome, tmp_path / "out", options={"k": "3", "as_released": "true"})

    def test_a_checkpoint_without_a_head_to_pretrain(self, genome, tmp_path):
        folder = as_checkpoint(shaped(language_head=False), tmp_path / "model")
        with pytest.raises(UserError, match="model dnabert1: as it was loaded, it has no head to be pretrained with"):
            pretrained("dnabert1", genome, tmp_path / "out", init=None, options={}, checkpoint=str(folder))
