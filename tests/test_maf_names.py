"""Names of MAF rows: dots in species and chromosomes, names without either, and names that stand for two things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.data import Locus
from harness.errors import BadData, UserError
from harness.files.alignments import SPECIES, build_store, check_order, open_alignment
from harness.files.alignments.names import split

pytestmark = pytest.mark.usefixtures("own_cache")


def write_maf(path: Path, *blocks: dict[str, str]) -> Path:
    """A MAF file of blocks that follow each other on the target."""
    lines, start = ["##maf version=1"], 0
    for block in blocks:
        length = len(next(iter(block.values())).replace("-", ""))
        lines.append("a score=0")
        for number, (name, letters) in enumerate(block.items()):
            own = len(letters.replace("-", ""))
            lines.append(f"s {name} {start if not number else 7} {own} + 1000 {letters}")
        lines.append("")
        start += length
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(path: Path, start: int = 0, end: int = 4, chromosome: str = "1") -> dict[str, str]:
    alignment = open_alignment(path)
    return dict(
        zip(alignment.species, (row.tobytes().decode() for row in alignment.columns(Locus(chromosome, start, end))), strict=True)
    )


@pytest.mark.parametrize(
    ("source", "species", "chromosome"),
    [
        ("hg38.chr1", "hg38", "chr1"),
        ("odoRosDiv1.KB229735", "odoRosDiv1", "KB229735"),
        ("galGal4.JH374918.1", "galGal4", "JH374918.1"),
        ("hg19.chr1.2.3", "hg19", "chr1.2.3"),
        ("T.koksaghyz.chr1", "T.koksaghyz", "chr1"),
        ("L.virosa.Chr2", "L.virosa", "Chr2"),
        ("L.chrysops.Chr2", "L.chrysops", "Chr2"),
        ("Athal.Chr1", "Athal", "Chr1"),
        ("Pan.troglodytes.2A", "Pan.troglodytes", "2A"),
        ("GCA_000001.2.scaffold", "GCA_000001.2", "scaffold"),
        ("GCA_028858775.2.chr1_hap1", "GCA_028858775.2", "chr1_hap1"),
        ("GCF_000001405.40.NC_000001.11", "GCF_000001405.40", "NC_000001.11"),
        ("GCF_000001405.chr1", "GCF_000001405", "chr1"),
        ("homo_sapiens.1", "homo_sapiens", "1"),
        ("homo_sapiens.KI270706.1", "homo_sapiens", "KI270706.1"),
        ("Lsat.scaffold.7", "Lsat", "scaffold.7"),
        ("Lsat.v8.LG1", "Lsat.v8", "LG1"),
        ("mm10.v1.chr1", "mm10.v1", "chr1"),
        ("panTro6", "panTro6", ""),
        ("L.sativa", "L.sativa", ""),
        ("GCF_000001405.40", "GCF_000001405.40", ""),
    ],
)
def test_species_and_chromosome_of_a_name(source, species, chromosome):
    assert split(source)[:2] == (species, chromosome)


def test_dotted_species_are_rows_of_their_own(tmp_path):
    path = write_maf(
        tmp_path / "l.maf",
        {"Athal.Chr1": "ACGT", "T.koksaghyz.Chr1": "AAAA", "L.virosa.Chr2": "CCCC", "L.saligna.Chr3": "GGGG"},
        {"Athal.Chr1": "ACGT", "T.koksaghyz.Chr1": "AAAA", "L.saligna.Chr3": "GGGG", "L.sativa.Chr3": "TTTT"},
    )
    first = {"Athal": "ACGT", "T.koksaghyz": "AAAA", "L.virosa": "CCCC", "L.saligna": "GGGG", "L.sativa": "----"}
    assert rows(path) == first
    assert rows(path, 4, 8) == first | {"L.virosa": "----", "L.sativa": "TTTT"}


def test_versions_of_an_assembly_are_rows_of_their_own(tmp_path):
    block = {"GCF_000001405.40.chr1": "ACGT", "GCA_028858775.2.chr1_hap1": "CCCC", "GCA_028858775.3.chr1_hap2": "GGGG"}
    assert rows(write_maf(tmp_path / "v.maf", block)) == {
        "GCF_000001405.40": "ACGT",
        "GCA_028858775.2": "CCCC",
        "GCA_028858775.3": "GGGG",
    }


@pytest.mark.parametrize(
    ("blocks", "first", "second"),
    [
        ([{"t.chr1": "ACGT", "L.2": "CCCC", "L.sativa.2": "GGGG"}], "L.2", "L.sativa.2"),
        ([{"t.chr1": "ACGT", "Lsat.foo.1": "CCCC"}, {"t.chr1": "ACGT", "Lsat.bar.2": "GGGG"}], "Lsat.bar.2", "Lsat.foo.1"),
    ],
)
def test_names_that_can_be_split_in_two_ways_are_refused_with_both(blocks, first, second, tmp_path):
    with pytest.raises(BadData, match=rf"x\.maf: are '{first}' and '{second}' of one species or of two\? Write the names as"):
        open_alignment(write_maf(tmp_path / "x.maf", *blocks))


def test_species_of_one_block_are_different_ones(tmp_path):
    block = {"t.chr1": "ACGT", "Pan.troglodytes.1": "CCCC", "Pan.paniscus.2": "GGGG"}
    assert rows(write_maf(tmp_path / "p.maf", block)) == {"t": "ACGT", "Pan.troglodytes": "CCCC", "Pan.paniscus": "GGGG"}


@pytest.mark.parametrize(("first", "second"), [("chr1", "1"), ("chrM", "chrMT"), ("MT", "chrM")])
def test_two_names_of_one_chromosome_are_refused_with_both(first, second, tmp_path):
    path = write_maf(tmp_path / "c.maf", {f"t.{first}": "ACGT", "o.chr3": "ACGT"}, {f"t.{second}": "TTTT", "o.chr3": "AAAA"})
    with pytest.raises(BadData, match=rf"c\.maf: chromosomes '{first}' and '{second}' of the target are one without 'chr'"):
        open_alignment(path)
    with pytest.raises(BadData, match=rf"'{first}' and '{second}'"):
        build_store(path, tmp_path / "store")
    assert not list(tmp_path.glob(".store*"))


def test_a_chromosome_of_two_sizes_is_refused(tmp_path):
    path = write_maf(tmp_path / "s.maf", {"t.chr1": "ACGT", "o.1": "ACGT"}, {"t.chr1": "ACGT", "o.1": "ACGT"})
    path.write_text(path.read_text()[::-1].replace("0001", "0002", 1)[::-1])
    with pytest.raises(BadData, match=r"s\.maf, line 8: o\.1 has 2,000 nt, and had 1,000 above"):
        open_alignment(path)


def test_names_without_a_chromosome(tmp_path):
    assert rows(write_maf(tmp_path / "o.maf", {"hg38.chr1": "ACGT", "panTro6": "CCCC", "asm73873": "GGGG"})) == {
        "hg38": "ACGT",
        "panTro6": "CCCC",
        "asm73873": "GGGG",
    }
    for name in ("Chromosome22", "hg38", "GCF_000001405.40"):
        path = write_maf(tmp_path / f"{name}.maf", {name: "ACGT", "o.chr1": "CCCC"})
        with pytest.raises(
            BadData, match=rf"line 3: the target's name '{name}' has no chromosome; write it as species\.chromosome"
        ):
            open_alignment(path)


# --- order --------------------------------------------------------------------------------------------------------------


def test_an_alignment_in_another_order_than_the_models_is_refused():
    path, trained = Path("y.maf"), ("near", "mid", "far")
    check_order(path, ("target", *trained), trained, "gpn_msa")
    check_order(path, ("hg38", "far", "near"), (), "a model of any rows")
    with pytest.raises(
        UserError, match=r"y\.maf: row 1 is 'far', where gpn_msa was trained with 'near'; give --species near,mid,far$"
    ):
        check_order(path, ("target", "far", "mid", "near"), trained, "gpn_msa")
    with pytest.raises(UserError, match=r"y\.maf: 2 rows after the target, and gpn_msa was trained on 3, in a fixed order"):
        check_order(path, ("target", "near", "mid"), trained, "gpn_msa")
    swapped = list(SPECIES["89"])
    swapped[3], swapped[4] = swapped[4], swapped[3]
    with pytest.raises(UserError, match=rf"row 4 is '{swapped[3]}', where gpn_msa was trained with .*; give --species 89$"):
        check_order(path, ("hg38", *swapped), SPECIES["89"], "gpn_msa")


def test_species_from_the_record_of_a_pretrained_model(tmp_path):
    path = write_maf(tmp_path / "y.maf", {"t.chr1": "ACGT", "far": "CCCC", "mid": "GGGG", "near": "TTTT"})
    record = tmp_path / "pretrain.json"
    record.write_text(json.dumps({"settings": {"context": 64, "species": ["t", "near", "mid", "far"]}}))
    assert open_alignment(path, str(record)).species == ("t", "near", "mid", "far")
    for content in ("{}", "[", '{"settings": {"species": 7}}', '{"settings": {"species": []}}'):
        record.write_text(content)
        with pytest.raises(UserError, match=r"pretrain\.json': not the pretrain\.json of a model that names its species"):
            open_alignment(path, str(record))
