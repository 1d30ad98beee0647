"""LoRA: what it trains, and that it reaches every layer it names."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from conftest import motif_examples
from torch import nn

from harness import registry
from harness.engine.classifier import Classifier
from harness.engine.fit import fit
from harness.errors import UserError
from harness.recipe import Recipe


@pytest.mark.parametrize("name", [name for name in registry.model_files() if registry.adapter_class(name).lora_targets])
def test_lora_trains_its_matrices_and_the_head_alone(name):
    recipe = Recipe(tune="lora", epochs=1, batch_size=8, learning_rate=1e-2)
    torch.manual_seed(0)
    classifier = Classifier(registry.adapter_class(name).from_checkpoint(None, size="tiny"), 2, recipe)
    trained = {item for item, parameter in classifier.named_parameters() if parameter.requires_grad}
    added = {item for item in trained if item.startswith("adapter.")}
    assert added
    assert all("lora_" in item for item in added)
    before = {item: parameter.clone() for item, parameter in classifier.named_parameters()}
    examples = motif_examples(16)
    fit(classifier, examples, examples, recipe, Accelerator(cpu=True))
    moved = {item for item, parameter in classifier.named_parameters() if not torch.equal(parameter, before[item])}
    assert moved <= trained
    assert any("lora_B" in item for item in moved)


def test_lora_without_layers_is_refused():
    with pytest.raises(UserError, match="names no layers"):
        Classifier(registry.adapter_class("cnn").from_checkpoint(), 2, Recipe(tune="lora"))


def test_no_adapter_hides_a_linear_layer_from_lora():
    """Layers whose weight is used without calling them would silently stay as they are."""
    for name in registry.model_files():
        cls = registry.adapter_class(name)
        adapter = cls.from_checkpoint(None, size="tiny") if cls.lora_targets else None
        for target in cls.lora_targets:
            found = [module for path, module in adapter.named_modules() if path == target or path.endswith(f".{target}")]
            assert found, f"{name}: lora_targets names {target}, which is no layer"
            assert all(isinstance(module, nn.Linear) for module in found)
