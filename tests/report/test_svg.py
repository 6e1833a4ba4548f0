"""Figures in a page take less room than matplotlib gives them, and look the same."""

import re

import pytest

from symmlib.report import svg


def points(svg_text: str) -> list[tuple[str, float, float]]:
    """Where the pens of all paths in `svg_text` go, to a hundredth of a point: (command, x, y), with H and V as L."""
    found = []
    for path in re.findall(r' d="([^"]*)"', svg_text):
        x = y = 0.0
        for command, arguments in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
            numbers = [round(float(number), 2) for number in arguments.split()]
            if numbers:
                x = numbers[-2] if len(numbers) > 1 else numbers[0] if command == "H" else x
                y = numbers[-1] if command != "H" else y
            found.append(("L" if command in "HV" else command, x, y))
    return found


def test_a_page_s_figures_take_less_room_than_a_notebook_s_and_draw_the_same(drawn):
    for draw in drawn.values():
        figure = draw()
        whole = svg._render(figure, "svg", facecolor="none").decode()
        short = svg.inline(figure, "short")
        assert len(short) < 0.9 * len(whole)
        assert points(short) == points(whole)
        refers = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', short))
        assert refers <= set(re.findall(r'\bid="([^"]+)"', short))


@pytest.mark.parametrize(
    "drawn",
    [
        '<path d="M0,0 L1,0"/>',
        '<path d="m 1 1 l 2 2 L 3 2"/>',
        '<path d="M 0 0 H 5 L 6 7"/>',
        '<g id="short-mine"/>',
    ],
)
def test_what_another_program_drew_is_shown_as_it_is(drawn):
    whole = drawn.replace("short-", "")
    assert drawn in svg.adopted(f'<svg viewBox="0 0 9 9"> {whole} </svg>', "short", "title", "words")


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 0 0 L 1 0 L 1 2 L 3 4 z", "M0 0H1V2L3 4z"),
        ("M 1 2 Q 3 4 5 6 L 5 7 z M 5 8 L 6 8", "M1 2Q3 4 5 6V7zM5 8H6"),
        ("M 1 1 z L 2 1", "M1 1zL2 1"),
        ("m 1 1 l 2 2 L 3 2", "m 1 1 l 2 2 L 3 2"),
        ("M 0 0 L 1e-05 0", "M 0 0 L 1e-05 0"),
        ("M 0 0 L", "M0 0L"),
        ("", ""),
    ],
)
def test_a_path_goes_along_an_axis_where_it_did(path, short):
    assert svg._along_axes(path) == short


def test_words_that_look_like_a_path_or_a_turn_are_left_alone():
    words = 'd="M 0 0 L 0 1.2345" transform="rotate(-0 1 2)"'
    shown = svg._shortened(f'<g id="figure_1"><text transform="rotate(-0 1 2) scale(3)"> {words} </text></g>')
    assert words in shown and "scale(3)" in shown
