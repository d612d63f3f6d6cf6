"""The page in a real Chromium: at a desk's width and a telephone's, in light and in dark, with a pointer and without."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.reporting.compare import compare_reports
from resnet_deploy.reporting.writing import write_report
from tests.helpers.browser import Browser, Page
from tests.helpers.reports import full, small

pytestmark = pytest.mark.slow

DESK, TELEPHONE = 1280, 360
Open = Callable[..., Page]
HOSTILE = [
    '<img src=x onerror="hacked=1">', "</script><script>hacked=1</script>", "</style><script>hacked=1</script>",
    '"><svg onload="hacked=1">', "' onmouseover='hacked=1", "</title><iframe src=javascript:top.hacked=1>", "a&lt;b", "]]>-->",
    "\u202egnihsif\u2066", "name\x00with\x1b[31mcontrols\ud800", "x" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of a full run, of an older and smaller one, and of two that are compared."""
    folder = tmp_path_factory.mktemp("pages")
    write_report(full(), folder / "full.html")
    write_report(small(with_samples=False), folder / "small.html")
    write_report(compare_reports(small(), small(1.08, seed=9), limit=0.05), folder / "compared.html")
    return folder


@pytest.fixture
def shown(browser: Browser) -> Iterator[Open]:
    pages: list[Page] = []

    def show(path: Path, width: int = DESK, dark: bool = False) -> Page:
        pages.append(browser.open(path, width, dark=dark))
        return pages[-1]

    yield show
    for page in pages:
        page.close()


def overflows(page: Page, width: int) -> bool:
    """Whether something reaches beyond the screen; a telephone would also zoom out."""
    inner, held, reach = page.run("[innerWidth, document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    return bool(inner != width or reach > held)


@pytest.mark.parametrize("name", ["full", "small", "compared"])
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_it_loads_nothing_complains_of_nothing_and_fits(name: str, width: int, files: Path, shown: Open) -> None:
    page = shown(files / f"{name}.html", width)
    assert page.requests == [] and page.complaints == []
    assert not overflows(page, width)
    assert page.run("document.compatMode") == "CSS1Compat" and page.run("document.body.firstChild.nodeName") == "MAIN"
    charts = page.run("[...document.querySelectorAll('svg.chart')].map(e => [e.parentNode.className, e.clientWidth > 0])")
    assert charts and {kind for kind, visible in charts if visible} == {"narrow" if width == TELEPHONE else "wide"}


TEXTS = """[...document.querySelectorAll('svg.chart')].filter(e => e.clientWidth).map(chart => [
chart.getAttribute('aria-label'), [...chart.querySelectorAll('text')].map(e => { const b = e.getBoundingClientRect();
return [e.textContent, b.left, b.top, b.right, b.bottom]; })])"""


@pytest.mark.parametrize("name", ["full", "small", "compared"])
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_the_charts_texts_are_whole_and_do_not_overlap(name: str, width: int, files: Path, shown: Open) -> None:
    for chart, texts in shown(files / f"{name}.html", width).run(TEXTS):
        for text, left, _, right, _ in texts:
            assert left >= 0 and right <= width, f"{chart}: {text} is cut off"
        for a, b in itertools.combinations(texts, 2):
            across, down = min(a[3], b[3]) - max(a[1], b[1]), min(a[4], b[4]) - max(a[2], b[2])
            assert across < 1.5 or down < 5, f"{chart}: {a[0]} and {b[0]} overlap"


def contrast(one: list[float], other: list[float]) -> float:
    """Of two colours, as WCAG 2 defines it."""
    shades = []
    for colour in (one, other):
        parts = [part / 255 for part in colour]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        shades.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_in_light_and_in_dark(dark: bool, files: Path, shown: Open) -> None:
    page = shown(files / "full.html", dark=dark)

    def colour(selector: str, what: str) -> list[float]:
        text: str = page.run(f"getComputedStyle(document.querySelector({selector!r})).{what}")
        return [float(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]

    ground, panel = colour("body", "backgroundColor"), colour(".tile", "backgroundColor")
    assert (sum(ground) < 200) == dark
    for selector in ("body", ".sub", ".note", "a", "tr.bad td"):
        assert contrast(colour(selector, "color"), ground) >= 4.5, selector
    for selector in ("th", ".tile span"):
        assert contrast(colour(selector, "color"), panel) >= 4.5, selector
    assert contrast(colour("svg text", "fill"), ground) >= 4.5
    for number in range(5):
        assert contrast(colour(f".m.c{number}", "fill"), ground) >= 3, f"colour {number}"


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("[aria-label='Latency and throughput'] .m", "ms median"),
        ("[aria-label='Latency distributions'] g[data-tip] .hit", "600 samples"),
        ("[aria-label='Fidelity and throughput'] .m", "classes agree"),
        ("[aria-label='Roofline'] .m.hollow", "allows"),
        ("[aria-label='Latency by parts'] .bar", "to the device"),
        ("[aria-label='Layer times'] .bar", "µs"),
    ],
)
def test_hovering_says_the_figures(mark: str, said: str, width: int, files: Path, shown: Open) -> None:
    page = shown(files / "full.html", width)
    page.mouse(mark)
    assert said in page.run("document.querySelector('#tip').textContent")
    box = page.run("(() => { const b = document.querySelector('#tip').getBoundingClientRect(); return [b.left, b.right]; })()")
    assert page.run("getComputedStyle(document.querySelector('#tip')).visibility") == "visible"
    assert box[0] >= 0 and box[1] <= width


def test_every_chart_is_also_a_table(files: Path, shown: Open) -> None:
    page = shown(files / "full.html")
    drawn = page.run(
        """[...document.querySelectorAll('section')].filter(s => s.querySelector('figure')).map(s => {
        const table = s.querySelector('table') || s.nextSibling.querySelector('table');
        return [s.querySelector('h2').textContent, table.tBodies[0].rows.length]; })"""
    )
    assert dict(drawn) == {
        "Latency and throughput": 36, "Where the time goes": 36, "Latency distribution": 36, "Parity and speed": 6,
        "Roofline": 36, "Layer times: tensorrt int8, batch 128": 52,
    }  # fmt: skip
    page.mouse("details summary", "mousePressed")
    page.mouse("details summary", "mouseReleased")
    assert page.run("document.querySelector('details table').getClientRects().length") == 1


def test_tables_are_sorted_by_a_click(files: Path, shown: Open) -> None:
    page = shown(files / "full.html")
    rates = "[...document.querySelectorAll('#s3 tbody tr')].map(r => parseFloat(r.cells[8].textContent.replace(',', '')))"
    before = page.run(rates)
    for expected in (sorted(before), sorted(before, reverse=True)):
        page.run("document.querySelectorAll('#s3 th')[8].click()")
        assert page.run(rates) == expected != before


def test_the_legend_picks_a_line_out(files: Path, shown: Open) -> None:
    page = shown(files / "full.html")
    page.mouse(".legend li")
    lit = page.run("[...document.querySelectorAll('#s2 .wide .s')].filter(s => !s.matches('.dim')).map(s => s.dataset.s)")
    assert lit == ["eager fp32"]


def spoiled(value: Any, names: Iterator[str]) -> Any:
    """With hostile text in the place of every text that is no number, gate or verdict."""
    if isinstance(value, dict):
        return {key: part if key in {"gate", "severity", "scenario"} else spoiled(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [spoiled(part, names) for part in value]
    return next(names) if isinstance(value, str) else value


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_hostile_names_are_names(width: int, tmp_path: Path, shown: Open) -> None:
    """In every text of a report: architectures, files, backends, devices, layers, errors, packages, commands."""
    report = full((1, 8))
    report["machine"]["packages"][HOSTILE[0]] = HOSTILE[1]
    report["results"][0]["settings"][HOSTILE[1]] = HOSTILE[0]
    report["scenarios"][0]["metrics"][HOSTILE[0]] = 1.0
    hostile = spoiled(report, itertools.cycle(HOSTILE))
    page = shown(write_report(hostile, tmp_path / f"{HOSTILE[0].replace('/', '')}.html"), width)
    assert page.requests == [] and page.complaints == []
    page.mouse("[aria-label='Latency and throughput'] .m")
    assert page.run("typeof hacked") == "undefined"
    assert page.run("document.querySelectorAll('script, style, img, iframe, object, embed').length") == 2
    assert not overflows(page, width)
    text = page.run("document.body.textContent")
    for name in HOSTILE[:8]:
        assert name in text
    assert "\u202e" not in text and "\x1b" not in text


def test_it_says_the_same_without_its_script(files: Path) -> None:
    text = (files / "full.html").read_text()
    assert "<title>tensorrt int8, batch 128\n" in text and text.count("<script>") == 1
    assert "http" not in text.replace("http-equiv", ""), "nothing to be loaded"
