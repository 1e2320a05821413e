"""Facts as a test writes them, and what the reference makes of them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from aggregator.reference import Pair, Reference
from persistence import facts

START_MS = 1_700_000_000_000

#: Stored facts, and the shard of each.
SCHEMA = facts.SCHEMA.insert(0, pa.field("shard", pa.int32()))

_COLUMNS = {
    "progress": "user slug watch_ms unique_ms latest_ms latest_t furthest_ms resume_ms completed_t"
    " begun_again hidden views events duration_ms version",
    "movies": "slug watch_ms viewers views completions events duration_ms title first_t last_t",
    "users": "user watch_ms movies completed events last_t",
    "retention": "slug bucket viewers plays",
    "hours": "slug hour watch_ms",
}
_TYPES = dict.fromkeys(("user", "slug", "title"), pa.string()) | dict.fromkeys(
    ("begun_again", "hidden"), pa.bool_()
)


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


def totals_of(reference: Reference, fold_before: int) -> dict[str, pa.Table]:
    """The tables of totals, by the reference."""
    users = {user for user, _ in reference.pairs}
    slugs = {slug for _, slug in reference.pairs}
    rows = {
        "progress": [_progress(reference, *key) for key in reference.pairs],
        "movies": [_movie(reference, slug) for slug in slugs | set(reference.catalogue)],
        "users": [_user(reference, user) for user in users],
        "retention": [row for slug in slugs for row in _retention(reference, slug)],
        "hours": _hours(reference, fold_before),
    }
    return {name: pa.Table.from_pylist(rows[name], _schema(name)) for name in rows}


def _schema(table: str) -> pa.Schema:
    return pa.schema([(name, _TYPES.get(name, pa.int64())) for name in _COLUMNS[table].split()])


def _progress(reference: Reference, user: str, slug: str) -> dict[str, Any]:
    pair = reference.pairs[user, slug]
    by_position = reference.rules.credit == "position"
    return {
        "user": user,
        "slug": slug,
        "watch_ms": pair.watch_ms,
        "unique_ms": pair.unique_ms() if by_position else None,
        "latest_ms": pair.latest_ms,
        "latest_t": pair.latest_t,
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


def _movie(reference: Reference, slug: str) -> dict[str, Any]:
    sums = reference.movie(slug)
    duration_ms, title = reference.catalogue.get(slug, (0, None))
    pairs = [pair for (_, of), pair in reference.pairs.items() if of == slug]
    return {
        "slug": slug,
        "watch_ms": sums.watch_ms,
        "viewers": sums.viewers,
        "views": sums.views,
        "completions": sums.completions,
        "events": sums.events,
        "duration_ms": duration_ms or None,
        "title": title,
        "first_t": min((p.first_t for p in pairs if p.first_t is not None), default=None),
        "last_t": _last_t(pairs),
    }


def _user(reference: Reference, user: str) -> dict[str, Any]:
    sums = reference.user(user)
    return {
        "user": user,
        "watch_ms": sums.watch_ms,
        "movies": sums.pairs,
        "completed": sums.completions,
        "events": sums.events,
        "last_t": _last_t(pair for (of, _), pair in reference.pairs.items() if of == user),
    }


def _last_t(pairs: Iterable[Pair]) -> int | None:
    return max((s.last_t for pair in pairs for s in pair.streams.values()), default=None)


def _retention(reference: Reference, slug: str) -> list[dict[str, Any]]:
    return [
        {"slug": slug, "bucket": bucket, "viewers": viewers, "plays": plays}
        for bucket, (viewers, plays) in enumerate(zip(*reference.retention(slug), strict=True))
        if plays
    ]


def _hours(reference: Reference, fold_before: int) -> list[dict[str, Any]]:
    sums: Counter[tuple[str, int]] = Counter()
    for (_, slug), pair in reference.pairs.items():
        for hour, credit in pair.hours.items():
            sums[slug, hour if hour >= fold_before else hour // 24 * 24] += credit
    return [{"slug": slug, "hour": hour, "watch_ms": ms} for (slug, hour), ms in sums.items()]
