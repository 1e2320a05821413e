"""The ceiling: the same HTTP server with handlers that do nothing.

`python -m benchmarks.peers.ceiling PORT` runs it until it is ended.
"""

from cyclopts import run as run_command
from sanic import HTTPResponse, Request
from sanic.response import empty

from benchmarks.peers.service import new_app, run


def main(port: int) -> None:
    app = new_app("ceiling")

    @app.post("/", name="root")
    @app.post("/v1/events")
    async def take(_: Request) -> HTTPResponse:
        return empty()

    @app.get("/", name="front")
    @app.get("/<_path:path>")
    async def ask(_: Request, _path: str = "") -> HTTPResponse:
        return empty()

    run(app, port)


if __name__ == "__main__":
    run_command(main)
