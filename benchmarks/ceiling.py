"""The ceiling: the same HTTP server with a handler that does nothing.

`python -m benchmarks.ceiling PORT` runs it until it is ended.
"""

import sys

from sanic import HTTPResponse, Request, Sanic
from sanic.response import empty

app = Sanic("ceiling", configure_logging=False)
app.config.update(ACCESS_LOG=False, AUTO_EXTEND=False)


@app.post("/")
async def nothing(_: Request) -> HTTPResponse:
    return empty()


@app.get("/readyz")
async def ready(_: Request) -> HTTPResponse:
    return empty()


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False)
