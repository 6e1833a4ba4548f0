import base64
import html
import io
import itertools
import math
import re

import pandas as pd
import pytest

from symmlib.analysis import serving, words
from symmlib.report import figures, style, svg
from symmlib.routing import Route, RoutingTable, Table, show

LINE_COLOURS = style.COLOURS.keys() - {"paper", "ink", "muted", "rule"}


def test_every_figure_states_its_finding_in_words_and_tells_how_to_read_it(drawn):
    assert set(drawn) == set(figures.__all__)
    for name, draw in drawn.items():
        figure = draw()
        assert len(figure.finding) > 20 and figure.alt.startswith(figure.finding), name
        assert figure.reading.endswith("."), name


def test_findings_are_computed_from_the_data(drawn, allreduce_summary):
    assert drawn["latency"]().finding == (
        "Fastest: host/one_shot up to 64 KiB, host/two_shot above, 10x to 167x faster than gloo"
    )
    slower = allreduce_summary.assign(
        median_us=allreduce_summary.median_us.where(allreduce_summary.backend != "host/two_shot", 999)
    )
    assert figures.latency(slower).finding.startswith("host/one_shot is the fastest at every size")
    level = allreduce_summary.assign(
        median_us=allreduce_summary.median_us.where(
            allreduce_summary.backend != "host/two_shot", [0.59, 2.95, 44.5] * 4 + [0]
        )
    )
    assert figures.latency(level).finding.startswith("host/two_shot is the fastest at every size")
    assert drawn["ttft_tpot"]().finding.startswith("Median time per token at QPS 8: router 3.42 ms")
    assert drawn["effects"]().finding == "Against gloo: router and vllm/shm faster in all 4 comparisons"


def test_every_figure_brings_the_numbers_that_it_draws_with_their_units(drawn):
    for name, draw in drawn.items():
        numbers = draw().numbers
        if name == "roofline":
            continue  # on this machine it is the reason in words why there is nothing to draw
        assert len(numbers) > 0 and numbers.columns.is_unique, name
        told = " ".join(numbers)
        assert any(unit in told for unit in (", ms", ", µs", ", GB/s", ", %", ", bytes", "ratio")), name
    latency = drawn["latency"]().numbers
    assert list(latency) == [
        "message size per rank",
        "gloo, µs",
        "host/one_shot, µs",
        "host/two_shot, µs",
        "vllm/shm, µs",
    ]
    assert latency.iloc[1].tolist() == ["64 KiB", 200, 3, 4, 9]


def test_a_notebook_s_pictures_are_the_same_bytes_from_the_same_data(drawn):
    for name, draw in drawn.items():
        assert draw()._repr_mimebundle_() == draw()._repr_mimebundle_(), name


def test_the_style_of_the_caller_changes_nothing(drawn):
    import matplotlib

    before = svg.inline(drawn["latency"](), "x")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert svg.inline(drawn["latency"](), "x") == before


def test_a_notebook_shows_the_titled_picture_and_words_where_it_cannot(drawn):
    figure = drawn["latency"]()
    data, metadata = figure._repr_mimebundle_()
    picture, alt = re.fullmatch(r'<img src="data:image/svg\+xml;base64,(.*?)" alt="(.*?)">', data["text/html"]).groups()
    assert figure.finding in base64.b64decode(picture).decode()
    assert html.unescape(alt) == figure.alt
    assert data["text/plain"].startswith(figure.finding)
    assert metadata["image/png"]["alt"] == figure.alt


def test_the_title_the_key_and_the_panels_of_a_picture_stand_below_each_other(drawn):
    figure = drawn["published_pr20759"]()
    texts = re.findall(r'<text[^>]* y="([0-9.]+)"[^>]*>([^<]+)', svg.titled(figure, "svg").decode())
    y = {words: float(height) for height, words in texts}
    key = [y[text.get_text()] for text in figure.legends[0].get_texts()]
    assert y[figure.finding] + 8 < min(key) and max(key) + 8 < y[figure.axes[0].get_title(loc="left")]


def drawn_of_one_gpu(summary, **options) -> dict[str, svg.Figure]:
    """The figures of what ranks measured that shared a GPU."""
    setting = {"dtype": "bfloat16", "mode": "graph"}
    routes = RoutingTable(
        tuple(
            Table("sm_90/one-gpu", ranks, *setting.values(), False, "run x", (Route(None, "triton/one_shot"),))
            for ranks in (2, 4, 8)
        )
    )
    held_out = pd.DataFrame({"world_size": (2, 4, 8), **setting, "bytes": 1024, "chosen": "triton/one_shot"})
    held_out = held_out.assign(best="triton/one_shot", regret=0.0)
    return {
        "latency": figures.latency(summary, **options),
        "bus_bandwidth": figures.bus_bandwidth(summary, **options),
        "routes": figures.routes(show(routes), summary, **options),
        "held_out": figures.held_out(summary, held_out, show(routes), **options),
        "roofline": figures.roofline(summary, {"hardware": {"gpus": [{"name": "NVIDIA H200"}]}}, **options),
    }


@pytest.mark.parametrize("compact", [False, True])
def test_figures_of_ranks_that_shared_a_gpu_say_so_on_the_drawing_and_in_words(one_gpu_summary, compact):
    for name, figure in drawn_of_one_gpu(one_gpu_summary, compact=compact).items():
        (text,) = [text.get_text() for text in figure.texts if text.get_gid() == "banner"]
        assert " ".join(text.split()) == words.ONE_GPU_BANNER, name
        assert figure.alt.endswith(words.ONE_GPU_BANNER), name
        assert words.ONE_GPU_BANNER not in figure.reading, f"{name} says it beside the drawing, too"
        assert "its memory (HBM) stands in for NVLink" in " ".join(re.findall(r">([^<]+)<", svg.inline(figure, "x")))


@pytest.mark.parametrize("compact", [False, True])
def test_the_banner_stands_between_the_title_and_the_key_at_full_size(one_gpu_summary, compact):
    for name, figure in drawn_of_one_gpu(one_gpu_summary, compact=compact).items():
        figure.savefig(io.BytesIO(), format="png")
        texts = [text for text in figure.texts if text.get_gid() == "banner"]
        banner = texts[0].get_window_extent()
        assert banner.y1 <= figure.bbox.height and banner.x1 <= figure.bbox.width, name
        panels = max(axes.get_tightbbox().y1 for axes in figure.axes)
        below = max([panels, *(legend.get_window_extent().y1 for legend in figure.legends)])
        assert below <= banner.y0, name


def test_figures_of_a_node_and_of_old_tables_carry_no_banner(allreduce_summary):
    for summary in (allreduce_summary, allreduce_summary.assign(device="sm_90"), allreduce_summary.assign(device=None)):
        figure = figures.latency(summary)
        assert not figure.banner and words.ONE_GPU_BANNER not in figure.alt + figure.reading


def test_panels_of_several_world_sizes_share_one_scale_and_one_key(one_gpu_summary):
    figure = figures.latency(one_gpu_summary)
    assert len(figure.axes) == 3 and len({axes.get_ylim() for axes in figure.axes}) == 1
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == list(one_gpu_summary.backend.unique())
    assert figures.latency(one_gpu_summary, compact=True).get_figheight() > 2 * figure.get_figheight()


def test_the_roofline_draws_the_share_of_the_bound_and_tells_what_it_leaves_out(one_gpu_summary):
    figure = drawn_of_one_gpu(one_gpu_summary)["roofline"]
    assert figure.finding.startswith("Nearest to its bound at the largest size on 2 ranks: triton/two_shot, ")
    for axes in figure.axes:
        lines = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert [line.get_xdata()[0] for line in lines] == [32 << 20] * 4
        assert all(0 < line.get_ydata()[0] < 100 for line in lines)
    assert "because all ranks' buffers fit the L2 cache (60 MiB)" in figure.reading
    assert "the memory of one H200 (4800 GB/s)" in figure.reading and "Above 100 %" not in figure.reading
    quicker = one_gpu_summary.assign(median_us=one_gpu_summary.median_us / 10)
    assert "Above 100 % the L2 cache has served a part." in drawn_of_one_gpu(quicker)["roofline"].reading


def test_where_there_is_no_bound_the_roofline_says_why_and_draws_no_axes(allreduce_summary):
    figure = figures.roofline(allreduce_summary.assign(device="cpu"))
    assert figure.finding.startswith("There is no bound to hold these times against: on the CPU ranks meet in caches")
    assert not any(axes.axison for axes in figure.axes)
    assert figures.roofline(allreduce_summary).finding.endswith("the link of this machine is not known")


def test_held_out_sizes_of_several_world_sizes_are_judged_each_by_its_own(one_gpu_summary):
    figure = drawn_of_one_gpu(one_gpu_summary)["held_out"]
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert min(line.get_ydata()[0] for line in axes.lines if len(line.get_ydata())) == 1


def test_wrong_sums_and_absent_backends_are_not_drawn(allreduce_summary):
    lying = allreduce_summary.assign(wrong=allreduce_summary.wrong.where(allreduce_summary.backend != "vllm/shm", 3))
    picture = svg.inline(figures.latency(lying), "x")
    assert "vllm/shm" not in picture and "symm_mem" not in picture


def test_a_backend_that_failed_is_not_drawn_where_it_failed(allreduce_summary):
    failed = (allreduce_summary.backend == "host/one_shot") & (allreduce_summary.bytes == 1024)
    some = allreduce_summary.assign(status=allreduce_summary.status.mask(failed, "failed"))
    assert figures.latency(some).finding.startswith("Fastest: host/two_shot up to 1 KiB, host/one_shot up to 64 KiB")


def test_where_nothing_ran_the_figure_says_so(allreduce_summary, comparison):
    nothing = allreduce_summary[allreduce_summary.status != "ok"]
    assert figures.latency(nothing).finding == "No all-reduce ran"
    assert figures.effects(comparison.assign(ratio=float("nan"))).finding == "There is no valid comparison"


def test_one_block_has_no_interval_and_no_verdict_in_the_effects(comparison):
    once = comparison.assign(tier="smoke", blocks=1, ci_low=float("nan"), ci_high=float("nan"))
    assert "seen in 1 block: no interval and no verdict" in figures.effects(once).finding
    assert "seen in 2 blocks" in figures.effects(once.assign(blocks=2)).finding


def test_times_that_are_far_apart_are_drawn_on_a_scale_on_which_all_can_be_read(serving_summary):
    gloo = serving_summary[serving_summary.arm == "gloo"]
    slow = gloo.assign(arm="floor", value_ms=100 * gloo.value_ms)
    near, far = figures.ttft_tpot(serving_summary), figures.ttft_tpot(pd.concat([serving_summary, slow]))
    assert {axes.get_yscale() for axes in near.axes} == {"linear"} and "logarithmic" not in near.reading
    assert {axes.get_yscale() for axes in far.axes} == {"log"} and "10-fold, the scale is logarithmic" in far.reading
    low, high = far.axes[0].get_ylim()
    assert 0 < low < high and len([y for y in far.axes[0].get_yticks() if low < y < high]) >= 3


def test_an_arm_without_an_interval_does_not_squeeze_those_that_have_one(comparison):
    floor = comparison.assign(
        treatment="floor", ratio=20, ci_low=float("nan"), ci_high=float("nan"), blocks=1, tier="smoke"
    )
    alone, beside = figures.effects(comparison), figures.effects(pd.concat([comparison, floor]))
    assert beside.axes[0].get_xlim() == alone.axes[0].get_xlim()
    assert "Not drawn, as so few blocks give no interval: floor; the table has it." in beside.reading
    assert "Not drawn" not in alone.reading and "floor seen in 1 block" in beside.finding
    assert set(beside.numbers["ratio"]) == {*alone.numbers["ratio"], 20}


def test_the_effects_show_the_band_that_verdicts_are_read_against(comparison):
    figure = figures.effects(comparison)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["as good as no change: ±3 %"]
    for axes in figure.axes:
        (band,) = axes.patches
        least, most = band.get_x(), band.get_x() + band.get_width()
        assert serving.verdict(1, least, most, 0.03) == "equivalent"
        assert serving.verdict(least - 1e-6, least - 0.05, 0.99, 0.03) == "faster"
        assert serving.verdict(most + 1e-6, 1.01, most + 0.05, 0.03) == "slower"
        assert serving.verdict(least + 1e-6, least - 0.05, 0.99, 0.03) == "inconclusive"
    assert figure.reading.endswith("The band is assumed: ±3 %; symmlib serve --aa measures it.")


def test_the_effects_draw_each_metric_s_own_band_and_say_where_it_comes_from(comparison):
    deltas = {"ttft": 0.05, "tpot": 0.0142}
    floor = pd.DataFrame([[metric, "median", delta, 6, 2, ""] for metric, delta in deltas.items()],
                         columns=[*serving.FLOOR_COLUMNS, "source"])  # fmt: skip
    figure = figures.effects(comparison.assign(delta=comparison.metric.map(deltas)), floor)
    for axes, delta in zip(figure.axes, (0.0142, 0.05), strict=True):
        (band,) = axes.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(serving.equivalence_band(delta))
    assert figure.reading.endswith(
        "The band is ±5 % for TTFT and ±1.4 % for TPOT, measured by an A/A experiment (6 blocks)."
    )


def test_several_settings_and_tensor_parallel_sizes_get_panels_of_their_own(allreduce_summary, serving_summary):
    four = pd.concat([allreduce_summary, allreduce_summary.assign(world_size=4)])
    assert len(figures.latency(four).axes) == 2
    assert len(figures.ttft_tpot(pd.concat([serving_summary, serving_summary.assign(tp=4)])).axes) == 4


def test_a_finding_about_several_settings_names_each(allreduce_summary):
    four = pd.concat([allreduce_summary, allreduce_summary.assign(world_size=4)])
    assert figures.latency(four).finding == (
        "Fastest on 2 and 4 ranks: host/one_shot up to 64 KiB, host/two_shot above"
    )
    slow = (four.world_size == 4) & (four.backend == "host/one_shot")
    assert figures.latency(four.assign(median_us=four.median_us.mask(slow, 500))).finding == (
        "Fastest on 2 ranks: host/one_shot up to 64 KiB, host/two_shot above; 4 ranks: host/two_shot at every size"
    )
    assert figures.bus_bandwidth(four).finding.startswith(
        "Peak bus bandwidth on 2 and 4 ranks: host/two_shot 26.2 GB/s at 1"
    )
    assert "2 ranks" not in figures.latency(allreduce_summary).finding
    eager_too = pd.concat([allreduce_summary, allreduce_summary.assign(mode="graph")])
    assert "on 2 ranks, eager and 2 ranks, graph: " in figures.latency(eager_too).finding


def test_an_incumbent_that_is_sometimes_best_is_not_called_one_times_slower(allreduce_summary):
    gloo_wins = (allreduce_summary.backend == "gloo") & (allreduce_summary.bytes == 1 << 20)
    mixed = allreduce_summary.assign(median_us=allreduce_summary.median_us.mask(gloo_wins, 10))
    assert figures.latency(mixed).finding.endswith("gloo above, up to 167x faster than gloo")


@pytest.mark.parametrize("compact", [False, True])
def test_a_route_too_narrow_for_its_name_is_named_in_a_key(compact):
    wide = [{"from_bytes": 0, "to_bytes": 1 << 16, "backend": "host/one_shot"}]
    narrow = [{"from_bytes": 1 << 16, "to_bytes": 1 << 17, "backend": "host/two_shot"}]
    last = [{"from_bytes": 1 << 17, "to_bytes": float("nan"), "backend": "host/one_shot"}]
    setting = {"device": "cpu", "world_size": 2, "dtype": "bfloat16", "mode": "eager", "multicast": False}
    routes = pd.DataFrame([{**setting, **row} for row in wide + narrow + last])
    names = [text.get_text().replace("\n", "") for text in figures.routes(routes, compact=compact).axes[0].texts]
    assert "host/one_shot" in names and "host/two_shot" not in names
    (key,) = figures.routes(routes, compact=compact).legends
    assert [text.get_text() for text in key.get_texts()] == ["host/one_shot", "host/two_shot"]
    assert not figures.routes(routes.query("backend == 'host/one_shot'"), compact=compact).legends


@pytest.mark.parametrize("reach", [1.01, 1.13, 1.3, 1.9, 3, 8, 30])
def test_the_effects_axis_has_a_tick_at_no_change_and_few_others(comparison, reach):
    axes = figures.effects(comparison.assign(ratio=1 / reach, ci_low=1 / reach, ci_high=reach)).axes[0]
    ticks = list(axes.xaxis.get_majorticklocs())
    assert 1 in ticks and 2 <= len(ticks) <= 5


def test_an_interval_that_tells_nothing_is_cut_and_squeezes_no_other(comparison):
    hopeless = (comparison.treatment == "vllm/shm") & (comparison.qps == 8)
    wide = comparison.assign(ci_high=comparison.ci_high.mask(hopeless, 400))
    figure = figures.effects(wide)
    assert figure.axes[0].get_xlim()[1] < 3 and "An arrow: the bar goes on beyond the axis." in figure.reading
    arrows = [line for line in figure.axes[0].lines if line.get_marker() == ">"]
    assert len(arrows) == 1 and "An arrow" not in figures.effects(comparison).reading
    assert figure.numbers["95 % to"].max() == 400


def test_the_effects_leave_invalid_cells_out_and_head_each_pair(comparison):
    broken = (comparison.treatment == "vllm/shm") & (comparison.qps == 8)
    figure = figures.effects(comparison.assign(verdict=comparison.verdict.mask(broken, "invalid")))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["QPS 4", "QPS 8", "QPS 4"]
    assert [text.get_text() for text in axes.texts] == ["router / gloo", "vllm/shm / gloo"]
    assert figure.finding == "Against gloo: router faster in all 4 comparisons; vllm/shm faster in all 2 comparisons"


def test_a_prediction_is_drawn_beside_what_was_measured_by_a_mark_that_no_arm_has(prediction):
    figure = figures.predicted_beside_measured(prediction)
    assert figure.finding == "All-reduce explains 74 to 88 % of the change in TPOT between gloo and router"
    assert "TTFT router − gloo, QPS 4: predicted −20.7 ms, measured −23.5 ms" in figure.alt
    assert len(figure.axes) == 2
    for axes in figure.axes:
        marks = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(marks) == 4  # two pairs, two rates
        bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_alpha()]
        assert len(bars) == 4
    assert all(look.marker != "x" for look in [*style.LOOKS.values(), *style.SPARE])
    compact = figures.predicted_beside_measured(prediction, compact=True)
    assert len(compact.axes) == 2 and len(compact.legends) == 1


def test_a_prediction_beside_one_block_claims_no_share(prediction):
    nothing = dict.fromkeys(["measured_low_ms", "measured_high_ms", "explained"], float("nan"))
    figure = figures.predicted_beside_measured(prediction.assign(**nothing))
    assert "explains" not in figure.alt and "one block cannot tell that from chance" in figure.finding
    assert "one block gives no interval" in figure.reading


def test_without_a_prediction_the_figure_says_so(prediction):
    figure = figures.predicted_beside_measured(prediction.assign(predicted_ms=float("nan")))
    assert figure.finding == "There is no prediction to lay beside what was measured"


def test_backends_of_one_machine_differ_in_colour_marker_and_dash():
    for names in [
        ("gloo", "host/one_shot", "host/two_shot", "vllm/shm"),
        ("gloo", "router", "vllm/shm"),
        ("nccl", "symm_mem/one_shot", "symm_mem/two_shot", "symm_mem/multimem", "vllm/custom"),
    ]:
        looks = style.looks(names)
        for one, other in itertools.combinations(names, 2):
            assert looks[one].colour != looks[other].colour
            assert (looks[one].marker, looks[one].dash) != (looks[other].marker, looks[other].dash)


def test_the_baseline_is_grey_whatever_its_name():
    assert style.looks(["my-server", "router"], baseline="my-server")["my-server"].colour == "grey"


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_keep_their_contrast_on_paper(scheme):
    paper = style.COLOURS["paper"][scheme]
    for name in LINE_COLOURS:
        assert contrast(style.COLOURS[name][scheme], paper) >= 3, name
    for name in ("ink", "muted", "blue"):
        assert contrast(style.COLOURS[name][scheme], paper) >= 4.5, name


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("most", [4, 5])
@pytest.mark.parametrize(
    "low, high", [(0.845, 1.32), (0.94, 1.04), (0.97, 1.03), (0.28, 1.2), (0.05, 1.3), (0.003, 500)]
)
def test_an_axis_of_ratios_has_ticks_beside_1_however_narrow_or_wide_it_is(low, high, most):
    ticks = figures.serving._ratio_ticks(low, high, most)
    assert 1 in ticks and 3 <= len(ticks) <= most and ticks == sorted(ticks)
    assert low <= ticks[0] and ticks[-1] <= high
    assert math.log(ticks[-1] / ticks[0]) > math.log(high / low) / 3, "a good part of the axis"
