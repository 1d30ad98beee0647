"""Colours of the report, and its size: contrast is that of WCAG 2.1 AA in light and dark."""

import re

import pytest
from made_records import checkpoint
from made_reports import put, study, with_pairs

from harness.evidence.report import report
from harness.evidence.report.page import TEMPLATES


def colours(theme):
    light = dict(re.findall(r"--([\w]+):(#[0-9a-f]{3,6})", (TEMPLATES / "style.css").read_text()))
    return light | (
        dict(re.findall(r"--([\w]+):(#[0-9a-f]{3,6})", (TEMPLATES / "dark.css").read_text())) if theme == "dark" else {}
    )


def contrast(one, other):
    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(letter * 2 for letter in colour[1:])
        shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_and_lines_stand_out(theme):
    found = colours(theme)
    for name in ("ink", "muted", "link", "bad"):
        assert contrast(found[name], found["paper"]) >= 4.5, name
    assert contrast(found["ink"], found["best"]) >= 4.5
    assert contrast(found["muted"], found["best"]) >= 4.5
    for name in ("accent", "warn", *(f"m{i}" for i in range(8)), "f0", "f1"):
        assert contrast(found[name], found["paper"]) >= 3, name
    for step in range(7):
        assert contrast(found[f"h{step}"], found[f"h{step}t"]) >= 4.5, step


def test_both_themes_have_the_same_colours():
    assert {name for name, value in colours("light").items()} == set(
        re.findall(r"--([\w]+):", (TEMPLATES / "dark.css").read_text())
    )


@pytest.mark.slow
def test_a_page_of_400_records_is_below_three_megabytes(tmp_path, monkeypatch):
    with_pairs(monkeypatch)
    path = report(study(tmp_path / "results", models=20, tasks=20, seeds=1, count=100), tmp_path / "report.html")
    assert path.stat().st_size < 3_000_000


def test_titles_of_forest_plots_are_not_cut_off(tmp_path):
    results, name = tmp_path / "results", "a_model_with_a_long_name_of_its_own"
    for seed in range(2):
        put(results, name, skill=3.0, seed=seed, checkpoint=checkpoint(), size="tiny")
        put(results, "cnn", skill=0.5, seed=seed)
    text = report(results, tmp_path / "report.html").read_text()
    picture = next(part for part in text.split("<svg ") if "QKI: against" in part)
    width = float(re.search(r'width="([\d.]+)"', picture)[1])
    ((x, title),) = re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>(QKI: against [^<]*)<', picture)
    assert float(x) + 6.5 * len(title) < width
