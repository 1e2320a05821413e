"""Whether the subjects that were measured have counted right: traffic whose totals are known.

The viewers are those of `playhead generate`, and so is the way in which they are
sent and checked. The others count user, slug and at alone, so they get no more.
"""

from datetime import UTC, datetime
from functools import partial
from itertools import islice

import msgspec
import uvloop

from benchmarks.bench import Bench, Group, Plan, Step
from benchmarks.client import Client, Counted
from benchmarks.measurements import Figures
from benchmarks.sender import Pace, Sender
from benchmarks.subjects import PLAYHEAD
from benchmarks.verification import Facts, Verification, differences
from benchmarks.viewers import Viewers

EVENTS, EVENTS_QUICK, USERS, MOVIES = 20_000, 5_000, 500, 50
CONNECTIONS = 32
#: Events a request, and the seed of its viewers.
BATCHES = {1: 11, 500: 12}
#: The fact that all subjects know.
WATCHED = "watch_seconds"
#: About what a thousand events take to be simulated, sent and compared.
SECONDS_A_THOUSAND = 0.4


def plan(bench: Bench) -> Plan:
    """Once each: it is so or not."""
    events = EVENTS_QUICK if bench.is_quick else EVENTS
    return [
        Group(
            [
                Step(
                    name,
                    {"events a request": batch},
                    SECONDS_A_THOUSAND * events / 1_000,
                    partial(_measure, bench, name, batch, events),
                )
                for name in bench.with_events()
            ],
            rounds=1,
        )
        for batch in BATCHES
    ]


def _measure(bench: Bench, name: str, batch: int, events: int) -> Figures:
    url = bench.subject(name).url
    return uvloop.run(compared(url, batch, events, is_whole=name == PLAYHEAD))


async def compared(url: str, batch: int, events: int, is_whole: bool) -> Figures:
    """Sends the traffic and compares every total; `is_whole`: with sessions, and all facts."""
    verification = Verification()
    async with (Client if is_whole else _TerseClient)(url, CONNECTIONS) as client:
        sender = Sender(
            client,
            CONNECTIONS,
            batch,
            Pace(0, 0),
            always_keyed=True,
            on_counted=verification.record,
        )
        await sender.send(islice(Viewers(BATCHES[batch], USERS, MOVIES, is_whole), events))
        expected = verification.expected()
        if not is_whole:
            expected = _watched(expected)
        found = [each async for some in differences(expected, client.get) for each in some]
    return {
        "events": verification.events,
        "totals": sum(map(len, expected.values())),
        "differences": len(found),
        "errors": sender.tally.lost + sender.tally.rejected,
    }


class _TerseClient(Client):
    """Of servers that say how many they accepted, and no more."""

    async def post(self, body: bytes, _: str | None) -> Counted:
        said = await self._try(self._post, body, {"Content-Type": "application/json"})
        accepted = msgspec.json.decode(said)["accepted"]
        return Counted(accepted, 0, 0, datetime.now(UTC).isoformat())


def _watched(expected: dict[str, Facts]) -> dict[str, Facts]:
    """Of movies, users and pairs, the watch time."""
    return {path: {WATCHED: facts[WATCHED]} for path, facts in expected.items() if WATCHED in facts}
