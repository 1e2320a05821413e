"""What the operator sees of a run: live on a terminal, else a line now and then."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.latencies import Latencies
from benchmarks.sender import Tally
from benchmarks.verification import Difference

REFRESH_S = 0.25
LINE_S = 5.0
#: Rates and percentiles shown live are those of so long.
WINDOW_S = 3.0
DIFFERENCES_SHOWN_MAX = 20

PANEL_WIDTH_MAX = 100
#: Room for the ^C that terminals show behind the last line; a line that wraps is drawn twice.
CTRL_C_WIDTH = 4


@dataclass(frozen=True, slots=True)
class _Moment:
    """Where the tally stood."""

    time_s: float
    answered: int
    simulated_s: float
    latencies: Latencies


class Display:
    """Shows a tally while `running`, then its `summary`. The run begins now."""

    def __init__(self, console: Console, tally: Tally, events: int | None) -> None:
        self._console = console
        self._tally = tally
        self._events = events
        self._started = self._moment()
        self._ended = self._started
        self._recent = deque([self._started])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        showing = asyncio.create_task(
            self._show_live() if self._console.is_terminal else self._print_lines()
        )
        try:
            yield
        finally:
            self._ended = self._moment()
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing

    def summary(self, retries: int) -> None:
        """The whole run in a table."""
        tally = self._tally
        elapsed_s, rate, _, latencies = self._between(self._started, self._ended)
        table = Table(box=box.ROUNDED, show_header=False, border_style="dim")
        table.add_column()
        table.add_column(justify="right", style="bold")
        table.add_row("events sent", f"{tally.sent:,}")
        table.add_row("accepted", f"{tally.accepted:,}", style="green")
        table.add_row("duplicates", f"{tally.duplicates:,}")
        table.add_row("rejected", f"{tally.rejected:,}", style=_bad_if(tally.rejected))
        table.add_row("lost, outcome unknown", f"{tally.lost:,}", style=_bad_if(tally.lost))
        table.add_row("requests tried again", f"{retries:,}")
        table.add_section()
        table.add_row("seconds", f"{elapsed_s:,.1f}")
        table.add_row("events a second", f"{rate:,.0f}")
        for percent in (50, 90, 99, 99.9):
            table.add_row(f"latency p{percent:g}", _ms(latencies.percentile_s(percent)))
        self._console.print(table)
        if tally.problem:
            self._console.print(Text(f"last problem: {tally.problem}", style="red"))

    # While it runs

    async def _show_live(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self._panel(), refresh=True)
                    await asyncio.sleep(REFRESH_S)
            finally:
                live.update(self._panel(), refresh=True)

    async def _print_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_S)
            self._console.print(self._line(), soft_wrap=True)

    def _panel(self) -> RenderableType:
        tally = self._tally
        _, rate, speedup, latencies = self._now()
        figures = [
            _figure("events/s", f"{rate:,.0f}", "bold cyan"),
            _figure("p50", _ms(latencies.percentile_s(50)), "bold"),
            _figure("p99", _ms(latencies.percentile_s(99)), "bold"),
            _figure("accepted", f"{tally.accepted:,}", "bold green"),
            _figure("duplicates", f"{tally.duplicates:,}", "bold"),
            _figure("errors", f"{_errors(tally):,}", _bad_if(_errors(tally)) or "bold"),
        ]
        elapsed_s = time.monotonic() - self._started.time_s
        lived = _clock(tally.simulated_s)
        subtitle = f"{_clock(elapsed_s)}, for viewers {lived} ({speedup:,.0f} times as fast)"
        parts: list[RenderableType] = [_side_by_side(figures)]
        if self._events is not None:
            parts += [Text(), self._bar(rate)]
        return Panel(
            Group(*parts),
            title="playhead generate",
            title_align="left",
            subtitle=subtitle,
            subtitle_align="right",
            border_style="dim",
            padding=(1, 2),
            width=min(PANEL_WIDTH_MAX, self._console.width - CTRL_C_WIDTH),
        )

    def _bar(self, rate: float) -> RenderableType:
        assert self._events is not None
        done = _answered(self._tally)
        left = f"{_clock((self._events - done) / rate)} left" if rate else ""
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        bar.add_column(justify="right", style="dim")
        bar.add_row(
            ProgressBar(self._events, done, complete_style="cyan"),
            f"{done / self._events:.0%} of {self._events:,}",
            left,
        )
        return bar

    def _line(self) -> str:
        tally = self._tally
        _, rate, _, latencies = self._now()
        return (
            f"{time.monotonic() - self._started.time_s:6.0f} s  {rate:>7,.0f} events/s"
            f"  p50 {_ms(latencies.percentile_s(50))}  p99 {_ms(latencies.percentile_s(99))}"
            f"  accepted {tally.accepted:,}  duplicates {tally.duplicates:,}"
            f"  errors {_errors(tally):,}"
        )

    # Rates

    def _now(self) -> tuple[float, float, float, Latencies]:
        """As `_between`, over the last seconds."""
        now = self._moment()
        while len(self._recent) > 1 and now.time_s - self._recent[0].time_s > WINDOW_S:
            self._recent.popleft()
        self._recent.append(now)
        return self._between(self._recent[0], now)

    def _moment(self) -> _Moment:
        tally = self._tally
        return _Moment(
            time.monotonic(), _answered(tally), tally.simulated_s, tally.latencies.copy()
        )

    def _between(self, start: _Moment, end: _Moment) -> tuple[float, float, float, Latencies]:
        """Seconds, events a second, simulated seconds a second, and the latencies."""
        elapsed_s = max(end.time_s - start.time_s, 1e-9)
        return (
            elapsed_s,
            (end.answered - start.answered) / elapsed_s,
            (end.simulated_s - start.simulated_s) / elapsed_s,
            end.latencies - start.latencies,
        )


@contextmanager
def checking(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that each call advances by one, gone when all is done."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def differences_table(differences: Sequence[Difference]) -> Table:
    """The first of them."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{len(differences):,} differences",
        title_justify="left",
        title_style="bold red",
    )
    for column in ("path", "fact", "expected", "found"):
        table.add_column(column, overflow="fold")
    for difference in differences[:DIFFERENCES_SHOWN_MAX]:
        facts = (difference.path, difference.fact, difference.expected, difference.found)
        table.add_row(*(Text(str(fact)) for fact in facts))
    if len(differences) > DIFFERENCES_SHOWN_MAX:
        table.add_row("…", "", "", "")
    return table


def _answered(tally: Tally) -> int:
    return tally.accepted + tally.duplicates + _errors(tally)


def _errors(tally: Tally) -> int:
    return tally.rejected + tally.lost


def _side_by_side(figures: Sequence[RenderableType]) -> Table:
    row = Table.grid(expand=True)
    for _ in figures:
        row.add_column(ratio=1)
    row.add_row(*figures)
    return row


def _figure(name: str, value: str, style: str) -> RenderableType:
    return Group(Text(value, style), Text(name, "dim"))


def _bad_if(count: int) -> str:
    return "bold red" if count else ""


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.1f} ms" if ms < 100 else f"{ms:,.0f} ms"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
