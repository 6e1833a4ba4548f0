"""Words in notebooks."""

import pandas as pd

from symmlib.report import listed, prose


def test_sentences_are_paragraphs_in_a_page_and_lines_in_a_text():
    said = prose("a < b.", "Done.")
    assert said._repr_html_() == "<p>a &lt; b.</p><p>Done.</p>"
    assert repr(said) == "a < b.\nDone."


def test_a_table_of_words_is_whole_and_stands_on_the_left():
    reason = "0.2 requests in flight in the second quarter, 0.3 in the last; " * 4
    shown = listed(pd.DataFrame({"gate": ["no growing queue"], "reason": [reason]}))
    assert reason in shown._repr_html_() and "text-align: left" in shown._repr_html_()
    assert "no growing queue" in repr(shown)
