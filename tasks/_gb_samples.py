"""Simulated samples of the eight GenomicBenchmarks tasks: windows as long as the real ones, with planted motifs."""

from __future__ import annotations

from ._simulate import Motif

# Shares of windows with 0, 1, 2, … copies: more in longer windows. The best possible accuracy is then near 0.95, less where short
# windows have no room for a copy.
FEW = (0.02, 0.28, 0.4, 0.3)
MORE = (0.02, 0.08, 0.2, 0.3, 0.25, 0.15)
SIZES = (1200, 400, 400)  # windows in train, validation and test
SOURCE = "an arbitrary motif, of no biological meaning"

MOTIFS = {
    "dummy_mouse_enhancers_ensembl": Motif(
        "GATAAGCCATGTCA", "TAGACAGCTAGTCA", 0.86, MORE, SOURCE, 21, "", (331, 1200, 2381, 4776), (240, 80, 80)
    ),
    "demo_coding_vs_intergenomic_seqs": Motif("GCCACCATGG", "CGACGTCCAG", 0.8, FEW, SOURCE, 22, "", (200,), SIZES),
    "demo_human_or_worm": Motif("TTTCAGATTT", "ATCTTATTGT", 0.83, FEW, SOURCE, 23, "", (200,), SIZES),
    "human_enhancers_cohn": Motif("TGAGTCATCC", "CTTGACATGC", 0.8, MORE, SOURCE, 24, "", (500,), SIZES),
    "human_enhancers_ensembl": Motif(
        "CCACACCCTG", "CACTCCCACG", 0.9, FEW, SOURCE, 25, "", (2, 5, 9, 100, 150, 200, 269, 300, 400, 573), SIZES
    ),
    "human_ensembl_regulatory": Motif(
        "CCAGTAGGTG", "GTGACGACTG", 0.86, FEW, SOURCE, 26, "GATGCCAGTG", (71, 200, 350, 401, 600, 802), SIZES
    ),
    "human_nontata_promoters": Motif("GGGGCGGGAC", "GAGCGGGGGC", 0.85, FEW, SOURCE, 27, "", (251,), SIZES),
    "human_ocr_ensembl": Motif("ATGACTCAGC", "TCAAGTACGC", 0.83, FEW, SOURCE, 28, "", (71, 200, 315, 400, 593), SIZES),
}
