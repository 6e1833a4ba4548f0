import json

from symmlib import notebooks
from symmlib.analysis import words
from symmlib.analysis.allreduce import correctness, medians
from symmlib.report import captioned


def test_a_table_of_ranks_that_shared_a_gpu_is_headed_by_the_banner(one_gpu_summary):
    html = captioned(medians(one_gpu_summary).round(1), one_gpu_summary)._repr_html_()
    assert f"<caption>{words.ONE_GPU_BANNER}</caption>" in html
    assert ">48<" in html and ">64 KiB<" in html  # 8 ranks, 6 µs each: no zeros that rounding took away
    assert words.ONE_GPU_BANNER in captioned(correctness(one_gpu_summary), one_gpu_summary)._repr_html_()


def test_any_other_table_is_shown_as_it_is(allreduce_summary):
    table = medians(allreduce_summary)
    assert captioned(table, allreduce_summary) is table
    assert captioned(table, allreduce_summary.assign(device="sm_90")) is table


def test_the_notebooks_show_no_table_of_times_without_it():
    for name in ("02_allreduce", "03_routing"):
        cells = json.loads(notebooks.path_of(name).read_text(encoding="utf-8"))["cells"]
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            last = "".join(cell["source"]).splitlines()[-1]
            tabular = any(
                name in last for name in ("correctness(", "medians(", "against(", "compare(", "costs(", ".round(")
            )
            assert not tabular or last.startswith("captioned("), f"{name}: {last}"
