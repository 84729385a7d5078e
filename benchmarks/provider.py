"""A provider that answers at once: nginx where it is installed, else a few lines of asyncio."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import Part, free_port, installed, process

TOKEN = '{"access_token":"bench","token_type":"access_token","expires_in":3600}'
PENDING = '{"status":"PENDING"}'

NGINX = """
daemon off; master_process on; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 10000000; client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        default_type application/json;
        location = /collection/token/ {{ return 200 '{token}'; }}
        location = /collection/v1_0/requesttopay {{ return 202; }}
        location /collection/v1_0/requesttopay/ {{ return 200 '{pending}'; }}
    }}
}}
"""


@contextmanager
def provider(folder: Path) -> Iterator[tuple[str, str, Part]]:
    """Its name, its base URL, and its process."""
    port = free_port()
    nginx = installed("nginx")
    if nginx:
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, port=port, token=TOKEN, pending=PENDING))
        command = [nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    else:
        command = [sys.executable, "-m", "benchmarks.provider", str(port)]
    with process(command, os.environ, folder / "provider.log") as running:
        yield "nginx" if nginx else "built-in", f"http://127.0.0.1:{port}", Part("provider", running.pid)


class Answers(asyncio.Protocol):
    """Reads just as much HTTP as is needed to answer it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._unread) < end + 4 + length:
                return
            self._unread = self._unread[end + 4 + length :]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        if b"/token/" in head[:60]:
            status, body = b"200 OK", TOKEN.encode()
        elif head.startswith(b"post"):
            status, body = b"202 Accepted", b""
        else:
            status, body = b"200 OK", PENDING.encode()
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        )


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
