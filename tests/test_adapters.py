"""The contract that every adapter keeps, the facts that are read without importing it, the floors, and the registry."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_windows

from harness import registry
from harness.adapter import MaskedModel
from harness.check import contract
from harness.data import Window
from harness.errors import BadData, UnknownName, UserError
from harness.facts import class_options

ROOT = Path(__file__).parents[1]


def build(name: str):
    return contract.build(name).adapter


def embed(adapter, windows) -> torch.Tensor:
    with torch.inference_mode():
        return adapter(adapter.collate(windows))


DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.fixture(
    scope="module", params=[(name, device) for device in DEVICES for name in sorted(registry.model_files())], ids="-".join
)
def candidate(request):
    name, device = request.param
    return contract.build(name, device=device)


class TestContract:
    @pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
    def test_clause(self, candidate, clause):
        """A clause that does not apply says so itself and does not count as a skipped test."""
        verdict = contract.judge(clause, candidate)
        assert verdict.state != "violated", f"{verdict.statement}: {verdict.detail}"

    def test_masked_positions_outside_the_window_are_refused(self, candidate):
        if isinstance(candidate.adapter, MaskedModel):
            for position in (-1, 40):
                with pytest.raises(BadData, match=f"position {position}: the window has 40 nt"):
                    candidate.adapter.collate_masked(random_windows(1, 40), [position])


@pytest.fixture(scope="module")
def read_without_torch():
    """The facts of every model as JSON, from a new interpreter that must not import torch."""
    code = (
        "import json, sys\n"
        "from dataclasses import asdict\n"
        "from harness import registry\n"
        "facts = {name: asdict(registry.model_facts(name)) for name in registry.model_files()}\n"
        "print(json.dumps([facts, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    facts, torch_was_imported = json.loads(done.stdout)
    assert not torch_was_imported
    return facts


class TestFacts:
    """What is read from an adapter's syntax tree, for lists and plans."""

    @pytest.mark.parametrize("name", sorted(registry.model_files()))
    def test_facts_are_those_of_the_class(self, read_without_torch, name):
        adapter, facts = registry.adapter_class(name), registry.model_facts(name)
        assert facts.name == adapter.name == name
        assert facts.card == adapter.card
        assert facts.recipe == adapter.recipe
        assert facts.recipes == adapter.recipes
        assert facts.options == class_options(adapter)
        assert read_without_torch[name] == json.loads(json.dumps(asdict(facts)))


class TestFloors:
    def test_composition(self):
        features = embed(build("gc"), [Window("AACGN"), Window("TTTT")])
        np.testing.assert_allclose(features, [[0.4, 0.2, 0.2, 0], [0, 0, 0, 1]], atol=1e-6)

    def test_kmer_counts_against_counting(self):
        window = Window("ACGTNACGGT")
        features = embed(build("kmer"), [window])[0].numpy()
        start = 0
        for k in range(1, 7):
            kmers = ["".join(letters) for letters in np.array(np.meshgrid(*[list("ACGT")] * k, indexing="ij")).reshape(k, -1).T]
            counts = np.array(
                [sum(window.sequence[i : i + k] == kmer for i in range(len(window) - k + 1)) for kmer in kmers], float
            )
            expected = counts / max(np.linalg.norm(counts), 1e-12)
            np.testing.assert_allclose(features[start : start + 4**k], expected, atol=1e-6)
            start += 4**k


class TestRegistry:
    def test_both_spellings_and_hints(self):
        assert registry.model_names("MSAMamba") == ["msamamba"]
        assert set(registry.model_names("floors")) == {"cnn", "gc", "kmer"}
        with pytest.raises(UnknownName, match="did you mean msamamba"):
            registry.model_names("msa-mumba")

    def test_a_model_from_a_path(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "from harness.adapters.gc import BaseComposition\n"
            "from harness.card import ModelCard\n"
            "class Mine(BaseComposition):\n"
            "    name = 'mine'\n"
            "    card = ModelCard(summary='s', paper='p', licence='l', alphabet='ACGT')\n"
        )
        assert registry.adapter_class(str(tmp_path / "mine.py")).name == "mine"
        (tmp_path / "empty.py").write_text("x = 1\n")
        with pytest.raises(UserError, match="expected one Adapter"):
            registry.adapter_class(str(tmp_path / "empty.py"))
        with pytest.raises(UnknownName, match="no such file"):
            registry.adapter_class(str(tmp_path / "none.py"))

    def test_a_model_from_an_installed_package(self, tmp_path):
        package = tmp_path / "site" / "their_model-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: their-model\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[harness.adapters]\ntheir-model = their_model\n")
        (tmp_path / "site" / "their_model.py").write_text(
            "from pathlib import Path\n"
            "from harness.adapters.gc import BaseComposition\n"
            "from harness.card import ModelCard\n"
            "class Theirs(BaseComposition):\n"
            "    name = 'their_model'\n"
            "    card = ModelCard(summary='theirs', paper='p', licence='l', alphabet='ACGT')\n"
        )
        code = (
            f"import sys; sys.path.append({str(tmp_path / 'site')!r})\n"
            "from harness import registry\n"
            "assert registry.model_cards()['their_model'].summary == 'theirs' and 'torch' not in sys.modules\n"
            "print(registry.adapter_class('their-model').__name__)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.strip() == "Theirs", done.stderr
