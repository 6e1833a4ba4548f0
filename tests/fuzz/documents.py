"""Valid documents, damaged: what hypothesis and the coverage-guided fuzzer feed to whatever reads a file.

Damage to the structure finds what random bytes never reach, because those end at the first parser.
"""

import copy
import json

from hypothesis import strategies as st

TEXTS = (
    "", " ", "nan", "inf", "-1", "0", "1e400", "true", "null", "../../../tmp/x", "/etc/passwd", "..", ".", "a/b",
    "<script>alert(1)</script>", "]]>", "$(id)", "`id`", "${x}", "$x_{y}$", "$\\frac", "a\0b", "a\nb", "\u2028",
    "\ud800", "\U0001f600", "é" * 300, "-", "--host", "--hos=0.0.0.0", "--allowed-or", "--conf=x", "--uds",
    "\ufeff", '"', "'", "{{ 7 * 7 }}", "%s%n",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 2**31, 2**53 + 1, 2**63, 10**320)
ODD = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}]),
    st.text(max_size=12),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
)


@st.composite
def changed(draw, document):
    """`document` (plain data) with one to three places replaced, removed, repeated or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        document = _change(draw, document)
    return document


def _change(draw, node, depth: int = 0):
    if isinstance(node, dict | list) and node and (depth == 0 or draw(st.integers(0, 4))):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(keys))
        what = draw(st.sampled_from(["inside"] * 6 + ["remove", "repeat", "add"]))
        if what == "inside":
            node[key] = _change(draw, node[key], depth + 1)
        elif what == "remove":
            del node[key]
        elif isinstance(node, dict):
            node[draw(st.sampled_from(TEXTS) | st.text(max_size=6))] = node[key] if what == "repeat" else draw(ODD)
        else:
            node.insert(key, copy.deepcopy(node[key]) if what == "repeat" else draw(ODD))
        return node
    return draw(ODD)


@st.composite
def spliced(draw, text: str):
    """`text` with one to four stretches replaced by odd texts or by other stretches of itself."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        other = draw(st.integers(0, len(text)))
        new = draw(st.sampled_from(TEXTS) | st.text(max_size=8) | st.just(text[other : other + 30]))
        text = text[:start] + new + text[end:]
    return text


def toml(value) -> str:
    """`value` as TOML; inside tables and lists too, so that a document's values can be of any type."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool) or value is None:
        return str(bool(value)).lower()
    return str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)


def toml_document(value) -> str:
    """`value` as a TOML file, whose top level is a table."""
    sections = value.items() if isinstance(value, dict) else {"schema": value}.items()
    return "".join(f"{json.dumps(str(key))} = {toml(item)}\n" for key, item in sections)


def json_text(value) -> str:
    """`value` as JSON, NaN and infinities among it as Python writes them."""
    return json.dumps(value)


def csv_text(rows: list[list]) -> str:
    """`rows` as CSV, quoted where texts need it; what is no list of lists becomes some text."""
    if not isinstance(rows, list):
        return str(rows)
    lines = [row if isinstance(row, list) else [row] for row in rows]
    return "".join(",".join(_csv_cell(cell) for cell in line) + "\n" for line in lines)


def _csv_cell(cell) -> str:
    text = "" if cell is None else str(cell)
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\n\r') else text


def encoded(text: str) -> bytes:
    """UTF-8, and where a text has halves of characters, bytes that are none."""
    return text.encode("utf-8", errors="surrogatepass")
