"""Facts as a test writes them, and what the reference makes of them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from aggregator.reference import Reference
from persistence import facts

START_MS = 1_700_000_000_000

#: Stored facts, and the shard of each.
SCHEMA = facts.SCHEMA.insert(0, pa.field("shard", pa.int32()))

_INTEGERS = {
    "progress": "watch_ms unique_ms latest_ms latest_t furthest_ms resume_ms completed_t"
    " views events duration_ms version",
    "movies": "watch_ms viewers views completions events duration_ms first_t last_t",
    "users": "watch_ms movies completed events last_t",
    "retention": "bucket viewers plays",
    "hours": "hour watch_ms",
}
_OTHERS: dict[str, dict[str, pa.DataType]] = {
    "progress": {
        "user": pa.string(),
        "slug": pa.string(),
        "begun_again": pa.bool_(),
        "hidden": pa.bool_(),
    },
    "movies": {"slug": pa.string(), "title": pa.string()},
    "users": {"user": pa.string()},
    "retention": {"slug": pa.string()},
    "hours": {"slug": pa.string()},
}


@dataclass(frozen=True)
class Fact:
    """A row of the schema."""

    received_ms: int
    kind: str
    slug: str
    user: str | None = None
    session: str | None = None
    at_ms: int | None = None
    ts_ms: int | None = None
    duration_ms: int | None = None
    title: str | None = None
    shard: int = 0
    sequence: int = 0
    index: int = 0

    @property
    def t(self) -> int:
        return self.received_ms if self.ts_ms is None else min(self.ts_ms, self.received_ms)


def table(rows: Iterable[Fact]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def apply(reference: Reference, fact: Fact) -> None:
    user = fact.user or ""
    if fact.kind == "event":
        reference.apply(
            user,
            fact.slug,
            fact.at_ms or 0,
            fact.received_ms,
            fact.session or "",
            ts_ms=fact.ts_ms,
            duration_ms=fact.duration_ms or 0,
        )
    elif fact.kind == "position":
        reference.set_position(user, fact.slug, fact.at_ms or 0, fact.received_ms)
    elif fact.kind == "completed":
        reference.mark_completed(user, fact.slug, fact.received_ms)
    elif fact.kind == "uncompleted":
        reference.unmark_completed(user, fact.slug)
    elif fact.kind == "hidden":
        reference.hide(user, fact.slug)
    else:
        reference.describe(fact.slug, fact.duration_ms or 0, fact.title)


def totals_of(reference: Reference, stored: list[Fact], fold_before: int) -> dict[str, pa.Table]:
    """The tables of totals by the reference; `stored` are those that it still knows of."""
    rows: dict[str, list[dict[str, Any]]] = {
        "progress": [_progress(reference, *key) for key in reference.pairs],
        "movies": [
            _movie(reference, slug, stored)
            for slug in {slug for _, slug in reference.pairs} | set(reference.catalogue)
        ],
        "users": [_user(reference, user, stored) for user in {user for user, _ in reference.pairs}],
        "retention": _retention(reference),
        "hours": _hours(reference, fold_before),
    }
    return {
        name: pa.Table.from_pylist(
            rows[name],
            schema=pa.schema(
                _OTHERS[name] | {column: pa.int64() for column in _INTEGERS[name].split()}
            ),
        )
        for name in rows
    }


def _progress(reference: Reference, user: str, slug: str) -> dict[str, Any]:
    pair = reference.pairs[user, slug]
    by_position = reference.rules.credit == "position"
    return {
        "user": user,
        "slug": slug,
        "watch_ms": pair.watch_ms,
        "unique_ms": pair.unique_ms() if by_position else None,
        "latest_ms": pair.latest_ms,
        "latest_t": None if pair.latest_t < 0 else pair.latest_t,
        "furthest_ms": pair.furthest_ms,
        "resume_ms": reference.resume_ms(user, slug) if by_position else None,
        "completed_t": pair.completed_t,
        "begun_again": pair.begun_again,
        "hidden": pair.hidden,
        "views": pair.views,
        "events": pair.events,
        "duration_ms": reference.duration_ms(user, slug) or None,
        "version": pair.version,
    }


def _movie(reference: Reference, slug: str, stored: list[Fact]) -> dict[str, Any]:
    sums = reference.movie(slug)
    duration_ms, title = reference.catalogue.get(slug, (0, None))
    times = [fact.t for fact in stored if fact.kind == "event" and fact.slug == slug]
    return {
        "slug": slug,
        "watch_ms": sums.watch_ms,
        "viewers": sums.viewers,
        "views": sums.views,
        "completions": sums.completions,
        "events": sums.events,
        "duration_ms": duration_ms or None,
        "title": title,
        "first_t": min(times, default=None),
        "last_t": max(times, default=None),
    }


def _user(reference: Reference, user: str, stored: list[Fact]) -> dict[str, Any]:
    sums = reference.user(user)
    return {
        "user": user,
        "watch_ms": sums.watch_ms,
        "movies": sums.pairs,
        "completed": sums.completions,
        "events": sums.events,
        "last_t": max((f.t for f in stored if f.kind == "event" and f.user == user), default=None),
    }


def _retention(reference: Reference) -> list[dict[str, Any]]:
    if reference.rules.credit == "duration":
        return []
    return [
        {"slug": slug, "bucket": bucket, "viewers": viewers, "plays": plays}
        for slug in {slug for _, slug in reference.pairs}
        for bucket, (viewers, plays) in enumerate(zip(*reference.retention(slug), strict=True))
        if plays
    ]


def _hours(reference: Reference, fold_before: int) -> list[dict[str, Any]]:
    sums: dict[tuple[str, int], int] = {}
    for (_, slug), pair in reference.pairs.items():
        for hour, credit in pair.hours.items():
            kept = hour if hour >= fold_before else hour // 24 * 24
            sums[slug, kept] = sums.get((slug, kept), 0) + credit
    return [{"slug": slug, "hour": hour, "watch_ms": ms} for (slug, hour), ms in sums.items()]
