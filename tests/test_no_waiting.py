"""No model asks an accelerator for a number while it computes, since the host would wait there, nor mixes devices.

Both show on torch's meta device, which knows shapes and types but no numbers.
"""

from __future__ import annotations

import pytest
import torch

from harness import registry
from harness.check import contract
from harness.engine.predict import to_device

META = torch.device("meta")
TRAINED = sorted(name for name in registry.model_files() if registry.model_facts(name).card.reads != "score" and name != "hf")


@pytest.fixture(scope="module", params=TRAINED)
def candidate(request):
    found = contract.build(request.param)
    if next(found.adapter.parameters(), None) is None:
        pytest.skip("no weights: it is not computed on a GPU")
    return found


@pytest.mark.parametrize("lengths", [(40, 40, 40), (40, 30, 20)], ids=["of one length", "of several lengths"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_step_needs_no_number_from_the_device(candidate, lengths, training):
    adapter = contract.build(candidate.adapter.name).adapter.to(META).train(training)
    batch = adapter.for_accelerator(adapter.collate(candidate.windows(*lengths)))
    embeddings = adapter(to_device(batch, META))
    assert embeddings.shape == (3, adapter.embedding_dim)
    assert embeddings.device == META
    if training:
        embeddings.sum().backward()
        assert any(parameter.grad is not None for parameter in adapter.parameters())
