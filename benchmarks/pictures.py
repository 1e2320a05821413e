"""Pictures of what the suite measured, as SVG for light and dark pages, and as PNG."""

import io
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.measurements import COMMON_HALF, OWN_HALF, REDIS_GET, Case, Results, Run
from benchmarks.subjects import (
    CEILING,
    PARSE,
    PLAYHEAD,
    POSTGRES,
    REDIS_ALWAYS,
    REDIS_EVERYSEC,
)

#: Inches; at 100 pixels each in the PNG's first size, which is doubled for fine screens.
WIDTH, HEIGHT, DPI = 7.6, 3.8, 200

INK, SOFT, LINE, PAPER = "#1f2328", "#656d76", "#d4d9df", "#ffffff"
#: What the inks are on dark pages.
DARK = {INK: "#e6edf3", SOFT: "#9198a1", LINE: "#3d444d"}
COLOURS = {
    PLAYHEAD: "#2377d9",
    CEILING: "#8c959f",
    REDIS_EVERYSEC: "#bf8700",
    REDIS_ALWAYS: "#cf4c1a",
    POSTGRES: "#1a8a64",
    PARSE: "#a24fb5",
    REDIS_GET: "#a24fb5",
}
FORMAT_DASHES = {"JSON": "-", "NDJSON": "--", "Arrow": ":"}
PERCENTILES = {"p50_ms": "50", "p99_ms": "99", "p999_ms": "99.9"}
RATES = {OWN_HALF: "Each at half of its own most", COMMON_HALF: "All at half of redis always"}
#: Of a row's height, each of two bars.
BAR = 0.38
STYLE: dict[str, Any] = {
    "figure.figsize": (WIDTH, HEIGHT),
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    # The same figures make the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "playhead",
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws what there are figures for; returns the files."""
    written: list[Path] = []
    folder.mkdir(exist_ok=True)
    for workload, (name, draw_run) in _PICTURES.items():
        run = results.run(workload)
        if run is not None:
            with style.context(STYLE):
                figure = draw_run(run)
                written += _save(figure, folder / f"benchmark-{name}")
    return written


# The pictures


def _singles(run: Run) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    for subject in run.subjects():
        cases = run.cases(subject)
        rates = [run.median(subject, "requests_per_second", case) for case in cases]
        _line(axes, _values(cases, "connections"), rates, subject)
    _number_x(axes, _values(run.cases(), "connections"))
    axes.yaxis.set_major_formatter(_thousands)
    axes.set_ylim(0)
    axes.set(title="Single events a second", xlabel="connections")
    _legend(figure, axes)
    return figure


def _batches(run: Run) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    for subject in run.subjects():
        for name, dashes in FORMAT_DASHES.items() if subject == PLAYHEAD else [("JSON", "-")]:
            cases = [case for case in run.cases(subject) if case["format"] == name]
            rates = [run.median(subject, "events_per_second", case) for case in cases]
            label = {PLAYHEAD: f"{PLAYHEAD}, {name}", PARSE: "orjson.loads"}.get(subject, subject)
            _line(axes, _values(cases, "events"), rates, subject, label, dashes)
    _number_x(axes, _values(run.cases(), "events"))
    _number_y(axes, _thousands)
    axes.set(title="Events a second, in batches", xlabel="events a request")
    _legend(figure, axes)
    return figure


def _latency(run: Run) -> Figure:
    rates = _values(run.cases(), "rate")
    figure = Figure()
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, rate in zip(panels, rates, strict=True):
        for subject in run.subjects():
            waits = [run.median(subject, name, {"rate": rate}) for name in PERCENTILES]
            _line(axes, list(PERCENTILES.values()), waits, subject)
        _number_y(axes, _short)
        axes.tick_params(labelleft=True)
        axes.set(title=RATES[str(rate)], xlabel="percentile")
        axes.margins(x=0.12)
    panels[0].set_ylabel("ms, from when an event was due")
    _legend(figure, panels[0])
    return figure


def _pairs(run: Run) -> Figure:
    figure = Figure()
    memory, rates = figure.subplots(1, 2)
    filled = [case for case in run.cases() if case["sent"] == "fill"]
    for name, label, dashes in (
        ("bytes_a_pair", "all processes", "-"),
        ("shard_bytes_a_pair", "the shard", "--"),
    ):
        amounts = [run.median(PLAYHEAD, name, case) for case in filled]
        _line(memory, _values(filled, "pairs"), amounts, PLAYHEAD, label, dashes)
    for sent, dashes in (("batches", "-"), ("singles", "--")):
        cases = [case for case in run.cases() if case["sent"] == sent]
        reached = [run.median(PLAYHEAD, "events_per_second", case) for case in cases]
        _line(rates, _values(cases, "pairs"), reached, PLAYHEAD, sent, dashes)
    memory.set(title="Memory, bytes a pair", xlabel="pairs")
    rates.set(title="Events a second", xlabel="pairs")
    for axes in (memory, rates):
        _number_x(axes, _values(filled, "pairs"))
        _number_y(axes, _thousands)
        axes.margins(x=0.12, y=0.15)
        axes.legend()
    return figure


def _queries(run: Run) -> Figure:
    rows = [(PLAYHEAD, query) for query in _values(run.cases(), "query")]
    rows[1:1] = [(s, query) for s in run.subjects() if s != PLAYHEAD for _, query in rows[:1]]
    figure = Figure(figsize=(WIDTH, 1 + 0.36 * len(rows)))
    axes = figure.subplots()
    for number, ingest in enumerate(_values(run.cases(), "ingest")):
        rates = [
            run.median(subject, "requests_per_second", {"query": query, "ingest": ingest}) or 0
            for subject, query in rows
        ]
        axes.barh(
            [row + BAR * (number - 0.5) for row in range(len(rows))],
            rates,
            height=BAR,
            color=[COLOURS[subject] for subject, _ in rows],
            alpha=1 - 0.5 * number,
            label=f"beside {ingest}" if number else "alone",
        )
    names = [query if s == PLAYHEAD else f"{query}: {s}" for s, query in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(_thousands)
    axes.margins(y=0.01)
    axes.set(title="Questions a second, 64 connections")
    figure.legend(loc="outside lower right", ncols=2)
    return figure


_PICTURES: dict[str, tuple[str, Callable[[Run], Figure]]] = {
    "singles": ("singles", _singles),
    "batches": ("batches", _batches),
    "open_loop": ("latency", _latency),
    "pairs": ("pairs", _pairs),
    "queries": ("queries", _queries),
}


# Parts of them

_thousands = FuncFormatter(lambda value, _: f"{value:,.0f}")
_short = FuncFormatter(lambda value, _: f"{value:g}")


def _line(
    axes: Axes,
    xs: Sequence[Any],
    ys: Sequence[float | None],
    subject: str,
    label: str = "",
    dashes: str = "-",
) -> None:
    """Over what was measured; playhead lies on top."""
    axes.plot(
        xs,
        [nan if y is None else y for y in ys],
        linestyle=dashes,
        marker="o",
        color=COLOURS[subject],
        label=label or subject,
        zorder=3 if subject == PLAYHEAD else 2,
    )


def _number_x(axes: Axes, values: Sequence[Any]) -> None:
    """A logarithmic axis that names these values alone."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_minor_locator(NullLocator())


def _number_y(axes: Axes, formatter: FuncFormatter) -> None:
    """A logarithmic axis with 1, 2, 5, 10 and so on."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_locator(NullLocator())


def _values(cases: Sequence[Case], name: str) -> list[Any]:
    return list(dict.fromkeys(case[name] for case in cases))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")


def _save(figure: Figure, path: Path) -> list[Path]:
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=DPI, facecolor=PAPER, metadata={"Software": None})
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg.write_text(_adapting(drawn.getvalue()))
    return [svg, png]


def _adapting(svg: str) -> str:
    """With inks that follow the page's, light or dark."""
    names = dict(zip(DARK, ("--ink", "--soft", "--line"), strict=True))
    light = "; ".join(f"{name}: {colour}" for colour, name in names.items())
    dark = "; ".join(f"{names[colour]}: {other}" for colour, other in DARK.items())
    for colour, name in names.items():
        svg = svg.replace(colour, f"var({name})")
    rules = f"svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    return svg.replace("<defs>", f"<style>{rules}</style>\n <defs>", 1)
