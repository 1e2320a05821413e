"""Carrying out commands.

A command is decided when it is applied, in the order of the log, so a replay
decides the same.
"""

import numpy as np

from aggregator import erasure
from aggregator.answers import progress_of
from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    PairCommand,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.messages import Done, Outcome
from aggregator.state import State, intern
from kernels.rows import NONE
from persistence.strings import Strings


def carry_out(state: State, commands: list[Command], received_ms: int) -> Done:
    """Applies the commands of a record, in order."""
    return Done(received_ms, [apply(state, command, received_ms) for command in commands])


def apply(state: State, command: Command, received_ms: int) -> Outcome:
    """Carries out a command, unless its condition fails or there is nothing to apply it to."""
    match command:
        case Describe():
            _describe(state, command)
            return Outcome("done")
        case Erase(user, slug):
            erased = erasure.erase(state, user, slug)
            return Outcome("done" if erased else "unknown")
    row = state.pair_row(command.user, command.slug)
    if isinstance(command, SetPosition) and not _is_met(state, row, command.if_versions):
        return Outcome("conflict", None if row is None else progress_of(state, row))
    if row is None:
        if isinstance(command, Hide | UnmarkCompleted):
            return Outcome("unknown")
        row = state.add_pair(command.user, command.slug)
        _move(state, row, 0, received_ms)
    _change(state, row, command, received_ms)
    return Outcome("done", progress_of(state, row))


def _is_met(state: State, row: int | None, if_versions: list[int] | None) -> bool:
    if if_versions is None:
        return True
    if row is None:
        return False
    return not if_versions or int(state.pairs.of("version", row)) in if_versions


def _change(state: State, row: int, command: PairCommand, received_ms: int) -> None:
    pairs, more = state.pairs, state.pairs.more
    own = pairs.more_of(np.array([row]))
    was_complete = bool(more.of("completed_t", own) != NONE)
    is_complete = was_complete
    match command:
        case SetPosition():
            _move(state, row, command.at_ms, received_ms)
        case MarkCompleted() | UnmarkCompleted():
            is_complete = isinstance(command, MarkCompleted)
            more.put("begun_again", own, False)
        case Hide():
            more.put("hidden", own, True)
    if is_complete != was_complete:
        more.put("completed_t", own, received_ms if is_complete else NONE)
        for totals, of in ((state.users, "user"), (state.movies, "movie")):
            totals["completions"][pairs[of][row]] += int(is_complete) - int(was_complete)
    more["changes"][own] += 1
    state.order += 1


def _move(state: State, row: int, at_ms: int, received_ms: int) -> None:
    state.pairs.put("latest_ms", row, at_ms)
    state.pairs.put("latest_t", row, received_ms)
    state.pairs.put("latest_order", row, state.order)


def _describe(state: State, command: Describe) -> None:
    chosen = np.ones(1, np.bool_)
    code = int(intern(state.movie_names, state.movies, Strings.of([command.slug]), chosen)[0])
    state.movies["described"][code] = True
    state.movies["duration_ms"][code] = command.duration_ms or 0
    state.titles.pop(code, None)
    if command.title is not None:
        state.titles[code] = command.title
