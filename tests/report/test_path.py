import pandas as pd
import pytest

from symmlib.report import figures
from symmlib.report.figures import path
from symmlib.routing import Route, RoutingTable, Table, show


@pytest.fixture
def routes() -> pd.DataFrame:
    found = (Route(1 << 16, "host/one_shot", (3 << 14, 5 << 14)), Route(None, "host/two_shot"))
    return show(RoutingTable((Table("cpu", 2, "bfloat16", "eager", False, "run x", found),)))


def test_the_path_of_the_router_follows_the_backend_that_it_picks_at_each_size(allreduce_summary, routes):
    way = path.on_path(allreduce_summary, routes)
    assert list(way.backend) == ["host/one_shot", "host/one_shot", "host/two_shot"]
    for draw, heights in ((figures.latency, [0.6, 3, 40]), (figures.bus_bandwidth, list(way.busbw_gbps))):
        axes = draw(allreduce_summary, routes).axes[0]
        (drawn,) = [line for line in axes.lines if line.get_linewidth() == path.PATH["linewidth"]]
        assert list(drawn.get_xdata()) == [1 << 10, 1 << 16, 1 << 20] and list(drawn.get_ydata()) == heights


@pytest.mark.parametrize("compact", [False, True])
def test_path_and_crossover_bands_are_named_in_the_key_and_in_words(allreduce_summary, routes, compact):
    figure = figures.latency(allreduce_summary, routes, compact=compact)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["router's path", "crossover, 95 %"]
    assert path.READING in figure.reading and path.READING_BAND in figure.reading
    (band,) = figure.axes[0].patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (3 << 14, 5 << 14)


def test_without_routes_of_the_measured_setting_there_is_no_path(allreduce_summary, routes):
    for table in (None, routes.assign(world_size=8), routes.assign(backend="nccl", crossover_low=pd.NA)):
        figure = figures.latency(allreduce_summary, table)
        assert "router" not in figure.reading and not figure.legends and not figure.axes[0].patches


def test_a_band_that_lies_beyond_the_measured_sizes_is_left_out(allreduce_summary, routes):
    beyond = routes.assign(crossover_low=2 << 20, crossover_high=3 << 20)
    assert path.bands(allreduce_summary, beyond) == []
    within = routes.assign(crossover_low=1 << 19, crossover_high=3 << 20)
    assert path.bands(allreduce_summary, within)[0] == (1 << 19, 1 << 20), "cut to the sizes that were measured"
