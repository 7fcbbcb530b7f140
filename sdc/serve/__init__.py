"""`sdc serve`: an HTTP service over one index, in one process.

settings: what it is told. server: the socket, the signals, uvicorn. connection: limits of time and number below HTTP.
app: the routes. hosts: the names it answers to. gate: what requests may take. queries: what they ask. loaded: the index
and model that answer them. lookup: where its ids are. pictures: images as queries and images that are shown. follow:
takes up a changed index. metrics, openapi, page.html.
"""

from sdc.serve.server import serve
from sdc.serve.settings import ServeSettings

__all__ = ["ServeSettings", "serve"]
