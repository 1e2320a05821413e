"""OpenAPI: each handler says what it takes and answers, and /docs shows it, offline.

Schemas come from the structs that answers are encoded from, so they cannot
differ from what is sent. The page is Swagger UI, from a package, not a network.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from sanic import Blueprint, HTTPResponse, Request, Sanic
from sanic.response import html
from sanic_ext import Extend, openapi
from sanic_ext.extensions.openapi.builders import OperationStore, SpecificationBuilder
from sanic_ext.extensions.openapi.definitions import Parameter, Response
from sanic_ext.extensions.openapi.extension import OpenAPIExtension
from sanic_ext.extensions.openapi.types import Schema
from swagger_ui_bundle import swagger_ui_path

from aggregator.event import Event
from api import __version__
from api.examples import ANSWERS
from api.problems import CONTENT_TYPE, Problem

Handler = TypeVar("Handler", bound=Callable[..., Any])

_referenced: set[type[msgspec.Struct]] = set()


def reference(struct: type[msgspec.Struct]) -> dict[str, str]:
    """A schema that is that of `struct`."""
    _referenced.add(struct)
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


_EVENT = {"user": "username", "slug": "show_slug", "at": 4500}
EVENTS_BODY = {
    "application/json": {
        "schema": {
            "oneOf": [
                reference(Event),
                {"type": "array", "items": reference(Event)},
            ]
        },
        "example": _EVENT,
    },
    "application/x-ndjson": {
        "schema": {"type": "string"},
        "example": '{"user": "username", "slug": "show_slug", "at": 4500}\n'
        '{"user": "username", "slug": "show_slug", "at": 4505}\n',
    },
    "application/vnd.apache.arrow.stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "An Arrow IPC stream with the columns of an event: `user`, `slug` and "
            "`at`, and any of `session`, `id`, `ts` and `duration`. Strings are plain or "
            "dictionary-encoded; numbers are of any numeric type, `ts` also a timestamp of any "
            "unit. A null is a missing value; columns with other names are ignored. Buffers may "
            "be compressed (LZ4, ZSTD).",
        },
    },
}

_PROBLEMS = {
    400: "The request is wrong; `detail` and `errors` say where",
    404: "Never seen",
    409: "Not with these settings",
    412: "Another device was faster; besides the problem, the document is the progress",
    413: "Too large: send it in several requests",
    415: "This content type or encoding is not understood",
    503: "Overloaded, or shards are away: ask again after `Retry-After` seconds",
}


def operation(
    summary: str,
    description: str,
    *,
    answer: type[msgspec.Struct] | None = None,
    text: str | None = None,
    status: int = 200,
    body: dict[str, Any] | None = None,
    path: Mapping[str, str] | None = None,
    query: Mapping[str, tuple[Any, Any]] | None = None,
    headers: tuple[str, ...] = (),
    cookies: Mapping[str, str] | None = None,
    problems: tuple[int, ...] = (),
) -> Callable[[Handler], Handler]:
    """Documents a handler.

    `answer` is the struct of a 200, or `text` the content type of one that is
    not JSON; with both, `answer` is what its parts hold. A `status` of 204 has
    neither. `path` and `cookies` give an example a parameter; `query` a type or the
    choices, and the default or, for a required one, an example.
    """
    examples = {"path": path or {}, "cookie": cookies or {}}
    parameters: list[Any] = [
        Parameter(name, _text(example), location, required=True)
        for location, of_location in examples.items()
        for name, example in of_location.items()
    ]
    parameters += [Parameter(name, _query(*about)) for name, about in (query or {}).items()]
    # Without an example: a page that fills in the same key each time would make duplicates.
    parameters += [Parameter(name, openapi.String(), "header") for name in headers]
    content: dict[str, Any] = {}
    if answer is not None:
        content = {text or "application/json": {"schema": reference(answer)}}
        if answer in ANSWERS:
            content[text or "application/json"]["example"] = msgspec.to_builtins(ANSWERS[answer])
    elif text is not None:
        content = {text: {"schema": {"type": "string"}}}
    responses = [Response(content, status, "Done")] + [
        Response({CONTENT_TYPE: _problem(status)}, status, _PROBLEMS[status]) for status in problems
    ]
    document: Callable[[Handler], Handler] = openapi.definition(
        summary=summary,
        description=" ".join(description.split()),
        parameter=parameters,
        response=responses,
    )

    def decorate(handler: Handler) -> Handler:
        if body is not None:
            # The library's own decorator would wrap the handler, at a cost for each request.
            OperationStore()[handler].body(body, required=True)
        return document(handler)

    return decorate


def _problem(status: int) -> dict[str, Any]:
    title, detail = HTTPStatus(status).phrase, _PROBLEMS[status]
    example = msgspec.to_builtins(Problem("about:blank", title, status, detail))
    return {"schema": reference(Problem), "example": example}


def _text(example: str) -> Schema:
    return openapi.String(example=example)


def _query(kind: Any, default: Any) -> Schema:
    if kind is int:
        return openapi.Integer(default=default)
    if kind is str:
        return openapi.String() if default is None else _text(default)
    return openapi.String(enum=list(kind), default=default)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>playhead API</title>
<link rel="icon" href="/docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<style>.swagger-ui .topbar { display: none }</style>
<body>
<div id="ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, tagsSorter: "alpha",
                  defaultModelsExpandDepth: 0, tryItOutEnabled: true});
</script>
"""

page = Blueprint("documentation")
for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"):
    page.static(f"/docs/assets/{asset}", str(swagger_ui_path / asset), name=asset.partition(".")[0])


@page.get("/docs")
@openapi.exclude()
async def docs(_: Request) -> HTTPResponse:
    return html(_PAGE)


class _OfflineOpenAPI(OpenAPIExtension):
    """The specification alone; the extension's own pages load their scripts from elsewhere."""

    name = "offline"

    def label(self) -> str:
        return ""


def install(app: Sanic[Any, Any]) -> None:
    """Serves /docs and /openapi.json."""
    app.config.update(
        API_TITLE="playhead",
        API_VERSION=__version__,
        API_DESCRIPTION="Watch time and resume points from player heartbeats. "
        "Positions and amounts are seconds, times RFC 3339 in UTC, errors RFC 9457.",
        API_LICENSE_NAME="Apache-2.0",
    )
    app.blueprint(page)
    Extend(
        app,
        extensions=[_OfflineOpenAPI],
        built_in_extensions=False,
        config={
            "oas_url_prefix": "",
            "oas_ui_swagger": False,
            "oas_ui_redoc": False,
            "oas_ui_default": None,
            "oas_autodoc": False,
        },
    )
    _, components = msgspec.json.schema_components(
        _referenced, ref_template="#/components/schemas/{name}"
    )
    for name, schema in components.items():
        SpecificationBuilder().add_component("schemas", name, schema)
