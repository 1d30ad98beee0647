"""States of bases: which tokens hold a base, and that what a model pools are the states that it gives."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import random_windows
from test_clauses import verdicts, violated

from harness.adapter import BaseResolved
from harness.adapters._batches import even_ranges
from harness.adapters._options import checked_block
from harness.check.candidate import with_rows
from harness.check.template import Template
from harness.data import Window
from harness.engine.bases import of_bases
from harness.errors import UserError
from harness.registry import adapter_class, model_files

RESOLVED = sorted(name for name in model_files() if issubclass(adapter_class(name), BaseResolved))


class HonestStates(Template, BaseResolved):
    """The states that the template pools, one a base."""

    blocks = 1

    def token_ranges(self, windows):
        return even_ranges(windows)

    def hidden_states(self, batch, layer=None):
        checked_block(layer, self.blocks)
        return self.conv(self.embed(batch["tokens"]).transpose(1, 2)).transpose(1, 2)


class LastBaseHasNoToken(HonestStates):
    def token_ranges(self, windows):
        return super().token_ranges(windows) * (torch.arange(max(map(len, windows))) < len(windows[0]) - 1)[:, None]


class TokensBeyondTheEnd(HonestStates):
    def token_ranges(self, windows):
        return even_ranges([max(windows, key=len)] * len(windows))


class ShiftsItsTokens(HonestStates):
    def token_ranges(self, windows):
        return (super().token_ranges(windows) - 8).clamp(min=torch.tensor([0, 1])) * (super().token_ranges(windows)[..., 1:] > 0)


class StatesSeePadding(HonestStates):
    def hidden_states(self, batch, layer=None):
        states = super().hidden_states(batch, layer)
        return states - states.mean(dim=1, keepdim=True)


class TakesAnyLayer(HonestStates):
    def hidden_states(self, batch, layer=None):
        return super().hidden_states(batch)


class TestTheClause:
    BROKEN: ClassVar = {
        LastBaseHasNoToken: "has a base without a token, or one too many",
        TokensBeyondTheEnd: "has a base without a token, or one too many",
        ShiftsItsTokens: "a change of base 12 to . does not change the states of its own tokens",
        StatesSeePadding: "in a batch of 20 to 60 nt, and alone: differ by up to",
        TakesAnyLayer: "layer 2 of 1 is accepted",
    }

    @pytest.mark.parametrize("cls", BROKEN)
    def test_it_alone_catches(self, cls):
        found = verdicts(cls)
        assert violated(found) == {"base_states"}
        assert re.search(self.BROKEN[cls], found["base_states"].detail), found["base_states"].detail

    def test_an_honest_model_keeps_it(self):
        found = verdicts(HonestStates)
        assert violated(found) == set()
        assert found["base_states"].state == "ok"


def built(name: str, **options):
    torch.manual_seed(0)
    return adapter_class(name).from_checkpoint(None, size="tiny", **options).eval()


def asked(model, windows, layer=None):
    """Embeddings (B, D), states of tokens (B, T, D) and their ranges."""
    with torch.inference_mode():
        batch = model.collate(windows)
        return model(batch), model.hidden_states(batch, layer), model.token_ranges(windows)


class TestPooledStates:
    """hidden_states() pooled by hand is what forward() gives; lengths differ, so that padding is there."""

    WINDOWS = random_windows(5, (30, 60))

    @pytest.mark.parametrize("name", ["rnafm", "hyenadna", "msamamba", "caduceus"])
    def test_mean_over_bases(self, name):
        options = [{}] if name != "caduceus" else [{"variant": "ph"}, {"variant": "ph", "rc_average": False}, {"variant": "ps"}]
        for chosen in options:
            embeddings, states, ranges = asked(built(name, **chosen), self.WINDOWS)
            torch.testing.assert_close(of_bases(states, ranges).nanmean(dim=1), embeddings, atol=1e-5, rtol=1e-4)

    def test_gpn_msa_pools_the_middle(self):
        windows = [with_rows(window, 3) for window in random_windows(4, 64)]
        embeddings, states, _ = asked(built("gpn_msa"), windows)
        torch.testing.assert_close(states[:, 7:57].mean(dim=1), embeddings, atol=1e-5, rtol=1e-4)

    def test_cnn_takes_the_maximum(self):
        embeddings, states, ranges = asked(built("cnn"), self.WINDOWS)
        assert states.shape[1] == -(-max(map(len, self.WINDOWS)) // 2)
        torch.testing.assert_close(of_bases(states, ranges).nan_to_num().amax(dim=1), embeddings)

    @pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
    def test_kmers(self, pooling):
        model = built("dnabert1", pooling=pooling)
        embeddings, states, _ = asked(model, self.WINDOWS)
        lengths = model.collate(self.WINDOWS)["lengths"][:, 0]
        mean = torch.stack([row[:length].mean(dim=0) for row, length in zip(states, lengths)])
        with torch.inference_mode():
            by_hand = {"mean": mean, "cls": states[:, 0], "pooler": model.pooled(states)}[pooling]
        torch.testing.assert_close(by_hand, embeddings, atol=1e-5, rtol=1e-4)

    def test_byte_pairs(self):
        model = built("dnabert2")
        embeddings, states, _ = asked(model, self.WINDOWS)
        lengths = model.collate(self.WINDOWS)["lengths"]
        mean = torch.stack([row[:length].mean(dim=0) for row, length in zip(states, lengths)])
        torch.testing.assert_close(mean, embeddings, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("name", RESOLVED)
    def test_the_last_layer_is_what_is_pooled(self, name):
        model = built(name)
        _, last, _ = asked(model, self.WINDOWS, model.blocks)
        _, pooled, _ = asked(model, self.WINDOWS)
        _, first, _ = asked(model, self.WINDOWS, 1)
        assert torch.equal(last, pooled)
        assert first.shape == last.shape
        assert not torch.allclose(first, last)

    def test_the_option_layer_is_what_is_pooled(self):
        model = built("rnafm", layer=1)
        embeddings, states, ranges = asked(model, self.WINDOWS)
        assert torch.equal(states, asked(model, self.WINDOWS, 1)[1])
        torch.testing.assert_close(of_bases(states, ranges).nanmean(dim=1), embeddings, atol=1e-5, rtol=1e-4)

    def test_a_layer_that_is_not_there_is_refused(self):
        for layer in (0, -1, 3):
            with pytest.raises(UserError, match=f"layer {layer}: choose 1 to 2"):
                asked(built("rnafm"), self.WINDOWS, layer)

    @pytest.mark.parametrize("layout", ["column", "raw_reshape"])
    def test_layers_of_an_alignment_are_the_definition_s(self, layout):
        from harness.adapters import _msamamba_definition as definition

        model = built("msamamba", layout=layout)
        windows = [with_rows(window, 4) for window in random_windows(2, 30)]
        weights = model.state_dict()
        first = {name: tensor for name, tensor in weights.items() if not name.startswith("layers.1.")}
        for layer, known in ((1, first), (2, weights)):
            expected = definition.encode(known, model.collate(windows)["tokens"])[:, 0]
            torch.testing.assert_close(asked(model, windows, layer)[1], expected, atol=1e-5, rtol=1e-4)


class TestTokensOfBases:
    def test_overlapping_kmers(self):
        model = built("dnabert1", k=3)
        ranges = model.token_ranges([Window("ACGTA"), Window("ACG"), Window("AC")])
        # 3-mers ACG, CGT, GTA are tokens 1 to 3, after [CLS].
        assert ranges[0].tolist() == [[1, 2], [1, 3], [1, 4], [2, 4], [3, 4]]
        assert ranges[1].tolist() == [[1, 2]] * 3 + [[0, 0]] * 2
        assert ranges[2].tolist() == [[0, 0]] * 5  # too short for a k-mer

    def test_byte_pairs_and_unknown_letters(self):
        model = built("dnabert2")
        text = "ACGTNNACGAC"
        encoding = model.tokenizer.encode(text, add_special_tokens=False)
        assert [text[start:end] for start, end in encoding.offsets] == ["ACGT", "N", "N", "AC", "G", "AC"]
        tokens = [1] * 4 + [2, 3] + [4] * 2 + [5] + [6] * 2
        ranges = model.token_ranges([Window(text), Window("A")])
        assert ranges[0].tolist() == [[token, token + 1] for token in tokens]
        assert ranges[1].tolist() == [[1, 2]] + [[0, 0]] * 10
        assert model.collate([Window(text)])["tokens"][0, 1:-1].tolist() == encoding.ids

    @pytest.mark.parametrize("name", ["dnabert1", "rnaernie"])
    def test_windows_in_pieces(self, name):
        """Each base has the states of its tokens in the pieces that hold them, whatever the batch."""
        model = built(name, long="chunks", pooling="mean")
        piece, k = model.piece, model.k if name == "dnabert1" else 1
        windows = random_windows(1, 2 * piece + 7) + random_windows(1, 40, seed=1) + random_windows(1, piece + 3, seed=2)
        embeddings, states, ranges = asked(model, windows)
        bases = of_bases(states, ranges)
        for number, window in enumerate(windows):
            units = len(window) - k + 1
            alone = []
            for at in range(0, units, piece):
                part = Window(window.sequence[at : min(at + piece, units) + k - 1])
                _, found, _ = asked(model, [part])
                alone.append(found[0, 1 : 1 + len(part) - k + 1])
            unit_states = torch.cat(alone)
            for base in (0, 3, piece - 1, piece, piece + 2, len(window) - 1):
                if base < len(window):
                    expected = unit_states[max(base - k + 1, 0) : min(base, units - 1) + 1].mean(dim=0)
                    torch.testing.assert_close(bases[number, base], expected, atol=1e-5, rtol=1e-3)
        if k > 1:  # each token is there once: the mean over all is what is pooled
            lengths = model.collate(windows)["lengths"]
            every = states[0, ~(states[0] == 0).all(dim=1)]
            assert len(every) >= int(lengths[0].sum())
        assert embeddings.isfinite().all()

    def test_letters_that_hyenadna_cuts_have_no_token(self):
        model = built("hyenadna", places=20, long="cut")
        ranges = model.token_ranges(random_windows(2, 30))
        assert (ranges[:, :20, 1] == torch.arange(1, 21)).all()
        assert not ranges[:, 20:].any()

    def test_means_over_tokens(self):
        states = torch.arange(12.0).view(1, 4, 3)
        found = of_bases(states, torch.tensor([[[1, 2], [1, 4], [0, 0], [0, 2]]]))
        assert found[0, 0].tolist() == [3, 4, 5]
        assert found[0, 1].tolist() == [6, 7, 8]
        assert found[0, 2].isnan().all()
        assert found[0, 3].tolist() == [1.5, 2.5, 3.5]


def test_models_with_states_are_those_with_tokens():
    assert set(RESOLVED) >= {"caduceus", "cnn", "dnabert1", "dnabert2", "genemask", "gpn_msa", "hyenadna", "msamamba", "rnafm"}
    assert not {"gc", "kmer", "phylop", "phastcons", "cadd", "column_conservation"} & set(RESOLVED)
    np.testing.assert_equal(built("rnafm").blocks, 2)
