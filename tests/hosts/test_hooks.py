"""The time that training logs, and when it stops by itself."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmmeta.hosts.hooks import duration, validations_left

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/detection/retinanet_poolformer_s12_easy_shapes.py'


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        out = self.layer(inputs)
        return dict(loss=out.mean()) if mode == 'loss' else list(out)


class Scores(BaseMetric):
    """AP50 from a list, one value per validation."""

    def __init__(self, values):
        super().__init__(prefix='coco')
        self.values = iter(values)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(bbox_mAP_50=next(self.values))


def train(folder: Path, scores: list[float], **time_left) -> tuple[Runner, list[str]]:
    """Train a toy model with the demo's hooks; return the runner and the log."""
    hooks = Config.fromfile(CONFIG).default_hooks
    data = dict(
        batch_size=2,
        dataset=[dict(inputs=torch.ones(1))] * 8,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    runner = Runner(
        model=Toy(),
        work_dir=str(folder),
        experiment_name=folder.name,
        train_dataloader=data,
        val_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=len(scores)),
        val_cfg=dict(),
        val_evaluator=[Scores(scores)],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=None,
            time_left=dict(hooks.time_left, **time_left),
            early_stopping=hooks.early_stopping,
        ),
    )
    runner.train()
    (log,) = folder.glob('*/*.log')
    return runner, log.read_text().splitlines()


def test_training_says_the_time_left_and_stops_past_the_bar(tmp_path):
    runner, lines = train(tmp_path, [0.4, 0.6, 0.7, 0.9], every=0, limit=0)
    assert runner.epoch == 3  # of 4
    said = [
        re.search(r'iteration (\d+) of 16: (\S+) s each, at most', x) for x in lines
    ]
    assert [int(x[1]) for x in said if x] == list(range(2, 13))
    assert all(float(x[2]) > 0 for x in said if x)
    warned = [x for x in lines if 'This machine is slow' in x]
    assert len(warned) == 1
    assert warned[0].endswith('for a shorter run: make demo DEMO_ARGS=--short')


def test_training_on_a_fast_machine_gives_no_advice(tmp_path):
    runner, lines = train(tmp_path, [0.1, 0.2])
    assert runner.epoch == 2
    assert sum('s each, at most' in line for line in lines) == 1  # in 15 seconds
    assert not any('This machine is slow' in line for line in lines)


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0.2, '1 s'), (99, '99 s'), (110, '2 min'), (5900, '99 min'), (9000, '2.5 h')],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ('kind', 'now', 'left'),
    [
        (EpochBasedTrainLoop, 0, [4, 6, 7]),
        (EpochBasedTrainLoop, 4, [6, 7]),
        (IterBasedTrainLoop, 6, [7]),
    ],
)
def test_validations_left(kind, now, left):
    loop = object.__new__(kind)
    loop._epoch = loop._iter = now
    loop._max_epochs = loop._max_iters = 7
    loop.val_begin, loop.val_interval = 3, 2
    runner = SimpleNamespace(train_loop=loop, val_loop=object())
    assert validations_left(runner) == len(left)
    runner.val_loop = None
    assert validations_left(runner) == 0
