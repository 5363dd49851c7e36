"""A WSGI application that calls a service of the mesh; MESH_OPTIONS says when it connects."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from aegis_discovery import ForkedError, Mesh, connect

options = json.loads(os.environ["MESH_OPTIONS"])


@functools.cache
def mesh() -> Mesh:
    return connect(options["seed"], node_id="web", cert_dir=options["cert_dir"])


if options["start"] == "import":
    mesh()


def post_fork(server: Any, worker: Any) -> None:
    """Gunicorn calls this hook, because this file is also its configuration."""
    if options["start"] == "post_fork":
        mesh()


preload_app = options["start"] in {"import", "lazily"}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        say = mesh().pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
        body, status = say(b"hi", timeout=10), "200 OK"
    except ForkedError as error:
        body, status = str(error).encode(), "500 Internal Server Error"
    start_response(status, [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    return [body]
