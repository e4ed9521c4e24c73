"""The hosts of published checkpoints, on this machine, under their own names.

A proxy that ends every connection itself: what is asked of https://huggingface.co gets
its answer here. So the code under test uses the published addresses as they are.
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

HOSTS = (
    'github.com',
    'huggingface.co',
    'download.openmmlab.com',
    'mmassets.onedl.ai',
    'drive.google.com',
    'drive.usercontent.google.com',
)
# What Drive shows before a file that is too large for its virus scan: in one line.
CONFIRMATION = (
    '<!DOCTYPE html><html><body><form id="download-form" method="get" '
    'action="https://drive.usercontent.google.com/download">'
    '<input type="submit" value="Download anyway"/>'
    '<input type="hidden" name="id" value="{id}">'
    '<input type="hidden" name="export" value="download">'
    '<input type="hidden" name="confirm" value="t"></form></body></html>'
)
QUOTA = (
    '<!DOCTYPE html><html><body><p class="uc-error-caption">Sorry</p>'
    '<p class="uc-error-subcaption">Too many users have viewed or downloaded this file '
    'recently.</p></body></html>'
)


class Internet(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        files: What is behind an address, by what it has after https://; a file on Drive
            is 'drive.google.com/ID'.
        asked: Host and path of all requests, in their order.
        quota: Whether Drive shows its page about too many downloads.
        cut: Send so many bytes of the next answer and then no more.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.quota = False
        self.cut: int | None = None
        self.authority = trustme.CA()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*HOSTS).configure_cert(self.context)

    def handle_error(self, request, client_address) -> None:
        """A client that has seen enough is no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(':')[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.context.wrap_socket(
            self.connection, server_side=True
        )
        self.rfile = self.connection.makefile('rb')
        self.wfile = self.connection.makefile('wb')
        self.close_connection = False

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(self.host + parts.path)
        if self.host.startswith('drive.'):
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.drive(parts.path, query)
        else:
            self.file(self.host + parts.path)
        self.wfile.flush()

    def drive(self, path: str, query: dict[str, str]) -> None:
        if path == '/uc':
            self.send_response(303)
            target = f'{HOSTS[-1]}/download?id={query["id"]}&export=download'
            self.send_header('Location', f'https://{target}')
            self.send_header('Content-Length', '0')
            self.end_headers()
        elif self.server.quota:
            self.page(QUOTA)
        elif 'confirm' not in query:
            self.page(CONFIRMATION.format(**query))
        else:
            self.file(f'drive.google.com/{query["id"]}')

    def page(self, text: str) -> None:
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def file(self, address: str) -> None:
        content = self.server.files.get(address)
        if content is None:
            self.send_response(404)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        given = self.headers.get('Range')
        start = int(given[6:-1]) if given else 0
        self.send_response(206 if given else 200)
        if given:
            last = len(content) - 1
            self.send_header('Content-Range', f'bytes {start}-{last}/{len(content)}')
        self.send_header('Content-Type', 'application/octet-stream')
        self.send_header('Content-Disposition', 'attachment; filename="x.pth"')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        end, self.server.cut = self.server.cut, None
        self.wfile.write(content[start:end])
        if end is not None:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


@contextmanager
def serve() -> Iterator[Internet]:
    """Run the proxy and have this process and its children use it."""
    with (
        Internet() as internet,
        internet.authority.cert_pem.tempfile() as certificate,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ('http_proxy', 'all_proxy', 'no_proxy'):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        proxy = f'http://127.0.0.1:{internet.server_address[1]}'
        for name in ('https_proxy', 'HTTPS_PROXY'):
            patch.setenv(name, proxy)
        for name in ('SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE'):
            patch.setenv(name, certificate)
        threading.Thread(target=internet.serve_forever, args=(0.01,)).start()
        try:
            yield internet
        finally:
            internet.shutdown()
