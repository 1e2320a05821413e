"""OpenAPI: each handler says what it takes and answers, and /docs shows it, offline.

Schemas come from the structs that answers are encoded from, so they cannot
differ from what is sent. The page is Swagger UI, from a package, not a network.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from sanic import Blueprint, HTTPResponse, Request, Sanic
from sanic.response import html, raw
from swagger_ui_bundle import swagger_ui_path

from aggregator.event import Event
from api import __version__
from api.examples import ANSWERS
from api.problems import CONTENT_TYPE, Problem

Handler = TypeVar("Handler", bound=Callable[..., Any])
_Object = dict[str, Any]

#: The version of OpenAPI that Swagger UI and most generators of clients know.
_OPENAPI = "3.0.3"
_SCHEMAS = "#/components/schemas/{name}"
_INFO = {
    "title": "playhead",
    "version": __version__,
    "description": "Watch time and resume points from player heartbeats. "
    "Positions and amounts are seconds, times RFC 3339 in UTC, errors RFC 9457.",
    "license": {"name": "Apache-2.0"},
}
#: In the path of a route: a parameter's name and its type.
_PARAMETER = re.compile(r"<(\w+):\w+>")

_NULL, _INTEGER, _NUMBER = ({"type": name} for name in ("null", "integer", "number"))

_referenced: set[type[msgspec.Struct]] = set()
_operations: dict[Callable[..., Any], _Object] = {}


def reference(struct: type[msgspec.Struct]) -> dict[str, str]:
    """A schema that is that of `struct`."""
    _referenced.add(struct)
    return {"$ref": _SCHEMAS.format(name=struct.__name__)}


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
    body: _Object | None = None,
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
    # Headers have no example: a page that fills in the same key each time would make duplicates.
    parameters = [
        *(_parameter(name, "path", _text(of)) for name, of in (path or {}).items()),
        *(_parameter(name, "cookie", _text(of)) for name, of in (cookies or {}).items()),
        *(_parameter(name, "query", _query(*of)) for name, of in (query or {}).items()),
        *(_parameter(name, "header", {"type": "string"}) for name in headers),
    ]
    responses = {str(status): {"description": "Done", "content": _content(answer, text)}}
    responses |= {str(status): _problem(status) for status in problems}
    described: _Object = {
        "summary": summary,
        "description": " ".join(description.split()),
        "parameters": parameters,
        "responses": responses,
    }
    if body is not None:
        described["requestBody"] = {"content": body, "required": True}

    def decorate(handler: Handler) -> Handler:
        _operations[handler] = described
        return handler

    return decorate


def _parameter(name: str, location: str, schema: _Object) -> _Object:
    """What has an example is required, as something has to stand there to try it."""
    return {"name": name, "in": location, "required": "example" in schema, "schema": schema}


def _content(answer: type[msgspec.Struct] | None, text: str | None) -> _Object:
    if answer is None:
        return {} if text is None else {text: {"schema": {"type": "string"}}}
    shown: _Object = {"schema": reference(answer)}
    if answer in ANSWERS:
        shown["example"] = msgspec.to_builtins(ANSWERS[answer])
    return {text or "application/json": shown}


def _problem(status: int) -> _Object:
    title, detail = HTTPStatus(status).phrase, _PROBLEMS[status]
    example = msgspec.to_builtins(Problem("about:blank", title, status, detail))
    content = {CONTENT_TYPE: {"schema": reference(Problem), "example": example}}
    return {"description": detail, "content": content}


def _text(example: str) -> _Object:
    return {"type": "string", "example": example}


def _query(kind: Any, default: Any) -> _Object:
    if kind is int:
        return {"type": "integer", "default": default}
    if kind is str:
        return {"type": "string"} if default is None else _text(default)
    return {"type": "string", "enum": list(kind), "default": default}


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>playhead API</title>
<link rel="icon" href="/docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<style>.swagger-ui .topbar { display: none } nav { font: 16px sans-serif; padding: 1rem }</style>
<body>
<nav><a href="/">What is going on now</a></nav>
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
async def docs(_: Request) -> HTTPResponse:
    return html(_PAGE)


@page.get("/openapi.json")
async def specification(request: Request) -> HTTPResponse:
    return raw(_specification(request.app), content_type="application/json")


@lru_cache(maxsize=1)
def _specification(app: Sanic[Any, Any]) -> bytes:
    """The document, in JSON: all routes of `app` whose handlers say what they do.

    By path and method, since the router has its routes in another order in each process.
    """
    paths: dict[str, _Object] = {}
    for route in sorted(app.router.routes, key=lambda route: (route.path, sorted(route.methods))):
        if route.handler in _operations:
            _, group, name = route.name.split(".")
            path = paths.setdefault("/" + _PARAMETER.sub(r"{\1}", route.path), {})
            for method in map(str.lower, sorted(route.methods)):
                identity = {"operationId": f"{method}~{group}.{name}", "tags": [group]}
                path[method] = identity | _operations[route.handler]
    _, schemas = msgspec.json.schema_components(sorted(_referenced, key=str), ref_template=_SCHEMAS)
    components = {"schemas": _plain(schemas)}
    document = {"openapi": _OPENAPI, "info": _INFO, "paths": paths, "components": components}
    return msgspec.json.encode(document)


def _plain(schema: Any) -> Any:
    """A JSON Schema as this version of OpenAPI has it, which knows no type `null`."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _plain(value) for key, value in schema.items()}
    if schema.get("required") == []:
        del schema["required"]  # to require nothing is not allowed
    if "anyOf" in schema:
        schema |= _choice(schema.pop("anyOf"))
    return schema


def _choice(schemas: list[_Object]) -> _Object:
    """Any of `schemas`, in as few words."""
    left = [schema for schema in schemas if schema != _NULL]
    if _NUMBER in left:
        left = [schema for schema in left if schema != _INTEGER]  # it is a number, too
    nullable = {"nullable": True} if _NULL in schemas else {}
    return (left[0] if len(left) == 1 and "$ref" not in left[0] else {"anyOf": left}) | nullable
