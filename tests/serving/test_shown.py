"""What a person sees of a server under load: where the experiment is, how much of the cell is done, the time left."""

import time

from symmlib.live import Status
from symmlib.serving.shown import Shown


class Seen(Status):
    """Keeps what a terminal or a notebook would draw."""

    def __init__(self):
        super().__init__()
        self.drawn: list[str] = []

    def _write(self, form: str) -> None:
        self.drawn.append(form)


def test_a_cell_shows_block_arm_rate_requests_done_and_the_time_left():
    status, place = Seen(), "block 2 of 3, server 5 of 9, router, TP=2"
    count = Shown(status, place, time.monotonic() + 600).counting("QPS 4", 28, None)
    for done in (0, 12, 28):
        count(done)
    assert [line.partition("] ")[2] for line in status.drawn] == [
        f"{place}, QPS 4: {done} of 28 requests, about 10 min left" for done in (0, 12, 28)
    ]


def test_a_time_that_has_run_out_is_not_shown():
    status = Seen()
    Shown(status, "block 1 of 1, server 1 of 1, gloo, TP=2", time.monotonic() - 5).counting("warm-up", 6, None)(6)
    assert status.drawn[0].endswith("gloo, TP=2, warm-up: 6 of 6 requests")
