"""Words as notebooks show them: JupyterLab breaks printed lines within words, and sets tables to the right."""

from html import escape

import pandas as pd


def prose(*sentences: str) -> "Prose":
    """What a cell ends with, or displays, to say `sentences`."""
    return Prose(sentences)


def listed(table: pd.DataFrame) -> "Listed":
    """What a cell ends with to show `table`, of words, to be read from the left; without its index."""
    return Listed(table)


class Prose:
    """Sentences, each a paragraph; in a text, each a line. Made by `prose`."""

    def __init__(self, sentences: tuple[str, ...]):
        self.sentences = sentences

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences)


class Listed:
    """A table of words. Made by `listed`."""

    def __init__(self, table: pd.DataFrame):
        self.table = table

    def __repr__(self) -> str:
        return self.table.to_string(index=False)

    def _repr_html_(self) -> str:
        left = [{"selector": "th, td", "props": "text-align: left"}]
        return self.table.style.hide(axis="index").set_table_styles(left).to_html()
