"""HyenaDNA against outputs of its authors' code, causality, and what it refuses."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from conftest import published, random_windows
from safetensors.torch import save, save_file

from harness.adapter import MaskedModel
from harness.adapters._characters import TOKENS
from harness.adapters.hyenadna import HyenaDNA, HyenaShape, long_convolution
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, UserError

GOLDEN = ("L9", "L64", "L200", "L1024", "ACGTNACGT")


def ids(sequence: str) -> torch.Tensor:
    return torch.from_numpy(TOKENS[np.frombuffer(sequence.encode(), np.uint8)][None].astype(int))


def encode(model: HyenaDNA, tokens: torch.Tensor, bf16: bool = False) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return model.encode(tokens).float()


def embed(model, windows) -> torch.Tensor:
    with torch.inference_mode():
        return model(model.collate(windows))


def official(model: HyenaDNA, prefix: str = "hyena.backbone.", freqs: tuple[int, ...] = (1,)) -> dict[str, torch.Tensor]:
    """A model's tensors under the names of the published files."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("embed.", "embeddings.word_embeddings.")
        name = re.sub(r"filter_fn\.(z|t)$", r"filter_fn.pos_emb.\1", name)
        name = name.replace("filter_fn.deltas", "filter_fn.modulation.deltas")
        if name.endswith("filter_fn.freq"):
            for number in freqs:
                tensors[prefix + name.replace("freq", f"implicit_filter.{number}.freq")] = tensor.clone()
        else:
            tensors[prefix + name] = tensor.contiguous()
    return tensors


@pytest.fixture(scope="module")
def tiny() -> HyenaDNA:
    torch.manual_seed(0)
    return HyenaDNA.from_checkpoint(size="tiny").eval()


class TestParity:
    @pytest.fixture
    def golden(self, shared):
        folder = shared / "weights" / "hyenadna_tiny"
        return HyenaDNA.from_checkpoint(folder).eval(), np.load(folder / "golden.npz")

    @pytest.mark.parametrize("case", GOLDEN)
    def test_states_are_upstreams(self, golden, case):
        model, arrays = golden
        expected = arrays[f"full_ft.{case}.hidden"]
        tokens = torch.from_numpy(arrays[f"full_ft.{case}.tokens"].astype(int)) if case.startswith("L") else ids(case)
        kept = slice(None, None, {"L200": 12, "L1024": 64}.get(case, 1))  # every 12th, every 64th position is stored
        np.testing.assert_allclose(encode(model, tokens)[:, kept], expected, rtol=1e-4, atol=5e-5)
        rounded = encode(model, tokens, bf16=True)[:, kept]
        assert abs(rounded.numpy() - expected).max() < 0.1, "measured: 0.02, of values up to 6.7"

    def test_audit(self, golden):
        audit = golden[0].audit
        assert (audit.matched, audit.expected, audit.missing) == (55, 55, ())
        assert audit.unused == ("classifier.weight", "criterion.weight")
        assert audit.facts == {"vocabulary": 16, "tied_weights": "intact", "places": 1026, "head": "the embedding"}

    def test_fixed_buffers_are_as_published(self, golden):
        fresh = HyenaDNA(HyenaShape()).layers[0].mixer.filter_fn
        for name, buffer in golden[0].layers[0].mixer.filter_fn.named_buffers():
            torch.testing.assert_close(fresh.get_buffer(name), buffer, rtol=0, atol=2e-6)


class TestOperator:
    @pytest.mark.parametrize("length", [1, 2, 7, 64, 101])
    def test_long_convolution_against_its_definition(self, length):
        x, kernel = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(3, length, dtype=torch.float64)
        expected = torch.stack([(x[..., : t + 1] * kernel[:, : t + 1].flip(1)).sum(-1) for t in range(length)], dim=-1)
        torch.testing.assert_close(long_convolution(x, kernel), expected)

    def test_states_depend_on_the_past_alone(self, tiny):
        long = encode(tiny, ids("ACGTTGCAACGNTTGACA"))
        torch.testing.assert_close(encode(tiny, ids("ACGTTGCAAC")), long[:, :10], rtol=1e-4, atol=1e-5)
        assert not isinstance(tiny, MaskedModel)

    def test_no_masked_interface_but_both_poolings(self, tiny):
        windows = random_windows(3, (10, 20))
        states = [encode(tiny, ids(window.sequence))[0] for window in windows]
        torch.testing.assert_close(embed(tiny, windows), torch.stack([state.mean(0) for state in states]), rtol=1e-4, atol=1e-5)
        tiny.pooling = "last"
        try:
            torch.testing.assert_close(embed(tiny, windows), torch.stack([state[-1] for state in states]), rtol=1e-4, atol=1e-5)
        finally:
            tiny.pooling = "mean"
        with pytest.raises(UserError, match="option pooling='max': choose one of mean, last"):
            HyenaDNA.from_checkpoint(pooling="max")

    def test_log_likelihood_is_the_sum_over_the_letters_after_the_first(self, tiny):
        """Against a loop over positions; from the embedding as head, over all 16 tokens, without padding."""
        windows = random_windows(3, (5, 20))
        with torch.inference_mode():
            found = tiny.log_likelihood(tiny.collate(windows))
        for window, total in zip(windows, found.tolist(), strict=True):
            tokens = ids(window.sequence)
            logs = (encode(tiny, tokens)[0] @ tiny.embed.weight.detach().T).log_softmax(-1)
            assert total == pytest.approx(sum(float(logs[at, tokens[0, at + 1]]) for at in range(len(window) - 1)), abs=1e-4)
        assert found.shape == (3,)
        cut = HyenaDNA.from_checkpoint(size="tiny", places=10, long="cut").eval()
        with pytest.raises(BadData, match="window above 10 nt: with long=cut it has no likelihood as a whole"):
            cut.log_likelihood(cut.collate([Window("A" * 11)]))

    def test_a_window_longer_than_its_filters_is_refused(self, tiny):
        assert tiny.max_length == 16_386
        longer = "--checkpoint LongSafari/hyenadna-small-32k-seqlen-hf or --option places=16387 or --option long=cut"
        with pytest.raises(BadData, match=f"window of 16387 nt: this hyenadna reads at most 16386; take {longer}"):
            tiny.collate([Window("A" * 16_387)])

    def test_filters_are_made_for_as_many_places_as_asked_for(self, tiny, tmp_path):
        longer = HyenaDNA.from_checkpoint(size="tiny", places=40).eval()
        assert embed(longer, [Window("A" * 40)]).isfinite().all()
        with pytest.raises(BadData, match="window of 41 nt: this hyenadna reads at most 40"):
            longer.collate([Window("A" * 41)])
        with pytest.raises(UserError, match="option places=-1: choose 1 to 1000002"):
            HyenaDNA.from_checkpoint(size="tiny", places=-1)
        torch.save(tiny.state_dict(), tmp_path / "mine.pt")
        with pytest.raises(UserError, match=r"option places=40: .* has filters of 16386 places; leave the option out"):
            HyenaDNA.from_checkpoint(tmp_path / "mine.pt", places=40)
        loaded = HyenaDNA.from_checkpoint(tmp_path / "mine.pt", places=16_386)
        with pytest.raises(BadData, match="take --checkpoint LongSafari/hyenadna-medium-160k-seqlen-hf or --option long=cut"):
            loaded.collate([Window("A" * 40_000)])

    def test_long_windows_can_be_cut_and_what_is_not_read_is_counted(self):
        torch.manual_seed(0)
        model = HyenaDNA.from_checkpoint(size="tiny", places=20, long="cut").eval()
        (long,), (other,) = random_windows(1, 50), random_windows(1, 15)
        batch = model.collate([long, other])
        assert batch["tokens"].shape == (2, 20)
        assert model.unknown_tokens(batch) == (30, 65)
        assert model.max_length is None
        torch.testing.assert_close(embed(model, [long]), embed(model, [Window(long.sequence[:20])]))
        with pytest.raises(UserError, match="option long='truncate': choose one of refuse, cut"):
            HyenaDNA.from_checkpoint(size="tiny", long="truncate")


class TestLoading:
    @pytest.mark.parametrize(
        ("prefix", "freqs"), [("hyena.backbone.", (5,)), ("model.backbone.", (1, 3, 5)), ("backbone.", (1, 3, 5))]
    )
    def test_layouts(self, tiny, tmp_path, prefix, freqs):
        """The hub's safetensors keep one of three tied frequencies; the authors' files keep all, under another prefix."""
        save_file(official(tiny, prefix, freqs) | {"lm_head.weight": torch.zeros(16, 32)}, tmp_path / "model.safetensors")
        again = HyenaDNA.from_checkpoint(tmp_path).eval()
        assert again.audit.unused == ()
        assert again.audit.facts["head"] == "its own"
        assert torch.equal(embed(again, random_windows(2)), embed(tiny, random_windows(2)))

    def test_a_head_of_its_own_predicts_the_next_token(self, tiny, tmp_path):
        """The hub's files hold the head once more. Where it is the embedding, nothing is held twice."""
        windows, other = random_windows(2), torch.randn(16, 32)
        for prefix, head in (("lm_head.", other), ("model.lm_head.", tiny.embed.weight.detach().clone())):
            save_file(official(tiny) | {f"{prefix}weight": head}, tmp_path / "model.safetensors")
            model = HyenaDNA.from_checkpoint(tmp_path).eval()
            tokens = ids(windows[0].sequence)
            logs = (encode(tiny, tokens)[0, :-1] @ head.T).log_softmax(-1)
            expected = float(logs.gather(1, tokens[0, 1:, None]).sum())
            with torch.inference_mode():
                assert float(model.log_likelihood(model.collate(windows))[0]) == pytest.approx(expected, abs=1e-3)
            assert (model.lm_head is None) == (head is not other)
            assert model.audit.facts["head"] == ("its own" if head is other else "the embedding")
            assert model.audit.unused == ()

    def test_layers_that_checkpoint_gradients(self, tiny, tmp_path):
        tensors = {re.sub(r"\.(mixer|mlp)\.", r".\1.layer.", name): tensor for name, tensor in official(tiny).items()}
        torch.save(tensors, tmp_path / "weights.pt")
        assert HyenaDNA.from_checkpoint(tmp_path / "weights.pt").audit.unused == ()

    def test_own_weights(self, tiny, tmp_path):
        torch.save(tiny.state_dict(), tmp_path / "mine.pt")
        again = HyenaDNA.from_checkpoint(tmp_path / "mine.pt").eval()
        assert torch.equal(embed(again, random_windows(2)), embed(tiny, random_windows(2)))

    def test_shape_comes_from_the_tensors(self, tmp_path):
        """With a config.json that states the same sizes, and without; a config.json that contradicts them is refused by name."""
        shape = HyenaShape(blocks=3, width=16, inner=24, places=40, order=8, order_layers=2, features=3, short=4, epsilon=1e-3)
        original, windows = HyenaDNA(shape).eval(), random_windows(3, (10, 40))
        save_file(official(original), tmp_path / "model.safetensors")
        model = HyenaDNA.from_checkpoint(tmp_path)
        assert (model.max_length, model.embedding_dim, len(model.layers)) == (40, 16, 3)
        sizes = {"n_layer": 3, "d_model": 16, "d_inner": 24, "max_seq_len": 40, "filter_order": 8, "num_inner_mlps": 1}
        sizes |= {"emb_dim": 3, "short_filter_order": 4}
        others = {"layer_norm_epsilon": 1e-3, "embed_dropout": 0.3, "vocab_size": 12}
        config = tmp_path / "config.json"
        config.write_text(json.dumps(sizes | others))
        model = HyenaDNA.from_checkpoint(tmp_path).eval()
        assert model.dropout.p == 0.3
        assert torch.equal(embed(model, windows), embed(original, windows))
        for key, size in sizes.items():
            config.write_text(json.dumps(sizes | {key: size - 1}))
            with pytest.raises(CheckpointMismatch, match=f"has {key} {size - 1}, its tensors {size}; put the config.json"):
                HyenaDNA.from_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hyena_order": 3}, "hyena_order 3; implemented is 2"),
            ({"use_bias": False}, "use_bias False; implemented is True"),
            ({"train_freq": False}, "train_freq False"),
            ({"layer": {"modulate": False}}, r"layer\.modulate False"),
            ({"layer": {"l_max": 2050}}, r"has layer\.l_max 2050, its tensors 16386"),
            ({"vocab_size": 30}, "has vocab_size 30, its tensors 16"),
        ],
    )
    def test_what_would_be_computed_otherwise_is_refused(self, tiny, tmp_path, change, message):
        save_file(official(tiny), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(change))
        with pytest.raises(CheckpointMismatch, match=message):
            HyenaDNA.from_checkpoint(tmp_path)

    def test_published_file_to_the_byte(self):
        """The safetensors file of medium-160k has 56,971,992 bytes, the length of ours with the language-model head, as names and shapes agree."""
        model = HyenaDNA(HyenaShape(blocks=8, width=256, inner=1024, places=160_002))
        assert len(save(official(model) | {"lm_head.weight": torch.zeros(16, 256)}, metadata={"format": "pt"})) == 56_971_992

    def test_what_is_something_else_is_refused(self, tiny, tmp_path):
        file = tmp_path / "model.safetensors"
        save_file({"bert.embeddings.word_embeddings.weight": torch.zeros(10, 8)}, file)
        with pytest.raises(CheckpointMismatch, match=r"0 of \d+ tensors match HyenaDNA"):
            HyenaDNA.from_checkpoint(tmp_path)
        tensors = official(tiny, freqs=(1, 3, 5))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "caduceus"}))
        save_file(tensors, file)
        with pytest.raises(CheckpointMismatch, match="model_type 'caduceus', expected hyenadna"):
            HyenaDNA.from_checkpoint(tmp_path)
        (tmp_path / "config.json").unlink()
        name = "hyena.backbone.embeddings.word_embeddings.weight"
        save_file(tensors | {name: tensors[name][:12].clone()}, file)
        with pytest.raises(CheckpointMismatch, match="a vocabulary of 12 tokens, expected 16"):
            HyenaDNA.from_checkpoint(tmp_path)
        name = "hyena.backbone.layers.0.mixer.filter_fn.implicit_filter.3.freq"
        save_file(tensors | {name: tensors[name] + 1}, file)
        with pytest.raises(CheckpointMismatch, match="should be tied to"):
            HyenaDNA.from_checkpoint(tmp_path)


def test_every_lora_target_is_a_layer_that_is_called():
    peft = pytest.importorskip("peft")
    fresh = HyenaDNA.from_checkpoint(size="tiny")
    adapted = peft.get_peft_model(fresh, peft.LoraConfig(target_modules=list(HyenaDNA.lora_targets), init_lora_weights=False))
    adapted(fresh.collate(random_windows(2))).square().sum().backward()
    for target in HyenaDNA.lora_targets:
        gradients = [p.grad for name, p in adapted.named_parameters() if f".{target}.lora_B" in name]
        assert gradients
        assert all(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.weights
def test_published_weights_give_published_outputs():
    """Mean of the last hidden states of ACGTNACGT; values from the authors' code with medium-160k, revision 7ebf7177."""
    path = published("LongSafari/hyenadna-medium-160k-seqlen-hf")
    model = HyenaDNA.from_checkpoint(path).eval()
    expected = [0.2874945, -0.3802625, -0.3180151, -0.4353553, -0.3891026, -1.1069607, 0.9131662, -0.8677123]
    np.testing.assert_allclose(embed(model, [Window("ACGTNACGT")])[0, :8], expected, rtol=1e-4, atol=5e-5)
