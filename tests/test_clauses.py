"""Every clause of the contract can fail: for each, adapters that break it, made from the template, which keeps them all."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.adapter import MaskedModel
from harness.card import ModelCard
from harness.check import clauses
from harness.check.candidate import Candidate
from harness.check.clauses import CLAUSES
from harness.check.contract import Verdict, judge
from harness.check.template import SIZES, Template
from harness.data import Window
from harness.errors import BadData


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


class ReadsOneLetterLess(Template):
    def for_accelerator(self, batch):
        return batch | {"tokens": batch["tokens"][:, 1:]}


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


class NeedsTwoToTrain(Template):
    def __init__(self, width):
        super().__init__(width)
        self.norm = torch.nn.BatchNorm1d(width)

    def forward(self, batch):
        states = self.norm(self.embed(batch["tokens"]).transpose(1, 2)).transpose(1, 2)  # one value cannot be normalised
        known = (batch["tokens"] > 0).unsqueeze(-1)
        return (self.dense(torch.relu(self.conv(states.transpose(1, 2)).transpose(1, 2))) * known).sum(dim=1) / known.sum(
            1
        ).clamp(1)


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
    clauses.shapes: {AnotherWidth: r"\(1, 15\), expected \(1, 16\)"},
    clauses.batches: {OneRowForAll: r"\(1, 4\) for 3 windows"},
    clauses.no_trace: {
        Augments: "random state",
        SwitchesMode: "training mode",
        CountsItsCalls: "two different batches",
        WritesIntoAlignments: "writes into",
    },
    clauses.for_accelerator: {ReadsOneLetterLess: "for an accelerator, and as collated: differ by up to"},
    clauses.whole_window: {ReadsHead: "1500 nt: a change of its last letter", ReadsTail: "1500 nt: a change of its first"},
    clauses.too_long: {CutsAtItsLimit: "201 nt with max_length 200 is accepted", BreaksAtItsLimit: "IndexError: index out"},
    clauses.shortest: {NeedsSix: "BadData: a window of fewer than 6 nt", NeedsTwoToTrain: "ValueError: Expected more than 1"},
    clauses.unknown_letters: {
        DividesByNothing: "N alone: .* are not finite",
        ReadsNAsA: "N is read as A",
        MiscountsUnknown: "32 unknown",
    },
    clauses.both_strands: {ClaimsBothStrands: "reverse complement, and the window: differ by up to"},
    clauses.masked_bases: {ScoresAreNoProbabilities: "sum to 1.105", LeaksTheBase: "at the masked position"},
    clauses.gradients: {UnusedLayer: "2 of 7 get none: head.weight, head.bias", TrainsNothing: "tune='full'"},
    clauses.lora_layers: {
        TargetsNoLayer: "'query'.* no layer",
        TargetsConvolution: "conv, a Conv1d",
        TargetsUncalledLayer: "never called",
    },
    clauses.pickling: {HoldsLambda: "lambda"},
    clauses.saved_weights: {RandomOutsideOfState: "not in the state_dict"},
    clauses.unknown_size: {AnySize: "'huge' is accepted", KeyErrorForSize: "KeyError"},
}
# What breaks one of these breaks others too.
BROKEN_WITH_OTHERS = {
    clauses.shapes: {Whole: "int64, expected floating", NotFinite: "not finite"},
    clauses.batches: {NoTensors: "'loci'.* is a list"},
    clauses.alignment_is_optional: {NeedsAlignment: "TypeError"},
    clauses.padding: {AveragesPadding: "in a batch of 20 to 60 nt, and alone: differ by up to .* allowed"},
    clauses.order: {SeesItsPlace: "backwards"},
    clauses.determinism: {DropsInEvaluation: "twice differs by up to"},
    clauses.not_constant: {Constant: "largest standard deviation"},
}


def verdicts(cls) -> dict[str, Verdict]:
    """By clause, without `facts`, which is about a file."""
    torch.manual_seed(0)
    candidate = Candidate(cls.from_checkpoint(size="tiny").eval())
    return {clause.__name__: judge(clause, candidate) for clause in CLAUSES if clause is not clauses.facts}


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
    elsewhere = {clauses.facts, clauses.loading, clauses.base_states}  # in test_contract.py and test_bases.py
    assert tested | elsewhere == set(CLAUSES)
    for clause in CLAUSES:
        assert re.fullmatch(r"[^\n.]{20,110}", clause.__doc__), clause.__name__


def test_honest_adapters_break_nothing():
    for cls in (Template, HonestMask, BothStrands):
        assert violated(verdicts(cls)) == set()
    assert verdicts(HonestMask)["masked_bases"].state == "ok"
    skipped = {name for name, verdict in verdicts(Template).items() if verdict.state == "skipped"}
    optional = {"alignment_is_optional", "for_accelerator", "too_long", "both_strands", "masked_bases", "base_states", "loading"}
    assert skipped == optional


def test_true_claims_are_believed():
    found = verdicts(BothStrands)
    assert violated(found) == set()
    assert found["both_strands"].state == "ok"


def test_one_size_is_enough():
    assert verdicts(OneSize)["unknown_size"] == Verdict(
        "unknown_size", clauses.unknown_size.__doc__, "skipped", "the model has one size"
    )
