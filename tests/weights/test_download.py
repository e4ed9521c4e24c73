"""Downloads from a local server that simulates the hosts."""

import hashlib
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mmmeta.weights import download
from mmmeta.weights.download import CHUNK, cache_dir, fetch, fetch_published
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.locate import locate
from mmmeta.weights.source import Source

CONTENT = random.Random(0).randbytes(600_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any name; the first folder of the path selects how."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []  # of the answers to come, bytes sent

    def handle_error(self, request, client_address) -> None:
        """A client that disconnects early is not an error."""

    def url(self, how: str, name: str = 'x.pth') -> str:
        return f'http://127.0.0.1:{self.server_address[1]}/{how}/{name}'


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        how = self.path.split('/')[1]
        given = self.headers.get('Range')
        self.server.requests.append((how, given))
        if how == 'missing':
            self.send_error(404)
            return
        start = int(given[6:-1]) if given and not how.startswith('whole') else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        first = sum(h == how for h, _ in self.server.requests) == 1
        tag = f'"{first}"' if how == 'changed' else 'W/"weak"'
        known = self.headers.get('If-Range', tag)
        if known.startswith('W/') and 'If-Range' in self.headers:
            self.send_error(400)  # forbidden by RFC 9110
            return
        start = start if known == tag else 0
        content = CONTENT[::-1] if how == 'changed' and first else CONTENT
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header('ETag', tag)
        kind = 'text/html' if how == 'page' else 'application/octet-stream'
        self.send_header('Content-Type', kind)
        if how != 'unsized':
            length = len(body) + (10 if how == 'short' else 0)
            self.send_header('Content-Length', str(length))
        self.end_headers()
        step = len(body) if how != 'slow' else 100_000
        if how == 'cut' or (how in ('cut-once', 'changed') and first):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if how == 'stuck' and first:
            self.wfile.write(body[:300_000])
            self.rfile.read(1)  # until the client is gone
            return
        if how.endswith('cuts') and self.server.cuts:
            # Some end in order, others by a reset of the connection.
            self.wfile.write(body[: self.server.cuts.pop()])
            self.wfile.flush()
            if len(self.server.cuts) % 2:
                linger = struct.pack('ii', 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        for i in range(0, len(body), step):
            self.wfile.write(body[i : i + step])
            if how == 'slow':
                time.sleep(0.05)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,)).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    for name in ('http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv('MMMETA_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(download, 'WAIT', 0.0)
    return tmp_path / 'cache'


@pytest.mark.parametrize('how', ['plain', 'slow', 'unsized'])
def test_download_and_cache(server, cache, how):
    path = fetch([Source(server.url(how))])
    assert path == cache / 'x.pth'
    assert path.read_bytes() == CONTENT
    assert (cache / 'x.pth.sha256').read_text() == f'{SHA}  x.pth\n'
    assert fetch([Source(server.url(how))]) == path
    assert len(server.requests) == 1
    assert not list(cache.glob('*.part'))


def test_plain_addresses_as_checkpoints(server, cache):
    assert locate(server.url('plain')).read_bytes() == CONTENT


def test_torch_hub_shares_its_cache(server, monkeypatch, tmp_path):
    monkeypatch.delenv('MMMETA_HOME')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub' / 'checkpoints'
    assert cache_dir() == folder
    folder.mkdir(parents=True)
    (folder / 'x.pth').write_bytes(b'from torch.hub')
    assert fetch([Source(server.url('plain'))]).read_bytes() == b'from torch.hub'
    assert server.requests == []


def test_goes_on_after_an_interruption(server, cache):
    assert fetch([Source(server.url('cut-once'))]).read_bytes() == CONTENT
    assert server.requests == [('cut-once', None), ('cut-once', 'bytes=300000-')]


def test_parts_of_two_versions_are_not_put_together(server, cache):
    assert fetch([Source(server.url('changed'))]).read_bytes() == CONTENT
    assert [given for _, given in server.requests] == [None, 'bytes=300000-']
    assert not list(cache.glob('*.etag'))


@pytest.mark.parametrize('how', ['cuts', 'whole-cuts'])
def test_cut_off_at_twenty_random_places(server, cache, monkeypatch, how):
    """Each ends a run; a server that knows no ranges sends the file anew."""
    monkeypatch.setattr(download, 'ATTEMPTS', 1)
    most = len(CONTENT) // (20 if how == 'cuts' else 1)
    server.cuts = [random.Random(how).randrange(most) for _ in range(20)]
    while server.cuts:
        with pytest.raises(CheckpointError, match='no URL of'):
            fetch([Source(server.url(how))])
        left = [path.name for path in cache.iterdir() if path.suffix != '.lock']
        assert set(left) <= {'x.pth.part'}
    path = fetch([Source(server.url(how))])
    assert (path.read_bytes(), len(server.requests)) == (CONTENT, 21)
    asked = [int(given[6:-1]) for _, given in server.requests if given]
    if how == 'cuts':
        assert asked == sorted(asked) and len(set(asked)) > 15


def test_goes_on_with_what_an_earlier_run_left(server, cache):
    cache.mkdir()
    (cache / 'x.pth.part').write_bytes(CONTENT[:1000])
    assert fetch([Source(server.url('plain'))]).read_bytes() == CONTENT
    assert server.requests == [('plain', 'bytes=1000-')]


@pytest.mark.parametrize(
    ('how', 'left'), [('whole', CONTENT[:1000]), ('plain', CONTENT + b'more')]
)
def test_starts_over_where_it_cannot_go_on(server, cache, how, left):
    cache.mkdir()
    (cache / 'x.pth.part').write_bytes(left)
    assert fetch([Source(server.url(how))]).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('how', 'options', 'words'),
    [
        ('cut', {}, r'ended after \d+ of 600000 bytes|broke off'),
        ('short', {}, r'of 6000\d\d bytes|broke off'),
        ('missing', {}, 'answered 404'),
        ('page', {}, 'sent a web page'),
        ('plain', dict(size=5), 'has 600000 bytes, expected 5'),
        ('unsized', dict(size=5), 'has 600000 bytes, expected 5'),
        ('plain', dict(sha256='0' * 64), f'SHA-256 {SHA}, expected 000'),
        ('plain', dict(sha256='00000000'), 'expected 00000000'),
    ],
)
def test_what_is_not_the_file_is_not_kept(server, cache, how, options, words):
    source = Source(server.url(how), **options)
    with pytest.raises(CheckpointError, match=f'(?s){words}') as caught:
        fetch([source])
    assert f'save it as {cache / "x.pth"}' in str(caught.value)
    assert not (cache / 'x.pth').exists()


def test_mirrors_are_tried_in_turn(server, cache):
    sources = [
        Source(server.url('missing')),
        Source(server.url('plain', 'y.pth'), sha256='0' * 8),
        Source(server.url('plain', 'z.pth'), sha256=SHA[:8], size=len(CONTENT)),
    ]
    assert fetch(sources).name == 'z.pth'
    # Afterwards the file is found, whichever URL it came from.
    count = len(server.requests)
    assert fetch(sources).name == 'z.pth'
    assert len(server.requests) == count


def test_no_network(cache):
    with pytest.raises(CheckpointError) as caught:
        fetch([Source('http://127.0.0.1:9/x.pth')])
    text = str(caught.value)
    assert 'refused' in text
    assert 'Get http://127.0.0.1:9/x.pth in a browser or elsewhere' in text
    assert str(cache / 'x.pth') in text


def test_a_later_difference_is_reported(server, cache):
    path = fetch([Source(server.url('plain'))])
    path.write_bytes(CONTENT[:-1])
    os.utime(path, (1, 1))  # not within the same tick of a clock
    with pytest.raises(CheckpointError, match=f'but had {SHA} when first downloaded'):
        fetch([Source(server.url('plain'))])
    path.unlink()
    (cache / 'x.pth.sha256').write_text('00ff  x.pth\n')
    with pytest.raises(CheckpointError, match='but had 00ff when'):
        fetch([Source(server.url('plain'))])


@pytest.mark.parametrize('by_hand', [False, True])
def test_a_file_is_read_again_only_where_it_changed(
    server, cache, monkeypatch, by_hand
):
    source = Source(server.url('plain'), sha256=SHA)
    path, read = cache / 'x.pth', []
    if by_hand:
        cache.mkdir()
        path.write_bytes(CONTENT)
    sha256 = download.sha256
    monkeypatch.setattr(download, 'sha256', lambda f: read.append(f) or sha256(f))
    for _ in range(3):
        fetch([source])
    assert read == [path if by_hand else cache / 'x.pth.part']
    os.utime(path, (1, 1))  # as in a copy of the cache
    for _ in range(3):
        fetch([source])
    assert read[1:] == [path]
    # Known values are still compared, and the whole file if requested.
    with pytest.raises(CheckpointError, match=f'SHA-256 {SHA}, expected 0000'):
        fetch([Source(source.url, sha256='0000')])
    assert len(read) == 2
    path.write_bytes(CONTENT[::-1])
    os.utime(path, (1, 1))
    assert fetch([source]) == path
    with pytest.raises(CheckpointError, match=f'expected {SHA}; it is damaged'):
        download.check(path, source, thorough=True)


def test_a_record_that_was_not_finished_is_written_again(server, cache):
    path = fetch([Source(server.url('plain'))])
    (cache / 'x.pth.sha256').write_text('')
    assert fetch([Source(server.url('plain'))]) == path
    assert fetch([Source(server.url('plain'), sha256=SHA)]) == path
    assert (cache / 'x.pth.sha256').read_text() == f'{SHA}  x.pth\n'


def test_two_processes_at_once_download_once(server, cache):
    code = (
        'import sys; from mmmeta.weights.download import fetch; '
        'from mmmeta.weights.source import Source; '
        'print(fetch([Source(sys.argv[1])], quiet=True))'
    )
    command = [sys.executable, '-c', code, server.url('slow')]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    paths = [run.communicate()[0].decode().strip() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert paths == [str(cache / 'x.pth')] * 2
    assert (cache / 'x.pth').read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_download_that_is_killed_is_taken_over(server, cache):
    code = (
        'import sys; from mmmeta.weights.download import fetch; '
        'from mmmeta.weights.source import Source; fetch([Source(sys.argv[1])])'
    )
    command = [sys.executable, '-c', code, server.url('stuck')]
    first, part = subprocess.Popen(command), cache / 'x.pth.part'
    while not (part.is_file() and part.stat().st_size):
        time.sleep(0.01)
    second = subprocess.Popen(command)
    time.sleep(0.2)  # by now it waits for the first one
    first.kill()
    assert (first.wait(), second.wait()) == (-signal.SIGKILL, 0)
    assert (cache / 'x.pth').read_bytes() == CONTENT
    assert [given for _, given in server.requests] == [None, f'bytes={CHUNK}-']


def _full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_full_disk(server, cache):
    """A file size limit simulates a full disk."""
    code = (
        'import sys; from mmmeta.weights.download import fetch; '
        'from mmmeta.weights.source import Source; fetch([Source(sys.argv[1])])'
    )
    run = subprocess.run(
        [sys.executable, '-c', code, server.url('plain')],
        preexec_fn=_full_disk,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert 'CheckpointError' in run.stderr.splitlines()[-1]
    assert 'cannot be written' in run.stderr
    assert 'MMMETA_HOME' in run.stderr
    assert not (cache / 'x.pth').exists()


def test_too_little_room_is_seen_before(server, cache, monkeypatch):
    from collections import namedtuple

    usage = namedtuple('usage', 'total used free')(10, 10, 5 << 10)
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(CheckpointError, match='0 MiB are free'):
        fetch([Source(server.url('plain'))])
    assert not (cache / 'x.pth.part').exists()


@pytest.mark.parametrize(
    'name', ['semantic_fpn_poolformer_s12', 'poolformer_s12.sail_in1k']
)
def test_a_read_only_cache(monkeypatch, name):
    """From Drive and from elsewhere."""
    monkeypatch.setenv('MMMETA_HOME', '/sys')  # where root cannot write, either
    with pytest.raises(
        CheckpointError,
        match=r'/sys cannot be written: .*\. Set MMMETA_HOME to a folder that can be',
    ):
        fetch_published(name)


def test_cache_folder_that_cannot_be_made(server, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('MMMETA_HOME', str(tmp_path / 'file' / 'cache'))
    with pytest.raises(CheckpointError, match=r'cannot be written.*MMMETA_HOME'):
        fetch([Source(server.url('plain'))])


def test_progress_is_shown(server, cache, capsys):
    fetch([Source(server.url('plain'))], quiet=False)
    assert '600k/600k' in capsys.readouterr().err
    fetch([Source(server.url('plain', 'y.pth'))], quiet=True)
    assert capsys.readouterr().err == ''


def test_a_proxy_that_is_set_later_is_used(server, monkeypatch):
    fetch([Source(server.url('plain'))])
    monkeypatch.setenv('no_proxy', '')
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
    with pytest.raises(CheckpointError, match='refused'):
        fetch([Source(server.url('plain', 'y.pth'))])


class TestPublished:
    def test_unknown(self):
        with pytest.raises(
            CheckpointError, match=r'nearest: caformer_s18\.sail_in1k, '
        ):
            fetch_published('caformer_s18.in1k')

    def test_by_hand_where_drive_cannot_be_reached(self, cache, monkeypatch):
        monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
        with pytest.raises(
            CheckpointError, match=r'drive\.google.*browser.*save it'
        ) as raised:
            fetch_published('uniformer_base_ls')
        message = str(raised.value)
        assert 'refused' in message and 'Max retries' not in message
        (cache / 'uniformer_base_ls_in1k.pth').touch()
        path = fetch_published('uniformer_base_ls')
        assert path == cache / 'uniformer_base_ls_in1k.pth'

    def test_what_is_there_is_used(self, cache):
        cache.mkdir()
        (cache / 'caformer_s18_in21k.pth').write_bytes(b'x')
        path = locate('mmmeta://caformer_s18.sail_in22k')
        assert path == cache / 'caformer_s18_in21k.pth'
        # timm's files all have the same name; here each has its own.
        (cache / 'poolformer_m36.sail_in1k.safetensors').write_bytes(b'x')
        assert fetch_published('poolformer_m36').suffix == '.safetensors'

    def test_other_schemes_are_named(self):
        with pytest.raises(CheckpointError, match=r's3://bucket/x\.pth'):
            locate('s3://bucket/x.pth')
