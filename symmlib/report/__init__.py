"""What a run shows: its figures, its page, the index of all runs, and a copy to publish. Made from files alone.

`figures`, `captioned`, `listed` and `prose` serve notebooks too. Nothing here imports torch or communicators, so a
laptop without either makes reports.
"""

from symmlib.report.compare import compare
from symmlib.report.index import make_index
from symmlib.report.page import make_report
from symmlib.report.prose import listed, prose
from symmlib.report.publish import publish
from symmlib.report.tables import captioned

__all__ = ["captioned", "compare", "listed", "make_index", "make_report", "prose", "publish"]
