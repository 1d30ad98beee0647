"""The next token: which ones are asked for, that logits are the model's own likelihoods, files, and that models learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import as_checkpoint, pretraining_batch, random_windows
from made_genomes import learned, scores, write_genome
from made_hf import checkpoint
from safetensors.torch import load_file, save_file

from harness.adapter import IGNORED
from harness.adapters._next import following
from harness.adapters.hf import HF
from harness.adapters.hyenadna import HyenaDNA, HyenaShape
from harness.data import Window
from harness.engine.pretrain_asked import divided
from harness.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_pretraining")

CAUSAL = ("gpt2", "llama", "mistral", "mixtral", "gemma", "mamba")


def hyena(seed: int = 0, **options) -> HyenaDNA:
    torch.manual_seed(seed)
    return HyenaDNA.from_checkpoint(size="tiny", **{"places": 80} | options).eval()


def likelihoods(model, windows) -> torch.Tensor:
    """Sums of the log-probabilities of what is asked for, per window."""
    batch = pretraining_batch(model, windows, np.random.default_rng(0))
    with torch.inference_mode():
        logs = model.pretraining_logits(batch).float().log_softmax(-1)
    each = logs[torch.arange(len(logs)), batch["targets"].flatten()[batch["asked"]]]
    rows = batch["asked"] // batch["targets"].shape[1]
    return torch.zeros(len(windows)).index_add(0, rows, each)


class TestTargets:
    def test_a_place_asks_for_the_token_after_it(self):
        tokens, allowed = np.array([[2, 7, 8, 11, 9], [7, 8, 4, 4, 4]], np.uint8), np.ones((2, 5), bool)
        allowed[0, 3] = allowed[1, 2:] = False
        found = following(tokens, allowed)
        assert found.dtype == np.int64
        assert found.tolist() == [[7, 8, IGNORED, 9, IGNORED], [8, *[IGNORED] * 4]]

    def test_hyenadna_asks_for_bases_alone_and_reads_n(self):
        batch = pretraining_batch(hyena(), [Window("ACNGT"), Window("AC"), Window("N")], np.random.default_rng(0))
        assert batch["tokens"].tolist() == [[7, 8, 11, 9, 10], [7, 8, 4, 4, 4], [11, 4, 4, 4, 4]]
        assert batch["targets"].tolist() == [[8, IGNORED, 9, 10, IGNORED], [8, *[IGNORED] * 4], [IGNORED] * 5]

    def test_windows_that_are_cut_are_asked_as_far_as_they_are_read(self):
        batch = pretraining_batch(hyena(places=10, long="cut"), random_windows(2, 30), np.random.default_rng(0))
        assert (batch["targets"] != IGNORED).sum(dim=1).tolist() == [9, 9]

    def test_a_token_that_begins_every_sequence_is_a_context_and_one_that_ends_it_is_not_asked_for(self, tmp_path):
        """Mistral's tokenizer here has both, [CLS] 2 and [SEP] 3; Llama's has none."""
        with_ends, without = (HF.from_checkpoint(checkpoint(name, tmp_path / name)) for name in ("mistral", "llama"))
        windows = [Window("ACGTACGTAC"), Window("ACGT")]
        batch = pretraining_batch(with_ends, windows, np.random.default_rng(0))
        tokens, targets = batch["tokens"].tolist(), batch["targets"].tolist()
        assert tokens[0][0] == 2 and tokens[0][-1] == 3  # noqa: PT018
        assert targets[0] == [*tokens[0][1:-1], IGNORED, IGNORED]
        assert targets[1][:3] == [tokens[1][1], IGNORED, IGNORED]
        bare = pretraining_batch(without, windows, np.random.default_rng(0))
        assert bare["tokens"][0].tolist() == tokens[0][1:-1]
        assert bare["targets"][0].tolist() == [*tokens[0][2:-1], IGNORED]

    def test_unknown_letters_are_not_asked_for(self, tmp_path):
        """An unknown token of byte pairs, and N as a token of its own, of letters."""
        for name in ("mistral", "gemma"):
            model = HF.from_checkpoint(checkpoint(name, tmp_path / name))
            batch = pretraining_batch(model, [Window("ACGTNNACGTAC")], np.random.default_rng(0))
            ids = {model.vocabulary.ids["N"]} if name == "gemma" else {model.vocabulary.other}
            assert ids & set(batch["tokens"].unique().tolist())
            assert not (ids | {0, 1, 2, 3, 4}) & set(batch["targets"].unique().tolist())


class TestLogits:
    @pytest.mark.parametrize("tied", [True, False])
    def test_hyenadnas_are_its_likelihood(self, tied):
        model = hyena()
        if not tied:
            model.lm_head = torch.nn.Linear(model.embedding_dim, 16, bias=False)
        windows = random_windows(4, (5, 60))
        with torch.inference_mode():
            expected = model.log_likelihood(model.collate(windows))
        torch.testing.assert_close(likelihoods(model, windows), expected.float(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", CAUSAL)
    def test_those_of_transformers_are_its_likelihood(self, tmp_path, name):
        model = HF.from_checkpoint(checkpoint(name, tmp_path / name)).eval()
        windows = random_windows(4, (5, 60))
        with torch.inference_mode():
            expected = model.log_likelihood(model.collate(windows))
        torch.testing.assert_close(likelihoods(model, windows), expected, rtol=1e-4, atol=1e-4)


class TestFiles:
    @pytest.mark.parametrize("tied", [True, False])
    def test_a_hyenadna_of_any_shape_loads_as_the_very_same_model(self, tmp_path, tied):
        windows = random_windows(4, (20, 60))
        for number, make in enumerate((hyena, lambda: HyenaDNA(HyenaShape(3, 20, 44, 70, 12, 2, 7, 4, 1e-3, 0.3)))):
            torch.manual_seed(1)
            model = make().eval()
            if not tied:
                model.lm_head = torch.nn.Linear(model.embedding_dim, 16, bias=False)
            again = HyenaDNA.from_checkpoint(as_checkpoint(model, tmp_path / str(number))).eval()
            assert again.shape == model.shape
            assert (again.lm_head is None) == tied
            batch = pretraining_batch(model, windows, np.random.default_rng(0))
            with torch.inference_mode():
                assert torch.equal(again.pretraining_logits(batch), model.pretraining_logits(batch))
                assert torch.equal(again(again.collate(windows)), model(model.collate(windows)))

    def test_hyenadnas_configuration_says_all_that_the_authors_says(self, shared):
        theirs = json.loads((shared / "reference/checkpoints/hyenadna/config.hyenadna-tiny-1k-g4ft.json").read_text())
        ours = json.loads(HyenaDNA(HyenaShape()).checkpoint_files()["config.json"])
        bookkeeping = {"_name_or_path", "torch_dtype", "transformers_version", "architectures"}
        for key in theirs.keys() - bookkeeping - {"auto_map", "tie_word_embeddings"}:
            assert ours[key] == theirs[key], key
        assert ours["auto_map"].keys() == theirs["auto_map"].keys()
        assert ours["tie_word_embeddings"], "their head, which is tied in training, lies in the file once more"

    def test_hyenadnas_tensors_have_their_names_on_the_hub(self, shared):
        file = shared / "weights/hyenadna_tiny/pytorch_model.bin"
        theirs = torch.load(file, weights_only=True, map_location="cpu").keys() - {"classifier.weight", "criterion.weight"}
        model = HyenaDNA.from_checkpoint(file.parent)
        assert model.checkpoint_tensors().keys() == theirs
        assert all(tensor.data_ptr() for tensor in model.checkpoint_tensors().values())

    def test_the_files_of_the_hub_and_their_head_are_trained_further(self, shared, tmp_path):
        """As a causal model of the hub has it, with a head equal to the embedding."""
        model = HyenaDNA.from_checkpoint(shared / "weights/hyenadna_tiny").eval()
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors | {"lm_head.weight": tensors["embed.weight"].clone()}, tmp_path / "model.safetensors")
        genome = write_genome(tmp_path / "genome.fa", length=5000)
        out = learned("hyenadna", genome, tmp_path / "out", init=None, checkpoint=str(tmp_path / "model.safetensors"), steps=1)
        assert "lm_head.weight" not in load_file(out / "model.safetensors")
        assert HyenaDNA.from_checkpoint(out).audit.facts["head"] == "the embedding"

    @pytest.mark.parametrize("name", CAUSAL)
    def test_a_causal_model_loads_as_the_very_same_one_here_and_in_transformers(self, tmp_path, name):
        from transformers import AutoModelForCausalLM

        model = HF.from_checkpoint(checkpoint(name, tmp_path / name)).eval()
        folder = as_checkpoint(model, tmp_path / "out")
        again = HF.from_checkpoint(folder).eval()
        theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
        assert theirs.config.use_cache, "which text is generated with"
        windows = random_windows(3, (20, 60))
        batch = pretraining_batch(model, windows, np.random.default_rng(0))
        with torch.inference_mode():
            assert torch.equal(again.pretraining_logits(batch), model.pretraining_logits(batch))
            assert torch.equal(again(again.collate(windows)), model(model.collate(windows)))
            tokens = model.collate(windows[:1])["tokens"]
            torch.testing.assert_close(theirs.eval()(tokens).logits, model.model(tokens).logits)


class TestLearning:
    """A period of 24 of two letters, whose groups of three say little about the next one, which the whole past tells."""

    @pytest.fixture
    def genome(self, tmp_path):
        return write_genome(tmp_path / "genome.fa", letters=2, unit=24)

    @pytest.mark.slow
    def test_hyenadna_sees_further_than_three_letters(self, genome, tmp_path):
        how = {"steps": 140, "evaluate_every": 140, "settings": {"learning_rate": 4e-3}}
        found = scores(learned("hyenadna", genome, tmp_path / "out", **how))
        assert found["validation_loss"] < found["yardstick_loss"] - 0.1
        assert found["validation_accuracy"] > found["yardstick_accuracy"]

    @pytest.mark.slow
    def test_a_causal_model_of_transformers_sees_further_than_three_tokens(self, genome, tmp_path):
        config = str(checkpoint("llama", tmp_path / "llama"))
        how = {"init": "random", "steps": 120, "evaluate_every": 120, "options": {"config": config}}
        found = scores(learned("hf", genome, tmp_path / "out", settings={"learning_rate": 1e-2}, **how))
        assert found["validation_loss"] < found["yardstick_loss"] - 0.05

    def test_the_closing_line_names_the_folder_alone(self, genome, tmp_path, harness):
        config = str(checkpoint("llama", tmp_path / "llama"))
        how = ("--init", "random", "--option", f"config={config}", "--context", "64", "--tokens-per-step", "128", "--steps", "1")
        done = harness("pretrain", "--model", "hf", "--data", str(genome), *how, "--out", "here")
        assert done.returncode == 0, done.stderr
        assert "harness run --model hf --checkpoint here --task TASK" in done.stdout

    def test_a_folder_is_named_without_colons_and_slashes(self, genome, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = str(checkpoint("llama", tmp_path / "llama"))
        folder = learned("hf", genome, None, init="random", steps=1, options={"config": config})
        assert folder.name.startswith("hf-llama-next-seed0-")
        assert folder.parent == Path("pretrained")

    def test_an_objective_that_it_lacks(self, genome, tmp_path):
        with pytest.raises(UserError, match="objective 'token': hyenadna has next"):
            learned("hyenadna", genome, tmp_path / "out", objective="token")
        with pytest.raises(UserError, match="unknown option of hyenadna and its objectives 'share'"):
            learned("hyenadna", genome, tmp_path / "out", options={"share": "0.2"})


def test_filters_are_made_for_the_windows_that_are_pretrained_on():
    """With the two places more that upstream adds; given places stay."""
    for given, expected in (({}, "66"), ({"places": "80"}, "80")):
        options, own = divided(HyenaDNA, None, given, True, 64)
        assert (options, own) == ({"places": expected}, {})
    assert divided(HyenaDNA, None, {}, True, None)[0] == {"places": "1026"}
    assert divided(HyenaDNA, None, {}, False, 64)[0] == {}  # a checkpoint has its own
