"""What a notebook's cells printed and showed, made fit for a page that anybody may open: safe, labelled, and folded.

Called by `notebook_pages`. A picture keeps the words that its output's metadata has for those who do not see it; HTML
is cut down to text, tables and links; lines of progress are gathered, apart from what a cell had to say.
"""

import base64
import html
import re
from collections.abc import Callable

import bleach
from nbconvert.filters.ansi import strip_ansi
from nbformat import NotebookNode
from nbformat.v4 import new_output

from symmlib.progress import is_line
from symmlib.report import svg

TAGS = {
    *("a", "abbr", "b", "blockquote", "br", "code", "del", "details", "div", "em", "hr", "i", "img", "kbd", "p", "pre"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "dd", "dl", "dt", "li", "ol", "ul", "s", "span", "strong", "sub", "sup", "u"),
    *("caption", "col", "colgroup", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr"),
}
ATTRIBUTES = {
    "*": ["class", "id", "title", "lang"],
    "td": ["colspan", "rowspan", "headers"],
    "th": ["colspan", "rowspan", "scope", "headers"],
    "details": ["open"],
}
IMAGE = re.compile(
    r'\s*<img src="data:image/svg\+xml;base64,([^"]*)" alt="([^"]*)">\s*'
)  # as `svg.Figure` shows itself
PICTURES = {"image/png": "png", "image/jpeg": "jpeg"}
UNSAFE_SVG = re.compile(  # that may run, or load from elsewhere
    r"<script|<foreignobject|<image|<!entity|\son\w+\s*=|@import|(?:href|src)\s*=\s*[\"'](?!#)|url\((?!#)",
    re.IGNORECASE,
)
ROW = r"<tr\b.*?</tr>"
NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+(?:e[-+]?\d+)?|-?inf|nan|None|&lt;NA&gt;|", re.IGNORECASE)
MAX_LINES = 40  # of printed text; what is longer is folded


def prepared(outputs: list[NotebookNode], name: str, may_link: Callable[[str], bool]) -> list[NotebookNode]:
    """`outputs` of one cell as the template takes them; `name` keeps the ids of its pictures apart in the page.

    Each is a `display_data` with one entry: text/html that is safe as it stands, or text/plain; its metadata says under
    `kind` what it is: picture, html, progress, text, warning or error. `may_link`: whether a relative link is good.
    """
    found, progress = [], []
    for number, output in enumerate(_joined(outputs)):
        if output.output_type == "stream":
            told = [line for line in _as_seen(output.text) if is_line(line)]
            said = [line for line in _as_seen(output.text) if not is_line(line)]
            progress += told
            if text := "\n".join(said).strip("\n"):
                found.append(_text(text, "warning" if output.name == "stderr" else "text"))
        elif output.output_type == "error":
            found.append(_error(output))
        else:
            shown = _shown(output, f"{name}-{number}", may_link)
            progress += [part.data["text/plain"] for part in shown if part.metadata.kind == "progress"]
            found += [part for part in shown if part.metadata.kind != "progress"]
    return ([_text("\n".join(progress), "progress")] if progress else []) + found


def sanitized(text: str, may_link: Callable[[str], bool]) -> str:
    """HTML cut down to `TAGS` and attributes that neither load anything nor run; links lead to the web or stay here."""

    def allowed(tag: str, name: str, value: str) -> bool:
        if name in ATTRIBUTES["*"] or name in ATTRIBUTES.get(tag, ()):
            return True
        if tag == "a" and name == "href":
            return re.match(r"https?://|mailto:|#", value) is not None or (":" not in value and may_link(value))
        return tag == "img" and (name == "alt" or name == "src" and value.startswith("data:image/"))

    text = re.sub(r"<(style|script)\b.*?</\1\s*>", "", text, flags=re.DOTALL | re.IGNORECASE)
    protocols = ["http", "https", "mailto", "data"]
    return bleach.clean(text, tags=TAGS, attributes=allowed, protocols=protocols, strip=True)


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pieces of one stream that came one after the other as one: kernels flush where they please."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(NotebookNode(output))
    return joined


def _as_seen(text: str) -> list[str]:
    """Lines as a terminal shows them: without colours, and of what was overwritten only the last."""
    lines = strip_ansi(text).replace("\r\n", "\n").split("\n")
    return [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines]


def _shown(output: NotebookNode, name: str, may_link: Callable[[str], bool]) -> list[NotebookNode]:
    data, metadata = output.get("data", {}), output.get("metadata", {})
    words = _whole(data.get("text/plain", "")).strip()
    source, alt = _svg(data, metadata)
    if source:
        alt = alt or words or "a figure without a description"
        return [_output("text/html", _picture(source, name, words or alt, alt), "picture")]
    for kind in PICTURES.keys() & data.keys():
        alt = html.escape(str(metadata.get(kind, {}).get("alt") or words or "a picture without a description"))
        source = re.sub(r"[^A-Za-z0-9+/=]", "", _whole(data[kind]))
        return [_output("text/html", f'<img alt="{alt}" src="data:{kind};base64,{source}">', "picture")]
    if "text/html" in data:
        safe = _aligned(sanitized(_whole(data["text/html"]), may_link))
        return [_output("text/html", safe, "html")] if safe.strip() else []
    if words:
        return [_text(strip_ansi(words), "progress" if is_line(words) else "text")]
    return (
        [_text(f"[an output of the type {', '.join(sorted(data))}, which a page cannot show]", "text")] if data else []
    )


def _svg(data: dict, metadata: dict) -> tuple[str, str]:
    """The SVG among what an output has, as such or as the one image in its HTML, and its alternative text."""
    if "image/svg+xml" in data:
        return _whole(data["image/svg+xml"]), str(metadata.get("image/svg+xml", {}).get("alt") or "")
    image = IMAGE.fullmatch(_whole(data.get("text/html", "")))
    try:
        return (base64.b64decode(image[1]).decode(), html.unescape(image[2])) if image else ("", "")
    except ValueError:  # neither base64 nor UTF-8
        return "", ""


def _picture(picture: str, name: str, words: str, alt: str) -> str:
    """An SVG in the page, in the colours of the reader's scheme; one that could load or run anything, as an image."""
    title = words.split("\n")[0]
    if UNSAFE_SVG.search(_without_prolog(picture)):
        source = base64.b64encode(picture.encode()).decode()
        return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{source}">'
    return svg.adopted(picture, name, title, alt)


def _aligned(table: str) -> str:
    """HTML with columns of numbers marked as such; frames write their alignment into styles, which are not kept."""
    lines = [re.findall(r"<(t[hd])\b[^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(ROW, table, re.DOTALL)]
    cells = [(place, text) for line in lines for place, (tag, text) in enumerate(line) if tag == "td"]
    words = {place for place, text in cells if not NUMBER.fullmatch(text.strip())}
    numeric = {place for place, text in cells if text.strip()} - words

    def align(row: re.Match) -> str:
        places = iter(range(row[0].count("<t") + 1))
        tag = re.compile(r"<t([hd])\b(?:( [^>]*?)class=\"([^\"]*)\"([^>]*)|([^>]*))>")

        def mark(cell: re.Match) -> str:
            if next(places) not in numeric:
                return cell[0]
            if cell[3] is None:
                return f'<t{cell[1]} class="number"{cell[5]}>'
            return f'<t{cell[1]}{cell[2]}class="{cell[3]} number"{cell[4]}>'

        return tag.sub(mark, row[0])

    return re.sub(ROW, align, table, flags=re.DOTALL)


def _without_prolog(picture: str) -> str:
    """From the `<svg>` on, without the names of namespaces, metadata and comments: none of that is loaded."""
    picture = picture[max(picture.find("<svg"), 0) :]
    picture = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", picture, flags=re.DOTALL)
    return re.sub(r"\sxmlns(:\w+)?=[\"'][^\"']*[\"']", "", picture)


def _error(output: NotebookNode) -> NotebookNode:
    trace = strip_ansi("\n".join(output.get("traceback", []))).strip("\n")
    return _output("text/plain", trace, "error", error=f"{output.get('ename', '')}: {output.get('evalue', '')}")


def _text(text: str, kind: str) -> NotebookNode:
    return _output("text/plain", text, kind, lines=text.count("\n") + 1)


def _output(mime: str, content: str, kind: str, **more) -> NotebookNode:
    return new_output("display_data", {mime: content}, metadata={"kind": kind, **more})


def _whole(value: str | list[str]) -> str:
    return "".join(value) if isinstance(value, list) else str(value)
