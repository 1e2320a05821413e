"""What a worker's requests share, typed."""

from typing import cast

from sanic import Request

from aggregator.router import Router
from api.settings import Settings


def router(request: Request) -> Router:
    return cast(Router, request.app.ctx.router)


def credits_positions(request: Request) -> bool:
    """Whether events say positions; else nothing is known of completion and retention."""
    return settings(request).credit == "position"


def settings(request: Request) -> Settings:
    return cast(Settings, request.app.ctx.settings)
