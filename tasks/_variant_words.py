"""What files say of a variant besides its label: its consequence and its gene, each as one word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

CONSEQUENCE_COLUMNS = ("consequence", "molecular_consequence", "molecularconsequence", "mc")
GENE_COLUMNS = ("gene", "genesymbol", "gene_symbol", "symbol", "genename", "gene_name", "geneinfo")
INFO = ("MC", "CSQ", "ANN", "GENEINFO", "GENE", "SYMBOL")  # fields of a VCF's INFO
FORMAT = (
    "Allele",
    "Consequence",
    "IMPACT",
    "SYMBOL",
)  # how entries of ANN begin, and those of CSQ unless the header says another

# Ensembl's order of severity, the worst first: https://www.ensembl.org/info/genome/variation/prediction/predicted_data.html
SEVERITY = (
    *("transcript_ablation", "splice_acceptor_variant", "splice_donor_variant", "stop_gained", "nonsense", "frameshift_variant"),
    *("stop_lost", "start_lost", "initiator_codon_variant", "transcript_amplification", "feature_elongation"),
    *("feature_truncation", "inframe_insertion", "inframe_deletion", "inframe_indel", "missense_variant"),
    *("protein_altering_variant", "splice_donor_5th_base_variant", "splice_region_variant", "splice_donor_region_variant"),
    *("splice_polypyrimidine_tract_variant", "incomplete_terminal_codon_variant", "start_retained_variant"),
    *("stop_retained_variant", "synonymous_variant", "coding_sequence_variant", "mature_mirna_variant", "5_prime_utr_variant"),
    *("3_prime_utr_variant", "non_coding_transcript_exon_variant", "intron_variant", "nmd_transcript_variant"),
    *("non_coding_transcript_variant", "coding_transcript_variant", "upstream_gene_variant", "genic_upstream_transcript_variant"),
    *("downstream_gene_variant", "genic_downstream_transcript_variant", "tfbs_ablation", "tf_binding_site_variant"),
    *("regulatory_region_variant", "intergenic_variant", "sequence_variant"),
)
_RANK = {term: rank for rank, term in enumerate(SEVERITY)}


def consequence(text: str) -> str:
    """The most severe term of the Sequence Ontology in a text; without one of SEVERITY, its first word."""
    words = [word for word in re.split(r"[|,;&/]+", re.sub(r"[\s-]+", "_", text.strip().lower())) if re.search("[a-z]", word)]
    words = [word.strip("_") for word in words if not word.startswith("so:")]
    return min(words, key=lambda word: _RANK.get(word, len(_RANK)), default="")


def gene(text: str) -> str:
    """The first gene of a list such as ``BRCA1:672|NBR2:10230`` or ``BRCA1;NBR2``."""
    return next((word for part in re.split(r"[|,;]", text) if (word := part.split(":")[0].strip(" .-"))), "")


def of_info(info: Mapping[str, str], formats: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """Consequence and gene from fields of a VCF's INFO; ``formats`` holds the parts of a field's entries, where declared."""
    for field in ("CSQ", "ANN"):
        if text := info.get(field):
            names = [name.lower() for name in formats.get(field, FORMAT)]
            entries = [dict(zip(names, entry.split("|"), strict=False)) for entry in text.split(",")]
            found = [(consequence(entry.get("consequence", "")), entry.get("symbol", "")) for entry in entries]
            worst = min(found, key=lambda pair: _RANK.get(pair[0], len(_RANK)))
            return worst[0], gene(worst[1])
    genes = next((info[field] for field in ("GENEINFO", "GENE", "SYMBOL") if info.get(field)), "")
    return consequence(info.get("MC", "")), gene(genes)


def declared_format(line: str) -> tuple[str, list[str]] | None:
    """The field that a header line of a VCF declares, and the parts of its entries: ``Format: Allele|Consequence|…``."""
    found = re.match(r'##INFO=<ID=(CSQ),.*Format:\s*"?([\w|.-]+)', line)
    return (found[1], found[2].split("|")) if found else None
