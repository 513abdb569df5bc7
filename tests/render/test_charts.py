"""The charts: readable without colour, script or mouse, in whole numbers, up to now."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from fix_report import seconds
from gatepost_policy.render.html import charts, svg
from gatepost_policy.report import periods
from gatepost_policy.report.series import Series, Slot
from gatepost_policy.report.standing import Mark

NOW = seconds("2026-03-10T12:00:00")
SVG = "{http://www.w3.org/2000/svg}"


def day(text: str) -> float:
    return seconds(f"{text}T00:00:00")


def drawn(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(picture).replace("<svg", f'<svg xmlns="{SVG[1:-1]}"', 1))


def some() -> Series:
    slots = {
        (day("2025-12-01"), "ipv4"): Slot(4, 1),
        (day("2026-01-10"), "ipv6"): Slot(1),
        (day("2026-03-10"), "ipv4"): Slot(2, 2),
    }
    for slot in slots.values():
        slot.dkim.update({"pass": 1, "permerror": 1})
    return Series(day("2025-12-01"), NOW, slots)


def zoom(start: float, end: float) -> str:
    return f"?since={start:.0f}&until={end:.0f}"


@pytest.mark.parametrize("make", [charts.families, charts.results])
def test_every_mark_has_a_title_and_a_link(
    make: Callable[[Series, charts.Zoom | None], charts.Chart],
) -> None:
    for found in (make(some(), None), make(some(), zoom)):
        for picture in (found.wide, found.narrow):
            root = drawn(picture)
            within = [*root.iter(f"{SVG}g"), *root.iter(f"{SVG}a")]
            assert len(within) == 3
            titled = {shape for mark in within for shape in mark.iter() if mark.find(f"{SVG}title")
                      is not None}  # fmt: skip
            bars = [e for e in root.iter() if e.tag in (f"{SVG}rect", f"{SVG}path")]
            assert bars and all(bar in titled for bar in bars)
            assert "<script" not in picture
    links = re.findall(r'href="\?since=(\d+)&amp;until=(\d+)"', make(some(), zoom).wide)
    assert [float(links[0][0]), float(links[-1][1])] == [day("2025-12-01"), day("2026-03-16")]


def test_what_is_not_over_is_marked_and_said() -> None:
    found = charts.families(some(), None)
    assert found.wide_note == "Each bar is one week. The last, week of 2026-03-09, is not over."
    assert found.wide.count("stroke-dasharray") == 1
    assert found.wide.count("(not over)") == 1
    done = Series(day("2025-12-01"), day("2026-03-02"), some().slots)
    ended = Series(
        done.start, done.end, {key: slot for key, slot in done.slots.items() if key[0] < done.end}
    )
    assert "stroke-dasharray" not in charts.families(ended, None).wide
    assert charts.families(ended, None).wide_note == "Each bar is one week."


def test_a_phone_is_told_what_its_own_bars_are() -> None:
    """Its drawing has room for fewer bars, so each is a longer time."""
    many = Series(day("2021-12-01"), day("2026-03-16"), some().slots)
    found = charts.families(many, None)
    assert found.wide_note.startswith("Each bar is one month. The last, 2026-03, is not over.")
    assert found.narrow_note.startswith("Each bar is one quarter. The last, ")


def test_results_differ_by_shape_and_not_by_colour_alone() -> None:
    looks = [*charts.RESULTS.values()]
    assert len({look.pattern for look in looks}) == len(looks)
    assert len({look.pattern for look in charts.FAMILIES.values()}) == len(charts.FAMILIES)
    marks = [Mark(NOW - n * 10 * periods.DAY, "ipv4", word, False)
             for n, word in enumerate(("none", "permerror", "fail", "pass"))][::-1]  # fmt: skip
    found = charts.timeline(marks, some(), None)
    assert found is not None
    bare = re.sub(r"var\(--\w+\)|M[\d.,-]+|c[xy]=\"[\d.]+\"|<title>.*?</title>", "", found.wide)
    shapes = re.findall(r"<g>(<.*?>)</g>", bare)
    assert len(shapes) == len(set(shapes)) == 4


def test_marks_that_would_touch_become_bars() -> None:
    few = [Mark(NOW - n * periods.DAY * 9, "ipv4", "pass", False) for n in range(8)][::-1]
    assert charts.timeline(few, some(), None) is not None
    close = [Mark(NOW - n * 60, "ipv4", "pass", False) for n in range(8)][::-1]
    assert charts.timeline(close, some(), None) is None
    assert charts.timeline(few * 100, some(), None) is None


def test_one_message_makes_no_axis_into_the_future() -> None:
    mark = Mark(NOW - 300 * periods.DAY, "ipv4", "pass", True)
    found = charts.timeline([mark], Series(mark.at, NOW, {(mark.at, "ipv4"): Slot(1, 1)}), None)
    assert found is not None
    years = re.findall(r">(20\d\d)(?:-\d\d)?<", found.wide)
    assert years and max(years) == "2026"


def test_counts_are_whole_numbers() -> None:
    for most, want in ((1, (1, 1)), (4, (4, 1)), (7, (8, 2)), (1_133, (1_500, 500))):
        assert svg.top_of(most) == want
    for picture in (charts.families(some(), None).wide, charts.results(some(), None).wide):
        assert re.search(r">1<", picture) and not re.search(r">\d\.\d<", picture)


def test_what_goes_into_an_element_is_escaped() -> None:
    assert str(svg.tag("text", "<b>&", x=1.04, aria_label='"')) == (
        '<text x="1" aria-label="&#34;">&lt;b&gt;&amp;</text>'
    )


@pytest.mark.parametrize(
    ("first", "last"),
    [(1650, 2026), (1, 9999), (1971, 2600), (2026, 9999), (1, 2), (9999, 9999)],
)
@pytest.mark.parametrize("most", [1, 3, 8])
def test_any_span_of_years_has_an_axis(first: int, last: int, most: int) -> None:
    """A log may name any year: the axis stays short, and ends with the last year there is."""
    start = datetime(first, 1, 1, tzinfo=UTC).timestamp()
    end = datetime(last, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    frame = svg.Frame(10, 390, 10, 90, start, end)
    assert len(svg.dates(frame, 100, most)) <= 2 * (max(most, 4) + 2)
