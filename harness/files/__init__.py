"""Where bytes come from and how they are written: downloads, weights, tables, genomes, alignments, fingerprints."""
