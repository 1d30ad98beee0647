"""Hidden tokens: Caduceus's masking against upstream's, shares and fates, what is never asked for, and that models learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, as_checkpoint, pretraining_batch, random_windows
from made_genomes import learned, scores, write_genome
from made_hf import checkpoint, configs, fast
from safetensors.torch import load_file
from scipy.stats import binom

from harness import registry
from harness.adapter import IGNORED
from harness.adapters._characters import MASK, PAD, N
from harness.adapters._mamba import MambaShape
from harness.adapters._masking import Fates
from harness.adapters._transformer import Shape
from harness.adapters.caduceus import RANDOM_IDS, Caduceus, LetterMasking, hide_letters
from harness.adapters.dnabert2 import DNABERT2, plain_tokenizer
from harness.adapters.hf import HF
from harness.data import Window
from harness.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_pretraining")

RARE = 1e-6  # how often a bound may be missed by chance
MASKED = [name for name in configs() if name in ("bert", "bert_kmer", "roberta", "esm", "modernbert", "big_bird", "deberta-v2")]
NAMES = ("dnabert2", "hf", "caduceus")
SPECIAL = {"dnabert2": {0, 1, 2, 3, 4}, "hf": {0, 1, 2, 3, 4, 9}, "caduceus": {0, 1, 2, 3, 4, 5, 6, 11}}  # hf: 9 is N


def tiny(name: str, **options):
    torch.manual_seed(0)
    return registry.adapter_class(name).from_checkpoint(size="tiny", **options).eval()


def likely(count: int, of: int, share: float) -> bool:
    """Whether so many successes are within the two-sided binomial bounds, missed by chance once in 1 / RARE."""
    low, high = binom.ppf([RARE / 2, 1 - RARE / 2], of, share)
    return low <= count <= high


class TestUpstream:
    @pytest.mark.parametrize("where", ["golden", "shared"])
    def test_letters_are_hidden_as_by_mlm_getitem(self, where):
        """Given its draws in its order, the very same inputs and targets, where N is written as N or as [PAD] already."""
        folder = ROOT / "tests/golden/pretraining" if where == "golden" else SHARED / "reference/pretraining/golden"
        if not folder.is_dir():
            pytest.skip(f"needs {folder}, which holds more outputs of the authors' code")
        compared = 0
        for case in json.loads((folder / "caduceus_mlm.json").read_text())["cases"]:
            ids = np.array([case["input"][: -1 if case["contains_eos"] else None]], np.uint8)
            torch.manual_seed(case["seed"])
            chosen, masked, random = (
                torch.bernoulli(torch.full(ids.shape[1:], share)).bool()[None].numpy() for share in (0.15, 0.8, 0.5)
            )
            fates = Fates(masked, random, torch.randint(12, ids.shape[1:])[None].numpy())
            for tokens in (ids.copy(), np.where(ids == PAD, N, ids)):
                targets = hide_letters(tokens, chosen, fates)
                assert tokens[0].tolist() == case["data"]
                assert np.where(targets == IGNORED, PAD, targets)[0].tolist() == case["target"]
                compared += 1
        assert compared == (4 if where == "golden" else 8)
        assert set(RANDOM_IDS) == set(range(12))


class TestMasking:
    @pytest.mark.parametrize("name", NAMES)
    def test_shares_and_fates(self, name):
        """Of 120,000 letters: 15 % of all tokens are asked for; of these, 80 % are hidden and 10 % replaced. Wrong once in 10^6."""
        model, windows = tiny(name), random_windows(300, 400)
        before = model.collate(windows)["tokens"].numpy()
        batch = pretraining_batch(model, windows, np.random.default_rng(3))
        tokens, targets = batch["tokens"].numpy(), batch["targets"].numpy()
        asked = targets != IGNORED
        total = int((~np.isin(before, list(SPECIAL[name]))).sum())
        assert likely(asked.sum(), total, 0.15)
        assert (targets[asked] == before[asked]).all()
        assert (tokens[~asked] == before[~asked]).all()
        mask = {"dnabert2": 4, "hf": 4, "caduceus": MASK}[name]
        ids = 12 if name == "caduceus" else len(model.random_ids)
        hidden, same = tokens[asked] == mask, tokens[asked] == before[asked]
        assert likely(hidden.sum(), asked.sum(), 0.8 + 0.1 / ids)
        assert likely(same.sum(), asked.sum(), 0.1 + 0.1 / ids)
        replaced = tokens[asked][~hidden & ~same]
        if name != "dnabert2":  # of its 4,096 tokens, not all come up
            assert set(replaced) == set(range(ids)) - {mask}
        assert not {mask} & set(replaced)
        if name == "dnabert2":
            assert replaced.max() > 281, "a random token is any of the vocabulary's, not only of the tokenizer's"

    @pytest.mark.parametrize("name", NAMES)
    def test_unknown_letters_and_special_tokens_are_never_asked_for(self, name):
        model = tiny(name)
        windows = [Window("ACGTNNGTAC" * 6), Window("N" * 30 + "A"), Window("ACG"), Window("N" * 7)] * 8
        for seed in range(5):
            batch = pretraining_batch(model, windows, np.random.default_rng(seed), share=0.9)
            assert not SPECIAL[name] & set(batch["targets"].unique().tolist())
            assert (batch["targets"][0] != IGNORED).any()
            assert (batch["targets"][3] == IGNORED).all()
            assert all(len(tensor) == len(windows) for key, tensor in batch.items() if key not in ("asked", "labels"))

    def test_caduceus_hides_an_n_as_upstream_does(self):
        batch = pretraining_batch(tiny("caduceus"), [Window("ACGTN" * 200)] * 8, np.random.default_rng(0), share=0.5)
        unknown = np.arange(4, 1000, 5)
        assert set(batch["tokens"][:, unknown].unique().tolist()) == set(range(12)), "hidden, replaced or [PAD], as N is read"
        assert (batch["targets"][:, unknown] == IGNORED).all()

    def test_caduceus_hides_no_padding(self):
        batch = pretraining_batch(tiny("caduceus"), [*random_windows(1, 90), Window("ACGT")], np.random.default_rng(0), share=0.9)
        assert (batch["tokens"][1, 4:] == PAD).all()
        assert (batch["targets"][1, 4:] == IGNORED).all()

    def test_only_the_variant_that_is_not_equivariant_reads_both_strands(self):
        for variant, expected in (("ph", True), ("ps", False)):
            goal = LetterMasking()
            goal.attach(tiny("caduceus", variant=variant))
            assert goal.both_strands is expected

    def test_ps_predicts_the_complement_on_the_other_strand(self):
        """Why it needs no augmentation: turned input, with turned targets, has the same loss."""
        model, windows = tiny("caduceus"), random_windows(3, 40)
        batch = pretraining_batch(model, windows, np.random.default_rng(0))
        turned = {name: model.complement_map[batch[name].long().flip(1)] for name in ("tokens",)} | {"lengths": batch["lengths"]}
        targets = batch["targets"].flip(1)
        asked = (targets != IGNORED).flatten().nonzero()[:, 0]
        with torch.inference_mode():
            there = model.pretraining_logits(batch).log_softmax(-1)
            back = model.pretraining_logits(turned | {"asked": asked}).log_softmax(-1)
        first = there[torch.arange(len(there)), batch["targets"].flatten()[batch["asked"]]]
        second = back[torch.arange(len(back)), model.complement_map[targets.flatten()[asked]]]
        torch.testing.assert_close(first.sum(), second.sum())

    def test_a_share_that_is_none(self):
        for share in (0.0, 1.0, -0.1):
            with pytest.raises(UserError, match=f"option share={share}: must be above 0 and below 1"):
                LetterMasking(share=share)


def models(tmp_path):
    """Of every shape, with weights that are not those of a fresh model."""
    made = {
        "dnabert2 tiny": lambda: tiny("dnabert2"),
        "dnabert2 odd": lambda: DNABERT2(
            Shape(3, 30, heads=5, inner=14, vocabulary=300, epsilon=1e-3, dropout=0.2), plain_tokenizer()
        ),
        "caduceus ps": lambda: tiny("caduceus"),
        "caduceus ph": lambda: tiny("caduceus", variant="ph"),
        "caduceus ps odd": lambda: Caduceus(3, 21, "ps", mixer=MambaShape(49, 5, 3, 4), epsilon=1e-3),
        "caduceus ph odd": lambda: Caduceus(1, 22, "ph", mixer=MambaShape(44, 5, 3, 2), epsilon=1e-3),
        "hf": lambda: tiny("hf"),
        **{f"hf {name}": lambda name=name: HF.from_checkpoint(checkpoint(name, tmp_path / name)) for name in MASKED},
        "hf config": lambda: HF.from_checkpoint(config=str(checkpoint("esm", tmp_path / "twin"))),
    }
    for name, make in made.items():
        torch.manual_seed(1)
        model = make().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        yield name, model


def test_logits_are_those_of_all_tokens_and_a_folder_loads_as_the_very_same_model(tmp_path):
    windows = [*random_windows(4, (30, 60)), Window("ACGTNNACGTACGTACGTACGTAAACCCGTTNNACG")]
    for name, model in models(tmp_path):
        batch = pretraining_batch(model, windows, np.random.default_rng(0))
        again = type(model).from_checkpoint(as_checkpoint(model, tmp_path / f"{name} out")).eval()
        everywhere = batch | {"asked": torch.arange(batch["targets"].numel())}
        if name.startswith("caduceus"):
            everywhere["asked"] = (torch.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]).flatten().nonzero()[:, 0]
        with torch.inference_mode():
            logits, all_logits = model.pretraining_logits(batch), model.pretraining_logits(everywhere)
            assert torch.equal(again.pretraining_logits(batch), logits), name
            assert torch.equal(again(again.collate(windows)), model(model.collate(windows))), name
        places = torch.searchsorted(everywhere["asked"], batch["asked"])
        torch.testing.assert_close(logits, all_logits[places], msg=lambda text, name=name: f"{name}: {text}")
        assert len(logits) == (batch["targets"] != IGNORED).sum()


def test_caduceus_logits_are_upstreams_formula_at_each_place():
    """Windows of several lengths in one batch, each as alone."""
    for variant in ("ps", "ph"):
        model, windows = tiny("caduceus", variant=variant), random_windows(5, (20, 50))
        batch = pretraining_batch(model, windows, np.random.default_rng(0), share=0.5)
        with torch.inference_mode():
            rows = [model.logits(model.encode(row[:length][None].long()))[0] for row, length in zip(*map(batch.get, ("tokens", "lengths")), strict=True)]  # fmt: skip
            found = model.pretraining_logits(batch)
        width = batch["tokens"].shape[1]
        expected = torch.stack([rows[place // width][place % width] for place in batch["asked"].tolist()])
        torch.testing.assert_close(found, expected)


class TestFiles:
    @pytest.mark.parametrize("name", ["dnabert2", "caduceus_ps", "caduceus_ph"])
    def test_a_configuration_says_all_that_the_authors_says(self, shared, name):
        """Of a model of the published size, its values but for where and by what it was written."""
        folder = shared / "reference/checkpoints"
        files = {
            "dnabert2": folder / "dnabert2/config.json",
            "caduceus_ps": folder / "caduceus/caduceus-ps_seqlen-131k_d_model-256_n_layer-16/config.json",
            "caduceus_ph": folder / "caduceus/caduceus-ph_seqlen-1k_d_model-256_n_layer-4_lr-8e-3/config.json",
        }
        theirs = json.loads(files[name].read_text())
        model = DNABERT2.from_checkpoint() if name == "dnabert2" else Caduceus(theirs["n_layer"], theirs["d_model"], name[-2:])
        ours = json.loads(model.checkpoint_files()["config.json"])
        bookkeeping = {"_name_or_path", "torch_dtype", "transformers_version", "use_cache", "auto_map", "gradient_checkpointing"}
        for key in theirs.keys() - bookkeeping - {"classifier_dropout"}:
            expected = theirs[key]
            if key == "ssm_cfg":
                expected = {name: value for name, value in expected.items() if not name.startswith("dt_") or name == "dt_rank"}
            assert ours[key] == expected, key
        assert ours["auto_map"].keys() == theirs["auto_map"].keys()

    @pytest.mark.parametrize("variant", ["ps", "ph"])
    def test_caduceus_tensors_have_their_names_on_the_hub(self, variant):
        folder = ROOT / f"tests/golden/caduceus_{variant}/checkpoint"
        theirs, ours = load_file(folder / "model.safetensors"), Caduceus.from_checkpoint(folder).checkpoint_tensors()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())

    def test_dnabert2s_tokenizer_is_one_of_transformers(self, tmp_path):
        from transformers import AutoTokenizer

        model = tiny("dnabert2")
        tokenizer = AutoTokenizer.from_pretrained(as_checkpoint(model, tmp_path / "out"))
        text = random_windows(1, 80)[0].sequence
        assert tokenizer(text)["input_ids"] == model.collate([Window(text)])["tokens"][0].tolist()
        assert len(tokenizer) == 4096

    def test_dnabert2_without_a_head_has_no_objective(self):
        bare = DNABERT2(Shape(1, 16, 2, 16, vocabulary=300), plain_tokenizer(), language_head=False)
        assert bare.objectives == {}
        assert DNABERT2.objectives


class TestTransformers:
    def test_the_folder_is_read_by_transformers_own_classes(self, tmp_path):
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        genome = write_genome(tmp_path / "genome.fa", length=5000)
        config = str(checkpoint("roberta", tmp_path / "given"))
        for name, how in {"letters": {}, "given": {"init": "random", "options": {"config": config}}}.items():
            folder = learned("hf", genome, tmp_path / f"{name} out", steps=2, evaluate_every=1, **how)
            ours = HF.from_checkpoint(folder).eval()
            theirs, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
            assert not any(info.values())
            tokens = ours.collate([Window("ACGTTGCAGT")])["tokens"]
            with torch.inference_mode():
                torch.testing.assert_close(theirs.eval()(tokens).logits, ours.model(tokens).logits)
            text = "ACGTTGCAGT" if name == "letters" else "A C G U U G C A G U"
            assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokens[0].tolist()
            assert json.loads((folder / "config.json").read_text())["architectures"] == [type(theirs).__name__]

    def test_every_weight_is_trained_and_tied_ones_stay_tied(self, tmp_path):
        folder = learned("hf", write_genome(tmp_path / "genome.fa", length=5000), tmp_path / "out", steps=2)
        tensors = load_file(folder / "model.safetensors")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            fresh = dict(HF.from_checkpoint(size="tiny").model.state_dict())
        assert tensors.keys() == fresh.keys()
        assert not [name for name, tensor in tensors.items() if torch.equal(tensor, fresh[name]) and tensor.is_floating_point()]
        assert torch.equal(tensors["cls.predictions.decoder.weight"], tensors["bert.embeddings.word_embeddings.weight"])

    def test_objectives_are_those_of_the_head(self, tmp_path):
        assert list(HF.objectives) == ["token", "next"]
        assert list(tiny("hf").objectives) == ["token"]
        assert list(HF.from_checkpoint(checkpoint("llama", tmp_path / "llama")).objectives) == ["next"]
        bare = HF.from_checkpoint(checkpoint("bert", tmp_path / "bare", head=False))
        assert bare.objectives == {}
        genome = write_genome(tmp_path / "genome.fa", length=5000)
        with pytest.raises(UserError, match="as it was loaded, it has no head to be pretrained with"):
            learned("hf", genome, tmp_path / "out", init=None, checkpoint=str(tmp_path / "bare"))
        with pytest.raises(UserError, match="objective 'next': hf has token"):
            learned("hf", genome, tmp_path / "out", objective="next")
        assert not (tmp_path / "out").exists()

    def test_bases_need_not_be_tokens_to_hide_tokens(self, tmp_path):
        """A vocabulary of pairs alone fills in no base, but learns."""
        from tokenizers.models import WordLevel

        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(a + b for a in "ACGT" for b in "ACGT")]
        folder = checkpoint("bert", tmp_path / "pairs", vocab_size=len(words))
        fast(words, model=WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]")).save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model = HF.from_checkpoint(config=str(folder), letters="kmer")
        assert list(model.objectives) == ["token"]

    def test_what_its_class_does_not_know_is_not_written(self, tmp_path):
        folder = checkpoint("bert", tmp_path / "odd")
        stated = json.loads((folder / "config.json").read_text()) | {"mystery": 3, "auto_map": {"AutoModel": "modeling.Odd"}}
        (folder / "config.json").write_text(json.dumps(stated))
        model = HF.from_checkpoint(folder, ignore="mystery,auto_map")
        again = HF.from_checkpoint(as_checkpoint(model, tmp_path / "out"))
        assert not {"mystery", "auto_map"} & json.loads((tmp_path / "out/config.json").read_text()).keys()
        assert again.model.config.hidden_size == model.model.config.hidden_size


class TestLearning:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "steps", "rate"),
        [("dnabert2", 120, 3e-3), ("hf", 40, 5e-3), ("caduceus", 20, 8e-3), ("caduceus ph", 30, 8e-3)],
    )
    def test_repeats_tell_more_than_the_frequencies_of_tokens(self, tmp_path, name, steps, rate):
        model, _, variant = name.partition(" ")
        folder = learned(
            model,
            write_genome(tmp_path / "genome.fa"),
            tmp_path / "out",
            steps=steps,
            evaluate_every=steps,
            options={"variant": variant} if variant else {},
            settings={"learning_rate": rate},
        )
        found = scores(folder)
        assert found["validation_loss"] < found["yardstick_loss"] - 0.02
        loaded = registry.adapter_class(model).from_checkpoint(folder)
        assert loaded.audit.matched == loaded.audit.expected
