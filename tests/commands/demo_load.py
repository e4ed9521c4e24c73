"""Many clients of `mmmeta demo` at once: every answer is that of its own image.

    python tests/commands/demo_load.py --clients 20 --seconds 120

Each client uploads images of its own and one that all have, runs the model, moves the
slider, and compares pictures and texts with those computed without a server. The server
is a process of this machine, on the loopback, with a tiny detector: exported, and as a
config with a checkpoint. It prints the number of answers and the memory of the server.
"""

import argparse
import io
import itertools
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from tiny_models import write_model, write_picture  # noqa: E402

from mmmeta.cli import main as mmmeta  # noqa: E402
from mmmeta.commands.demo import drawing  # noqa: E402
from mmmeta.commands.demo.engine import Engine  # noqa: E402
from mmmeta.commands.demo.found import make_model  # noqa: E402
from mmmeta.commands.demo.page import open_image  # noqa: E402

IMAGES = 3  # of each client
THRESHOLDS = (0.5, 0.0)  # when the model runs, and then by the slider
PARTS = 4  # of the time, after each of which the memory is read


def expected(model: list[str], path: Path) -> list[tuple[np.ndarray, str]]:
    """Return the picture and the summary for each threshold."""
    found = Engine('cpu').predict(make_model(*model), open_image(str(path)))
    return [(drawing.draw(found, t), drawing.describe(found, t)) for t in THRESHOLDS]


class Visitor(threading.Thread):
    """Uses the page until the time is over, with the requests of a browser."""

    def __init__(self, url: str, answers: dict, end: float) -> None:
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=url, timeout=300)
        self.session = uuid.uuid4().hex
        self.answers, self.end = answers, end
        self.count = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            self.visit()
        except Exception as error:
            self.wrong.append(f'{type(error).__name__}: {error}')

    def visit(self) -> None:
        events = self.client.get('/config').json()['dependencies']
        self.events = {event['api_name']: event['id'] for event in events}
        key = self.call('open')[1]['value']
        for path in itertools.cycle(self.answers):
            if time.monotonic() > self.end:
                return
            with path.open('rb') as content:
                files = {'files': (path.name, content)}
                reply = self.client.post('/gradio_api/upload', files=files)
            image = dict(path=reply.json()[0], meta={'_type': 'gradio.FileData'})
            first, second = self.answers[path]
            _, picture, _, summary, _ = self.call('run', key, image, THRESHOLDS[0])
            self.compare(path, picture, summary, first)
            # The server keeps what was found, for this session.
            self.compare(path, *self.call('redraw', None, THRESHOLDS[1]), second)

    def call(self, name: str, *data: object) -> list:
        body = dict(data=data, fn_index=self.events[name], session_hash=self.session)
        reply = self.client.post('/gradio_api/run/predict', json=body)
        return reply.raise_for_status().json()['data']

    def compare(self, path: Path, picture: dict, summary: str, answer: tuple) -> None:
        self.count += 1
        content = self.client.get(f'/gradio_api/file={picture["path"]}').content
        with Image.open(io.BytesIO(content)) as image:
            same = np.array_equal(np.asarray(image.convert('RGB')), answer[0])
        if summary != answer[1] or not same:
            self.wrong.append(f'{path.name}: {summary}, expected {answer[1]}')


def memory(pid: int) -> float:
    """Return a process' resident memory in MiB."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return next(int(x.split()[1]) / 1024 for x in lines if x.startswith('VmRSS'))


def load(model: list[str], count: int, seconds: float, folder: Path) -> str:
    """Return a line about the answers and the server's memory."""
    common = write_picture(folder / 'in/common.png', (80, 70), seed=999)
    shared = {common: expected(model, common)}
    answers: list[dict] = []
    for i in range(count):
        paths = [folder / f'in/{i}-{j}.png' for j in range(IMAGES)]
        for j, path in enumerate(paths):
            write_picture(path, (90 + i, 80 + 5 * j), seed=IMAGES * i + j)
        answers.append({path: expected(model, path) for path in paths} | shared)
    server = subprocess.Popen(
        [sys.executable, '-m', 'mmmeta.cli', 'demo', *model, '--no-browser'],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2]
        end = time.monotonic() + seconds
        visitors = [Visitor(url, own, end) for own in answers]
        for visitor in visitors:
            visitor.start()
        sizes = []
        for _ in range(PARTS):
            time.sleep(seconds / PARTS)
            sizes.append(f'{memory(server.pid):.0f}')
        for visitor in visitors:
            visitor.join()
    finally:
        server.terminate()
        server.wait()
    wrong = [line for visitor in visitors for line in visitor.wrong]
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    total = sum(visitor.count for visitor in visitors)
    return (
        f'{Path(model[0]).name}: {count} clients, {seconds:.0f} s: {total} answers, '
        f'{len(wrong)} wrong; MiB of memory after each quarter: {", ".join(sizes)}'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--clients', type=int, default=20)
    parser.add_argument('--seconds', type=float, default=120)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = write_model(folder, 'detection', 3, dict(classes=('a', 'b', 'c')))
        file = folder / 'model.onnx'
        assert mmmeta(['export', *trained, '-o', str(file)]) == 0
        for model in ([str(file)], trained):
            print(load(model, args.clients, args.seconds, folder), flush=True)


if __name__ == '__main__':
    main()
