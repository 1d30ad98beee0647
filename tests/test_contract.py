"""Every clause of the contract can fail: for each, adapters that break it, made from the template, which keeps it all."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_cli import harness, refused  # noqa: F401 (a fixture)
from torch import nn

from harness import registry
from harness.adapter import MaskedModel
from harness.card import ModelCard
from harness.check import contract
from harness.check.template import SIZES, Template
from harness.data import Window
from harness.errors import BadData, UserError
from harness.evidence import records as results

TEMPLATE = str(ROOT / "harness/check/template.py")


def cut(windows, length):
    return [Window(window.sequence[:length]) for window in windows]


class AnotherWidth(Template):
    def forward(self, batch):
        return super().forward(batch)[:, 1:]


class Whole(Template):
    def forward(self, batch):
        return super().forward(batch).mul(100).round().long()


class NotFinite(Template):
    def forward(self, batch):
        return super().forward(batch) / 0


class OneRowForAll(Template):
    def collate(self, windows):
        return super().collate(windows) | {"bases": torch.arange(4)[None]}


class NoTensors(Template):
    def collate(self, windows):
        return super().collate(windows) | {"loci": [window.locus for window in windows]}


class Augments(Template):
    def collate(self, windows):
        np.random.rand()  # noqa: NPY002
        return super().collate(windows)


class SwitchesMode(Template):
    def collate(self, windows):
        self.train()
        return super().collate(windows)


class CountsItsCalls(Template):
    calls = 0

    def collate(self, windows):
        self.calls += 1
        return super().collate(windows) | {"call": torch.full((len(windows),), self.calls)}


class WritesIntoAlignments(Template):
    card = ModelCard(summary="", paper="", licence="", alphabet="", reads="alignment")

    def collate(self, windows):
        for window in windows:
            if window.alignment is not None:
                window.alignment[1:] = ord("-")
        return super().collate(windows)


class NeedsAlignment(Template):
    card = ModelCard(summary="", paper="", licence="", alphabet="", reads="alignment")

    def collate(self, windows):
        return {
            "tokens": super().collate(windows)["tokens"]
            + torch.tensor([len(window.alignment) - 3 for window in windows])[:, None]
        }


class AveragesPadding(Template):
    def forward(self, batch):
        known = (batch["tokens"] > 0).sum(dim=1, keepdim=True)
        return super().forward(batch) * known / batch["tokens"].shape[1]


class SeesItsPlace(Template):
    """As a recurrent state that is kept from window to window would."""

    def forward(self, batch):
        return super().forward(batch) + torch.arange(len(batch["tokens"]))[:, None]


class DropsInEvaluation(Template):
    def forward(self, batch):
        return F.dropout(super().forward(batch), 0.1, training=True)


class Constant(Template):
    def forward(self, batch):
        return 1 + 1e-6 * super().forward(batch)


class ReadsHead(Template):
    def collate(self, windows):
        return super().collate(cut(windows, 1024))


class ReadsTail(Template):
    def collate(self, windows):
        return super().collate([Window(window.sequence[-512:]) for window in windows])


class CutsAtItsLimit(Template):
    max_length = 200

    def collate(self, windows):
        return super().collate(cut(windows, 200))


class BreaksAtItsLimit(Template):
    max_length = 200

    def collate(self, windows):
        if max(len(window) for window in windows) > 200:
            raise IndexError("index out of range")
        return super().collate(windows)


class NeedsSix(Template):
    def collate(self, windows):
        if min(len(window) for window in windows) < 6:
            raise BadData("a window of fewer than 6 nt")
        return super().collate(windows)


class DividesByNothing(Template):
    def forward(self, batch):
        known = (batch["tokens"] > 0).any(dim=1, keepdim=True)
        return super().forward(batch) / known


class ReadsNAsA(Template):
    def collate(self, windows):
        return super().collate([Window(window.sequence.replace("N", "A")) for window in windows])


class MiscountsUnknown(Template):
    def unknown_tokens(self, batch):
        return int((batch["tokens"] > 0).sum()), batch["tokens"].numel()


class ClaimsBothStrands(Template):
    reverse_complement_invariant = True


class BothStrands(Template):
    reverse_complement_invariant = True

    def forward(self, batch):
        turned = torch.where(batch["tokens"] > 0, 5 - batch["tokens"], 0).flip(1)
        return super().forward(batch) + super().forward({"tokens": turned})


class HonestMask(Template, MaskedModel):
    """The counts of the other letters, as probabilities."""

    def collate_masked(self, windows, positions):
        hidden = [Window(window.sequence[:at] + "N" + window.sequence[at + 1 :]) for window, at in zip(windows, positions)]
        return self.collate(hidden)

    def base_log_probabilities(self, batch):
        return F.one_hot(batch["tokens"], 5).sum(dim=1)[:, 1:].float().log_softmax(dim=-1)


class ScoresAreNoProbabilities(HonestMask):
    def base_log_probabilities(self, batch):
        return super().base_log_probabilities(batch) + 0.1


class LeaksTheBase(HonestMask):
    def collate_masked(self, windows, positions):
        return self.collate(windows)


class UnusedLayer(Template):
    def __init__(self, width):
        super().__init__(width)
        self.head = nn.Linear(width, 2)


class TrainsNothing(Template):
    def __init__(self, width):
        super().__init__(width)
        self.requires_grad_(False)


class TargetsNoLayer(Template):
    lora_targets = ("query",)


class TargetsConvolution(Template):
    lora_targets = ("conv",)


class TargetsUncalledLayer(Template):
    def forward(self, batch):
        with_weight_only = F.linear(torch.eye(self.embedding_dim), self.dense.weight, self.dense.bias)
        states = self.conv(self.embed(batch["tokens"]).transpose(1, 2)).transpose(1, 2)
        known = (batch["tokens"] > 0).unsqueeze(-1)
        return (torch.relu(states) * known).sum(dim=1) @ with_weight_only / known.sum(dim=1).clamp(min=1)


class HoldsLambda(Template):
    def __init__(self, width):
        super().__init__(width)
        self.activation = lambda x: x


class RandomOutsideOfState(Template):
    def __init__(self, width):
        super().__init__(width)
        self.shift = torch.randn(width)

    def forward(self, batch):
        return super().forward(batch) + self.shift


class AnySize(Template):
    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base"):
        return cls(SIZES.get(size, SIZES["tiny"]))


class KeyErrorForSize(Template):
    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base"):
        return cls(SIZES[size])


class OneSize(Template):
    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base"):
        return cls(SIZES["tiny"])


# Clause → adapters that break it and no other, with words of the verdict; `facts` has tests of its own below.
BROKEN = {
    contract.shapes: {AnotherWidth: r"\(1, 15\), expected \(1, 16\)"},
    contract.batches: {OneRowForAll: r"\(1, 4\) for 3 windows"},
    contract.no_trace: {
        Augments: "random state",
        SwitchesMode: "training mode",
        CountsItsCalls: "two different batches",
        WritesIntoAlignments: "writes into",
    },
    contract.whole_window: {ReadsHead: "1500 nt: a change of its last letter", ReadsTail: "1500 nt: a change of its first"},
    contract.too_long: {CutsAtItsLimit: "201 nt with max_length 200 is accepted", BreaksAtItsLimit: "IndexError: index out"},
    contract.shortest: {NeedsSix: "BadData: a window of fewer than 6 nt"},
    contract.unknown_letters: {
        DividesByNothing: "N alone: .* are not finite",
        ReadsNAsA: "N is read as A",
        MiscountsUnknown: "32 unknown",
    },
    contract.both_strands: {ClaimsBothStrands: "reverse complement, and the window: differ by up to"},
    contract.masked_bases: {ScoresAreNoProbabilities: "sum to 1.105", LeaksTheBase: "at the masked position"},
    contract.gradients: {UnusedLayer: "2 of 7 get none: head.weight, head.bias", TrainsNothing: "tune='full'"},
    contract.lora_layers: {
        TargetsNoLayer: "'query'.* no layer",
        TargetsConvolution: "conv, a Conv1d",
        TargetsUncalledLayer: "never called",
    },
    contract.pickling: {HoldsLambda: "lambda"},
    contract.saved_weights: {RandomOutsideOfState: "not in the state_dict"},
    contract.unknown_size: {AnySize: "'huge' is accepted", KeyErrorForSize: "KeyError"},
}
# What breaks one of these breaks others too.
BROKEN_WITH_OTHERS = {
    contract.shapes: {Whole: "int64, expected floating", NotFinite: "not finite"},
    contract.batches: {NoTensors: "'loci'.* is a list"},
    contract.alignment_is_optional: {NeedsAlignment: "TypeError"},
    contract.padding: {AveragesPadding: "in a batch of 20 to 60 nt, and alone: differ by up to .* allowed"},
    contract.order: {SeesItsPlace: "backwards"},
    contract.determinism: {DropsInEvaluation: "twice differs by up to"},
    contract.not_constant: {Constant: "largest standard deviation"},
}


def verdicts(cls) -> dict[str, contract.Verdict]:
    """By clause, without `facts`, which is about a file."""
    torch.manual_seed(0)
    candidate = contract.Candidate(cls.from_checkpoint(size="tiny").eval())
    return {clause.__name__: contract.judge(clause, candidate) for clause in contract.CLAUSES if clause is not contract.facts}


def violated(found) -> set[str]:
    return {name for name, verdict in found.items() if verdict.state == "violated"}


def cases(table):
    return [
        pytest.param(clause, cls, words, id=cls.__name__) for clause, broken in table.items() for cls, words in broken.items()
    ]


@pytest.mark.parametrize(("clause", "cls", "words"), cases(BROKEN))
def test_clause_alone_catches(clause, cls, words):
    found = verdicts(cls)
    assert violated(found) == {clause.__name__}
    assert re.search(words, found[clause.__name__].detail), found[clause.__name__].detail


@pytest.mark.parametrize(("clause", "cls", "words"), cases(BROKEN_WITH_OTHERS))
def test_clause_catches(clause, cls, words):
    found = verdicts(cls)
    assert clause.__name__ in violated(found)
    assert re.search(words, found[clause.__name__].detail), found[clause.__name__].detail


def test_every_clause_can_fail_and_says_what_it_asks():
    tested = {clause for table in (BROKEN, BROKEN_WITH_OTHERS) for clause, broken in table.items() if broken}
    assert tested | {contract.facts} == set(contract.CLAUSES)
    for clause in contract.CLAUSES:
        assert re.fullmatch(r"[^\n.]{20,110}", clause.__doc__), clause.__name__


def test_honest_adapters_break_nothing():
    for cls in (Template, HonestMask, BothStrands):
        assert violated(verdicts(cls)) == set()
    assert verdicts(HonestMask)["masked_bases"].state == "ok"
    skipped = {name for name, verdict in verdicts(Template).items() if verdict.state == "skipped"}
    assert skipped == {"alignment_is_optional", "too_long", "both_strands", "masked_bases"}


def test_true_claims_are_believed():
    found = verdicts(BothStrands)
    assert violated(found) == set()
    assert found["both_strands"].state == "ok"


def test_one_size_is_enough():
    assert verdicts(OneSize)["unknown_size"] == contract.Verdict(
        "unknown_size", contract.unknown_size.__doc__, "skipped", "the model has one size"
    )


class TestFacts:
    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ('name = "template"', 'name = "other"', "name 'other', but the file is template.py"),
            ('licence="?"', "licence=str(1)", "literal keyword arguments"),
            ('alphabet="ACGT"', 'alphabet="ACGT", reads="both"', "card.reads 'both'"),
            ('"""Embedding: ', '"""Output: ', "the docstring of Template does not say"),
            ('    name = "template"', "", "has no attribute 'name'"),
        ],
    )
    def test_facts(self, tmp_path, before, after, words):
        text = (ROOT / "harness/check/template.py").read_text()
        assert before in text
        (tmp_path / "template.py").write_text(text.replace(before, after, 1))
        first = contract.check(str(tmp_path / "template.py"))[0]
        assert (first.clause, first.state) == ("facts", "violated")
        assert words in first.detail

    def test_card_that_is_changed_later(self, tmp_path):
        text = (ROOT / "harness/check/template.py").read_text()
        (tmp_path / "template.py").write_text(f"{text}\n\nTemplate.card = ModelCard('', '', '', '')\n")
        assert "not the card of the class" in contract.check(str(tmp_path / "template.py"))[0].detail


class TestCheck:
    def test_the_template_keeps_the_contract(self):
        found = contract.check(TEMPLATE)
        assert [verdict.clause for verdict in found] == [clause.__name__ for clause in contract.CLAUSES]
        assert {verdict.state for verdict in found} == {"ok", "skipped"}

    def test_random_state_is_left_alone(self):
        before = torch.get_rng_state()
        contract.check("cnn")
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name' (mine.py, line 1)"),
            ("class Mine(", "SyntaxError"),
            ("x = 1", "expected one Adapter"),
            (
                "from harness.check.template import Template\nclass Mine(Template):\n    def __init__(self, width):\n        self.a = b",
                "NameError: name 'b' is not defined (mine.py, line 4)",
            ),
        ],
    )
    def test_what_cannot_be_built_is_one_line(self, tmp_path, text, words):
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(UserError) as error:
            contract.check(str(tmp_path / "mine.py"))
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    def test_unknown_model_and_size(self):
        with pytest.raises(UserError, match="did you mean"):
            contract.check("knn")
        with pytest.raises(UserError, match="size 'huge'"):
            contract.check("cnn", "huge")


class TestNewAdapter:
    def test_written_checked_and_run(self, harness, tmp_path):  # noqa: F811
        done = harness("new-adapter", "my_model")
        assert done.returncode == 0, done.stderr
        check, run = done.stdout.splitlines()
        assert (check, run) == ("harness check-adapter my_model.py", "harness run --model my_model.py --task QKI --epochs 1")
        assert "template" not in (tmp_path / "my_model.py").read_text().lower()

        done = harness(*check.split()[1:])
        assert done.returncode == 0, done.stdout + done.stderr
        header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert header == ["clause", "verdict", "detail"]
        assert [row[0] for row in rows] == [clause.__doc__ for clause in contract.CLAUSES]
        assert {row[1] for row in rows} == {"ok", "skipped"}

        done = harness(*run.split()[1:])
        assert done.returncode == 0, done.stderr
        (record,) = results.read_all(tmp_path / "results")
        assert record.model["name"] == "my_model"

    def test_violations_are_shown_and_counted(self, harness, tmp_path):  # noqa: F811
        path = contract.new_adapter("my_model", tmp_path)
        path.write_text(path.read_text().replace("known.sum(dim=1).clamp(min=1)", "known.shape[1]"))
        done = harness("check-adapter", "./my_model.py")
        assert done.returncode == 1
        assert re.search(r"padding does not change an embedding\tviolated\t.*differ by up to", done.stdout)
        refused(harness("check-adapter", "my_modle"), "unknown model 'my_modle'")
        refused(harness("new-adapter", "my_model"), "my_model.py: exists")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("My-Model", "lower-case letters"),
            ("2fast", "lower-case letters"),
            ("class", "lower-case letters"),
            ("../up", "lower-case letters"),
            ("kmer", "there is a model of that name"),
            ("floors", "there is a model of that name"),
            ("torch", "would hide"),
        ],
    )
    def test_names_that_are_refused(self, tmp_path, name, words):
        with pytest.raises(UserError, match=words):
            contract.new_adapter(name, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_overwritten_or_created_beside(self, tmp_path):
        with pytest.raises(UserError, match="no such folder"):
            contract.new_adapter("mine", tmp_path / "none")
        path = contract.new_adapter("mine", tmp_path)
        path.write_text("precious")
        with pytest.raises(UserError, match="exists"):
            contract.new_adapter("mine", tmp_path)
        assert path.read_text() == "precious"

    def test_it_is_short_and_reads_its_own_weights(self, tmp_path):
        path = contract.new_adapter("mine", tmp_path)
        assert len([line for line in path.read_text().splitlines() if line]) <= 40
        cls = registry.adapter_class(str(path))
        model = cls.from_checkpoint(size="base")
        torch.save(model.state_dict(), tmp_path / "mine.pt")
        again = cls.from_checkpoint(tmp_path / "mine.pt")
        assert again.audit.matched == again.audit.expected == 5
        assert torch.equal(again.dense.weight, model.dense.weight)
