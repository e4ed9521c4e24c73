"""A small training on the embedded images, by the tools, for tests of runs that end."""

import multiprocessing
import os
import random
import runpy
import signal
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from warm import WarmPython

ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
SIZE = 32


@MODELS.register_module()
class SmallClassifier(BaseModel):
    """A backbone with drop path, batch norm and dropout: they draw, and keep state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        kind = dict(type='mmmeta.PoolFormer', arch=ARCH, drop_path_rate=0.3)
        self.backbone = MODELS.build(dict(kind, fork_last3=False))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        maps = self.backbone(self.norm(torch.stack(inputs)))
        scores = self.head(maps[-1].mean((2, 3)))
        scores = scores + sum(m.mean() for m in maps[:-1])
        if mode != 'loss':
            return list(scores)
        truth = torch.tensor([s.label for s in data_samples])
        return dict(loss=nn.functional.cross_entropy(scores, truth))


@DATASETS.register_module()
class SmallImages(torch.utils.data.Dataset):
    """The training images, augmented by the three random generators."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def __init__(self, root: str, count: int = 12, nan: int = -1) -> None:
        folder = os.path.join(root, 'images/train')
        names = sorted(os.listdir(folder))[:count]
        self.paths = [os.path.join(folder, name) for name in names]
        self.nan = nan
        self.read: list[str] = []

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict:
        return dict(img_path=self.paths[index])

    def __getitem__(self, index: int) -> dict:
        path = self.paths[index]
        self.read.append(path)
        image = cv2.imread(path)
        assert image is not None, f'failed to load image: {path}'
        top, left = random.randrange(64), np.random.randint(64)
        crop = image[top : top + SIZE, left : left + SIZE].astype(np.float32) / 255
        pixels = torch.from_numpy(crop).permute(2, 0, 1) + 0.1 * torch.rand(1)
        if index == self.nan:
            pixels[:] = float('nan')
        sample = BaseDataElement(metainfo=dict(img_path=path, label=index % 4))
        return dict(inputs=pixels, data_samples=sample)


@METRICS.register_module()
class SmallScore(BaseMetric):
    """A score that is better each time; it draws, as a metric may."""

    def process(self, data_batch, data_samples) -> None:
        torch.rand(1), random.random()
        self.results.append(1)

    def compute_metrics(self, results) -> dict:
        type(self).score = getattr(type(self), 'score', 0) + 1
        return dict(acc=float(self.score))


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends a process a signal in an iteration, or in a validation after it."""

    def __init__(
        self, at: int, name: str = 'SIGTERM', where: str = 'train', rank: int = 0
    ) -> None:
        self.at, self.number, self.where = at, getattr(signal, name), where
        self.rank = rank

    def _send(self, runner, where: str) -> None:
        if (where, runner.iter, runner.rank) == (self.where, self.at, self.rank):
            os.kill(os.getpid(), self.number)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._send(runner, 'train')

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._send(runner, 'val')


CONFIG = """
default_scope = 'mmengine'
model = dict(type='SmallClassifier')
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                        dataset=dict(type='SmallImages', root={root!r}),
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler'))
val_evaluator = dict(type='SmallScore')
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=2, by_epoch=True,
                        convert_to_iter_based=True)]
custom_hooks = [dict(type='EMAHook'), dict(type='SignalHook', at=-1)]
default_hooks = dict(checkpoint=dict(type='mmmeta.CheckpointHook', interval=1),
                     logger=dict(type='LoggerHook', interval=1))
experiment_name = __import__('uuid').uuid4().hex  # MMEngine's are of a second
"""
BY_ITERATION = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=12, val_interval=4)
train_dataloader.update(sampler=dict(type='{sampler}', shuffle=True))
param_scheduler = [dict(type='PolyLR', begin=0, end=12, by_epoch=False)]
default_hooks = dict(checkpoint=dict(type='mmmeta.CheckpointHook', interval=4,
                                     by_epoch=False))
"""


def write_configs(folder: Path, data: Path) -> None:
    """Write configs for loops of epochs and of iterations."""
    text = CONFIG.format(root=str(data))
    (folder / 'epochs.py').write_text(text)
    for name, sampler in (('iterations', 'Infinite'), ('rounds', 'Default')):
        more = BY_ITERATION.format(sampler=f'{sampler}Sampler')
        (folder / f'{name}.py').write_text(text + more)


def train(monkeypatch, name: str, work: str, *args: str) -> None:
    """Call the training tool as users do, in this process."""
    SmallScore.score = 0
    words = ['train.py', f'{name}.py', '--work-dir', work, *args]
    monkeypatch.setattr('sys.argv', words)
    tool = Path(__file__).parents[1] / 'tools/train.py'
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        runpy.run_path(str(tool))['main']()
    finally:  # as at the end of a process
        for child in multiprocessing.active_children():
            child.terminate()
        for number, handler in handlers.items():
            signal.signal(number, handler)


# What torchrun does, in forks of one process; prints the exit status of each.
PROCESSES = """
import os, runpy, socket, sys, traceback
import small_runs

tool, count, *sys.argv[1:] = sys.argv[1:]
with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    os.environ['MASTER_PORT'] = str(free.getsockname()[1])
os.environ.update(WORLD_SIZE=count, MASTER_ADDR='127.0.0.1')
children = []
for rank in range(int(count)):
    child = os.fork()
    if not child:
        os.environ['RANK'] = os.environ['LOCAL_RANK'] = str(rank)
        sys.argv[0] = 'train.py'
        try:
            runpy.run_path(tool, run_name='__main__')
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # freeing modules takes seconds
    children.append(child)
print('', *[os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children])
"""


# Writing takes as long as it would for a large model: `{pause}` seconds per 64 KiB.
SLOWLY = """
import time
from mmengine.fileio import LocalBackend

def put(self, content, path):
    with open(path, 'wb') as file:
        for k in range(0, len(content), 65536):
            file.write(content[k : k + 65536])
            file.flush()
            time.sleep({pause})

LocalBackend.put = put
"""


def processes(python: WarmPython, count: int, *args: str) -> tuple[list[int], str]:
    """Run the training tool in gloo processes; return their statuses and the log."""
    tool = Path(__file__).parents[1] / 'tools/train.py'
    environment = dict(OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parent))
    words = [tool, count, *args, '--launcher', 'pytorch']
    result = python.run(*words, code=PROCESSES, env=environment)
    last = result.stdout.splitlines()[-1]
    return [*map(int, last.split())], result.stdout + result.stderr


def state(path) -> dict:
    return torch.load(path, weights_only=False)


def equal(one, other) -> bool:
    """Whether two parts of checkpoints are the same to the bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def differ(path, other) -> list[str]:
    """Return the parts of two checkpoints that are not the same to the bit."""
    one, two = state(path), state(other)
    return [part for part in PARTS if not equal(one[part], two[part])]
