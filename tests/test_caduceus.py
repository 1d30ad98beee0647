"""Caduceus against outputs of its authors' code, its symmetries, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, published, random_windows
from safetensors.torch import load_file, save, save_file

from harness.adapter import MaskedModel
from harness.adapters._characters import TOKENS
from harness.adapters._mamba import MambaShape
from harness.adapters.caduceus import Caduceus
from harness.data import Window, reverse_complement
from harness.errors import BadData, CheckpointMismatch, UserError

GOLDEN = ROOT / "tests" / "golden"


def checkpoint(variant: str) -> Path:
    return GOLDEN / f"caduceus_{variant}" / "checkpoint"


def cases(folder: Path):
    stored = np.load(folder / "arrays.npz")
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        yield case["sequences"], {name: stored[key] for name, key in case["arrays"].items()}


def outputs(model: Caduceus, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states, with upstream's order of channels, and logits."""
    with torch.inference_mode():
        states = model.encode(torch.as_tensor(tokens))
        hidden = states[0] if len(states) == 1 else torch.cat([states[0], states[1].flip(1, 2)], dim=-1)
        return hidden, model.logits(states)


def embed(model, windows, **autocast) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(autocast)):
        return model(model.collate(windows))


def turned(windows) -> list[Window]:
    return [Window(reverse_complement(window.sequence)) for window in windows]


@pytest.fixture(scope="module", params=["ph", "ps"])
def model(request):
    return Caduceus.from_checkpoint(checkpoint(request.param)).eval()


@pytest.fixture(scope="module")
def ps():
    return Caduceus.from_checkpoint(checkpoint("ps")).eval()


class TestParity:
    @pytest.mark.parametrize("where", ["golden", "shared"])
    def test_tokens_states_and_logits_are_upstreams(self, model, where):
        folder = (GOLDEN if where == "golden" else SHARED / "parity") / f"caduceus_{model.variant}"
        if not folder.is_dir():
            pytest.skip(f"needs {folder}, which holds more outputs of the authors' code")
        compared = 0
        for sequences, expected in cases(folder):
            texts = [np.frombuffer(sequence.upper().encode(), np.uint8) for sequence in sequences]
            ids = [np.append(TOKENS[text], 1) for text in texts]  # [SEP] behind, [PAD] in front
            longest = max(map(len, ids))
            np.testing.assert_array_equal(
                [np.pad(row, (longest - len(row), 0), constant_values=4) for row in ids], expected["input_ids"]
            )
            for kind in ("", "nospecial_", "rc_"):
                if f"{kind}input_ids" in expected:
                    hidden, logits = outputs(model, expected[f"{kind}input_ids"])
                    np.testing.assert_allclose(hidden, expected[f"{kind}last_hidden_state"], rtol=1e-4, atol=5e-5)
                    np.testing.assert_allclose(logits, expected[f"{kind}logits"], rtol=1e-4, atol=1e-4)
                    compared += 1
        assert compared >= 8

    def test_halves_of_the_channels_swap_as_in_the_released_models(self, ps):
        """Without the fused norm, upstream's code computes another, equally equivariant function of the same weights."""
        compared = [
            abs(outputs(ps, arrays["input_ids"])[0].numpy() - arrays["unfused_last_hidden_state"]).max()
            for _, arrays in cases(GOLDEN / "caduceus_ps")
            if "unfused_last_hidden_state" in arrays
        ]
        assert compared
        assert min(compared) > 1

    def test_embedding_is_the_mean_over_the_window(self, model):
        """The mean of upstream's states without special tokens: of both halves of the channels (ps), or of x and RC(x) (ph)."""
        for sequences, arrays in cases(GOLDEN / f"caduceus_{model.variant}"):
            if "nospecial_last_hidden_state" not in arrays:
                continue
            there, back = (arrays[f"{kind}last_hidden_state"].mean(axis=1) for kind in ("nospecial_", "rc_"))
            if model.variant == "ps":
                D = model.embedding_dim
                there, back = there[:, :D], there[:, D:][:, ::-1]
            np.testing.assert_allclose(embed(model, [Window(sequences[0])]), (there + back) / 2, rtol=1e-4, atol=5e-5)

    def test_bf16_stays_near(self, model):
        """Measured: 0.7 % (ps) and 1.1 % (ph) of an embedding's length, with these large random weights."""
        windows = random_windows(8, 101)
        exact, rounded = embed(model, windows), embed(model, windows, bf16=True)
        assert ((rounded - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.03


class TestStrands:
    @pytest.mark.parametrize("variant", ["ph", "ps"])
    def test_a_window_and_its_reverse_complement_have_one_embedding(self, variant):
        model = Caduceus.from_checkpoint(size="tiny", variant=variant).eval()
        windows = random_windows(6, (20, 60))
        torch.testing.assert_close(embed(model, windows), embed(model, turned(windows)), rtol=1e-5, atol=1e-6)

    def test_states_of_ps_turn_with_the_sequence(self, ps):
        ids = torch.from_numpy(TOKENS[np.frombuffer(b"ACGTTGCAN", np.uint8)][None].astype(int))
        (hidden, logits), (turned_hidden, turned_logits) = outputs(ps, ids), outputs(ps, ps.complement_map[ids.flip(1)])
        torch.testing.assert_close(turned_hidden, hidden.flip(1, 2))
        torch.testing.assert_close(turned_logits, logits.flip(1)[..., ps.complement_map])

    def test_one_strand_on_request(self):
        torch.manual_seed(0)
        model = Caduceus.from_checkpoint(size="tiny", variant="ph", rc_average=False).eval()
        windows = random_windows(4)
        assert not torch.allclose(embed(model, windows), embed(model, turned(windows)), atol=1e-3)
        model.both_strands = True
        both = embed(model, windows)
        model.both_strands = False
        torch.testing.assert_close(both, (embed(model, windows) + embed(model, turned(windows))) / 2)


class TestMaskedBases:
    def test_the_base_is_hidden(self, model):
        """Windows that differ in the masked base alone give one answer; for ps the base is hidden on the other strand, too."""
        assert isinstance(model, MaskedModel)
        windows = [Window("ACGTTGCAACG" + base + "TTGACNACA") for base in "ACGT"] + [Window("ACGTA")]
        with torch.inference_mode():
            answers = model.base_log_probabilities(model.collate_masked(windows, [11, 11, 11, 11, 4]))
        torch.testing.assert_close(answers.exp().sum(dim=1), torch.ones(5))
        assert all(torch.equal(answers[0], other) for other in answers[1:4])
        with torch.inference_mode():
            alone = model.base_log_probabilities(model.collate_masked(windows[4:], [4]))
        torch.testing.assert_close(answers[4:], alone, rtol=1e-4, atol=1e-4)

    def test_the_answer_is_upstreams(self, model):
        ids = torch.from_numpy(TOKENS[np.frombuffer(b"ACGTTGCA", np.uint8)][None].astype(int))
        ids[0, 2] = 3
        expected = outputs(model, ids)[1][0, 2, 7:11].log_softmax(dim=0)
        with torch.inference_mode():
            answer = model.base_log_probabilities(model.collate_masked([Window("ACGTTGCA")], [2]))[0]
        torch.testing.assert_close(answer, expected)

    def test_ps_reads_the_complement_on_the_other_strand(self, ps):
        window = random_windows(1, 30)[0]
        with torch.inference_mode():
            here = ps.base_log_probabilities(ps.collate_masked([window], [7]))
            there = ps.base_log_probabilities(ps.collate_masked(turned([window]), [22]))
        torch.testing.assert_close(here, there.flip(1), rtol=1e-4, atol=1e-4)  # A and T, C and G change places


class TestLoading:
    def test_audit(self, model):
        audit = model.audit
        assert (audit.matched, audit.missing, audit.unused) == (audit.expected, (), ())
        assert audit.expected == len(load_file(checkpoint(model.variant) / "model.safetensors")) - (model.variant == "ps")
        assert audit.facts == {"variant": model.variant, "vocabulary": 16, "tied_weights": "intact"}

    def test_bin_file_with_every_tied_name(self, model, tmp_path):
        """The older format stores tied weights under each of their names; if these differ, the file is refused."""
        tensors = load_file(checkpoint(model.variant) / "model.safetensors")
        for name in list(tensors):
            if name.endswith(("in_proj.weight", "out_proj.weight")):
                tensors[name.replace("mamba_fwd", "mamba_rev")] = tensors[name].clone()
            if "word_embeddings" in name and name.endswith("weight"):
                tensors["lm_head.lm_head.weight" if model.variant == "ps" else "lm_head.weight"] = tensors[name].clone()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        again = Caduceus.from_checkpoint(tmp_path / "pytorch_model.bin").eval()
        assert (again.variant, again.audit.unused) == (model.variant, ())
        assert torch.equal(embed(again, random_windows(2)), embed(model, random_windows(2)))
        tensors[next(name for name in tensors if name.endswith("mamba_rev.in_proj.weight"))] += 1
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointMismatch, match="should be tied to"):
            Caduceus.from_checkpoint(tmp_path)

    @pytest.mark.parametrize("variant", ["ph", "ps"])
    def test_own_weights_keep_their_variant(self, variant, tmp_path):
        model = Caduceus.from_checkpoint(size="tiny", variant=variant).eval()
        torch.save(model.state_dict(), tmp_path / "mine.pt")
        again = Caduceus.from_checkpoint(tmp_path / "mine.pt").eval()
        assert again.variant == variant
        assert torch.equal(embed(again, random_windows(2)), embed(model, random_windows(2)))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "bert"}, "model_type 'bert', expected caduceus"),
            ({"rcps": False}, "has rcps False, its tensors True"),
            ({"fused_add_norm": False}, "fused_add_norm False; implemented is True"),
            ({"bidirectional_strategy": "ew_multiply"}, "bidirectional_strategy 'ew_multiply'; implemented is 'add'"),
            ({"bidirectional_weight_tie": False}, "bidirectional_weight_tie False"),
            ({"rms_norm": False}, "rms_norm False"),
            ({"complement_map": {str(token): token for token in range(16)}}, "complement_map {.*; implemented is"),
            ({"ssm_cfg": {"layer": "Mamba2"}}, r"ssm_cfg\.layer 'Mamba2'"),
            ({"ssm_cfg": {"conv_bias": False}}, r"ssm_cfg\.conv_bias False"),
            ({"ssm_cfg": {"d_state": 8}}, r"has ssm_cfg\.d_state 8, its tensors 16"),
            ({"ssm_cfg": {"d_conv": 3}}, r"has ssm_cfg\.d_conv 3, its tensors 4"),
            ({"ssm_cfg": {"expand": 4}}, r"has ssm_cfg\.expand 4, its tensors 2"),
            ({"ssm_cfg": {"dt_rank": 5}}, r"has ssm_cfg\.dt_rank 5, its tensors 2"),
            ({"ssm_cfg": {"expand": "x", "d_state": None}}, r"has ssm_cfg\.expand 'x', its tensors 2"),
            ({"d_model": 48}, "has d_model 48, its tensors 32"),
            ({"n_layer": 1}, "has n_layer 1, its tensors 2"),
            ({"n_layer": 3}, "37 of 54 tensors match"),
            ({"vocab_size": 20}, "has vocab_size 20, its tensors 16"),
        ],
    )
    def test_a_config_of_something_else_is_refused(self, tmp_path, change, message):
        (tmp_path / "model.safetensors").write_bytes((checkpoint("ps") / "model.safetensors").read_bytes())
        config = json.loads((checkpoint("ps") / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointMismatch, match=message):
            Caduceus.from_checkpoint(tmp_path)

    @pytest.mark.parametrize("variant", ["ph", "ps"])
    @pytest.mark.parametrize(
        "ssm", [{"d_state": 8, "d_conv": 3, "expand": 1, "dt_rank": 5}, {"d_state": 24, "d_conv": 5, "expand": 1.5}]
    )
    def test_other_sizes_of_the_mixer_are_read_back(self, variant, ssm, tmp_path):
        """With the config.json that upstream writes for them, and without; and they are those that are computed with."""
        shape = MambaShape(int(ssm["expand"] * 24), ssm["d_state"], ssm["d_conv"], ssm.get("dt_rank", 2))
        model = Caduceus(3, 24, variant, mixer=shape).eval()
        windows = random_windows(3, (10, 30))
        for folder, config in ((tmp_path / "bare", None), (tmp_path / "stated", {"dt_rank": "auto"} | ssm)):
            folder.mkdir()
            save_file(model.state_dict(), folder / "model.safetensors")
            if config:
                stated = {"n_layer": 3, "d_model": 24, "vocab_size": 12, "rcps": variant == "ps", "ssm_cfg": config}
                (folder / "config.json").write_text(json.dumps(stated))
            again = Caduceus.from_checkpoint(folder).eval()
            assert (again.audit.matched, again.audit.unused) == (again.audit.expected, ())
            mixer = again.layers[0].mixer.mamba_rev
            assert MambaShape(*mixer.A_log.shape, mixer.conv1d.weight.shape[2], mixer.rank) == shape
            assert torch.equal(embed(again, windows), embed(model, windows))

    def test_another_complement_in_the_file_is_refused(self, tmp_path):
        tensors = load_file(checkpoint("ps") / "model.safetensors")
        for name in [name for name in tensors if name.endswith("complement_map")]:
            tensors[name] = torch.arange(16)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointMismatch, match="complement_map is not that of the tokens ACGTN"):
            Caduceus.from_checkpoint(tmp_path)

    def test_broken_config_is_refused(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes((checkpoint("ph") / "model.safetensors").read_bytes())
        for text in ("{", "[]"):
            (tmp_path / "config.json").write_text(text)
            with pytest.raises(BadData, match=r"config\.json"):
                Caduceus.from_checkpoint(tmp_path)

    def test_another_models_weights_are_refused(self, tmp_path):
        save_file({"bert.embeddings.word_embeddings.weight": torch.zeros(10, 8)}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointMismatch, match=r"0 of \d+ tensors match Caduceus"):
            Caduceus.from_checkpoint(tmp_path)
        tensors = load_file(checkpoint("ph") / "model.safetensors")
        save_file(
            {name: tensor for name, tensor in tensors.items() if "layers.1.norm" not in name}, tmp_path / "model.safetensors"
        )
        with pytest.raises(CheckpointMismatch, match=r"35 of 36 tensors match Caduceus; .*layers\.1\.norm\.weight"):
            Caduceus.from_checkpoint(tmp_path)
        name = "caduceus.backbone.embeddings.word_embeddings.weight"  # PlantCaduceus has 8 tokens
        save_file(tensors | {name: tensors[name][:8].clone()}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointMismatch, match="a vocabulary of 8 tokens, expected 16"):
            Caduceus.from_checkpoint(tmp_path)

    def test_options_are_checked(self):
        with pytest.raises(UserError, match="option variant='pp': choose one of ps, ph"):
            Caduceus.from_checkpoint(variant="pp")
        with pytest.raises(UserError, match="holds caduceus-ps; leave the option out"):
            Caduceus.from_checkpoint(checkpoint("ps"), variant="ph")

    @pytest.mark.parametrize(("blocks", "variant", "size"), [(16, "ps", 30_937_760), (4, "ph", 7_746_792)])
    def test_published_files_to_the_byte(self, blocks, variant, size):
        """The released safetensors files of width 256 have the length of ours, as names and shapes agree."""
        tensors = {}
        for name, tensor in Caduceus(blocks, 256, variant).state_dict().items():
            if name == "complement_map":
                tensors["lm_head.complement_map"] = tensor.clone()
            if name in ("complement_map", "embed.weight"):
                middle = "embedding." if variant == "ps" and name == "embed.weight" else ""
                name = "embeddings.word_embeddings." + middle + name.removeprefix("embed.")
            elif variant == "ps":
                name = name.replace(".mixer.", ".mixer.submodule.")
            tensors[f"caduceus.backbone.{name}"] = tensor
        assert len(save(tensors, metadata={"format": "pt"})) == size


class TestTraining:
    def test_every_lora_target_is_a_layer_that_is_called(self, model):
        peft = pytest.importorskip("peft")
        fresh = Caduceus.from_checkpoint(checkpoint(model.variant))
        adapted = peft.get_peft_model(fresh, peft.LoraConfig(target_modules=list(Caduceus.lora_targets), init_lora_weights=False))
        adapted(fresh.collate(random_windows(2))).square().sum().backward()
        for target in Caduceus.lora_targets:
            gradients = [p.grad for name, p in adapted.named_parameters() if f".{target}.lora_B" in name]
            assert gradients
            assert all(gradient is not None and gradient.any() for gradient in gradients)

    def test_gradients_reach_both_directions(self, model):
        fresh = Caduceus.from_checkpoint(checkpoint(model.variant)).train()
        fresh(fresh.collate(random_windows(3, (10, 20)))).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in fresh.parameters())


@pytest.mark.weights
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("caduceus-ph_seqlen-1k_d_model-256_n_layer-4_lr-8e-3", {0: [-0.0011101, 0.0000890, -0.0132200]}),
        (
            "caduceus-ps_seqlen-131k_d_model-256_n_layer-16",
            {0: [0.0044064, 0.0069445, -0.0020493], 256: [0.0013471, 0.0058106]},
        ),
    ],
)
def test_published_weights_give_published_outputs(folder, expected):
    """Mean of the last hidden states of ACGTNACGTNACGTN without special tokens; values from the authors' code."""
    path = published(f"kuleshov-group/{folder}")
    model = Caduceus.from_checkpoint(path).eval()
    ids = TOKENS[np.frombuffer(b"ACGTNACGTNACGTN", np.uint8)][None].astype(int)
    pooled = outputs(model, ids)[0].mean(dim=1)[0]
    for start, values in expected.items():
        np.testing.assert_allclose(pooled[start : start + len(values)], values, atol=2e-6)
