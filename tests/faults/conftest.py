"""What the fault tests share: a seed that a failure prints, and how long to go on."""

import os
import secrets

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """PLAYHEAD_SEED, or one drawn; it is printed with a failure."""
    seed = int(os.environ.get("PLAYHEAD_SEED") or secrets.randbits(32))
    request.node.user_properties.append(("seed", seed))
    request.node.add_report_section("setup", "seed", f"PLAYHEAD_SEED={seed}")
    return seed


def rounds(n: int) -> int:
    """`n`, or PLAYHEAD_ROUNDS times as many for a soak."""
    return n * int(os.environ.get("PLAYHEAD_ROUNDS") or 1)
