"""`sdc serve`: an HTTP service over one index, in one process.

settings: what the command sets, and fixed limits. server: the socket, the signals, uvicorn. connection: limits of time
and number below HTTP. middleware, app: what every request passes, and the routes. responses: JSON. allowed_hosts: the
names that are answered. limits: bytes and searches of all requests at once. request_parsing: what a request asks for.
snapshot: the index and model that answer. reload: takes up a changed index. images: images as queries, and images that
are shown. metrics, openapi, page.html.
"""

from sdc.serve.server import serve
from sdc.serve.settings import ServeSettings

__all__ = ["ServeSettings", "serve"]
