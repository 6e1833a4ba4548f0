"""How the report looks: one small set of colours with a light and a dark value, and a look for every backend and arm.

Figures are drawn in the light values; `symmlib.report.svg` turns exactly these into CSS variables, which the page
defines for both colour schemes (`css_variables`). Colour says which algorithm, dash and marker say it again, so that
nothing rests on colour alone; the incumbent is grey.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = {  # name: (light, dark). Each line colour has at least 3:1 against both papers, text colours 4.5:1.
    "paper": ("#ffffff", "#15181d"),
    "ink": ("#1c2128", "#e6e9ee"),
    "muted": ("#57606a", "#a3adb8"),
    "rule": ("#d5dae0", "#373e47"),
    "grey": ("#7d8590", "#949da8"),
    "blue": ("#0a66c2", "#58a6ff"),
    "orange": ("#c65102", "#f0883e"),
    "green": ("#0b7f5f", "#3fc79a"),
    "purple": ("#8f4fbf", "#c297f2"),
    "pink": ("#c23a78", "#f58bb8"),
    "gold": ("#8d6f00", "#dcb43c"),
    "teal": ("#187d94", "#56c2d9"),
}
FONT_PT = 8.25  # 11 CSS pixels at the figure's natural size

RC = {
    "svg.fonttype": "none",  # text stays text: selectable, searchable, in the page's own font
    "svg.hashsalt": "symmlib",
    "text.parse_math": False,  # a backend named "$x" is a name, not a formula
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib, so that every machine lays text out alike
    "font.size": FONT_PT,
    "axes.titlesize": FONT_PT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.labelsize": FONT_PT,
    "axes.labelcolor": COLOURS["muted"][0],
    "axes.edgecolor": COLOURS["rule"][0],
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "grid.color": COLOURS["rule"][0],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "text.color": COLOURS["ink"][0],
    "xtick.color": COLOURS["rule"][0],
    "ytick.color": COLOURS["rule"][0],
    "xtick.labelcolor": COLOURS["muted"][0],
    "ytick.labelcolor": COLOURS["muted"][0],
    "xtick.labelsize": FONT_PT,
    "ytick.labelsize": FONT_PT,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Look:
    """How one backend or arm is drawn: a name of `COLOURS`, a matplotlib marker and line style."""

    colour: str
    marker: str
    dash: str | tuple

    @property
    def hex(self) -> str:
        return COLOURS[self.colour][0]

    @property
    def line(self) -> dict:
        """Keyword arguments for `Axes.plot`; markers are rimmed in paper, so that crossing lines stay apart."""
        rim = COLOURS["paper"][0]
        return {
            "color": self.hex,
            "marker": self.marker,
            "linestyle": self.dash,
            "markeredgecolor": rim,
            "markeredgewidth": 0.8,
        }


DASHED, DOTTED, DASH_DOT, LONG = (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2))
LOOKS = {
    "gloo": Look("grey", "s", "-"),
    "nccl": Look("grey", "D", "-"),
    "baseline": Look("grey", "s", "-"),
    "vllm-default": Look("grey", "P", "-"),
    "router": Look("blue", "o", "-"),
    "host/one_shot": Look("blue", "o", "-"),
    "host/two_shot": Look("green", "^", DASHED),
    "symm_mem": Look("blue", "o", DASHED),
    "symm_mem/one_shot": Look("blue", "o", "-"),
    "symm_mem/two_shot": Look("green", "^", DASHED),
    "symm_mem/multimem": Look("purple", "v", DOTTED),
    "triton/one_shot": Look("teal", "<", LONG),
    "triton/two_shot": Look("gold", ">", DASH_DOT),
    "nccl/symmetric": Look("ink", "d", DASHED),
    "vllm/shm": Look("orange", "D", DASH_DOT),
    "vllm/custom": Look("orange", "D", DASH_DOT),
    "vllm/symm_mem": Look("pink", "X", DOTTED),
    "vllm/flashinfer": Look("muted", "P", LONG),
}
SPARE = (
    Look("purple", "v", DOTTED),
    Look("pink", "X", DASHED),
    Look("gold", ">", LONG),
    Look("teal", "<", DASH_DOT),
    Look("green", "^", DASHED),
    Look("orange", "D", DASH_DOT),
)


def looks(names: Iterable[str], baseline: str | None = None) -> dict[str, Look]:
    """A look for each of `names`, the same in every figure; `baseline` is drawn in grey whatever it is called."""
    return {name: Look("grey", "s", "-") if name == baseline else LOOKS.get(name) or _spare(name) for name in names}


def css_variables(scheme: str) -> str:
    """`--ink: #...;` and so on for `scheme` 'light' or 'dark'."""
    return " ".join(f"--{name}: {pair[scheme == 'dark']};" for name, pair in COLOURS.items())


def _spare(name: str) -> Look:
    return SPARE[zlib.crc32(str(name).encode()) % len(SPARE)]
