"""hf: checkpoints of many architectures and vocabularies keep the contract, and read what they were given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import motif_examples, random_windows
from made_hf import checkpoint, configs, edit, kmers

from harness import registry
from harness.adapter import BaseResolved, CausalModel, MaskedModel
from harness.check import contract
from harness.check.clauses import CLAUSES
from harness.data import Window
from harness.engine.classifier import Classifier
from harness.errors import BadData, UserError
from harness.recipe import Recipe

HF = registry.adapter_class("hf")
CAUSAL = ("gpt2", "llama", "mistral", "mixtral", "gemma", "mamba")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name → the folder of a tiny checkpoint; made once."""
    root, made = tmp_path_factory.mktemp("hf"), {}

    def folder(name, **settings):
        key = (name, str(settings))
        if key not in made:
            made[key] = checkpoint(name, root / f"{len(made)}-{name}", **settings)
        return made[key]

    return folder


def load(folder, **options):
    return HF.from_checkpoint(folder, **options).eval()


@pytest.mark.parametrize("name", configs())
def test_every_architecture_keeps_the_contract(name, folders):
    candidate = contract.build("hf", checkpoint=str(folders(name)))
    verdicts = [contract.judge(clause, candidate) for clause in CLAUSES]
    assert not [(verdict.clause, verdict.detail) for verdict in verdicts if verdict.state == "violated"]
    adapter = candidate.adapter
    assert isinstance(adapter, CausalModel if name in CAUSAL else MaskedModel)
    assert not isinstance(adapter, MaskedModel if name in CAUSAL else CausalModel)
    assert adapter.lora_targets
    assert adapter.audit.expected == adapter.audit.matched


@pytest.mark.parametrize("name", ["bert", "esm", "modernbert", "llama"])
def test_states_and_their_mean_are_those_of_transformers(name, folders):
    from transformers import AutoModel

    folder, windows = folders(name), random_windows(3, (20, 40))
    ours, theirs = load(folder, pooling="mean"), AutoModel.from_pretrained(folder).eval()
    batch = ours.collate(windows)
    mask = torch.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
    with torch.inference_mode():
        expected = theirs(input_ids=batch["tokens"], attention_mask=mask.long()).last_hidden_state
        for row, (window, states) in enumerate(zip(windows, expected)):
            inside = ours.content(batch)[row]
            torch.testing.assert_close(ours(batch)[row], states[inside].mean(dim=0), rtol=1e-5, atol=1e-6)
            assert len(window) == int((ours.token_ranges([window])[0, :, 1] > 0).sum())


@pytest.mark.parametrize("name", ["bert", "esm", "modernbert", "deberta-v2", "gpt2", "llama", "mamba"])
def test_layers_are_those_of_transformers(name, folders):
    from transformers import AutoModel

    model, theirs = load(folders(name)), AutoModel.from_pretrained(folders(name)).eval()
    batch = model.collate(random_windows(1, 30))
    with torch.inference_mode():
        expected = theirs(input_ids=batch["tokens"], output_hidden_states=True).hidden_states
        if name == "mamba":  # whose list begins after the first block
            expected = (model.model.get_input_embeddings()(batch["tokens"]), *expected[:1], *expected[2:])
        for layer in range(3):
            torch.testing.assert_close(model.hidden_states(batch, layer), expected[layer])
    with pytest.raises(UserError, match="layer 3: hf has layers 1 to 2"):
        model.hidden_states(batch, 3)


def test_poolings_and_layers(folders):
    windows = random_windows(2, 30)
    model = load(folders("bert"))
    batch = model.collate(windows)
    with torch.inference_mode():
        states = model.hidden_states(batch)
        assert torch.equal(model.hidden_states(batch, 2), states)
        for pooling, expected in (("cls", states[:, 0]), ("last", states[:, 30]), ("max", states[:, 1:31].amax(dim=1))):
            assert torch.equal(load(folders("bert"), pooling=pooling)(batch), expected)
        first = load(folders("bert"), layer=1)
        torch.testing.assert_close(first(batch), model.hidden_states(batch, 1)[:, 1:31].mean(dim=1))
        assert not torch.allclose(first(batch), model(batch))
    for options, words in (
        ({"pooling": "pooler"}, "mean, cls, max, last"),
        ({"layer": 3}, "choose 0"),
        ({"dtype": "int8"}, "bf16"),
    ):
        with pytest.raises(UserError, match=words):
            load(folders("bert"), **options)
    with pytest.raises(UserError, match="puts no token before"):
        load(folders("llama"), pooling="cls")


def test_weights_above_the_layer_that_is_pooled_are_frozen_and_not_adapted(folders):
    model = load(folders("llama"), layer=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("layers.0." in name for name in trained)
    assert not any("layers.1." in name or "lm_head" in name for name in trained)
    assert all(".0." in f".{name}" for name in model.lora_targets)


class TestLetters:
    """How a window reaches the vocabulary."""

    @pytest.mark.parametrize(
        ("name", "letters", "first"),
        [
            ("bert", "spaced", ["[CLS]", "A", "C", "G", "T", "N", "[SEP]"]),
            ("roberta", "spaced", ["[CLS]", "A", "C", "G", "U", "N", "[SEP]"]),
            ("bert_kmer", "kmer", ["[CLS]", "ACG", "CGT", "[UNK]", "[SEP]"]),
            ("esm", "3mer", ["<cls>", "ACG", "T", "N"]),
            ("modernbert", "raw", ["[CLS]", "ACGT", "[UNK]", "[SEP]"]),
            ("llama", "raw", ["ACGT", "[UNK]"]),
        ],
    )
    def test_what_is_found(self, name, letters, first, folders):
        model = load(folders(name))
        names = {id: token for token, id in model.vocabulary.ids.items()}
        batch = model.collate([Window("ACGTN")])
        assert [names[id] for id in batch["tokens"][0].tolist()] == first
        assert model.audit.facts["letters"] == letters
        assert any(line.startswith("letters: ") for line in model.audit.warnings)
        assert model.unknown_tokens(batch)[0] == first.count("[UNK]")

    def test_blocks_are_those_of_transformers_own_tokenizer(self, folders):
        from transformers import AutoTokenizer

        tokenizer, model = AutoTokenizer.from_pretrained(folders("esm")), load(folders("esm"))
        rng = np.random.default_rng(0)
        for length in range(1, 40):
            sequence = "".join(rng.choice(list("ACGTN"), length, p=[0.23] * 4 + [0.08]))
            assert model.collate([Window(sequence)])["tokens"][0].tolist() == tokenizer(sequence)["input_ids"], sequence

    def test_overlapping_kmers_are_those_of_transformers_own_tokenizer(self, folders):
        from transformers import AutoTokenizer

        sequence, model = random_windows(1, 50)[0].sequence, load(folders("bert_kmer"))
        text = " ".join(sequence[at : at + 3] for at in range(48))
        assert (
            model.collate([Window(sequence)])["tokens"][0].tolist()
            == AutoTokenizer.from_pretrained(folders("bert_kmer"))(text)["input_ids"]
        )

    def test_a_tokenizer_that_lower_cases_does_not_make_kmers_unknown(self, folders, tmp_path):
        folder = checkpoint("bert_kmer", tmp_path / "lower")
        edit(folder / "tokenizer_config.json", do_lower_case=True)
        windows = random_windows(2)
        assert torch.equal(load(folder).collate(windows)["tokens"], load(folders("bert_kmer")).collate(windows)["tokens"])

    def test_they_can_be_given(self, folders, tmp_path):
        folder = folders("bert_kmer")
        assert load(folder, letters="3mer").collate([Window("ACGTAC")])["tokens"].shape == (1, 4)
        with pytest.raises(BadData, match="100% of a random sequence's tokens are unknown"):
            load(folders("bert"), letters="raw")
        with pytest.raises(BadData, match="no A, C, G and T"):
            load(folder, letters="spaced")
        with pytest.raises(UserError, match="choose auto, raw, spaced"):
            load(folder, letters="codons")
        with pytest.raises(UserError, match="no such token"):
            load(folder, prefix="<dna>")

    def test_python_tokenizers_with_a_vocabulary_of_kmers_are_read_without_their_code(self, tmp_path):
        folder = checkpoint("llama", tmp_path / "generator", vocab_size=70)
        for file in folder.glob("*token*"):
            file.unlink()
        (folder / "vocab.txt").write_text("\n".join(["<oov>", "<s>", "</s>", "<pad>", "<mask>", "<+>", *kmers(3, "ACGT")]))
        edit(
            folder / "tokenizer_config.json",
            tokenizer_class="DNAKmerTokenizer",
            auto_map={"AutoTokenizer": ["tokenizer.DNAKmerTokenizer", None]},
            bos_token="<s>",
        )
        model = load(folder)
        names = {id: token for token, id in model.vocabulary.ids.items()}
        read = [names[id] for id in model.collate([Window("TTACGGGT")])["tokens"][0].tolist()]
        assert read == ["<s>", "TTA", "ACG", "GGT"]  # nothing is cut: the first block overlaps the next one
        assert model.token_ranges([Window("TTACGGGT")])[0].tolist() == [
            [1, 2],
            [1, 2],
            [1, 3],
            [2, 3],
            [2, 3],
            [3, 4],
            [3, 4],
            [3, 4],
        ]
        (folder / "vocab.txt").unlink()
        (folder / "vocab.json").write_text("{}")
        with pytest.raises(BadData, match="authors' own code"):
            load(folder)

    def test_a_prefix_switches_to_dna(self, tmp_path):
        from made_hf import SPECIALS, fast

        folder = checkpoint("bert", tmp_path / "dna", vocab_size=11)
        fast([*SPECIALS, "<dna>", "N", *"ACGT"]).save_pretrained(folder)
        assert load(folder).collate([Window("A")])["tokens"].tolist() == [[2, 5, 7, 3]]
        assert load(folder, prefix="none").collate([Window("A")])["tokens"].tolist() == [[2, 7, 3]]

    def test_lower_case_vocabularies(self, tmp_path):
        from made_hf import SPECIALS, fast

        folder = checkpoint("bert", tmp_path / "small", vocab_size=9)
        fast([*SPECIALS, *"acgt"]).save_pretrained(folder)
        model = load(folder)
        assert model.collate([Window("ACGTN")])["tokens"].tolist() == [[2, 5, 6, 7, 8, 1, 3]]
        assert "lower case" in model.audit.facts["reading"]


class TestScores:
    """Masked and causal heads."""

    @pytest.mark.parametrize("name", ["bert", "bert_kmer", "esm", "modernbert"])
    def test_the_base_that_the_head_prefers(self, name, folders):
        model = load(folders(name))
        window = random_windows(1, 24)[0]
        batch = model.collate_masked([window], [10])
        with torch.inference_mode():
            logits = model.model(input_ids=batch["tokens"]).logits[0, int(batch["masked"][0])]
            expected = torch.stack([logits[ids[ids >= 0]].logsumexp(0) for ids in batch["candidates"][0]]).log_softmax(0)
            torch.testing.assert_close(model.base_log_probabilities(batch)[0], expected)
        names = {id: token for token, id in model.vocabulary.ids.items()}
        for base, ids in zip("ACGT", batch["candidates"][0].tolist()):
            words = [names[id] for id in ids if id >= 0]
            around = window.sequence[9], window.sequence[11]
            assert words == ([base.join(around)] if name in ("bert_kmer", "esm") else [base])

    def test_an_n_beside_the_hidden_base_leaves_several_kmers(self, folders):
        batch = load(folders("bert_kmer")).collate_masked([Window("ACGTNACG")], [3])
        assert (batch["candidates"][0] >= 0).sum(dim=1).tolist() == [4, 4, 4, 4]

    def test_a_base_at_the_edge_of_blocks(self, folders):
        model = load(folders("esm"))
        for position in range(7):
            batch = model.collate_masked([Window("ACGTACG")], [position])
            masks = (batch["tokens"][0] == model.vocabulary.mask).sum()
            assert (masks, int(batch["masked"][0])) == (1, 1 + position // 3)

    @pytest.mark.parametrize("name", ["gpt2", "mistral"])
    def test_likelihoods_are_sums_over_tokens(self, name, folders):
        model, windows = load(folders(name)), random_windows(3, (15, 30))
        with torch.inference_mode():
            together = model.log_likelihood(model.collate(windows))
            for found, window in zip(together, windows):
                tokens = model.collate([window])["tokens"]
                logs = model.model(input_ids=tokens).logits[0].log_softmax(-1)
                first, last = max(len(model.vocabulary.before), 1), tokens.shape[1] - len(model.vocabulary.after)
                expected = sum(float(logs[at - 1, tokens[0, at]]) for at in range(first, last))
                assert float(found) == pytest.approx(expected, rel=1e-4)

    def test_without_a_head_or_a_mask_token_it_fills_in_nothing(self, tmp_path):
        from made_hf import bpe

        headless = load(checkpoint("bert", tmp_path / "base", head=False))
        assert not isinstance(headless, MaskedModel)
        assert isinstance(headless, BaseResolved)
        assert "no masked-language head" in headless.audit.facts["fills_in_bases"]
        assert not any("pooler" in name for name, _ in headless.named_parameters())
        folder = checkpoint("modernbert", tmp_path / "nomask")
        bpe(mask=False).save_pretrained(folder)
        model = load(folder)
        assert not isinstance(model, MaskedModel)
        assert "no mask token" in model.audit.facts["fills_in_bases"]


class TestBases:
    """token_ranges: of each base the tokens that hold it."""

    def test_overlapping_kmers(self, folders):
        ranges = load(folders("bert_kmer")).token_ranges([Window("ACGTA"), Window("ACG")])
        assert ranges.tolist() == [[[1, 2], [1, 3], [1, 4], [2, 4], [3, 4]], [[1, 2], [1, 2], [1, 2], [0, 0], [0, 0]]]

    def test_byte_pairs(self, folders):
        assert load(folders("modernbert")).token_ranges([Window("ACGTA")]).tolist() == [[[1, 2], [1, 2], [2, 3], [3, 4], [3, 4]]]

    @pytest.mark.parametrize("name", ["bert", "esm", "modernbert", "llama"])
    def test_ranges_hold_the_letters(self, name, folders):
        model, window = load(folders(name)), Window("ACGTTGCANACGTA")
        names = {id: token for token, id in model.vocabulary.ids.items()}
        tokens = [names[id] for id in model.collate([window])["tokens"][0].tolist()]
        for base, (first, last) in zip(window.sequence, model.token_ranges([window])[0].tolist()):
            assert last == first + 1
            assert base in tokens[first] or (base == "N" and tokens[first] == "[UNK]")


class TestLimits:
    def test_the_limit_is_in_nucleotides_where_it_can_be_told(self, folders):
        assert load(folders("bert")).max_length == 128
        assert load(folders("bert_kmer")).max_length == 130
        assert load(folders("esm")).max_length == 3 * (130 - 3 + 2) + 1
        assert load(folders("roberta")).max_length == 129  # positions are counted from the padding's index
        assert load(folders("mamba")).limit is None

    def test_byte_pairs_are_refused_by_tokens(self, tmp_path):
        model = load(checkpoint("modernbert", tmp_path / "short", max_position_embeddings=16))
        assert model.max_length is None
        with pytest.raises(BadData, match=r"window of 30 nt: hf takes at most 16 tokens, and this has 32; nothing was cut"):
            model.collate([Window("AC"), Window("N" * 30)])


def test_lora_reaches_transposed_layers_too(folders):
    classifier = Classifier(load(folders("gpt2")), 2, Recipe(tune="lora"))
    loss = classifier(classifier.collate(motif_examples(4))).sum()
    loss.backward()
    trained = {name: parameter for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    assert any("c_attn.lora_B" in name and parameter.grad.any() for name, parameter in trained.items())


def test_gradients_can_be_recomputed(folders):
    windows, grads = random_windows(2), []
    for option in (False, True):
        model = load(folders("llama"), gradient_checkpointing=option).train()
        model(model.collate(windows)).sum().backward()
        grads.append(next(parameter.grad for name, parameter in model.named_parameters() if "q_proj" in name))
    torch.testing.assert_close(*grads)


def test_large_models_are_held_in_bfloat16_and_this_is_said(folders, monkeypatch):
    monkeypatch.setattr("harness.adapters._hf_load.LARGE", 1000)
    model = load(folders("llama"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert any("held in bf16" in line for line in model.audit.warnings)
    assert {parameter.dtype for parameter in load(folders("llama"), dtype="float32").parameters()} == {torch.float32}
    assert Classifier(model, 2, Recipe())(model.collate(random_windows(2))).dtype == torch.float32


def test_a_random_twin_has_the_shape_and_the_vocabulary_of_its_config(folders):
    folder = folders("esm")
    twins = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        twins.append(HF.from_checkpoint(None, config=str(folder)))
    model, (one, again, other) = load(folder), twins
    assert type(one) is type(model)
    assert one.audit is None
    shapes = [{name: it.shape for name, it in model.state_dict().items()} for model in (model, one)]
    assert shapes[0] == shapes[1]
    assert torch.equal(one.collate([Window("ACGT")])["tokens"], model.collate([Window("ACGT")])["tokens"])
    weights = [next(p for n, p in it.named_parameters() if "query.weight" in n) for it in (one, again, other, model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
