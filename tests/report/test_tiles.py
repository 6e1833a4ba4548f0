"""The page's large numbers are those of a load at which something was decided, and say what."""

import pytest

from symmlib.report import contents, sections
from symmlib.runs import write_csv


@pytest.fixture
def notes(whole_run, comparison):
    """Called with the verdicts at 8 and 4 requests/s; what stands below TPOT and TTFT."""

    def of(at_8: str, at_4: str = "faster", **changes) -> list[str]:
        verdicts = comparison.qps.map({4: at_4, 8: at_8})
        write_csv(whole_run / "results" / "comparison.csv", comparison.assign(verdict=verdicts, **changes))
        return [tile.note for tile in sections.tiles(contents.read(whole_run))[:2]]

    return of


@pytest.mark.parametrize(("at_8", "shown"), [("faster", 8), ("slower", 8), ("inconclusive", 4), ("equivalent", 4)])
def test_the_highest_load_at_which_something_was_decided_is_shown(notes, at_8, shown):
    verdict = at_8 if shown == 8 else "faster"
    assert notes(at_8) == [f"gloo → router, median at TP=2, QPS {shown}: {verdict}"] * 2


def test_where_nothing_was_decided_it_is_the_highest_load_and_a_smoke_run_says_no_verdict(notes):
    assert notes("inconclusive", "inconclusive")[0].endswith("QPS 8: inconclusive")
    assert notes("inconclusive", "inconclusive", tier="smoke")[0].endswith("QPS 8")
