"""Draws docs/images/watch-time.svg: one viewer's evening, and what it comes to.

Run from the root of the project: `.venv/bin/python scripts/watch_time_picture.py`.
The numbers in the picture are those of `aggregator.reference`, none is typed in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from aggregator.reference import Interval, Reference, union
from aggregator.rules import HOURS_KEPT_DAYS, RESUME_RATIO
from kernels.rows import BUCKET_MS, HOUR_MS

TARGET = Path("docs/images/watch-time.svg")

#: (first position, last position, seconds of the clock since 20:30), a report every 10 s.
STRETCHES = ((0, 60, 0), (300, 360, 70), (30, 90, 140), (90, 140, 2600))
BEAT_S = 10
#: The stretch that comes after the break.
AFTER_BREAK = 3
DURATION_S = 600
#: 2026-11-20 20:30 UTC.
START_MS = 1_795_206_600_000

WIDTH, HEIGHT = 960, 738
LEFT, RIGHT = 180, 920
#: Pixels a second: of the clock, of the position upwards, of the position along.
CLOCK_SCALE, RISE_SCALE = 2.6, 0.5
FILM_SCALE = (RIGHT - LEFT) / DURATION_S
#: The break is drawn this wide, however long it is.
BREAK_WIDTH = 90
GROUND_Y = 258

STYLE = """
  text { font: 14px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif;
         fill: var(--ink) }
  .head { font-size: 16px; font-weight: 600 }
  .small { font-size: 12px; fill: var(--soft) }
  .sum { font-weight: 600 }
  .on { fill: #fff; font-size: 13px; font-weight: 600 }
  .middle { text-anchor: middle }
  .end { text-anchor: end }
  .card { fill: var(--card); stroke: var(--line) }
  .grid { stroke: var(--line); fill: none }
  .jump { stroke: var(--soft); stroke-dasharray: 3 4; fill: none; stroke-width: 1.5 }
  .mark { stroke: var(--ink); stroke-width: 1.5; fill: none }
  .dot { fill: var(--card); stroke-width: 2 }
  .none { fill: none; stroke: var(--soft); stroke-dasharray: 3 3 }
  .film { fill: var(--line) }
  .grey { fill: var(--soft); opacity: .55 }
  .all { fill: var(--ink) }
  .cell { stroke: var(--card) }
  .run0 { --run: #0a6ebd } .run1 { --run: #c2540a } .run2 { --run: #13805c }
  .run3 { --run: #9a3f86 }
  .bar { fill: var(--run) }
  .path { stroke: var(--run); stroke-width: 3; fill: none }
  .dot { stroke: var(--run) }
  svg { --ink: #1f2328; --soft: #656d76; --line: #d4d9df; --card: #ffffff }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --soft: #9aa4af; --line: #3a424c; --card: #161b22 }
    .run0 { --run: #2f7fc7 } .run1 { --run: #c4621f } .run2 { --run: #248663 }
    .run3 { --run: #a9569a }
  }
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """One report, in seconds: the clock since the start, the position, what it credited."""

    clock: int
    at: int
    credit: int
    run: int


@dataclass(frozen=True, slots=True)
class Evening:
    beats: list[Beat]
    runs: list[Interval]
    reference: Reference


def watch() -> Evening:
    """Ana's evening through the scalar rules."""
    reference = Reference()
    beats: list[Beat] = []
    watch_ms = 0
    for run, (first, last, clock) in enumerate(STRETCHES):
        for at in range(first, last + 1, BEAT_S):
            now = clock + at - first
            at_ms, received_ms = at * 1000, START_MS + now * 1000
            reference.apply("ana", "film", at_ms, received_ms, duration_ms=DURATION_S * 1000)
            total_ms = reference.pairs["ana", "film"].watch_ms
            beats.append(Beat(now, at, (total_ms - watch_ms) // 1000, run))
            watch_ms = total_ms
    return Evening(beats, reference.pairs["ana", "film"].runs(), reference)


def main() -> None:
    evening = watch()
    body = "\n".join([*_as_it_happened(evening), *_where_in_the_film(evening)])
    TARGET.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title">\n'
        f'<title id="title">{_summary(evening)}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>\n'
        f"{body}\n</svg>\n"
    )


def _summary(evening: Evening) -> str:
    pair = evening.reference.pairs["ana", "film"]
    return (
        f"Ana plays, seeks forward, rewinds, takes a break and goes on: watch time"
        f" {pair.watch_ms // 1000} s, unique time {pair.unique_ms() // 1000} s,"
        f" {pair.views} views"
    )


def _as_it_happened(evening: Evening) -> Iterator[str]:
    """The upper half: position over the clock, and below it what each stretch credits."""
    yield _heading(
        36, "As it happened", "the clock runs to the right, a dot is a report of the player"
    )
    yield from _position_axis()
    yield from _playback(evening.beats)
    yield from _jumps(evening.beats)
    yield from _clock_axis(evening.beats)
    yield from _credits(evening)
    yield from _views_and_hours(evening)


def _position_axis() -> Iterator[str]:
    yield _text(LEFT - 60, _rise(180) + 5, "position", "end")
    for at in range(0, 361, 60):
        y = _rise(at)
        yield f'<path class="grid" d="M{LEFT} {y}H{RIGHT}"/>'
        yield _text(LEFT - 14, y + 4, _stamp(at), "small end")


def _playback(beats: list[Beat]) -> Iterator[str]:
    for run in range(len(STRETCHES)):
        points = [(_x(beat.clock), _rise(beat.at)) for beat in beats if beat.run == run]
        yield f'<g class="run{run}"><path class="path" d="{_path(points)}"/>'
        yield from (f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"/>' for x, y in points)
        yield "</g>"


def _jumps(beats: list[Beat]) -> Iterator[str]:
    notes = {1: ("seek forward", 18, 4), 2: ("rewind", 22, 4), 3: ("break of 40 minutes", -8, -14)}
    for before, after in pairwise(beats):
        if before.run == after.run:
            continue
        points = [(_x(beat.clock), _rise(beat.at)) for beat in (before, after)]
        yield f'<path class="jump" d="{_path(points)}"/>'
        note, right, down = notes[after.run]
        x = sum(x for x, _ in points) / 2
        y = sum(y for _, y in points) / 2
        yield _text(x + right, y + down, note, "" if right > 0 else "middle")


def _clock_axis(beats: list[Beat]) -> Iterator[str]:
    for clock in (0, 60, 120, 180, STRETCHES[AFTER_BREAK][2], beats[-1].clock):
        x = _x(clock)
        yield f'<path class="grid" d="M{x} {GROUND_Y}v6"/>'
        yield _text(x, GROUND_Y + 22, _time_of_day(clock), "small middle")


def _credits(evening: Evening) -> Iterator[str]:
    y = GROUND_Y + 38
    yield _text(LEFT - 14, y + 17, "credited", "end")
    for run in range(len(STRETCHES)):
        beats = [beat for beat in evening.beats if beat.run == run]
        left, right = _x(beats[0].clock), _x(beats[-1].clock)
        credit = sum(beat.credit for beat in beats)
        yield f'<g class="run{run}">{_rect(left, y, right - left, 24, "bar")}</g>'
        yield _text((left + right) / 2, y + 17, f"{credit} s", "on middle")
    for before, after in pairwise(evening.beats):
        if before.run != after.run:
            left, right = _x(before.clock), _x(after.clock)
            yield _rect(left + 2, y, right - left - 4, 24, "none")
            yield _text((left + right) / 2, y + 17, f"{after.credit}", "small middle")


def _views_and_hours(evening: Evening) -> Iterator[str]:
    y = GROUND_Y + 76
    yield _text(LEFT - 14, y + 14, "views", "end")
    yield _text(LEFT - 14, y + 40, "by the hour", "end")
    hours = evening.reference.hours(HOURS_KEPT_DAYS)
    before = [beat.clock for beat in evening.beats if beat.run < AFTER_BREAK]
    after = [beat.clock for beat in evening.beats if beat.run >= AFTER_BREAK]
    for view, clocks in enumerate((before, after), start=1):
        left, right = _x(clocks[0]), _x(clocks[-1])
        hour = (START_MS + clocks[0] * 1000) // HOUR_MS
        credit = hours["film", hour] // 1000
        yield f'<path class="mark" d="M{left} {y}v5H{right}v-5"/>'
        middle = (left + right) / 2
        yield _text(middle, y + 20, f"view {view}", "middle")
        yield _text(middle, y + 40, f"{hour % 24}:00 UTC: {credit} s", "middle")


def _where_in_the_film(evening: Evening) -> Iterator[str]:
    """The lower half: the runs along the film, and the numbers that come of them."""
    y = 424
    yield f'<path class="grid" d="M24 {y - 30}H{WIDTH - 24}"/>'
    yield _heading(
        y, "Where in the film", "the position runs to the right, from 0:00 to the end at 10:00"
    )
    yield from _run_rows(evening.runs, y + 20)
    yield from _unique_row(evening, y + 116)
    yield from _retention_rows(evening.reference, y + 142)
    yield from _moment_row(evening.reference, y + 236)


def _run_rows(runs: list[Interval], y: float) -> Iterator[str]:
    yield _text(LEFT - 14, y + 30, "runs", "end")
    yield _text(LEFT - 14, y + 50, f"watch time {_seconds(runs)} s", "sum end")
    for row, (start, end) in enumerate(runs):
        left, width = _along(start), (end - start) / 1000 * FILM_SCALE
        top = y + row * 21
        yield f'<g class="run{row}">{_rect(left, top, width, 16, "bar")}</g>'
        length = f"{_stamp(start // 1000)} to {_stamp(end // 1000)}, {(end - start) // 1000} s"
        yield _text(left + width + 8, top + 13, length, "small")


def _unique_row(evening: Evening, y: float) -> Iterator[str]:
    seen = union(evening.runs)
    unique_s = evening.reference.pairs["ana", "film"].unique_ms() // 1000
    yield _text(LEFT - 14, y + 13, f"unique time {unique_s} s", "sum end")
    for start, end in seen:
        width = (end - start) / 1000 * FILM_SCALE
        yield _rect(_along(start), y, width, 16, "all")
        yield _text(_along(end) + 8, y + 13, f"{(end - start) // 1000} s", "small")


def _retention_rows(reference: Reference, y: float) -> Iterator[str]:
    rows = zip(("viewers", "plays"), reference.retention("film"), strict=True)
    for row, (name, values) in enumerate(rows):
        top = y + row * 36
        yield _text(LEFT - 14, top + 17, f"{name} per 10 s", "end")
        for bucket, value in enumerate(values):
            left, width = _along(bucket * BUCKET_MS), BUCKET_MS / 1000 * FILM_SCALE
            if value:
                height = 12 * value
                yield _rect(left, top + 24 - height, width, height, "cell all")
        yield f'<path class="grid" d="M{LEFT} {top + 24}H{RIGHT}"/>'
    yield _text(_along(145_000), y + 57, "2 where she saw it twice", "small")


def _moment_row(reference: Reference, y: float) -> Iterator[str]:
    pair, rules = reference.pairs["ana", "film"], reference.rules
    yield _text(LEFT - 14, y + 12, "resume point", "end")
    yield _rect(LEFT, y, RIGHT - LEFT, 14, "film")
    begun_s, done_s = RESUME_RATIO * DURATION_S, rules.complete_ratio * DURATION_S
    yield _rect(LEFT, y, begun_s * FILM_SCALE, 14, "grey")
    yield _rect(_along(done_s * 1000), y, (DURATION_S - done_s) * FILM_SCALE, 14, "grey")
    resume_ms = rules.resume_ms(pair.latest_ms, DURATION_S * 1000)
    moments = (
        (pair.latest_ms, f"latest moment {_stamp(pair.latest_ms // 1000)},"),
        (pair.furthest_ms, f"furthest moment {_stamp(pair.furthest_ms // 1000)}"),
        (done_s * 1000, f"completes from {_stamp(round(done_s))} on"),
    )
    for at_ms, name in moments:
        yield f'<path class="mark" d="M{_along(at_ms)} {y - 4}v26"/>'
        yield _text(_along(at_ms), y + 38, name, "middle")
    resumes = f"resumes at {_stamp(resume_ms // 1000)}"
    yield _text(_along(pair.latest_ms), y + 56, resumes, "middle")
    yield _text(LEFT - 14, y + 38, "from the grey ends", "small end")
    yield _text(LEFT - 14, y + 54, "it starts over", "small end")


def _x(clock: int) -> float:
    """Where a second of the clock is; the break is cut short."""
    first, last, start = STRETCHES[AFTER_BREAK - 1]
    before, after = start + last - first, STRETCHES[AFTER_BREAK][2]
    if clock <= before:
        return LEFT + clock * CLOCK_SCALE
    return LEFT + before * CLOCK_SCALE + BREAK_WIDTH + (clock - after) * CLOCK_SCALE


def _rise(at: int) -> float:
    return GROUND_Y - at * RISE_SCALE


def _along(at_ms: float) -> float:
    return round(LEFT + at_ms / 1000 * FILM_SCALE, 2)


def _seconds(runs: list[Interval]) -> int:
    return sum(end - start for start, end in runs) // 1000


def _stamp(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02}"


def _time_of_day(clock: int) -> str:
    seconds = START_MS // 1000 + clock
    return f"{seconds // 3600 % 24}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _heading(y: float, head: str, words: str) -> str:
    return (
        f'<text x="24" y="{y:g}"><tspan class="head">{head}</tspan>'
        f'<tspan class="small" dx="14">{words}</tspan></text>'
    )


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _rect(x: float, y: float, width: float, height: float, classes: str) -> str:
    return (
        f'<rect class="{classes}" x="{x:g}" y="{y:g}" width="{width:.2f}" height="{height:g}"'
        ' rx="2"/>'
    )


def _text(x: float, y: float, words: str, classes: str = "") -> str:
    return f'<text class="{classes}" x="{x:g}" y="{y:g}">{words}</text>'


if __name__ == "__main__":
    main()
