"""Sequence logos (Logomaker, Tareen & Kinney 2020, doi:10.1093/bioinformatics/btz921) as PNG and SVG."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .attribution import LETTERS, explaining

FORMATS = ("png", "svg")
PER_LETTER = 0.14  # inches
HEIGHT = 1.8
WIDTHS = (3.0, 40.0)  # inches, of the narrowest and the widest picture
DPI = 160


def draw(heights: np.ndarray, folder: Path, name: str, *, title: str, ylabel: str, first: int = 0) -> Iterable[Path]:
    """Draw letters as high as ``heights`` (L, 4) of A, C, G and T say, below 0 upside down, as ``name``.png and ``name``.svg.

    ``first`` is the number of the first position. Returns the two files.

    Raises:
        UserError: Logomaker is not installed.
    """
    logomaker = explaining("logomaker")
    import matplotlib
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = pd.DataFrame(heights, columns=list(LETTERS), index=range(first, first + len(heights)))
    width = min(max(PER_LETTER * len(frame) + 0.8, WIDTHS[0]), WIDTHS[1])
    files = [folder / f"{name}.{kind}" for kind in FORMATS]
    with matplotlib.rc_context({"svg.hashsalt": "harness", "font.size": 8}):
        figure = Figure(figsize=(width, HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to set identical")  # of letters without any height
            logomaker.Logo(frame, ax=axes, color_scheme="classic", shade_below=0.3, fade_below=0.3, show_spines=False)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.spines["left"].set_visible(True)
        axes.set(title=title, ylabel=ylabel)
        for file in files:
            figure.savefig(file, dpi=DPI, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files
