"""Serves the page on this machine, until Ctrl-C."""

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mmmeta.commands.demo.found import Model, find_models
from mmmeta.errors import UserError, printable, require

if TYPE_CHECKING:
    from mmmeta.commands.demo.page import Page

PORT = 7860
NUM_SCENES = 4
PHOTOGRAPHS = ('cheetah.jpg', 'lion.jpg', 'tower.jpg')  # of Gradio


def serve(
    given: list[Model],
    host: str = '127.0.0.1',
    port: int | None = None,
    device: str | None = None,
    browser: bool = True,
    search: bool = True,
) -> int:
    """Serve the page and return the exit status.

    Args:
        given: Models to offer.
        host: Address to listen on. Default: this machine only.
        port: Port to listen on. Default: the first free port from 7860.
        device: Where models run. Default: a GPU if available.
        browser: Open the page in the user's browser. Default: True.
        search: Also offer the models in work_dirs/. If False, neither PyTorch nor the
            host libraries are imported for exported files. Default: True.

    Raises:
        UserError: Gradio is not installed, the port is taken, or there is no such
            device.
    """
    port = _find_port(host, port)
    with tempfile.TemporaryDirectory(prefix='mmmeta-demo-') as folder:
        _keep_private(folder)
        gr = require('gradio', 'demo', 'mmmeta demo')
        from mmmeta.commands.demo.page import CSS

        page = _make_page(given, host, device, Path(folder), search)
        page.blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            theme=gr.themes.Default(
                primary_hue='blue', font=['system-ui', 'sans-serif']
            ),
            css=CSS,
        )
        print(f'mmmeta demo: {page.blocks.local_url} (Ctrl-C stops it)', flush=True)
        # Handled like Ctrl-C, so that uploads are deleted; a shell lets its background
        # jobs ignore SIGINT.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print('mmmeta demo: stopped', flush=True)
        finally:
            page.blocks.close(verbose=False)
    return 0


def _keep_private(folder: str) -> None:
    """Configure Gradio, before its import, not to contact other machines."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED='False',
        GRADIO_TEMP_DIR=folder,  # uploads are deleted when the server stops
        NO_PROXY=f'{os.environ.get("NO_PROXY", "")},127.0.0.1,localhost'.lstrip(','),
    )
    # A warning of libraries, about which users of the page can do nothing.
    warnings.filterwarnings('ignore', message="'HTTP_422")


def _find_port(host: str, port: int | None) -> int:
    """Return a free port.

    Raises:
        UserError: The requested port is taken, or the address is wrong.
    """
    ports = [port] if port is not None else range(PORT, PORT + 100)
    for candidate in ports:
        try:
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((host, candidate))
        except socket.gaierror as error:
            raise UserError(f'--host {host}: no address of this machine') from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f'cannot listen on {host}, port {candidate}: {error.strerror}; '
                    'choose others with --host and --port'
                ) from error
        else:
            if port is None and candidate != PORT:
                print(f'port {PORT} is in use, taking {candidate}', file=sys.stderr)
            return candidate
    raise UserError(
        f'port {ports[0]} is in use; choose another with --port, or leave --port out '
        'for the first that is free'
    )


def _make_page(
    given: list[Model], host: str, device: str | None, folder: Path, search: bool
) -> 'Page':
    from mmmeta.commands.demo.engine import Engine
    from mmmeta.commands.demo.page import Page

    if search:
        from mmmeta.hosts.predictor import pick_device

        require('torch', 'onedl', 'mmmeta demo without an exported FILE')
        pick_device(device)  # an error is shown now rather than on the page

    def find() -> list[Model]:
        if not search:
            return []
        models, left_out = find_models()
        for line in left_out:
            print(f'mmmeta demo: skipped: {printable(line)}', file=sys.stderr)
        return models

    # A config is a program: only those at this machine may name one.
    may_add = host in ('127.0.0.1', 'localhost')
    examples = [*(_make_scenes(folder) if search else ()), *_photographs(folder)]
    return Page(Engine(device), given, find, examples, may_add)


def _photographs(folder: Path) -> list[str]:
    """Copy photographs that come with Gradio, if they do; return their paths."""
    import gradio

    found = Path(gradio.__file__).parent / 'media_assets/images'
    paths = [found / name for name in PHOTOGRAPHS if (found / name).is_file()]
    return [str(shutil.copy(path, folder)) for path in paths]


def _make_scenes(folder: Path) -> list[str]:
    """Write a few scenes of the embedded data set; return their paths."""
    import cv2
    import numpy as np

    from mmmeta.datasets import make_scene

    paths = [str(folder / f'shapes-{i + 1}.png') for i in range(NUM_SCENES)]
    for i, path in enumerate(paths):
        cv2.imwrite(path, make_scene(np.random.default_rng(i), 256).image)
    return paths
