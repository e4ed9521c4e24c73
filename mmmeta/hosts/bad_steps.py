"""A hook that names what breaks a training: losses that are no numbers, bad images."""

import glob
import os
import os.path as osp
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import CheckpointLoader

from mmmeta.errors import InvalidValueError, UserError
from mmmeta.hosts.samples import NOTES, SKIP, STOP, BadBatch, install
from mmmeta.hosts.saving import note_of
from mmmeta.registry import HOOKS
from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.parts import SUFFIX

COUNT = 'bad_steps'  # in MMEngine's message hub, which checkpoints keep
IN_A_ROW = 20  # bad losses that a loss scaler may get over by itself


@HOOKS.register_module()
class BadStepHook(Hook):
    """Stop at a loss that is NaN or infinite, and at images that cannot be read.

    No step is taken of such a loss. With several processes, all skip the step if one
    has a bad loss. With a dynamic loss scaler, which skips such steps by itself, only
    20 in a row stop. A checkpoint with weights that are no numbers is never saved.

    Args:
        skip: Bad losses in the whole run to skip instead, with the changes that they
            made to statistics of batch norms. Default: 0.
        corrupt: What to do with an image of the training data that is missing, damaged
            or cut off: 'stop', or 'skip', by which the next one in the data set takes
            its place. Each is named in the log. Default: 'stop'.

    Raises:
        UserError: In training; names the files and the last good checkpoint.
    """

    priority = 'VERY_HIGH'

    def __init__(self, skip: int = 0, corrupt: str = STOP) -> None:
        if corrupt not in (STOP, SKIP):
            raise InvalidValueError(
                f"BadStepHook: corrupt must be 'stop' or 'skip', got {corrupt!r}"
            )
        self.skip = skip
        self.corrupt = corrupt
        self.row = 0
        self.batch: Any = None
        self.kept: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Any) -> None:
        batches = install(runner.train_loop.dataloader)
        if batches is not None and batches.samples is not None:
            batches.samples.corrupt = self.corrupt
            _raise_if_empty(batches.samples.dataset)
        wrapper = runner.optim_wrapper
        several = isinstance(wrapper, OptimWrapperDict)
        for one in wrapper.values() if several else [wrapper]:
            one.update_params = self._guarded(runner, one, one.update_params)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        if isinstance(data_batch, BadBatch):
            raise UserError(
                f'{first_few([str(f) for f in data_batch], 3)}, needed by iteration '
                f'{runner.iter + 1}. Replace it, take it out of the annotations, or '
                "skip such images with custom_hooks=[dict(type='mmmeta.BadStepHook', "
                f"corrupt='skip')]. {_last(runner)}"
            )
        if isinstance(data_batch, dict):
            for note in data_batch.pop(NOTES, ()):
                runner.logger.warning(note)
        self.batch = data_batch
        if self.skip:  # batch norms have seen the batch before its loss is known
            self.kept = {
                name: value.clone()
                for name, value in runner.model.named_buffers()
                if value.is_floating_point() or name.endswith('num_batches_tracked')
            }

    def _guarded(self, runner: Any, wrapper: Any, update: Callable) -> Callable:
        scaler = getattr(wrapper, 'loss_scaler', None)
        scaled = scaler is not None and scaler.is_enabled()

        @torch.compiler.disable
        def update_params(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            bad = (~torch.isfinite(loss.detach()).all()).float()
            own = bad.clone()
            if runner.world_size > 1:
                all_reduce(bad, 'max')
            self.row = self.row + 1 if bad.item() else 0
            if self.row and not (scaled and self.row <= IN_A_ROW):
                self._count(runner, loss, bool(own.item()))
                self._pass_over(runner, wrapper)
            else:
                update(loss, *args, **kwargs)

        return update_params

    def _count(self, runner: Any, loss: torch.Tensor, own: bool) -> None:
        """Log a bad loss, or raise UserError if there were too many."""
        values = (float(loss.detach().mean()), [*names(self.batch)])
        found = [each for each in all_gather_object(own and values) if each]
        value, files = found[0][0], [file for each in found for file in each[1]]
        count = runner.message_hub.runtime_info.get(COUNT, 0) + 1
        runner.message_hub.update_info(COUNT, count)
        what = (
            f'iteration {runner.iter + 1}: the loss is {value}, of '
            f'{first_few(files, 16) if files else "a batch without names of files"}'
        )
        if count <= self.skip:
            runner.logger.warning(f'{what}; skipped, {count} of at most {self.skip}')
            return
        raise UserError(
            f'{what}. No step was taken of it. Look at these files, lower the learning '
            'rate, or skip such steps with custom_hooks=[dict(type='
            f"'mmmeta.BadStepHook', skip={max(10, 2 * self.skip)})]. {_last(runner)}"
        )

    def _pass_over(self, runner: Any, wrapper: Any) -> None:
        """Do what is due without this loss: the step of accumulated gradients."""
        for name, value in runner.model.named_buffers():
            if name in self.kept:
                value.copy_(self.kept[name])
        wrapper._inner_count += 1
        if wrapper._accumulative_counts > 1 and wrapper.should_update():
            wrapper.step()
            wrapper.zero_grad()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        model = getattr(runner.model, 'module', runner.model)
        trained = {name for name, _ in model.named_parameters()}
        state = checkpoint['state_dict']
        if wrong := [name for name in trained if not _finite(state.get(name))]:
            raise UserError(
                f'after iteration {checkpoint["meta"]["iter"]}, {len(wrong)} weights '
                f'are no numbers ({first_few(sorted(wrong), 2)}): nothing was saved. '
                f'Lower the learning rate or clip the gradients. {_last(runner)}'
            )


def names(batch: Any) -> Iterator[str]:
    """Yield the files of the samples in a batch, as the host libraries keep them."""
    if isinstance(batch, Mapping):
        for key in ('data_samples', 'img_path'):
            if key in batch:
                yield from names(batch[key])
        if 'data_samples' not in batch and 'img_path' not in batch:
            for value in batch.values():  # by branch
                if isinstance(value, Mapping):
                    yield from names(value)
    elif isinstance(batch, list | tuple):
        for each in batch:
            yield from names(each)
    elif isinstance(batch, str):
        yield batch
    elif isinstance(path := getattr(batch, 'img_path', None), str):
        yield path


def _finite(value: Any) -> bool:
    return (
        not isinstance(value, torch.Tensor)
        or not value.is_floating_point()
        or bool(torch.isfinite(value).all())
    )


def _last(runner: Any) -> str:
    """Say which is the last checkpoint whose weights are numbers."""
    last = note_of(runner.work_dir)
    if last is None:
        return 'There is no checkpoint yet'
    if '://' in last:
        return f'The last checkpoint is {last}'
    folder = glob.escape(osp.dirname(last))
    others = [p for s in ('.pth', SUFFIX) for p in glob.glob(osp.join(folder, f'*{s}'))]
    others.sort(key=os.path.getmtime, reverse=True)
    for path in dict.fromkeys([last, *others]):
        try:
            found = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        except (CheckpointError, OSError, RuntimeError):
            continue
        if all(map(_finite, found.get('state_dict', {}).values())):
            return f'The last good checkpoint is {path}'
    return 'No checkpoint has weights that are numbers'


def _raise_if_empty(dataset: Any) -> None:
    """Let the steps that read images raise errors, where a config says to go on.

    The host libraries' data sets would replace such an image by any other one.
    """
    for name in ('dataset', '_dataset'):
        if (inner := dataset.__dict__.get(name)) is not None:
            _raise_if_empty(inner)
    for inner in dataset.__dict__.get('datasets') or ():
        _raise_if_empty(inner)
    pipeline = getattr(dataset.__dict__.get('pipeline'), 'transforms', ())
    for step in pipeline:
        if getattr(step, 'ignore_empty', False) is True:
            step.ignore_empty = False
