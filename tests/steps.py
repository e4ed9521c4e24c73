"""Trainings whose steps are recorded, to compare ways of sharing out the work."""

from pathlib import Path

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from torch import nn

from mmmeta.hosts.checkpoints import innermost

DIMS = (16, 16, 64, 64)
ARCH = dict(depths=(1, 1, 1, 1), dims=DIMS)


@MODELS.register_module()
class StepClassifier(BaseModel):
    """Backbones of which no sample sees another one; the mean of each map counts.

    Args:
        families: Names of the backbones.
        maps: The first map that counts.
        norm: Config of a norm of the means, which may see other samples.
        unused: Whether there is a layer that is never called.
        **options: Of the backbones.
    """

    def __init__(
        self, families=('PoolFormer',), maps=0, norm=None, unused=False, **options
    ) -> None:
        super().__init__()
        self.maps = maps
        self.backbones = nn.ModuleList(
            MODELS.build(dict(type=f'mmmeta.{name}', arch=ARCH, **options))
            for name in families
        )
        features = sum(DIMS[maps:]) * len(families)
        self.norm = MODELS.build(dict(norm, num_features=features)) if norm else None
        self.head = nn.Linear(features, 4)
        if unused:
            self.unused = nn.Linear(2, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        images = torch.stack(inputs)
        maps = [m for each in self.backbones for m in each(images)[self.maps :]]
        means = torch.cat([m.mean((2, 3)) for m in maps], 1)
        if self.norm is not None:
            means = self.norm(means[..., None, None])[..., 0, 0]
        scores = self.head(means)
        if mode != 'loss':
            return list(scores)
        truth = torch.tensor([s.label for s in data_samples])
        return dict(loss=nn.functional.cross_entropy(scores, truth))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor, of all processes' parts if it is spread over them."""
    return getattr(tensor, 'full_tensor', lambda: tensor)().detach().clone()


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes what a process has seen: losses, gradients, weights and their average.

    The losses are means over the processes, the gradients those that the optimizer got.

    Args:
        steps: The steps whose gradients are kept.
    """

    priority = 'LOWEST'

    def __init__(self, steps=(0, 1, 19)) -> None:
        self.steps = steps

    def before_train(self, runner) -> None:
        self.losses, self.gradients = [], []
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(lambda *_: self.keep(runner))

    def keep(self, runner) -> None:
        if runner.iter in self.steps:
            found = innermost(runner.model).named_parameters()
            found = {k: whole(p.grad) for k, p in found if p.grad is not None}
            self.gradients.append(found)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone()
        all_reduce(loss, 'mean')
        self.losses.append(loss.item())

    def after_train(self, runner) -> None:
        averages = [h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook)]
        weights, average = (
            {name: whole(p) for name, p in model.named_parameters()}
            for model in (innermost(runner.model), *averages, nn.Module())[:2]
        )
        own = sum(
            getattr(p, '_local_tensor', p).numel() for p in runner.model.parameters()
        )
        record = dict(losses=self.losses, gradients=self.gradients, own=own)
        record.update(weights=weights, average=average)
        torch.save(record, Path(runner.work_dir, f'rank{runner.rank}.pth'))


CONFIG = """
_base_ = 'iterations.py'
custom_imports = dict(imports=['steps'])
model = dict(_delete_=True, type='StepClassifier')
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=20)
val_dataloader = val_evaluator = val_cfg = None
param_scheduler = []
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.003))
custom_hooks = [dict(type='RecordHook')]
default_hooks = dict(checkpoint=None)
randomness = dict(seed=3)
"""


def record(work: Path | str, rank: int = 0) -> dict:
    return torch.load(Path(work, f'rank{rank}.pth'), weights_only=False)


def apart(one: list[dict], other: list[dict]) -> float:
    """Return the largest difference of gradients in a step, relative to the largest."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        assert list(a) == list(b) and a
        largest = max(value.abs().max().item() for value in a.values())
        worst = max(worst, *((a[k] - b[k]).abs().max().item() / largest for k in a))
    return worst
