"""The files of GPN-MSA that are accepted and refused, and what they say of sizes and species."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import as_checkpoint, pretraining_batch, random_windows
from safetensors.torch import load_file, save_file
from test_gpn_msa import GOLDEN, aligned, embed, load
from torch import nn

from harness.adapters._gpn_msa_files import from_official
from harness.adapters.gpn_msa import GPNMSA, PUBLISHED
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.alignments import SPECIES, check_order
from harness.files.checkpoint import partial_weights


class TestFile:
    def test_audit(self):
        audit = load().audit
        assert (audit.matched, audit.expected, audit.unused, audit.warnings) == (39, 39, (), ())
        assert audit.facts["species"] == 9
        assert audit.facts["input_channels"] == "6 + 5 x 9 of 64"
        assert audit.facts["positions"] == "sinusoid"

    def test_without_a_config_the_species_are_said_or_assumed(self, tmp_path):
        shutil.copy(GOLDEN / "checkpoint/model.safetensors", tmp_path)
        with pytest.raises(CheckpointMismatch, match="89 species and 4 heads do not fit a width of 64"):
            load(tmp_path)
        window = aligned(random_windows(1)[0])
        assert torch.equal(embed(load(tmp_path, species=9), [window]), embed(load(), [window]))
        wide = GPNMSA.from_checkpoint(size="tiny")
        torch.save(wide.state_dict(), tmp_path / "wide.bin")
        assert load(tmp_path / "wide.bin").audit.warnings == (
            "no config.json beside wide.bin: 89 species are assumed, as published; --option species=N",
        )

    def test_other_models_are_refused(self, tmp_path):
        state = load_file(GOLDEN / "checkpoint/model.safetensors")
        folder = copy_of_checkpoint(tmp_path / "norm", {**state, "model.encoder.ln_f.weight": torch.ones(64)})
        with pytest.raises(CheckpointMismatch, match=r"model\.encoder\.ln_f\.weight belong to another architecture"):
            load(folder)
        with partial_weights():
            assert load(folder).audit.warnings[0].startswith("left out, as allowed: 1 of the file's tensors (model.encoder.ln_f")
        folder = copy_of_checkpoint(tmp_path / "bias", {**state, "cls.predictions.decoder.bias": torch.ones(6)})
        with pytest.raises(CheckpointMismatch, match="should be tied"):
            load(folder)
        part = {name: tensor for name, tensor in state.items() if "layer.1." not in name}
        with pytest.raises(CheckpointMismatch, match="23 of 39 tensors match"):
            load(copy_of_checkpoint(tmp_path / "part", part))
        del state["model.encoder.layer.1.attention.self.key.bias"]
        with pytest.raises(CheckpointMismatch, match="38 of 39 tensors match"):
            load(copy_of_checkpoint(tmp_path / "key", state))
        bert = {"bert.embeddings.word_embeddings.weight": torch.ones(6, 4)}
        with pytest.raises(CheckpointMismatch, match="0 of 199 tensors match"):
            load(copy_of_checkpoint(tmp_path / "bert", bert))
        changes = (
            ({"model_type": "bert"}, "model_type 'bert'"),
            ({"rotary_value": True}, "rotary_value True; implemented is False"),
            ({"n_aux_features": 44}, "n_aux_features 44 is no multiple of 5"),
            ({"n_aux_features": 100}, "20 species and 4 heads do not fit a width of 64"),
        )
        for number, (change, message) in enumerate(changes):
            with pytest.raises(CheckpointMismatch, match=message):
                load(copy_of_checkpoint(tmp_path / str(number), None, **change))

    def test_published_size(self):
        with torch.device("meta"):
            model = GPNMSA.from_checkpoint()
        assert len(model.state_dict()) + 1 == 200  # the bias of the head has two names
        numbers = sum(tensor.numel() for tensor in model.state_dict().values())
        assert math.isclose(4 * numbers, 343_063_273, rel_tol=1e-3)  # bytes of the published file
        assert GPNMSA.card.max_length == model.max_length
        assert not any(parameter.requires_grad for parameter in model.lm_head.parameters())
        linear = [name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        assert all(linear.count(target) == 12 for target in GPNMSA.lora_targets)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hidden_act": "relu"}, "hidden_act 'relu'; implemented is 'gelu'"),
            ({"is_decoder": True}, "is_decoder True; implemented is False"),
            ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
            ({"aux_features_vocab_size": 6}, "aux_features_vocab_size 6; implemented is 5"),
            ({"vocab_size": 7}, "vocab_size 7; implemented is 6"),
            ({"num_hidden_layers": 1}, "has num_hidden_layers 1, its tensors 2"),
            ({"num_attention_heads": 8}, "has num_attention_heads 8, its tensors 4"),
            ({"intermediate_size": 64}, "has intermediate_size 64, its tensors 128"),
            ({"hidden_size": 32}, "has hidden_size 32, its tensors 64"),
            ({"embedding_size": 32}, "has embedding_size 32, its tensors 64"),
            ({"max_position_embeddings": 1536}, "has max_position_embeddings 1536, its tensors 128"),
        ],
    )
    def test_what_a_config_asks_for_otherwise_is_refused(self, tmp_path, change, message):
        with pytest.raises(CheckpointMismatch, match=message):
            load(copy_of_checkpoint(tmp_path / "changed", None, **change))

    @pytest.mark.parametrize("stated", [True, False])
    def test_other_sizes_are_read_back(self, tmp_path, stated):
        torch.manual_seed(0)
        shape = replace(PUBLISHED, layers=3, width=36, heads=3, inner=14, positions=50, epsilon=1e-3 if stated else 1e-12)
        model = GPNMSA(shape, 4).eval()
        torch.save(model.state_dict(), tmp_path / "w.bin")
        if stated:
            config = {"num_hidden_layers": 3, "hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 14}
            config |= {"max_position_embeddings": 50, "n_aux_features": 20, "layer_norm_eps": 1e-3}
            (tmp_path / "config.json").write_text(json.dumps(config))
        again = load(tmp_path / "w.bin", species=4)
        assert (again.audit.matched, again.audit.unused) == (again.audit.expected, ())
        assert again.max_length == 50
        windows = [aligned(window, 4) for window in random_windows(3, (10, 40))]
        assert torch.equal(embed(again, windows), embed(model, windows))


class TestPretrained:
    """What `harness pretrain` writes of a model."""

    @pytest.mark.parametrize(
        ("changes", "species"),
        [
            ({"layers": 2, "width": 512, "heads": 8, "inner": 256}, 9),
            ({"layers": 3, "width": 72, "heads": 3, "inner": 14, "positions": 50, "epsilon": 1e-3, "dropout": 0.3}, 9),
        ],
    )
    def test_it_loads_again_as_the_same_model(self, tmp_path, changes, species):
        model = GPNMSA(replace(PUBLISHED, **changes), species).eval()
        again = load(as_checkpoint(model, tmp_path / "out"))
        assert (again.shape, again.species, again.audit.warnings) == (model.shape, species, ())
        windows = [aligned(window) for window in random_windows(3, (10, 40))]
        assert torch.equal(embed(again, windows), embed(model, windows))
        batch = pretraining_batch(model, windows, np.random.default_rng(0), "token")
        with torch.inference_mode():
            assert torch.equal(again.pretraining_logits(batch), model.pretraining_logits(batch))

    def test_a_model_of_any_number_of_species_stays_one(self, tmp_path):
        again = load(as_checkpoint(GPNMSA.from_checkpoint(size="tiny"), tmp_path / "out"))
        assert (again.species, again.species_names, again.audit.warnings) == (None, None, ())
        assert embed(again, [aligned(random_windows(1)[0], species=7)]).shape == (1, 512)

    def test_its_files_are_those_of_upstream(self, tmp_path):
        """Names of tensors, and keys and values of the configuration, as in a checkpoint that upstream's code wrote."""
        folder = as_checkpoint(load(), tmp_path / "out")
        theirs = load_file(GOLDEN / "checkpoint/model.safetensors")
        ours = load_file(folder / "model.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        config, expected = (json.loads((it / "config.json").read_text()) for it in (folder, GOLDEN / "checkpoint"))
        assert config == {key: expected[key] for key in config}
        assert expected.keys() - config.keys() == {"torch_dtype", "transformers_version", "use_cache"}

    def test_a_folder_and_a_state_of_an_earlier_version_are_read(self, tmp_path):
        """Which had no config.json, and names of their own."""
        model = GPNMSA.from_checkpoint(size="tiny").eval()
        state = model.state_dict()
        from_official(model, state)
        assert {"positions", "layers.1.query.weight", "lm_head.decoder.bias"} < state.keys()
        save_file(state, tmp_path / "model.safetensors")
        record = {"settings": {"species": ["hg38", "near", "far"]}, "data": {"rows": 3}}
        (tmp_path / "pretrain.json").write_text(json.dumps(record))
        again, other = load(tmp_path), GPNMSA.from_checkpoint(size="tiny").eval()
        assert (again.species, again.species_names) == (2, ("near", "far"))
        other.load_state_dict(state)
        windows = [aligned(window, 2) for window in random_windows(2)]
        assert torch.equal(embed(again, windows), embed(model, windows))
        assert torch.equal(embed(other, windows), embed(model, windows))


class TestSpecies:
    def test_the_number_of_species_comes_back_with_the_weights(self, tmp_path):
        model = GPNMSA.from_checkpoint(size="tiny")
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "pretrain.json").write_text(json.dumps({"data": {"rows": 10}}))
        loaded = load(tmp_path)
        windows = [aligned(window) for window in random_windows(2)]
        assert not loaded.audit.warnings
        assert torch.equal(embed(loaded, windows), embed(model.eval(), windows))
        with pytest.raises(BadData, match="reads 10, the sequence and 9 species"):
            embed(loaded, [aligned(window, species=4) for window in random_windows(2)])

    @pytest.mark.parametrize(("rows", "shown"), [("x", "'x'"), (0, "'0'"), (-5, "'-5'"), (2.0, r"'2\.0'"), (True, "'True'")])
    def test_a_number_of_rows_that_is_none_is_refused(self, tmp_path, rows, shown):
        save_file(GPNMSA.from_checkpoint(size="tiny").state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "pretrain.json").write_text(json.dumps({"data": {"rows": rows}}))
        with pytest.raises(BadData, match=rf"pretrain\.json: data\.rows {shown}, expected a whole number from 1"):
            load(tmp_path)

    def test_their_order_comes_back_with_the_weights(self, tmp_path):
        """An alignment whose species are others, or in another order, is refused with the remedy."""
        save_file(GPNMSA.from_checkpoint(size="tiny").state_dict(), tmp_path / "model.safetensors")
        record = {"settings": {"species": ["hg38", "near", "mid", "far"]}, "data": {"rows": 4}}
        (tmp_path / "pretrain.json").write_text(json.dumps(record))
        model = load(tmp_path)
        assert (model.species, model.species_names) == (3, ("near", "mid", "far"))
        check_order(Path("x.maf"), ("hg38", "near", "mid", "far"), model.species_names, model.name)
        for names, message in (
            (
                ["far", "near", "mid"],
                r"y\.maf: row 1 is 'far', where gpn_msa was trained with 'near'; give --species near,mid,far$",
            ),
            (["near", "mid", "other"], "row 3 is 'other', where gpn_msa was trained with 'far'"),
            (
                ["near", "mid"],
                "2 rows after the target, and gpn_msa was trained on 3, in a fixed order; give --species near,mid,far",
            ),
            (["near", "mid", "far", "far"], "4 rows after the target, and gpn_msa was trained on 3"),
        ):
            with pytest.raises(UserError, match=message):
                check_order(Path("y.maf"), ("hg38", *names), model.species_names, model.name)

    def test_those_of_the_published_weights_are_songlabs(self, tmp_path):
        wide = replace(PUBLISHED, layers=1, width=456, heads=2, inner=8, positions=16)
        tensors = GPNMSA(wide).state_dict()
        save_file(tensors, tmp_path / "model.safetensors")
        assert load(tmp_path).species_names == SPECIES["89"], "assumed, as the warning says"
        assert load(tmp_path, species=89).species_names is None, "what the user says is a number alone"
        (tmp_path / "config.json").write_text(json.dumps({"n_aux_features": 445}))
        model = load(tmp_path)
        check_order(Path("89.zarr"), ("hg38", *SPECIES["89"]), model.species_names, model.name)
        with pytest.raises(UserError, match=r"row 1 is 'hg19', where gpn_msa was trained with 'otoGar3'; give --species 89$"):
            check_order(Path("mine.maf"), ("hg38", "hg19", *SPECIES["89"][1:]), model.species_names, model.name)

    def test_without_a_record_they_are_unknown(self, tmp_path):
        assert GPNMSA.from_checkpoint(size="tiny").species_names is None
        assert load().species_names is None
        shutil.copytree(GOLDEN / "checkpoint", tmp_path / "copy")
        (tmp_path / "copy/pretrain.json").write_text(json.dumps({"settings": {"species": ["hg38", ""]}}))
        assert load(tmp_path / "copy").species_names is None


def copy_of_checkpoint(folder: Path, state: dict | None, **config) -> Path:
    """The golden checkpoint with other tensors, as a torch file, or some values of its config.json replaced."""
    folder.mkdir()
    if state is None:
        shutil.copy(GOLDEN / "checkpoint/model.safetensors", folder)
    else:
        torch.save(state, folder / "pytorch_model.bin")
    settings = json.loads((GOLDEN / "checkpoint/config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
