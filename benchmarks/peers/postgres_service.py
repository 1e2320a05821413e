"""Watch time in PostgreSQL: a row a pair, a row a user, a row a movie, one statement for all.

`python -m benchmarks.peers.postgres_service --postgres-socket FOLDER PORT` runs it
until it is ended. Rows are locked in one order (pairs, then users, then movies, each
by name), so that requests wait for one another but never in a circle.
"""

from pathlib import Path

import asyncpg
from cyclopts import run as run_command

from benchmarks.peers import POSTGRES_USER
from benchmarks.peers.service import (
    IDLE_MS,
    MAX_GAP_MS,
    Event,
    Progress,
    make_app,
    run,
)

#: Those that wait for the disk at once become durable with one write.
CONNECTIONS = 32

#: Some room is left in pages, so that updates need not touch the indexes.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS pairs (
    time_ms bigint NOT NULL,
    at_ms bigint NOT NULL,
    watch_ms bigint NOT NULL,
    events bigint NOT NULL,
    begun_ms bigint NOT NULL,  -- where the last request's events began
    credit_ms bigint NOT NULL,  -- what they counted
    is_new boolean NOT NULL,  -- whether they were the first
    name text NOT NULL,
    slug text NOT NULL,
    PRIMARY KEY (name, slug)
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS users (
    watch_ms bigint NOT NULL, name text PRIMARY KEY
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS movies (
    watch_ms bigint NOT NULL, slug text PRIMARY KEY
) WITH (fillfactor = 20);
CREATE OR REPLACE FUNCTION credit_of(step_ms bigint, away_ms bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE RETURN CASE
    WHEN away_ms <= {IDLE_MS} AND step_ms BETWEEN 0 AND {MAX_GAP_MS} THEN step_ms ELSE 0
END;
CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint
LANGUAGE sql VOLATILE RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
"""

_COUNT = """
WITH pair AS (
    INSERT INTO pairs AS p
        (name, slug, begun_ms, at_ms, time_ms, watch_ms, credit_ms, events, is_new)
    {given}
    ON CONFLICT (name, slug) DO UPDATE SET
        begun_ms = excluded.begun_ms,
        at_ms = excluded.at_ms,
        time_ms = greatest(p.time_ms, excluded.time_ms),
        watch_ms = p.watch_ms + excluded.watch_ms
            + credit_of(excluded.begun_ms - p.at_ms, excluded.time_ms - p.time_ms),
        credit_ms = excluded.credit_ms
            + credit_of(excluded.begun_ms - p.at_ms, excluded.time_ms - p.time_ms),
        events = p.events + excluded.events,
        is_new = false
    RETURNING name, slug, credit_ms, is_new
), credit AS (
    SELECT name, slug, credit_ms FROM pair WHERE credit_ms > 0 OR is_new
), movie AS (
    INSERT INTO movies AS m (slug, watch_ms)
    SELECT slug, sum(credit_ms) FROM credit GROUP BY slug ORDER BY slug
    ON CONFLICT (slug) DO UPDATE SET watch_ms = m.watch_ms + excluded.watch_ms
)
INSERT INTO users AS u (name, watch_ms)
SELECT name, sum(credit_ms) FROM credit GROUP BY name ORDER BY name
ON CONFLICT (name) DO UPDATE SET watch_ms = u.watch_ms + excluded.watch_ms
"""
COUNT_ONE = _COUNT.format(given="VALUES ($1, $2, $3, $3, now_ms(), 0, 0, 1, true)")
COUNT_ALL = _COUNT.format(
    given="""
    SELECT name, slug, begun_ms, at_ms, now_ms(), credit_ms, credit_ms, events, true
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS given (name, slug, begun_ms, at_ms, credit_ms, events)
    ORDER BY name, slug"""
)


class Stretch:
    """The events of a pair in one request: where they begin and end, and what lies between."""

    __slots__ = ("at_ms", "begun_ms", "credit_ms", "events")

    def __init__(self, at_ms: int) -> None:
        self.begun_ms = self.at_ms = at_ms
        self.credit_ms = 0
        self.events = 1

    def go_on(self, at_ms: int) -> None:
        step_ms = at_ms - self.at_ms
        if 0 <= step_ms <= MAX_GAP_MS:
            self.credit_ms += step_ms
        self.at_ms = at_ms
        self.events += 1


class PostgresStore:
    """Counted is what is committed, with `synchronous_commit` as the cluster has it: on."""

    def __init__(self, socket_folder: Path) -> None:
        self._socket_folder = socket_folder

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(
            host=str(self._socket_folder),
            user=POSTGRES_USER,
            database="postgres",
            min_size=CONNECTIONS,
            max_size=CONNECTIONS,
        )
        await self._pool.execute(SCHEMA)

    async def close(self) -> None:
        await self._pool.close()

    async def count(self, event: Event) -> None:
        await self._pool.execute(COUNT_ONE, event.user, event.slug, event.at_ms)

    async def count_all(self, events: list[Event]) -> None:
        pairs: dict[tuple[str, str], Stretch] = {}
        for event in events:
            pair = event.user, event.slug
            if pair in pairs:
                pairs[pair].go_on(event.at_ms)
            else:
                pairs[pair] = Stretch(event.at_ms)
        names, slugs = zip(*pairs, strict=True) if pairs else ((), ())
        of = pairs.values()
        await self._pool.execute(
            COUNT_ALL,
            names,
            slugs,
            [stretch.begun_ms for stretch in of],
            [stretch.at_ms for stretch in of],
            [stretch.credit_ms for stretch in of],
            [stretch.events for stretch in of],
        )

    async def progress(self, user: str, slug: str) -> Progress | None:
        row = await self._pool.fetchrow(
            "SELECT at_ms, time_ms, watch_ms, events FROM pairs WHERE name = $1 AND slug = $2",
            user,
            slug,
        )
        return None if row is None else Progress(*row)

    async def user_watch_ms(self, user: str) -> int | None:
        return await self._watch_ms("SELECT watch_ms FROM users WHERE name = $1", user)

    async def movie_watch_ms(self, slug: str) -> int | None:
        return await self._watch_ms("SELECT watch_ms FROM movies WHERE slug = $1", slug)

    async def _watch_ms(self, query: str, name: str) -> int | None:
        found: int | None = await self._pool.fetchval(query, name)
        return found


def main(port: int, *, postgres_socket: Path) -> None:
    run(make_app("postgres", PostgresStore(postgres_socket)), port)


if __name__ == "__main__":
    run_command(main)
