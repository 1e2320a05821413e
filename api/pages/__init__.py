"""The front page: what is going on, for people. Served offline, from one file."""

import base64
import hashlib
import re
from importlib import resources

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import html

from api import documentation as doc

blueprint = Blueprint("pages")


def content_security_policy(page: str) -> str:
    """Lets a page run its own script and style, and ask this server; nothing else."""

    def hashes(element: str) -> str:
        found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digests = (hashlib.sha256(content.encode()).digest() for content in found)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


_PAGE = resources.files(__name__).joinpath("live.html").read_text("utf-8")
_HEADERS = {
    "Content-Security-Policy": content_security_policy(_PAGE),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@blueprint.get("/")
@doc.operation("The front page", "What `/v1/live` tells, for people.", text="text/html")
async def home(_: Request) -> HTTPResponse:
    return html(_PAGE, headers=_HEADERS)
