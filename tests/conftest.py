"""Fixtures that several folders share, and which tests stay together in one process."""

import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.playhead import Playhead

#: Servers that tests of several files share. Such tests run one after the other in one process.
SHARED = ("server", "strict", "twofold", "amounts")

# Who starts the tests in the background has them ignore Ctrl-C, and with them what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a slow machine an example takes longer, and so does drawing one; neither is a fault.
settings.register_profile("playhead", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("playhead")


def shared_server(item: pytest.Item | None) -> str | None:
    """The one that a test uses."""
    names = getattr(item, "fixturenames", ())
    return next((name for name in SHARED if name in names), None)


def name_by_group(item: pytest.Item) -> None:
    """Has a group take effect: xdist 3.8 adds it to the name where pytest 9.2 no longer looks."""
    grouped = vars(item).get("_nodeid")
    if grouped is not None:
        item._id = type(item.id).parse(grouped)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Puts together what shares a server, else what is in a file: a server takes 5 s to start.

    What has a server of its own is of no group: it runs in any process.
    """
    for item in items:
        if "playhead" not in getattr(item, "fixturenames", ()):
            file = "/".join(item.path.parts[-2:])
            item.add_marker(pytest.mark.xdist_group(shared_server(item) or file))
    yield  # others may put first what failed last time
    for item in items:
        name_by_group(item)
    items.sort(key=lambda item: (*SHARED, None).index(shared_server(item)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends a server that no other test needs, as one that does nothing is busy, too."""
    name = shared_server(item)
    if name is not None and name != shared_server(nextitem):
        server = item.funcargs.get(name)  # type: ignore[attr-defined]
        if server is not None:  # it did start
            server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One running playhead for all tests that need nothing special; use names of your own."""
    with Playhead(tmp_path_factory.mktemp("server"), "--shards", "2").running() as playhead:
        yield playhead


@pytest.fixture
def playhead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """A playhead of the test's own, not started yet."""
    own = Playhead(tmp_path_factory.mktemp("own"))
    yield own
    own.kill()
