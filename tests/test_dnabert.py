"""DNABERT-1, GeneMask and DNABERT-2 against upstream's outputs; what their files, windows and options may be."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, published, random_windows
from safetensors.torch import save_file

from harness import registry
from harness.adapter import MaskedModel
from harness.adapters._attention import attend, dropout
from harness.adapters._kmer_bert import K_OF_VOCABULARY, kmer_tokens, vocabulary
from harness.adapters._transformer import slopes
from harness.adapters.dnabert2 import SPECIALS, plain_tokenizer
from harness.data import Window, letters
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError

GOLDEN = Path(__file__).parent / "golden"
KMER, ALL = ("dnabert1", "genemask"), ("dnabert1", "genemask", "dnabert2")
FLOAT32 = {"last_hidden_state": 5e-5, "nomask_last_hidden_state": 5e-5, "pooler_output": 5e-5, "logits": 1e-4}
# Measured in bf16: DNABERT-1 and GeneMask 0.038 hidden (values up to 4), 0.028 pooled, 0.15 logits (values up to 16);
# DNABERT-2, whose ALiBi is rounded as well, 0.11 and 0.32.
BF16 = {
    "dnabert1": {"last_hidden_state": 0.08, "pooler_output": 0.06, "logits": 0.3},
    "genemask": {"last_hidden_state": 0.08, "pooler_output": 0.06, "logits": 0.3},
    "dnabert2": {"last_hidden_state": 0.2, "nomask_last_hidden_state": 0.2, "logits": 0.6},
}


def adapter(name: str, checkpoint: Path | None = None, **options):
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(checkpoint, **options).eval()


def embed(model, *sequences: str) -> torch.Tensor:
    with torch.inference_mode():
        return model(model.collate([Window(sequence) for sequence in sequences]))


def write_tokenizer(file: Path, tokens: int) -> None:
    """A stand-in for the published tokenizer.json: our own pairs of pairs, filled up with tokens that no text holds."""
    tokenizer = plain_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(tokens - tokenizer.get_vocab_size())])
    tokenizer.save(str(file))


def golden_checkpoint(name: str, folder: Path) -> Path:
    """The repository's trimmed weights as a folder in the official layout."""
    archive = np.load(GOLDEN / name / "weights.npz")
    tensors = {key: torch.from_numpy(archive[key]) for key in archive.files if key != "rows"}
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin")
    shutil.copy(GOLDEN / name / "config.json", folder)
    if name == "dnabert2":
        write_tokenizer(folder / "tokenizer.json", 4096)
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """A function from a model's name to a small checkpoint that a test may spoil."""
    return lambda name: golden_checkpoint(name, tmp_path / name)


def spoiled(folder: Path, change) -> Path:
    """The folder, its tensors by name replaced by what ``change`` makes of them."""
    file = folder / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save(change(tensors), file)
    return folder


def without(part: str):
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


def reconfigure(folder: Path, **values) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


@pytest.fixture(scope="module", params=[*product(ALL, ["golden", "shared"])], ids="-".join)
def upstream(request, tmp_path_factory):
    """(name, source, model, cases, arrays by key, the logits' columns) of trimmed or of whole upstream outputs."""
    name, source = request.param
    if source == "golden":
        folder, rows = GOLDEN / name, np.load(GOLDEN / name / "weights.npz")["rows"]
        weights = golden_checkpoint(name, tmp_path_factory.mktemp(name) / name)
    else:
        folder, rows = SHARED / "parity" / name, slice(None)
        if not folder.is_dir():
            pytest.skip(f"needs {folder}, upstream's outputs in full")
        weights = folder / "checkpoint"
    archive = np.load(folder / "arrays.npz")
    arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    return name, source, adapter(name, weights), cases, arrays, rows


class TestParity:
    def test_token_ids(self, upstream):
        name, source, model, cases, arrays, _ = upstream
        if name == "dnabert2" and source == "golden":
            pytest.skip("needs the published tokenizer.json, which is not kept here")
        compared = 0
        for case in cases:
            if case["kind"] not in ("single", "batch") or any(set(sequence) - set("ACGTN") for sequence in case["sequences"]):
                continue  # truncated by upstream, or of letters that the engine replaces before
            batch = model.collate([Window(sequence) for sequence in case["sequences"]])
            tokens = batch["tokens"].flatten(1)
            expected = arrays[case["arrays"]["input_ids"]]
            assert torch.equal(tokens.to(expected.dtype), expected), case["name"]
            lengths = batch["lengths"].flatten()
            assert torch.equal(lengths, arrays[case["arrays"]["attention_mask"]].sum(dim=1)), case["name"]
            compared += 1
        assert compared >= 4

    @pytest.mark.parametrize("precision", ["float32", "bf16"])
    def test_hidden_states_and_logits(self, upstream, precision):
        name, _, model, cases, arrays, rows = upstream
        bounds = FLOAT32 if precision == "float32" else BF16[name]
        rtol = 1e-4 if precision == "float32" else 0
        compared = set()
        for case in cases:
            expected = {key: arrays[place] for key, place in case["arrays"].items()}
            if not any(key.startswith(("last_hidden_state", "logits")) for key in expected):
                continue
            ids, types = expected["input_ids"].long(), expected.get("token_type_ids")
            mask = expected["attention_mask"].bool() if "attention_mask" in expected else torch.ones_like(ids, dtype=torch.bool)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                hidden = model.encode(ids, mask, types=types)
                found = {"last_hidden_state": hidden, "logits": model.logits(hidden)[..., rows]}
                if name in KMER:
                    found["pooler_output"] = model.pooled(hidden)
                else:
                    found["nomask_last_hidden_state"] = model.encode(ids)
                    hidden[~mask] = 0  # upstream takes padding out, and zeros come back
            for key, value in expected.items():
                array, _, last = key.removesuffix("_first4").partition("_tail")
                if array not in found:
                    continue
                ours = found[array][:, -int(last) :] if last else found[array]
                ours = ours[:, :4] if key.endswith("_first4") else ours
                if "labels" in expected:  # upstream gives back logits where something was to be predicted
                    ours, value = ours[expected["labels"] > 0], value[expected["labels"] > 0]
                where = f"{case['name']}, {key}"
                torch.testing.assert_close(
                    ours.float(), value, atol=bounds[array], rtol=rtol, msg=lambda text, where=where: f"{where}: {text}"
                )
                compared.add(where)
        assert len(compared) >= (11 if name in KMER else 6)

    def test_language_model_loss(self, upstream):
        """Cross-entropy where labels are; DNABERT-2's authors also leave out label 0, which is [UNK]."""
        name, _, model, cases, arrays, _ = upstream
        case = next((case for case in cases if case["kind"] == "mlm_loss"), None)
        if case is None:
            pytest.skip("not among the trimmed cases")
        given = {key: arrays[place] for key, place in case["arrays"].items()}
        labels = given["labels"].long()
        labels = labels.masked_fill(labels <= 0, -100) if name == "dnabert2" else labels
        mask = given["attention_mask"].bool() if "attention_mask" in given else None
        with torch.inference_mode():
            logits = model.logits(model.encode(given["input_ids"].long(), mask))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        torch.testing.assert_close(loss, given["loss"][0], atol=1e-5, rtol=0)

    def test_pieces_of_long_windows(self, upstream):
        name, _, _, cases, arrays, _ = upstream
        long = [case for case in cases if case["name"] in ("tokonly_len515", "tokonly_len600", "tokonly_len1100")]
        if not long:
            pytest.skip("not among these cases")
        model = adapter(name, SHARED / "parity" / name / "checkpoint", long="chunks")
        for case in long:
            batch = model.collate([Window(case["sequences"][0])])
            ours = torch.cat([tokens[:length] for tokens, length in zip(batch["tokens"][0], batch["lengths"][0])])
            expected = arrays[case["arrays"]["input_ids"]][0].to(ours.dtype)
            if case["name"] == "tokonly_len515":
                assert expected[-2:].tolist() == [2, 3], "upstream adds an empty piece here, which we leave out"
                expected = expected[:-2]
            assert torch.equal(ours, expected)

    def test_alibi(self, upstream):
        name, _, model, cases, arrays, _ = upstream
        if name == "dnabert2":
            case = next(case for case in cases if case["kind"] == "alibi")
            torch.testing.assert_close(model.encoder.alibi(16), arrays[case["arrays"]["alibi"]], atol=1e-6, rtol=0)


@pytest.mark.weights
def test_published_dnabert2_gives_published_outputs(shared):
    """Mean of all tokens of two inputs through the published weights, as the authors' code gave them."""
    path = published("zhihan1996/DNABERT-2-117M")
    folder = shared / "reference/checkpoints/published_outputs/configs/evidence/oracles/geneb-dnabert-2"
    model = adapter("dnabert2", path)
    assert model.audit.matched == 142
    expected = json.loads((folder / "input-0.independent-oracle-vector.json").read_text())["values"]
    np.testing.assert_allclose(embed(model, "ACGTN" * 3)[0], expected, atol=1e-5)


class TestKmers:
    @pytest.mark.parametrize("k", [3, 4, 5, 6])
    def test_vocabulary_is_in_the_published_order(self, k):
        tokens = vocabulary(k)
        assert len(tokens) == {3: 69, 4: 261, 5: 1029, 6: 4101}[k]
        assert K_OF_VOCABULARY[len(tokens)] == k
        assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        assert tokens[5:10] == ["A" * (k - 1) + last for last in "ATCG"] + ["A" * (k - 2) + "TA"]
        assert tokens[-1] == "G" * k

    @pytest.mark.parametrize("k", [3, 6])
    def test_arithmetic_equals_looking_up(self, k):
        ids = {token: number for number, token in enumerate(vocabulary(k))}
        windows = [*random_windows(20, (1, 40)), Window("ACGTNACGTTTGNNA"), Window("N" * 9), Window("N")]
        longest = max(len(window) for window in windows)
        found = kmer_tokens(letters(windows), k)
        for row, window in zip(found, windows, strict=True):
            padded = window.sequence.ljust(longest, "N")
            assert row.tolist() == [ids.get(padded[start : start + k], 1) for start in range(longest - k + 1)]

    def test_published_vocabulary_file(self, shared):
        file = shared / "reference/checkpoints/dnabert1_6mer/github_bert-config-6/vocab.txt"
        assert file.read_text().split() == vocabulary(6)

    @pytest.mark.parametrize("k", [3, 4, 5])
    def test_other_k(self, k):
        model = adapter("dnabert1", size="tiny", k=k)
        assert model.collate([Window("ACGTACG")])["tokens"].shape == (1, 1, 7 - k + 1 + 2)
        assert model.max_length == 510 + k - 1
        assert torch.isfinite(embed(model, "ACGTACG")).all()
        with pytest.raises(UserError, match="option k=7"):
            adapter("dnabert1", size="tiny", k=7)

    def test_short_and_unknown_windows(self):
        tokens = adapter("dnabert1", size="tiny").collate([Window("ACGTA"), Window("N" * 8), Window("ACGTACNA")])["tokens"][:, 0]
        assert tokens.tolist() == [[2, 3, 0, 0, 0], [2, 1, 1, 1, 3], [2, int(tokens[2, 1]), 1, 1, 3]]

    def test_long_windows(self):
        model = adapter("dnabert1", size="tiny")
        longest, longer = random_windows(1, 515)[0], random_windows(1, 516)[0]
        assert model.max_length == type(model).card.max_length == 515
        assert model.collate([longest])["tokens"].shape == (1, 1, 512)
        with pytest.raises(BadData, match="window of 516 nt: dnabert1 takes at most 515; --option long=chunks"):
            model.collate([longer])
        with pytest.raises(UserError, match="option long='cut'"):
            adapter("dnabert1", size="tiny", long="cut")

    @pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
    def test_pieces_are_averaged_by_their_tokens(self, pooling):
        model = adapter("dnabert1", size="tiny", long="chunks", pooling=pooling)
        assert model.max_length is None
        text = random_windows(1, 1300)[0].sequence
        together = embed(model, text, text[:40], "A")
        pieces = [text[start : start + 515] for start in (0, 510, 1020)]
        sizes = torch.tensor([len(piece) - 5 + 2 for piece in pieces])
        average = (embed(model, *pieces) * (sizes / sizes.sum())[:, None]).sum(dim=0)
        expected = torch.cat([average[None], embed(model, text[:40]), embed(model, "A")])
        torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-4)


class TestBytePairs:
    def test_slopes(self):
        assert slopes(4) == [2**-2, 2**-4, 2**-6, 2**-8]
        assert slopes(12) == [2**-power for power in (1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5)]

    def test_plain_tokenizer(self):
        """Pairs first, in order, then pairs of pairs; every base is in some token and unknown letters stand alone."""
        tokenizer = plain_tokenizer()
        assert tokenizer.get_vocab_size() == 5 + 4 + 16 + 256
        assert [tokenizer.token_to_id(token) for token in (*SPECIALS, *"ACGT")] == list(range(9))
        assert tokenizer.encode("AAAACNNG").tokens == ["AAAA", "C", "[UNK]", "[UNK]", "G"]
        for window in random_windows(10, 101):
            assert "".join(tokenizer.encode(window.sequence).tokens) == window.sequence

    def test_letters_that_it_does_not_know(self, shared):
        model = adapter("dnabert2", shared / "parity/dnabert2/checkpoint")
        tokens = model.collate([Window("ACGTN" * 3), Window("A")])["tokens"]
        assert tokens.tolist() == [[1, 5, 6, 1049, 0, 5, 6, 1049, 0, 5, 6, 1049, 0, 2], [1, 5, 2] + [3] * 11]

    def test_no_longest_window(self):
        model = adapter("dnabert2", size="tiny")
        assert model.max_length is None
        text = random_windows(1, 3000)[0].sequence
        assert model.collate([Window(text)])["tokens"].shape[1] > 700
        assert torch.isfinite(embed(model, text)).all()

    @pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
    def test_poolings_leave_padding_out(self, pooling):
        model = adapter("dnabert2", size="tiny", pooling=pooling)
        long, short = random_windows(1, 90)[0].sequence, "ACGTT"
        torch.testing.assert_close(embed(model, long, short)[1:], embed(model, short), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (lambda file: file.unlink(), DataMissing, "its tokenizer.json must lie beside it"),
            (lambda file: file.write_text("{"), BadData, "cannot be read as a tokenizer"),
            (lambda file: write_tokenizer(file, 300), CheckpointMismatch, "300 tokens .* expected 4096"),
        ],
    )
    def test_wrong_tokenizer_is_refused(self, checkpoint, spoil, error, message):
        folder = checkpoint("dnabert2")
        spoil(folder / "tokenizer.json")
        with pytest.raises(error, match=message):
            adapter("dnabert2", folder)


@pytest.fixture(scope="module", params=ALL)
def model(request):
    model = adapter(request.param, size="tiny")
    assert isinstance(model, MaskedModel)
    with torch.no_grad():
        model.lm_head.decoder.bias.normal_()  # as trained: some tokens are likelier than others
    return model


class TestMasked:
    @staticmethod
    def scores(model, sequences, positions) -> torch.Tensor:
        with torch.inference_mode():
            return model.base_log_probabilities(model.collate_masked([Window(sequence) for sequence in sequences], positions))

    def test_probabilities(self, model):
        sequences = [window.sequence for window in random_windows(6, (20, 40))] + ["ACGTAC", "NNNNNNNNACGTTTGNNN"]
        positions = [0, 5, 10, 19, 3, 12, 5, 10]
        scores = self.scores(model, sequences, positions)
        assert scores.shape == (8, 4)
        torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(8))
        alone = torch.cat([self.scores(model, [sequence], [position]) for sequence, position in zip(sequences, positions)])
        torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-4)

    def test_the_base_is_hidden(self, model):
        text = random_windows(1, 40)[0].sequence
        for position in (0, 3, 20, 37, 39):
            variants = [text[:position] + base + text[position + 1 :] for base in "ACGTN"]
            batch = model.collate_masked([Window(variant) for variant in variants], [position] * 5)
            assert all(torch.equal(tensor, tensor[:1].expand_as(tensor)) for tensor in batch.values())
            assert self.scores(model, [text], [position]).std() > 1e-4

    def test_other_bases_are_not_hidden(self, model):
        text = random_windows(1, 40)[0].sequence
        flip = {"A": "C", "C": "G", "G": "T", "T": "A"}
        for other in (0, 19, 21, 39):
            changed = text[:other] + flip[text[other]] + text[other + 1 :]
            one, two = self.scores(model, [text, changed], [20, 20])
            assert not torch.equal(one, two), other

    def test_positions_outside_are_refused(self, model):
        for position in (-1, 40):
            with pytest.raises(BadData, match="must lie within"):
                model.collate_masked(random_windows(1, 40), [position])

    def test_kmers_become_bases_by_definition(self):
        """The k-mer with the base nearest its middle; four candidates, or sums over what an N may be."""
        model = adapter("dnabert1", size="tiny", k=3)
        with torch.no_grad():
            model.lm_head.decoder.bias.normal_()
        ids = {token: number for number, token in enumerate(vocabulary(3))}
        for text, position in (("ACGTTGCA", 4), ("ACGTTGCA", 0), ("ACGTTGCA", 7), ("ACGTTNCA", 4)):
            start = min(max(position - 1, 0), len(text) - 3)
            tokens = [2, *(ids.get(text[place : place + 3], 1) for place in range(len(text) - 2)), 3]
            for place in range(max(position - 2, 0), min(position, len(text) - 3) + 1):
                tokens[place + 1] = 4
            with torch.inference_mode():
                logits = model.logits(model.encode(torch.tensor([tokens])))[0, start + 1]
            sums = []
            for base in "ACGT":
                kmer = list(text[start : start + 3])
                kmer[position - start] = base
                fits = ["".join(letters) for letters in product(*("ACGT" if letter == "N" else letter for letter in kmer))]
                sums.append(torch.logsumexp(torch.stack([logits[ids[one]] for one in fits]), dim=0))
            expected = torch.stack(sums).log_softmax(dim=0)
            torch.testing.assert_close(self.scores(model, [text], [position])[0], expected, atol=1e-5, rtol=1e-4)

    def test_kmers_in_pieces(self):
        """A base at the border of two pieces is hidden in both."""
        model = adapter("dnabert1", size="tiny", long="chunks")
        text = random_windows(1, 1100)[0].sequence
        for position in (100, 509, 511, 513, 1099):
            variants = [text[:position] + base + text[position + 1 :] for base in "ACGT"]
            batch = model.collate_masked([Window(variant) for variant in variants], [position] * 4)
            assert (batch["tokens"] == 4).sum(dim=(1, 2)).tolist() == [6 if position < 1099 else 1] * 4
            assert torch.equal(batch["tokens"], batch["tokens"][:1].expand_as(batch["tokens"]))
        with pytest.raises(BadData, match="needs 6 or more"):
            model.collate_masked([Window("ACGTA")], [0])


class TestTraining:
    """Dropout and attention in the forms that training on a CPU takes."""

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dropout(self, rate, dtype):
        torch.manual_seed(0)
        x = torch.ones(401, 499, dtype=dtype, requires_grad=True)
        out = dropout(x, rate)
        out.sum().backward()
        kept = out.detach() != 0
        deviation = (rate * (1 - rate) / x.numel()) ** 0.5
        assert abs(kept.float().mean() - (1 - rate)) < 5 * deviation
        assert (kept.float().mean(dim=0) - (1 - rate)).abs().max() < 5 * (rate * (1 - rate) / 401) ** 0.5 + 1 / 401
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - rate)), rtol=5e-3, atol=0)
        assert torch.equal(x.grad, out)
        torch.manual_seed(0)
        assert torch.equal(dropout(x, rate), out), "the same seed draws the same mask"
        assert not torch.equal(dropout(x, rate), out)

    def test_dropout_at_the_ends(self):
        x = torch.randn(3, 5)
        assert torch.equal(dropout(x, 0.0), x)
        assert torch.equal(dropout(x, 0.5, training=False), x)
        assert not dropout(x, 1.0).any()
        assert dropout(x[:0], 0.5).shape == (0, 5)

    @pytest.mark.parametrize("kind", ["none", "boolean", "added"])
    def test_attention_averages_to_that_without_dropout(self, kind):
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, 3, tokens, 8, requires_grad=True) for tokens in (4, 7, 7))
        mask = None if kind == "none" else torch.arange(7) < torch.tensor([7, 5])[:, None, None, None]
        if kind == "added":
            mask = torch.randn(2, 3, 4, 7).masked_fill(~mask, -torch.inf)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        draws = 4000
        many = [tensor.repeat_interleave(draws, dim=0) for tensor in (q, k, v)]
        many_masks = None if mask is None else mask.repeat_interleave(draws, dim=0)
        found = attend(*many, many_masks, 0.2).unflatten(0, (2, draws))
        assert found.std(dim=1).min() > 0.01
        torch.testing.assert_close(found.mean(dim=1), expected, atol=0.06, rtol=0)
        ours, theirs = (torch.autograd.grad(out.square().sum(), v)[0] for out in (found.mean(dim=1), expected))
        torch.testing.assert_close(ours, theirs, atol=0.15, rtol=0)

    @pytest.mark.parametrize("pooling", ["pooler", "cls"])
    def test_last_layer_computes_what_is_read(self, pooling):
        """The embedding and every gradient are those of all tokens' hidden states."""
        model = adapter("dnabert1", size="tiny", pooling=pooling)
        batch = model.collate(random_windows(5, (20, 60)))
        tokens, lengths = batch["tokens"][:, 0], batch["lengths"]
        hidden = model.encode(tokens, torch.arange(tokens.shape[1]) < lengths)
        assert hidden.shape == (*tokens.shape, 64)
        expected = hidden[:, 0] if pooling == "cls" else model.pooled(hidden)
        found = model(batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = torch.randn_like(found)
        gradients = [torch.autograd.grad((out * weights).sum(), trained) for out in (found, expected)]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


class TestFiles:
    @pytest.mark.parametrize("name", ALL)
    def test_audit(self, checkpoint, name):
        audit = adapter(name, checkpoint(name)).audit
        assert audit.matched == audit.expected == (32 if name == "dnabert2" else 46)
        assert audit.missing == audit.unused == ()
        assert audit.facts["language_head"]
        assert audit.facts["tied_decoder"]
        assert audit.facts["special_ids"]["[MASK]"] == 4
        assert audit.facts["vocabulary"] == (4096 if name == "dnabert2" else 4101)
        assert audit.facts.get("k") == (None if name == "dnabert2" else 6)

    @pytest.mark.parametrize("name", ALL)
    def test_same_weights_in_other_clothes(self, checkpoint, name):
        """safetensors without tied tensors, old LayerNorm names, a stray position_ids: the same model."""
        folder = checkpoint(name)
        expected = embed(adapter(name, folder), "ACGTTGCATGA")
        tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
        tensors = {key: value for key, value in tensors.items() if "decoder" not in key or name == "dnabert2"}
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            tensors = {key.replace(new, old): value for key, value in tensors.items()}
        tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]
        (folder / "pytorch_model.bin").unlink()
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
        model = adapter(name, folder)
        assert torch.equal(embed(model, "ACGTTGCATGA"), expected)
        assert model.audit.unused == ("bert.embeddings.position_ids",)

    @pytest.mark.parametrize("name", ALL)
    def test_files_of_classifiers(self, checkpoint, name):
        """No language head: embeds as before, and says so when asked for bases."""
        folder = spoiled(checkpoint(name), without("cls."))
        model = adapter(name, folder)
        assert not model.audit.facts["language_head"]
        assert torch.isfinite(embed(model, "ACGTTGCATGA")).all()
        with pytest.raises(UserError, match="no masked-language head"), torch.inference_mode():
            model.base_log_probabilities(model.collate_masked([Window("ACGTTGCATGA")], [4]))

    @pytest.mark.parametrize("name", ALL)
    def test_untied_decoder_is_kept_and_reported(self, checkpoint, name):
        shape = (4096 if name == "dnabert2" else 4101, 32 if name == "genemask" else 48)
        decoder = torch.randn(shape)
        model = adapter(name, spoiled(checkpoint(name), lambda tensors: tensors | {"cls.predictions.decoder.weight": decoder}))
        assert model.audit.facts["tied_decoder"] is False
        assert torch.equal(model.lm_head.decoder.weight, decoder)
        assert not torch.equal(model.encoder.tokens.weight, decoder)

    @pytest.mark.parametrize("name", KMER)
    def test_file_without_pooler(self, checkpoint, name):
        folder = spoiled(checkpoint(name), without("pooler"))
        with pytest.raises(UserError, match="has no pooler; choose cls or mean"):
            adapter(name, folder)
        assert adapter(name, folder, pooling="mean").audit.matched == 44

    @pytest.mark.parametrize("name", ALL)
    def test_another_architecture_is_refused(self, checkpoint, name):
        folder = spoiled(checkpoint(name), lambda tensors: {f"esm.{key}": value for key, value in tensors.items()})
        with pytest.raises(CheckpointMismatch, match=r"0 of .* tensors match"):
            adapter(name, folder)

    @pytest.mark.parametrize("name", ALL)
    def test_a_missing_layer_is_refused(self, checkpoint, name):
        folder = spoiled(checkpoint(name), without(".layer.1."))
        with pytest.raises(CheckpointMismatch, match=r"(30|21) of (46|32) tensors match .* encoder\.layers\.1\."):
            adapter(name, folder)

    @pytest.mark.parametrize("name", ALL)
    def test_wrong_configurations_are_refused(self, checkpoint, name):
        folder = checkpoint(name)
        for change, message in (
            ({"model_type": "esm"}, "model_type 'esm', expected bert; 0 tensors"),
            ({"hidden_act": "relu"}, "hidden_act 'relu' in its config.json is no BERT's"),
            ({"vocab_size": 30522}, "30522.*0 tensors"),
            ({"intermediate_size": 99}, "of (46|32) tensors match"),
        ):
            original = (folder / "config.json").read_text()
            with pytest.raises(CheckpointMismatch, match=message) as refusal:
                adapter(name, reconfigure(folder, **change))
            assert "\n" not in str(refusal.value)
            (folder / "config.json").write_text(original)
        (folder / "config.json").write_text("{")
        with pytest.raises(BadData, match="not JSON"):
            adapter(name, folder)
        (folder / "config.json").unlink()
        with pytest.raises(DataMissing, match=r"its config\.json must lie beside it"):
            adapter(name, folder)

    def test_a_vocabulary_in_another_order_is_refused(self, checkpoint):
        folder = checkpoint("dnabert1")
        (folder / "vocab.txt").write_text("\n".join(vocabulary(6)))
        assert adapter("dnabert1", folder).audit.matched == 46
        (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary(6))))
        with pytest.raises(CheckpointMismatch, match="6-mers in the order A, T, C, G"):
            adapter("dnabert1", folder)
        (folder / "vocab.txt").unlink()
        with pytest.raises(UserError, match=r"option k=3.*has k = 6"):
            adapter("dnabert1", folder, k=3)


class TestOptions:
    @pytest.mark.parametrize("name", ALL)
    def test_layers_and_poolings(self, name):
        text = "ACGTTGCATGATTTAC"
        seen = []
        for pooling, layer in product(("cls", "mean"), (0, 1, 2, -1)):
            seen.append(embed(adapter(name, size="tiny", pooling=pooling, layer=layer), text))
        assert torch.equal(seen[2], seen[3])
        assert torch.equal(seen[6], seen[7])
        assert all(not torch.equal(one, other) for one, other in ((seen[0], seen[1]), (seen[1], seen[2]), (seen[2], seen[6])))
        with pytest.raises(UserError, match=r"option layer=3: choose 0 \(embeddings\) to 2"):
            adapter(name, size="tiny", layer=3)
        with pytest.raises(UserError, match="option pooling='sum'"):
            adapter(name, size="tiny", pooling="sum")

    def test_pooler_belongs_to_the_last_layer(self):
        with pytest.raises(UserError, match="choose cls or mean"):
            adapter("dnabert1", size="tiny", layer=1)

    @pytest.mark.parametrize("layer", [0, 1, -1])
    @pytest.mark.parametrize("name", ALL)
    def test_what_is_not_used_is_not_trained(self, name, layer):
        model = adapter(name, size="tiny", pooling="mean", layer=layer).train()
        model(model.collate(random_windows(4))).square().sum().backward()
        for parameter_name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert not any(parameter.requires_grad for key, parameter in model.named_parameters() if key.startswith("lm_head."))

    @pytest.mark.parametrize("name", ALL)
    def test_lora_targets_are_linear_layers(self, name):
        model = adapter(name, size="tiny")
        for target in type(model).lora_targets:
            found = [module for path, module in model.named_modules() if path.endswith(f".{target}")]
            assert len(found) == 2
            assert all(isinstance(module, torch.nn.Linear) for module in found)
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(target_modules=list(type(model).lora_targets), init_lora_weights=False)
        adapted = peft.get_peft_model(model, config)
        adapted(model.collate(random_windows(2))).square().sum().backward()
        gradients = [parameter.grad for key, parameter in adapted.named_parameters() if "lora_B" in key]
        assert len(gradients) == 2 * len(type(model).lora_targets)
        assert all(gradient is not None and gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("name", ALL)
    def test_base_is_the_published_size(self, name):
        with torch.device("meta"):
            model = registry.adapter_class(name).from_checkpoint(None, size="base")
        encoder = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("lm_head."))
        assert encoder == (116_477_952 if name == "dnabert2" else 89_190_912)
