"""What a report is in a browser: for everyone, offline, on paper."""

import pytest

from tests.browser.conftest import PHONE, WIDE, axe


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_a_report(open_page, reported_run, scheme, width):
    found = axe(open_page(reported_run / "index.html", scheme, width).page)
    assert found["violations"] == []
    assert "color-contrast" in found["passes"]


def test_a_report_asks_for_nothing_but_itself(open_page, reported_run):
    file = reported_run / "index.html"
    opened = open_page(file)
    opened.page.wait_for_load_state("networkidle")
    assert opened.requests == [file.as_uri()]
