"""Files of known motifs, the motifs that a model's attributions make, and how alike the two are."""

from __future__ import annotations

import numpy as np
import pytest

from harness.data import Window
from harness.errors import BadData
from harness.files.motif_files import Motif, read_motifs, write_meme
from harness.inference.attribution import Attribution, codes_of
from harness.inference.motifs import Seqlet, aggregate, compare, seqlets

MEME = """MEME version 4

ALPHABET= ACGU

strands: +

MOTIF  MA1 first  motif
letter-probability matrix: alength= 4 w= 2 nsites= 20 E= 0
 0.5 0.5 0 0
 0.1 0.2 0.3 0.4

MOTIF second
letter-probability matrix: alength= 4 w= 1
 0 0 0.999 0
URL http://example.org
"""
JASPAR = """>MA0004.1\tArnt
A  [ 4 19  0 ]
C  [16  0 20 ]
G  [ 0  1  0 ]
T  [ 0  0  0 ]
>raw
1 2
1 2
1 2
1 2
"""
ATTRACT = """>519\t3
0.0256\t0.9231\t0.0256\t0.0257
0.25\t0.25\t0.25\t0.25
0\t0\t0\t1
>M7\t4
1\t0\t0\t0
0\t1\t0\t0
0\t0\t1\t0
0\t0\t0\t1
"""
TABLE = """Gene_name\tGene_id\tMutated\tOrganism\tMotif\tMatrix_id\tScore
QKI\tENSG1\tno\tHomo_sapiens\tACU\t519\t1.0**
QKI\tENSG1\tno\tHomo_sapiens\tACA\t519\t1.0**
"""


def motifs_of(tmp_path, text, name="motifs.txt"):
    path = tmp_path / name
    path.write_text(text)
    return read_motifs(path)


class TestFiles:
    def test_meme_in_rna_letters(self, tmp_path):
        first, second = motifs_of(tmp_path, MEME)
        assert (first.name, first.sites, second.name, second.sites) == ("MA1 first motif", 20, "second", None)
        np.testing.assert_allclose(first.pwm, [[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]])
        np.testing.assert_allclose(second.pwm, [[0, 0, 1, 0]])

    def test_jaspar_with_and_without_letters(self, tmp_path):
        first, raw = motifs_of(tmp_path, JASPAR)
        assert (first.name, raw.name) == ("MA0004.1 Arnt", "raw")
        np.testing.assert_allclose(first.pwm, [[0.2, 0.8, 0, 0], [0.95, 0, 0.05, 0], [0, 1, 0, 0]])
        np.testing.assert_allclose(raw.pwm, np.full((2, 4), 0.25))

    def test_attract_is_named_by_the_table_beside_it(self, tmp_path):
        assert [one.name for one in motifs_of(tmp_path, ATTRACT, "pwm.txt")] == ["519", "M7"]
        (tmp_path / "ATtRACT_db.txt").write_text(TABLE)
        first, square = motifs_of(tmp_path, ATTRACT, "pwm.txt")
        assert (first.name, square.name) == ("QKI 519 (Homo_sapiens)", "M7")
        assert (first.consensus, square.consensus) == ("CaT", "ACGT"), "four rows of four are positions, not letters"

    def test_what_is_written_reads_back(self, tmp_path):
        motif = Motif("motif_1", np.array([[0.125, 0.125, 0.5, 0.25]]), sites=12)
        write_meme(tmp_path / "made.meme", [motif])
        (found,) = read_motifs(tmp_path / "made.meme")
        assert (found.name, found.sites) == ("motif_1", 12)
        np.testing.assert_allclose(found.pwm, motif.pwm)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,sequence\n", r"motifs.txt, line 1: 'id,sequence'; expected motifs in MEME or JASPAR"),
            ("MEME version 4\n", "holds no motif"),
            (MEME.replace("0.1 0.2 0.3 0.4", "0.1 0.2 0.3"), "line 10: .*expected the probabilities of A, C, G and T"),
            (MEME.replace("0.1 0.2 0.3 0.4", "0.1 0.2 0.3 0.9"), "line 10: .*whose sum is 1"),
            (MEME.replace("0.1 0.2 0.3 0.4", "0.1 0.2 0.3 nan"), "line 10: .*expected numbers"),
            (MEME.replace(" w= 2", ""), "line 8: the matrix of 'MA1 first motif' does not say its width"),
            (MEME.replace("ACGU", "ACDEFGHIKLMNPQRSTVWY"), "line 3: alphabet .*expected ACGT or ACGU"),
            (MEME.partition(" 0.1")[0], "line 8: 'MA1 first motif' has 1 rows of the 2"),
            ("MEME version 4\nMOTIF lost\n", "line 2: motif 'lost' has no letter-probability matrix"),
            (JASPAR.replace("C  [16", "A  [16"), "line 3: .*expected the counts of C"),
            (JASPAR.replace("[16  0 20 ]", "[16  0 ]"), r"line 1: .*\[3, 2, 3, 3\] numbers"),
            (JASPAR.replace("1 2\n", "", 1), "line 6: 3 lines below '>raw'; expected four"),
            (JASPAR.replace("1 2\n", "0 2\n"), "line 6: counts of '>raw' are negative, or a column has none"),
            (TABLE, "the table of ATtRACT's proteins; give the matrices, pwm.txt"),
        ],
    )
    def test_damaged_files_are_refused_with_the_line(self, tmp_path, text, message):
        with pytest.raises(BadData, match=message):
            motifs_of(tmp_path, text)


def made(count: int = 60, length: int = 40, site: str = "ACTAACG") -> tuple[Attribution, list[int]]:
    """Windows with one copy of a site each, whose letters alone contribute; and where the sites begin."""
    rng = np.random.default_rng(0)
    windows, starts, changes = [], [], rng.normal(0, 0.02, (count, length, 4)).astype(np.float32)
    for row in range(count):
        letters = "".join(rng.choice(list("ACGT"), length))
        start = int(rng.integers(0, length - len(site)))
        letters = letters[:start] + site + letters[start + len(site) :]
        windows.append(Window(letters))
        starts.append(start)
        for place, code in enumerate(codes_of(site)):
            changes[row, start + place] -= 1
            changes[row, start + place, code] = 0
    return Attribution(tuple(windows), np.zeros(count), changes - changes.mean(axis=2, keepdims=True), changes), starts


class TestOfAModel:
    @pytest.mark.slow
    def test_seqlets_lie_on_the_sites_and_make_one_motif_of_them(self):
        found, starts = made()
        called = seqlets(found)
        assert len(called) >= 50
        inside = [one for one in called if starts[one.window] - 1 <= one.start and one.end <= starts[one.window] + 8]
        assert len(inside) >= 0.9 * len(called)
        motif, *others = aggregate(found, called)
        assert (motif.name, motif.consensus) == ("motif_1", "ACTAACG")
        assert (motif.sites or 0) >= 50
        assert not others

    def test_attributions_that_are_all_equal_make_none(self):
        flat = Attribution((Window("ACGTACGT"),) * 20, np.zeros(20), np.zeros((20, 8, 4), np.float32))
        assert seqlets(flat) == []
        assert aggregate(flat, []) == []

    def test_few_seqlets_make_no_motif(self):
        found, _ = made(5)
        assert aggregate(found, [Seqlet(0, 3, 9, 1.0, 0.001)]) == []


class TestComparison:
    @pytest.mark.slow  # Tomtom is compiled on first use
    def test_a_motif_is_most_like_itself_and_its_reverse_complement(self):
        own = Motif("own", np.eye(4)[codes_of("ACTAACG")] * 0.9 + 0.025)
        rng = np.random.default_rng(1)
        others = [Motif(f"m{number}", rng.dirichlet(np.full(4, 0.3), 7)) for number in range(30)]
        turned = Motif("turned", own.pwm[::-1, ::-1])
        matches, notes = compare([own], [*others, turned])
        assert (matches[0].known, matches[0].strand) == ("turned", "-")
        assert matches[0].p < 1e-4
        assert matches[0].p <= matches[0].q < 0.01
        assert [match.p for match in matches] == sorted(match.p for match in matches)
        assert notes == []
        assert compare([own], [*others, turned], both_strands=False)[0][0].known != "turned"

    @pytest.mark.slow
    def test_few_known_motifs_are_said_to_make_p_values_doubtful(self):
        own = Motif("own", np.eye(4)[codes_of("ACTAACG")] * 0.9 + 0.025)
        matches, notes = compare([own], [own])
        assert matches[0].overlap == 7
        assert notes == ["known motifs: 1, fewer than 25, so that Tomtom's p-values depend on which these are"]

    def test_nothing_to_compare_gives_nothing(self):
        assert compare([], []) == ([], [])
