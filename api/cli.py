"""The command line: `playhead serve`, and what else there is to run."""

import contextlib
import sys
from typing import Annotated

from cyclopts import App, Parameter
from pydantic import ValidationError

from aggregator import collector, environment
from aggregator.logs import configure
from api import __version__, stopping
from api.settings import Settings
from persistence.errors import PersistenceError

app = App(
    name="playhead",
    version=__version__,
    help="Watch time and resume points from player heartbeats.",
)


@app.command
def serve(*, settings: Annotated[Settings | None, Parameter(name="*")] = None) -> None:
    """Start the server and run until Ctrl-C or SIGTERM.

    Every flag is also a variable: --data-dir is PLAYHEAD_DATA_DIR.
    """
    settings = settings or Settings()
    configure(settings.log_level)
    environment.prepare(embedded=settings.ray_address is None)
    with contextlib.suppress(KeyboardInterrupt):
        stopping.keep()  # an import that is interrupted may swallow it
        with collector.paused():
            from api import server  # noqa: PLC0415 - it imports Ray, which reads the environment then

        stopping.install()
        try:
            server.serve(settings)
        except (PersistenceError, server.StartError, OSError) as error:
            sys.exit(f"playhead: {error}")


app.command("benchmarks.generate:generate", name="generate")
app.command("api.check:check", name="check")
app.command("api.sql:sql", name="sql")
app.command("api.rebuild:rebuild", name="rebuild")
app.command("api.backup:backup", name="backup")
app.command("api.backup:restore", name="restore")
app.command("api.log_dump:app", name="log")


def main() -> None:
    try:
        app()
    except ValidationError as error:
        flaws = "; ".join(
            f"PLAYHEAD_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()
        )
        sys.exit(f"playhead: {flaws}")
