"""matplotlib figures as inline SVG that takes its colours from the page, so that one figure serves light and dark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from harness.progress import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = 8  # of models in style.css, --m0 to --m7
GREYS = 2  # of floors, --f0 and --f1
STEPS = 7  # of the heat map, --h0 (worst) to --h6 (best), each with a colour of its text
DASHES = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
MARKERS = "osD^vPX*"
FONT = 11  # px; in a figure as wide as the page lets it be

# Colours that matplotlib is given, and the variables of style.css that take their places.
_NAMES = ["ink", "muted", "grid", "paper", "accent", *(f"m{i}" for i in range(COLOURS)), *(f"f{i}" for i in range(GREYS))]
_NAMES += [f"h{i}" for i in range(STEPS)] + [f"h{i}t" for i in range(STEPS)]
SENTINEL = {name: f"#0100{number:02x}" for number, name in enumerate(_NAMES)}
_VARIABLE = {colour: f"var(--{name})" for name, colour in SENTINEL.items()}
INK, MUTED, GRID, PAPER, ACCENT = (SENTINEL[name] for name in _NAMES[:5])

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "text.parse_math": False,  # a $ in a model's name is a $
    "font.size": FONT,
    "path.simplify": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": FONT + 1,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "xtick.major.size": 0,  # the grid says where
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
}


@dataclass(frozen=True)
class Look:
    """How a model is drawn everywhere: its colour, dash and marker."""

    colour: str
    dash: Any
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a line."""
        return {"color": self.colour, "linestyle": self.dash}


def look(number: int, floor: bool) -> Look:
    """The look of the ``number``-th model, or floor: floors are grey, so that they recede."""
    if floor:
        return Look(SENTINEL[f"f{number % GREYS}"], DASHES[(1 + number) % len(DASHES)], MARKERS[(number + 3) % len(MARKERS)])
    marker = MARKERS[(number + number // COLOURS) % len(MARKERS)]
    return Look(SENTINEL[f"m{number % COLOURS}"], DASHES[number // COLOURS % len(DASHES)], marker)


@dataclass
class Canvas:
    """A figure being drawn, ``width`` by ``height`` px; :meth:`mark` names what reacts to the pointer."""

    figure: Figure
    width: float
    height: float
    marks: dict[str, tuple[str, str]] = field(default_factory=dict)

    def axes(self, left: float = 48, bottom: float = 40, right: float = 12, top: float = 26) -> Axes:
        """Axes with margins in px, so that labels have room whatever the data."""
        width, height = self.width - left - right, self.height - bottom - top
        axes = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.patch.set_visible(False)
        return axes

    def mark(self, artist: Any, key: str, tip: str) -> None:
        """Show ``tip`` where the pointer is on an artist, and highlight what else has its ``key``."""
        name = f"mark{len(self.marks)}"
        artist.set_gid(name)
        self.marks[name] = key, tip


def svg(width: float, height: float, title: str, words: str, draw: Callable[[Canvas], None]) -> Markup:
    """What ``draw`` draws, as an ``<svg>`` element for HTML.

    ``title`` says what the figure shows and ``words`` what is to be seen in it, numbers included, for those who cannot see it.
    The same drawing gives the same text.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        canvas = Canvas(figure, width, height)
        draw(canvas)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = _cleaned(text.getvalue(), canvas, title)
    head = f'<svg role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    label = f' aria-label="{escape(printable(title))}">'
    return Markup(head + label + f"<desc>{escape(printable(words))}</desc>{body}</svg>")


def swatch(style: Look) -> Markup:
    """A line and a marker in a model's look, for a legend; without ids, since a page has it several times."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    def draw(canvas: Canvas) -> None:
        axes = canvas.figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 34), ylim=(0, 14))
        axes.axis("off")
        axes.plot([1, 33], [7, 7], linewidth=2, clip_on=False, **style.line)
        shape = MarkerStyle(style.marker)
        outline = shape.get_path().transformed(shape.get_transform() + Affine2D().scale(7).translate(17, 7))
        axes.add_patch(PathPatch(outline, color=style.colour, linewidth=0, clip_on=False))

    return Markup(svg(34, 14, "", "", draw).replace(' role="img"', ' aria-hidden="true"').replace(' aria-label=""', ""))


def few_ticks(axis: Axis, most: int = 6, whole: bool = False) -> None:
    """At most ``most`` intervals between an axis's ticks; ``whole``: at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, integer=whole))


def cost_ticks(axis: Axis, low: float, high: float, text: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis, also within a decade where it spans few."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def shortened(text: str, length: int) -> str:
    """Text of at most ``length`` letters, without its middle if it is longer, since labels differ at both ends."""
    text = printable(text).replace("\n", " ").replace("\t", " ")
    head = (length - 1) * 2 // 3
    return text if len(text) <= length else f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def room(labels: Sequence[str]) -> float:
    """px that the longest of some labels takes."""
    return max((len(label) for label in labels), default=0) * FONT * 0.56 + 12


# --- what matplotlib writes, made small and one with the page ------------------------------------------------------------

_TAG = re.compile(r"<(?!!)[^>]*>")  # texts and attributes have no < or > of their own: matplotlib escapes them
_NUMBER = re.compile(r"-?\d+\.\d+")
_STYLES = {
    "stroke-linecap: square": "",
    "stroke-linecap: butt": "",
    "stroke-linejoin: miter": "",
    "font-weight: 400": "",
}
# Styles that figures have many of, and the class that stands for each; the page has them as CSS.
CLASSES = {
    f"font-size:{FONT}px;text-anchor:middle;fill:var(--ink)": "tm",
    f"font-size:{FONT}px;text-anchor:end;fill:var(--ink)": "te",
    "fill:none;stroke:var(--grid);stroke-width:0.7": "gr",
    "fill:none;stroke:var(--muted);stroke-width:0.8": "ax",
    **{f"fill:var(--{name})": name for name in _NAMES},
}


def _cleaned(text: str, canvas: Canvas, title: str) -> str:
    """The inside of matplotlib's ``<svg>``: page colours and font, short numbers, and no ids but those that are used.

    They begin with a piece of the digest of figure and title, so that no two figures of a page share one.
    """
    text = text[text.index('<g id="figure_1">') : text.rindex("</svg>")]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([\w.]+)', text))
    prefix = f"s{hashlib.sha256((title + text).encode()).hexdigest()[:8]}-"
    text = _TAG.sub(lambda tag: _tag(tag[0], canvas, used, prefix), text)
    text = re.sub(r">\s+<", "><", text)
    for _ in range(4):  # groups that say nothing, from the inside out
        text = re.sub(r"<g>((?:<(?:text|path|use|rect)\b[^>]*/>|<text\b[^>]*>[^<]*</text>)*)</g>", r"\1", text)
    return text


def _tag(tag: str, canvas: Canvas, used: set[str], prefix: str) -> str:
    """One tag, shortened."""
    if mark := re.fullmatch(r'<g id="(mark\d+)">', tag):
        key, tip = canvas.marks[mark[1]]
        return f'<g data-m="{escape(key)}" data-t="{escape(printable(tip))}">'
    tag = re.sub(r' id="([\w.]+)"', lambda found: found[0] if found[1] in used else "", tag)
    tag = re.sub(r'(id="|url\(#|href="#)(?=[\w.])', rf"\1{prefix}", tag)
    if tag.startswith(("<path", "<text", "<use", "<rect", "<line", "<circle")):
        tag = re.sub(r'style="([^"]*)"', lambda found: _style(found[1]), tag)
        tag = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", tag)
        tag = _NUMBER.sub(lambda number: f"{round(float(number[0]), 1) + 0:g}", tag)
        if 'class="gr"' in tag:
            tag = re.sub(r' clip-path="[^"]*"', "", tag)
        tag = re.sub(r"\s*\n\s*", " ", tag)
        if tag.startswith("<path"):
            tag = re.sub(r"(?<=[\d.]) (?=[MLCQzZ])|(?<=[MLCQ]) ", "", tag)
    return tag.replace("xlink:href", "href")


def _style(style: str) -> str:
    parts = []
    for part in style.split("; "):
        name, _, value = part.strip().rstrip(";").partition(": ")
        if f"{name}: {value}" in _STYLES:
            parts.append(_STYLES[f"{name}: {value}"])
        elif name == "font":
            parts.append(f"font-size:{value.split('px')[0].split()[-1]}px")
        elif name != "font-family" and value:
            parts.append(f"{name}:{_VARIABLE.get(value, value)}")
    short = ";".join(filter(None, parts))
    return f'class="{CLASSES[short]}"' if short in CLASSES else f'style="{short}"'
