"""Hooks that show how far a training is and how long it will take."""

import math
import sys
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmmeta.registry import HOOKS

FIRST = 2  # the first iteration includes setup
WINDOW = 50  # iterations to average
# Time per image of validation over that of training, which has a backward pass.
VALIDATION_SHARE = 1 / 3


def duration(seconds: float) -> str:
    """Return a duration in readable form: '50 s', '12 min', '3.4 h'."""
    if seconds < 100:
        return f'{math.ceil(seconds)} s'
    if seconds < 100 * 60:
        return f'{math.ceil(seconds / 60)} min'
    return f'{seconds / 3600:.1f} h'


@HOOKS.register_module()
class TimeLeftHook(Hook):
    """Log the seconds per iteration and the time left, including validations.

    It logs after the second iteration, and then every `every` seconds or, if slower,
    every iteration.

    Args:
        every: Seconds between two log lines. Default: 15.
        limit: Minutes; if more time is left, warn once. Default: 15.
        short_form: A faster command to suggest in that warning. Default: None.
    """

    priority = 'LOW'  # run after MMEngine's IterTimerHook, whose times it reads

    def __init__(
        self, every: float = 15, limit: float = 15, short_form: str | None = None
    ) -> None:
        self.every = every
        self.limit = limit
        self.short_form = short_form
        self.warned = False
        self.validation: float | None = None  # seconds of the last one

    def before_train(self, runner: Runner) -> None:
        self.start = runner.iter
        self.said = -math.inf

    def before_val_epoch(self, runner: Runner) -> None:
        self.began = time.perf_counter()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.validation = time.perf_counter() - self.began

    def after_train_iter(
        self, runner: Runner, batch_idx: int, *_: Any, **__: Any
    ) -> None:
        done = runner.iter + 1
        now = time.perf_counter()
        if done - self.start < FIRST or now - self.said < self.every:
            return
        self.said = now
        window = min(WINDOW, done - self.start - FIRST + 1)
        each = runner.message_hub.get_scalar('train/time').mean(window)
        left = (runner.max_iters - done) * each
        left += validations_left(runner) * self._validation(runner, each)
        runner.logger.info(
            f'iteration {done} of {runner.max_iters}: {each:.2g} s each, '
            f'at most {duration(left)} left'
        )
        # A single slow iteration may be an outlier.
        if left > 60 * self.limit and window > 1 and not self.warned:
            self.warned = True
            advice = (
                f'; for a shorter run: {self.short_form}' if self.short_form else ''
            )
            runner.logger.warning(
                f'This machine is slow: {duration(left)} left{advice}'
            )

    def _validation(self, runner: Runner, each: float) -> float:
        """Return the seconds of a validation, estimated before the first one."""
        if self.validation is not None or runner.val_loop is None:
            return self.validation or 0.0
        train = runner.train_dataloader
        images = len(runner.val_dataloader.dataset)
        return VALIDATION_SHARE * images * each * len(train) / len(train.dataset)


def validations_left(runner: Runner) -> int:
    """Return how many validations the training loop has left."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return 0
    if isinstance(loop, EpochBasedTrainLoop):
        now, end = loop.epoch, loop.max_epochs
    else:
        now, end = loop.iter, loop.max_iters
    return sum(
        k >= loop.val_begin and (k % loop.val_interval == 0 or k == end)
        for k in range(now + 1, end + 1)
    )


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show a bar with the time left, the loss and the latest score.

    It counts training iterations. Without a terminal it writes a line per validation.

    Args:
        metric: The score to show, such as 'coco/bbox_mAP'. Default: none.
    """

    priority = 'LOWEST'

    def __init__(self, metric: str | None = None) -> None:
        self.metric = metric
        self.best: float | None = None
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def before_train(self, runner: Runner) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=runner.max_iters, initial=runner.iter, unit='step', disable=None
        )
        if runner.iter:  # resumed
            self.best = runner.message_hub.runtime_info.get('best_score')

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        if outputs and 'loss' in outputs and self.bar.n % 10 == 0:
            self.shown['loss'] = f'{float(outputs["loss"].detach()):.3f}'
            self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        epoch = f'epoch {runner.epoch} of {runner.max_epochs}: '
        score = (metrics or {}).get(self.metric)
        if score is None:
            self._say(f'{epoch}no score, since nothing was found yet')
            return
        if self.best is None or score > self.best:
            self.best = score
            self._say(f'{epoch}{self.said(score)}, the best yet')
        else:
            self._say(f'{epoch}{self.said(score)}, best {self._number(self.best)}')
        self.shown['score'] = self._number(score)
        stopped = getattr(runner.train_loop, 'stop_training', False)
        if stopped and runner.epoch < runner.max_epochs:
            self._say('stopped early: the score does not improve any more')

    def said(self, score: float) -> str:
        """Return a score with its name."""
        return f'{self.metric} {self._number(score)}'

    def _number(self, score: float) -> str:
        # COCO's are from 0 to 1, the others in percent.
        return f'{score:.3f}' if str(self.metric).startswith('coco') else f'{score:.1f}'

    def _say(self, text: str) -> None:
        if self.bar is None:  # a validation that was made up for, at a resume
            print(text, file=sys.stderr)
        else:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar, which would otherwise stay at an early end."""
        if self.bar is not None:
            self.bar.close()
