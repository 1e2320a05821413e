"""GET and POST /watching: the player's own API, by cookie.

The same events and moments as everywhere else, in the words of its clients.
"""

import msgspec
from sanic import Blueprint, HTTPResponse, Request

from aggregator.event import Event, Name, Seconds
from api import documentation as doc
from api.context import router
from api.intake import checked
from api.parameters import body_of
from api.problems import bad_request, not_found
from api.schema import PositionAnswer, answer, seconds

blueprint = Blueprint("watching")

_COOKIE = "user_id"
#: Browsers let no script set the header.
_FROM_DOCS = f"""To try it on this page, set the cookie first, in the browser's console:
`document.cookie = "{_COOKIE}=username"`. What the field below has cannot be sent."""


class Watching(msgspec.Struct, frozen=True):
    """Where a viewer is in a video, in seconds."""

    video_id: Name
    position: Seconds


@blueprint.post("/watching")
@doc.operation(
    "Store where a viewer is",
    f"An event of the user in the cookie. Position 0 is valid. {_FROM_DOCS}",
    answer=PositionAnswer,
    body={
        "application/json": {
            "schema": doc.reference(Watching),
            "example": {"video_id": "123", "position": 1},
        }
    },
    cookies={_COOKIE: "username"},
    problems=(400, 413, 503),
)
async def store(request: Request) -> HTTPResponse:
    user = _user(request)
    watching = body_of(request, Watching)
    event = checked(Event(user, watching.video_id, watching.position))
    await router(request).submit([event], None, len(request.body))
    return answer(PositionAnswer(seconds(round(watching.position * 1000))))


@blueprint.get("/watching")
@doc.operation(
    "Fetch where a viewer was",
    f"The latest moment of the user in the cookie. {_FROM_DOCS}",
    answer=PositionAnswer,
    query={"video_id": (str, "123")},
    cookies={_COOKIE: "username"},
    problems=(400, 404, 503),
)
async def fetch(request: Request) -> HTTPResponse:
    user = _user(request)
    video_id = request.args.get("video_id")
    if not video_id:
        raise bad_request("video_id: is missing")
    event = checked(Event(user, video_id, 0.0))
    progress = await router(request).progress(event.user, event.slug)
    if progress is None:
        raise not_found("nothing stored")
    return answer(PositionAnswer(seconds(progress.latest_ms)))


def _user(request: Request) -> str:
    user: str | None = request.cookies.get(_COOKIE)
    if not user:
        raise bad_request(f"The cookie {_COOKIE} is missing")
    try:
        user.encode()
    except UnicodeEncodeError as error:
        raise bad_request(f"The cookie {_COOKIE} is not UTF-8") from error
    return user
