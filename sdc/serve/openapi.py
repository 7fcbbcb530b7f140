"""The OpenAPI 3.1 description at /openapi.json, from the constants that the routes go by."""

from __future__ import annotations

from typing import Any

from sdc._version import __version__
from sdc.serve.request_parsing import K
from sdc.serve.settings import MOST_EXAMPLES, MOST_LABELS, MOST_VECTORS, ServeSettings

ROUTES = ("/", "/search", "/examples", "/images/{id}", "/healthz", "/metrics", "/openapi.json")
_REFUSALS = {
    "400": "the body is not JSON, or the request is broken",
    "404": "no item of this id",
    "405": "the address has another method",
    "408": "the request came too slowly",
    "413": "the body is too large",
    "415": "the body is of another type",
    "421": "on loopback, a Host that is neither localhost, an address nor allowed by --allow-host",
    "422": "a value does not fit: another dimension, NaN, a k or radius out of range, no image",
    "501": "the index has no backbone for images",
    "503": "too busy, or ending; Retry-After says when to try again",
}
_LABEL: dict[str, Any] = {
    "description": "its class, or all of its classes; only where the index has labels",
    "oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}],
}
_NEIGHBOR: dict[str, Any] = {
    "type": "object",
    "required": ["id", "row", "distance"],
    "properties": {
        "id": {"type": "string"},
        "row": {"type": "integer", "description": "of the feature file"},
        "distance": {"type": "integer", "description": "bits in which the codes differ"},
        "label": _LABEL,
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["index", "k", "results"],
    "properties": {
        "index": {"type": "string"},
        "k": {"type": ["integer", "null"], "description": "as clamped to the database; null with a radius"},
        "radius": {"type": "integer"},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["query", "neighbors"],
                "properties": {
                    "query": {"type": "string", "description": "the id, the place of the vector, or image"},
                    "neighbors": {
                        "type": "array", "items": _NEIGHBOR, "description": "ordered by (distance, row)",
                    },
                },
            },
        },
    },
}  # fmt: skip
_HEALTH: dict[str, Any] = {
    "type": "object",
    "required": ["status", "generation", "index", "queries", "outdated", "shows_images", "max_k", "max_body"],
    "properties": {
        "status": {"enum": ["ready", "draining"]},
        "generation": {"type": "integer", "description": "1, and one more with each changed index that was taken up"},
        "index": {
            "type": "object",
            "required": ["count", "bits", "fingerprint", "changes"],
            "properties": {
                "count": {"type": "integer"}, "bits": {"type": "integer"}, "fingerprint": {"type": "string"},
                "changes": {"type": "integer", "description": "by `sdc add` and `sdc remove` since it was encoded"},
            },
        },
        "queries": {
            "type": "object",
            "required": ["vectors", "images"],
            "properties": {
                "vectors": {"type": ["integer", "null"], "description": "their dimension; null: only ids"},
                "images": {"enum": ["ready", "loading", "unavailable"]},
            },
        },
        "outdated": {"type": "boolean", "description": "a newer index is there, but cannot be opened"},
        "shows_images": {"type": "boolean"},
        "max_k": {"type": "integer"},
        "max_body": {"type": "integer"},
    },
}  # fmt: skip


def describe(settings: ServeSettings) -> dict[str, Any]:
    """The description of a service with these limits."""
    how: dict[str, Any] = {
        "k": {"type": "integer", "minimum": 1, "maximum": settings.max_k, "default": min(K, settings.max_k)},
        "radius": {
            "type": "integer", "minimum": 0,
            "description": f"all within this distance instead of the k nearest, refused where more than "
            f"{settings.max_k} are",
        },
        "only_label": {
            "description": "search among these classes alone",
            "oneOf": [
                {"type": "integer", "minimum": 0},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MOST_LABELS},
            ],
        },
    }  # fmt: skip
    vector: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1}
    whats: dict[str, Any] = {
        "vector": {**vector, "description": "of the features' dimension, see /healthz"},
        "vectors": {"type": "array", "items": vector, "minItems": 1, "maxItems": MOST_VECTORS},
        "id": {"type": "string", "description": "of an item of the index"},
    }
    query = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**whats, **how},
        "oneOf": [{"required": [name]} for name in whats],
        "not": {"required": ["k", "radius"]},
    }
    beside = [
        {"name": name, "in": "query", "schema": schema, "description": "with an image"} for name, schema in how.items()
    ]
    search = {
        "summary": "The nearest items of vectors, of an item, or of an image",
        "description": f"A body has at most {settings.max_body} bytes and is sent within {settings.timeout:g} s.",
        "parameters": beside,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": query},
                "image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}},
            },
        },
        "responses": _responses(_content("application/json", _ANSWER), *_REFUSALS),
    }
    text: dict[str, Any] = {"type": "string"}
    limit = {"type": "integer", "minimum": 1, "maximum": MOST_EXAMPLES, "default": 12}
    item = {
        "type": "object",
        "required": ["id", "row"],
        "properties": {"id": text, "row": {"type": "integer"}, "label": _LABEL},
    }
    examples = {
        "type": "object",
        "required": ["examples"],
        "properties": {"examples": {"type": "array", "items": item}},
    }
    identifier = {"name": "id", "in": "path", "required": True, "schema": text}
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdc serve", "version": __version__, "summary": "Search an index of binary codes"},
        "paths": {
            "/": {"get": {"summary": "A page to try it", "responses": _responses(_content("text/html", text))}},
            "/search": {"post": search},
            "/examples": {
                "get": {
                    "summary": "Some items of the index, at random",
                    "parameters": [{"name": "limit", "in": "query", "schema": limit}],
                    "responses": _responses(_content("application/json", examples), "422", "503"),
                }
            },
            "/images/{id}": {
                "get": {
                    "summary": "The image of an item; slashes in its id stand as they are",
                    "parameters": [identifier],
                    "responses": _responses(_content("image/*", text), "404", "503"),
                }
            },
            "/healthz": {
                "get": {
                    "summary": "Whether it is ready, and what it serves",
                    "responses": {
                        **_responses(_content("application/json", _HEALTH)),
                        "503": {"description": "it is ending", **_content("application/json", _HEALTH)},
                    },
                }
            },
            "/metrics": {
                "get": {"summary": "For Prometheus", "responses": _responses(_content("text/plain", text))}
            },
            "/openapi.json": {
                "get": {
                    "summary": "This description",
                    "responses": _responses(_content("application/json", {"type": "object"})),
                }
            },
        },
        "components": {"schemas": {"Error": {"type": "object", "required": ["error"], "properties": {"error": text}}}},
    }  # fmt: skip


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


def _responses(found: dict[str, Any], *refusals: str) -> dict[str, Any]:
    error = _content("application/json", {"$ref": "#/components/schemas/Error"})
    return {
        "200": {"description": "found", **found},
        **{status: {"description": _REFUSALS[status], **error} for status in sorted({"421", *refusals})},
    }
