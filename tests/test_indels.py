"""Insertions, deletions and longer substitutions: how they are spelled, and the windows and columns that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness import registry
from harness.data import Example
from harness.errors import BadData, UserError
from harness.files.alignments import build_store
from harness.task import Reference, Splits
from harness.tasks._variant_alleles import Change, Variant
from harness.tasks.variants import from_variants

pytestmark = pytest.mark.usefixtures("own_cache")

LENGTH, CONTEXT = 2000, 16
HALF = CONTEXT // 2
RNG = np.random.default_rng(3)
CONTIGS = {str(name): "".join(RNG.choice(list("ACGT"), LENGTH)) for name in range(1, 8)}
OTHER = {"A": "C", "C": "G", "G": "T", "T": "A"}


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">chr{name}\n{letters}\n" for name, letters in CONTIGS.items()))
    return path


def at(position: int, length: int, name: str = "1") -> str:
    """The genome's letters from a 1-based position on."""
    return CONTIGS[name][position - 1 : position - 1 + length]


def inserted(position: int, letters: str) -> tuple[str, int, str, str]:
    """With its anchor before it, as a VCF has it."""
    return ("1", position, at(position, 1), at(position, 1) + letters)


def deleted(position: int, count: int) -> tuple[str, int, str, str]:
    return ("1", position, at(position, 1 + count), at(position, 1))


def replaced(position: int, count: int) -> tuple[str, int, str, str]:
    return ("1", position, at(position, count), "".join(OTHER[letter] for letter in at(position, count)))


SNVS = [
    (name, position, at(position, 1, name), OTHER[at(position, 1, name)])
    for name in CONTIGS
    for position in range(30, LENGTH - 30, 31)
]


def load(tmp_path: Path, variants: list, reference: Reference) -> Splits:
    """The splits of a VCF of these variants beside many SNVs; labels alternate."""
    lines = [f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\tLABEL={number % 2}\n" for number, (c, p, r, a) in enumerate([*SNVS, *variants])]
    (tmp_path / "v.vcf").write_text("##fileformat=VCFv4.2\n" + "".join(lines))
    return from_variants(tmp_path / "v.vcf").bind(reference).load("chromosome")


def by_id(splits: Splits) -> dict[str, Example]:
    return {example.id: example for part in splits.parts.values() for example in part}


# --- alleles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "alternate", "change"),
    [
        ("A", "G", (10, "A", "G", "snvs")),
        ("A", "AG", (11, "", "G", "indels")),
        ("AG", "A", (11, "G", "", "indels")),
        ("CAA", "CA", (11, "A", "", "indels")),
        ("AC", "GT", (10, "AC", "GT", "mnvs")),
        ("ACA", "GCT", (10, "ACA", "GCT", "mnvs")),
        ("AC", "AT", (11, "C", "T", "snvs")),
        ("CAT", "GAT", (10, "C", "G", "snvs")),
        ("ACC", "ATTC", (11, "C", "TT", "indels")),
        ("TTTT", "T", (10, "TTT", "", "indels")),
    ],
)  # fmt: skip
def test_letters_that_the_alleles_share_are_left_out(reference, alternate, change):
    variant = Variant("7", 10, reference, alternate, 1)
    assert (*variant.change, variant.change.kind) == change
    assert variant.id == f"7:10:{reference}:{alternate}"  # as the file has it
    assert variant.change.length == max(len(change[1]), len(change[2]))


def test_spellings_of_one_variant_are_one(genome, tmp_path):
    twice = [deleted(500, 3), ("1", 498, at(498, 8), at(498, 3) + at(504, 2))]
    assert Variant(*twice[0], 0).change == Variant(*twice[1], 0).change == Change(501, at(501, 3), "")
    splits = load(tmp_path, twice, Reference(genome, context=CONTEXT))
    assert splits.changes["conflicting"] == 2  # labels alternate
    splits = load(tmp_path, [twice[0], replaced(700, 2), twice[1]], Reference(genome, context=CONTEXT))
    assert splits.changes["duplicates"] == 1
    assert "{}:{}:{}:{}".format(*twice[0]) in by_id(splits)


# --- windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [CONTEXT, CONTEXT + 1, 64])
def test_both_windows_have_one_length(context, genome, tmp_path):
    variants = [inserted(500, "GATTA"), deleted(600, 4), replaced(700, 3), ("1", 800, at(800, 2), at(800, 1) + "GGG")]
    splits = load(tmp_path, variants, Reference(genome, context=context))
    found, half = by_id(splits), context // 2
    insertion, deletion, substitution, both = (found["{}:{}:{}:{}".format(*variant)] for variant in variants)
    for example in (insertion, deletion, substitution, both):
        assert [len(window) for window in example.windows] == [context, context]
        assert example.windows[0].locus is not None
        assert example.windows[1].locus is None
    for example, changed in ((insertion, 501), (deletion, 601), (substitution, 700)):
        assert example.windows[0].sequence == at(changed - half, context)
        assert example.windows[0].sequence[:half] == example.windows[1].sequence[:half]
    assert insertion.windows[1].sequence == (at(501 - half, half) + "GATTA" + at(501, context))[:context]
    assert deletion.windows[1].sequence == at(601 - half, half) + at(605, context - half)  # filled from the genome
    assert substitution.windows[1].sequence == at(700 - half, half) + variants[2][3] + at(703, context - half - 3)
    assert [example.changed for example in (insertion, deletion, substitution)] == [
        (half, half + 5), (half, half + 4), (half, half + 3)
    ]  # fmt: skip
    assert (splits.changes["indels"], splits.changes["mnvs"]) == (3, 1)
    assert all(
        example.changed is None for example in found.values() if len(example.id.split(":")[2] + example.id.split(":")[3]) == 2
    )


def test_a_file_without_indels_has_the_examples_that_it_had(genome, tmp_path):
    """Windows, their digest and the split of SNVs do not depend on what longer variants are in the file."""
    alone = load(tmp_path, [], Reference(genome, context=CONTEXT))
    assert "indels" not in alone.changes
    assert not {"mnvs", "too_long_for_context", "not_snv"} & set(alone.changes)
    beside = by_id(load(tmp_path, [deleted(600, 4)], Reference(genome, context=CONTEXT)))
    for name, example in by_id(alone).items():
        assert [(w.sequence, w.locus) for w in example.windows] == [(w.sequence, w.locus) for w in beside[name].windows]
        assert example.windows[0].locus == example.windows[1].locus


def test_what_is_too_long_for_the_context_is_counted(genome, tmp_path):
    fits, too_long = [inserted(500, "A" * 7), deleted(600, 7)], [inserted(700, "A" * 8), deleted(800, 8), replaced(900, 8)]
    splits = load(tmp_path, fits + too_long, Reference(genome, context=CONTEXT))
    assert splits.changes["too_long_for_context"] == 3
    assert splits.changes["indels"] == 2
    wide = load(tmp_path, fits + too_long, Reference(genome, context=32))
    assert "too_long_for_context" not in wide.changes
    letters = load(tmp_path, fits + too_long, Reference(context=1))  # of scores alone, which needs no genome
    assert letters.changes["too_long_for_context"] == 5
    (tmp_path / "only.vcf").write_text("".join(f"1\t{p}\t.\tA\tACC\t.\t.\tLABEL={p % 2}\n" for p in range(10, 30)))
    with pytest.raises(BadData, match=r"only\.vcf: every variant is longer than half a window of 2 nt; use a longer --context"):
        from_variants(tmp_path / "only.vcf").bind(Reference(genome, context=2)).load("position")


def test_the_whole_reference_allele_is_checked(genome, tmp_path):
    wrong = [
        ("1", 500, OTHER[at(500, 1)], OTHER[at(500, 1)] + "GG"),  # the anchor alone
        ("1", 600, at(600, 2) + OTHER[at(602, 1)], at(600, 1)),
        ("1", LENGTH, at(LENGTH, 1) + "ACG", at(LENGTH, 1)),  # beyond the end
    ]
    splits = load(tmp_path, wrong, Reference(genome, context=CONTEXT))
    assert (splits.changes["reference_mismatch"], splits.changes["off_genome"]) == (2, 1)
    assert "indels" not in splits.changes


def test_letters_shared_before_the_window_are_not_looked_at(genome, tmp_path):
    variant = ("1", 500, at(500, 40), at(500, 39) + OTHER[at(539, 1)])
    example = by_id(load(tmp_path, [variant], Reference(genome, context=CONTEXT)))["{}:{}:{}:{}".format(*variant)]
    assert example.changed is None
    assert example.windows[1].sequence == at(531, 8) + OTHER[at(539, 1)] + at(540, 7)


# --- columns ------------------------------------------------------------------------------------------------------------


def test_columns_of_deleted_bases_go_and_inserted_ones_are_gaps(genome, tmp_path):
    fastas = []
    for name, letters in CONTIGS.items():
        fastas.append(tmp_path / f"{name}.fa")
        fastas[-1].write_text(f">me chr{name}:0-{LENGTH}\n{letters}\n>you\n{letters.lower()[::-1].upper()}\n")
    store = build_store(fastas, tmp_path / "store")
    longer = OTHER[at(800, 1)] + "A" + OTHER[at(801, 1)]
    variants = [inserted(500, "GAT"), deleted(600, 4), replaced(700, 3), ("1", 800, at(800, 2), longer)]
    for reference in (Reference(genome, store, context=CONTEXT), Reference(alignment=store, context=CONTEXT)):
        found = by_id(load(tmp_path, variants, reference))
        pairs = [[window.alignment for window in found["{}:{}:{}:{}".format(*variant)].windows] for variant in variants]
        assert all(rows.shape == (2, CONTEXT) for pair in pairs for rows in pair)
        (before, after), (whole, without), (own, other), (short, long) = pairs
        assert (after[:, :HALF] == before[:, :HALF]).all()
        assert after[0, HALF : HALF + 3].tobytes() == b"GAT"
        assert after[1, HALF : HALF + 3].tobytes() == b"---"
        assert (after[:, HALF + 3 :] == before[:, HALF:-3]).all()
        assert (without[:, HALF : CONTEXT - 4] == whole[:, HALF + 4 :]).all()
        assert without[0, -4:].tobytes().decode() == at(601 - HALF + CONTEXT, 4)
        assert np.argwhere(own != other).tolist() == [[0, HALF], [0, HALF + 1], [0, HALF + 2]]
        assert long[0, HALF : HALF + 3].tobytes() == longer.encode()
        assert (long[1, HALF : HALF + 3] == [*short[1, HALF : HALF + 2], ord("-")]).all()


# --- scores by position and allele --------------------------------------------------------------------------------------


def test_scores_refuse_windows_that_have_no_locus_or_fill_them(genome, tmp_path):
    variant = Variant(*deleted(600, 2), 0)
    example = by_id(load(tmp_path, [deleted(600, 2)], Reference(genome, context=CONTEXT)))[variant.id]
    rows = [f"1\t{p}\t{at(p, 1)}\t{OTHER[at(p, 1)]}\t{p}\n" for p in range(560, 640)]
    (tmp_path / "scores.tsv").write_text("chrom\tpos\tref\talt\tscore\n" + "".join(rows))
    options = {"scores": str(tmp_path / "scores.tsv"), "column": "score"}
    for name, first in (("cadd", 0.0), ("phylop", variant.change.position)):
        adapter = registry.adapter_class(name).from_checkpoint(None, **options)
        with pytest.raises(UserError, match=rf"{name}: .* 1 of 2 windows .*insertions, deletions.* --option missing=mean"):
            adapter.collate(example.windows)
        filled = registry.adapter_class(name).from_checkpoint(None, missing="mean", **options)
        batch = filled.collate(example.windows)
        assert batch["scores"][:, 0].tolist() == [first, pytest.approx(np.mean(range(560, 640)))]
        assert filled.unknown_tokens(batch) == (1, 2)
        with pytest.raises(UserError, match=rf"{name}: scores are looked up by locus"):
            filled.collate(example.windows[1:])
