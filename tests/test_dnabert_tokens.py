"""Tokens of DNABERT-1, GeneMask and DNABERT-2: k-mers, byte pairs, long windows, and filling in bases."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from conftest import random_windows
from test_dnabert import ALL, adapter, embed

from harness.adapter import MaskedModel
from harness.adapters._kmer_bert import K_OF_VOCABULARY, kmer_tokens, vocabulary
from harness.adapters._transformer import slopes
from harness.adapters.dnabert2 import SPECIALS, plain_tokenizer
from harness.data import Window, letters
from harness.errors import BadData, UserError


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

    @pytest.mark.parametrize("long", ["refuse", "chunks"])
    def test_windows_shorter_than_k_count_as_unknown(self, long):
        """Nothing of them is read: they have one embedding, which a run must say."""
        model = adapter("dnabert1", size="tiny", long=long)
        assert torch.equal(*embed(model, "ACGTA", "TTG"))
        assert model.unknown_tokens(model.collate([Window("ACGTA"), Window("A")])) == (2, 4)
        assert model.unknown_tokens(model.collate([Window("ACGTA"), Window("ACGTAC"), Window("ACGTACN")])) == (2, 9)
        assert model.unknown_tokens(model.collate([Window("A" * 511)])) == (0, 508)

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
        """Pairs come first, then pairs of pairs; every base is in a token, and unknown letters are tokens of their own."""
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


@pytest.fixture(scope="module", params=ALL)
def model(request):
    model = adapter(request.param, size="tiny")
    assert isinstance(model, MaskedModel)
    with torch.no_grad():
        model.lm_head.decoder.bias.normal_()  # as after training, some tokens are likelier than others
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
        """The k-mer with the base nearest its middle has four candidates, or sums of them where a letter is N."""
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
                logits = model.logits(model.encoder(torch.tensor([tokens])))[0, start + 1]
            sums = []
            for base in "ACGT":
                kmer = list(text[start : start + 3])
                kmer[position - start] = base
                fits = ["".join(letters) for letters in product(*("ACGT" if letter == "N" else letter for letter in kmer))]
                sums.append(torch.logsumexp(torch.stack([logits[ids[one]] for one in fits]), dim=0))
            expected = torch.stack(sums).log_softmax(dim=0)
            torch.testing.assert_close(self.scores(model, [text], [position])[0], expected, atol=1e-5, rtol=1e-4)

    def test_kmers_in_pieces(self):
        """A base at the border of two pieces is masked in both."""
        model = adapter("dnabert1", size="tiny", long="chunks")
        text = random_windows(1, 1100)[0].sequence
        for position in (100, 509, 511, 513, 1099):
            variants = [text[:position] + base + text[position + 1 :] for base in "ACGT"]
            batch = model.collate_masked([Window(variant) for variant in variants], [position] * 4)
            assert (batch["tokens"] == 4).sum(dim=(1, 2)).tolist() == [6 if position < 1099 else 1] * 4
            assert torch.equal(batch["tokens"], batch["tokens"][:1].expand_as(batch["tokens"]))
        with pytest.raises(BadData, match="needs 6 or more"):
            model.collate_masked([Window("ACGTA")], [0])
