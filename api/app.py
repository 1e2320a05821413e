"""The Sanic application of one worker."""

from typing import Any

from sanic import Sanic

from api import (
    cors,
    documentation,
    events,
    live,
    metrics,
    movies,
    operating,
    pages,
    users,
    watching,
)
from api.orders import GRACE_S
from api.problems import ProblemHandler
from api.settings import Settings
from api.shared import Shared


def create_app(settings: Settings) -> Sanic[Any, Any]:
    """An application without a router yet: `app.ctx.router` is set when its loop runs."""
    app: Sanic[Any, Any] = Sanic(
        "playhead", error_handler=ProblemHandler(), configure_logging=False
    )
    app.config.update(
        REQUEST_MAX_SIZE=settings.body_bytes_max,
        REQUEST_TIMEOUT=settings.request_timeout_s,
        # From the first byte: the body has its time, and a shard that is away its own.
        RESPONSE_TIMEOUT=settings.request_timeout_s + settings.shard_timeout_s,
        GRACEFUL_SHUTDOWN_TIMEOUT=GRACE_S,
        ACCESS_LOG=False,
        MOTD=False,
        FALLBACK_ERROR_FORMAT="json",
        DEPRECATION_FILTER="ignore",  # Sanic's use of old Python: no operator can mend it
    )
    app.ctx.settings = settings
    app.ctx.shared = Shared()
    for module in (pages, events, movies, users, watching, live, operating, metrics):
        app.blueprint(module.blueprint)
    app.blueprint(documentation.page)
    for route in app.router.routes:
        route.extra.ignore_body = False  # else Sanic logs each body that a GET has
    cors.install(app, settings.cors_origins)
    return app
