"""A hook that lets a job stop at any iteration and continue as if it had not."""

import atexit
import os
import os.path as osp
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_rank, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator

from mmmeta.errors import InvalidValueError, UserError
from mmmeta.hosts.samples import EPOCH, STEP, Batches, install, seed_all, set_batch_size
from mmmeta.hosts.saving import note_of, remove, save, write_note
from mmmeta.registry import HOOKS

REQUEUE = 75  # the exit status EX_TEMPFAIL of sysexits.h: try again
NOTED = 'MMMETA_REQUEUE'  # an environment variable: a file to write the status to
NAME = 'interrupted'
KEY = 'resume_point'  # in a checkpoint
WAIT = 1.0  # seconds
GOING_ON, STOPPING, ENDING = range(3)  # what the main process does


class _Stream(_InfiniteDataloaderIterator):
    """MMEngine's iterator over a loader that leaves out by itself what was seen."""

    def __init__(self, loader: Any, idle: int) -> None:
        super().__init__(loader)
        # MMEngine 0.10.7 reads as many batches as there were iterations; later versions
        # call `skip_iter`.
        old = not hasattr(_InfiniteDataloaderIterator, 'skip_iter')
        self._idle = idle if old else 0

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing."""

    def __next__(self) -> Any:
        if self._idle:
            self._idle -= 1
            return None
        return super().__next__()


class _Worker:
    """Starts a loading process that survives signals to the whole job.

    Args:
        inner: The loader's own function.
        doing: (1,), shared: what the main process does.
    """

    def __init__(self, inner: Callable | None, doing: torch.Tensor) -> None:
        self.inner = inner
        self.doing = doing

    def __call__(self, number: int) -> None:
        if self.inner is not None:
            self.inner(number)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if self.doing == STOPPING:
                return  # the batches of this iteration are needed
            if self.doing == ENDING:
                os._exit(0)
            time.sleep(0.02)
        os._exit(0)  # PyTorch names it if it is missed


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save and exit on SIGTERM and SIGUSR1; resume at the very iteration.

    After a signal to any process, all finish the iteration (with accumulated
    gradients, those of the step) or drop the validation, save `interrupted.pth`, which
    `last_checkpoint` then names, and exit with status 75. A resumed run continues with
    the next sample of the epoch, without loading those before it, and makes up for a
    validation that was interrupted.

    If `exact`, the random states of Python, NumPy and PyTorch (CPU and GPU) are set
    from the run's seed for each iteration, by its number and the process, and for each
    sample, by its place in the order, so that a resumed run repeats what an unbroken
    one does, from any checkpoint, with any number of loading processes. With another
    number of processes, the samples of an iteration stay the same; the batch of each
    process is changed accordingly, unless the config's batch size was changed, too.

    Args:
        exact: Whether to set the random states. Default: True.
        signals: Names of the signals. Default: ('SIGTERM', 'SIGUSR1').

    Raises:
        UserError: In resuming, if the batch cannot be shared out among the processes.
    """

    priority = 'LOWEST'  # after all that changes the state of a run

    def __init__(
        self, exact: bool = True, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')
    ) -> None:
        if unknown := [name for name in signals if not hasattr(signal, name)]:
            raise InvalidValueError(f'PreemptionHook: no signals {unknown}')
        self.exact = exact
        self.signals = [getattr(signal, name) for name in signals]
        self.received = 0
        self.doing = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self.batches: Batches | None = None
        self.resumed: dict[str, Any] | None = None
        self.before: dict[int, Any] = {}
        self.training = self.validating = False
        self.config_size: int | None = None  # of a batch, before it is changed
        self.start = 0  # the iteration at which the order of samples began
        self.epoch = 0
        self.skip = 0
        self.saved: tuple[int, int] | None = None

    # -- what a checkpoint tells ---------------------------------------------------

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        epoch, done = (checkpoint['meta'][key] for key in ('epoch', 'iter'))
        if 'optimizer' in checkpoint:
            self.saved = epoch, done
        if self.batches is None:
            return
        total = (self.batches.size or 1) * runner.world_size
        checkpoint[KEY] = dict(
            seed=self.batches.sampler_seed,
            samples=(done - self.start) * total if epoch == self.epoch else 0,
            batch_size=total,
            config_size=self.config_size,
            world_size=runner.world_size,
            validated=self.validating,
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if not runner._resume:
            return
        self.resumed = checkpoint.get(KEY) or {}
        self._install(runner)
        if self.batches is not None:
            self._keep_batch(runner, self.resumed)

    def _install(self, runner: Any) -> None:
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
            self.batches = install(loop.dataloader)
            if self.batches is not None:
                self.config_size = self.batches.size

    def _keep_batch(self, runner: Any, state: dict[str, Any]) -> None:
        """Keep the samples of an iteration with another number of processes."""
        assert self.batches is not None
        then, world = state.get('world_size'), runner.world_size
        size, total = self.config_size, state.get('batch_size')
        if not size or not total or size * world == total:
            return
        if size != state['config_size']:
            return  # the user's own choice
        if total % world:
            raise UserError(
                f'this run has {total} samples in an iteration, of {then} processes, '
                f'which {world} cannot share equally: resume with another number of '
                'processes, or set train_dataloader.batch_size'
            )
        loop = runner.train_loop
        set_batch_size(loop.dataloader, total // world)
        if isinstance(loop, EpochBasedTrainLoop):
            loop._max_iters = loop.max_epochs * len(loop.dataloader)
        runner.logger.info(
            f'{world} processes continue a run of {then}: each has {total // world} '
            f'samples in an iteration instead of {size}, so that all have {total}'
        )

    # -- training ------------------------------------------------------------------

    def before_train(self, runner: Any) -> None:
        self.training = True
        loop, state = runner.train_loop, self.resumed
        if self.batches is None:
            self._install(runner)
        self._listen(runner, loop.dataloader)
        if self.batches is None:
            runner.logger.warning(
                'PreemptionHook: this kind of training loop or data loader cannot '
                'continue within an epoch; a resumed run starts the epoch again'
            )
        else:
            self._position(runner, self.batches, state)
        if state is not None:
            runner.optim_wrapper.initialize_count_status(
                runner.model, loop.iter, loop.max_iters
            )
            if state and not state['validated'] and self._owes_validation(runner):
                runner.logger.info('The validation that was interrupted comes first')
                runner.val_loop.run()

    def _position(
        self, runner: Any, batches: Batches, state: dict[str, Any] | None
    ) -> None:
        loop = runner.train_loop
        if state and state['seed'] is not None:
            batches.sampler_seed = state['seed']
        seed = batches.sampler_seed
        self.seed = runner.seed if seed is None else seed
        batches.seed = self.seed if self.exact else None
        if state:
            self.skip = state['samples'] // ((batches.size or 1) * runner.world_size)
        elif isinstance(loop, IterBasedTrainLoop):
            self.skip = loop.iter

    def before_train_epoch(self, runner: Any) -> None:
        batches, loop = self.batches, runner.train_loop
        if batches is None:
            return
        self.epoch, self.start = runner.epoch, runner.iter - self.skip
        batches.skip, self.skip = self.skip, 0
        if isinstance(loop, EpochBasedTrainLoop):
            batches.epoch = runner.epoch
            if batches.skip:
                _number_from(loop, batches.skip)
        else:
            batches.next_epoch = lambda: _next_epoch(loop, batches.inner.sampler)
            loop.dataloader_iterator = _Stream(loop.dataloader, loop.iter)
        if self.exact:
            seed_all(self.seed, EPOCH, runner.epoch)

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if self.exact and self.batches is not None:
            seed = seed_all(self.seed, STEP, runner.iter, get_rank())
            if torch.cuda.is_available():
                torch.cuda.manual_seed(seed)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if self._agreed(runner):
            self._stop(runner, epoch=runner.epoch, iter=runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        runner.train_loop.__dict__.pop('run_iter', None)

    def after_train(self, runner: Any) -> None:
        self.training = False
        self._end()
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
        folder, _ = self._folder(runner)
        file, last = _file(runner), note_of(runner.work_dir)
        if is_main_process() and last and osp.basename(last) != file:
            with suppress(OSError):
                remove(osp.join(folder, file))

    # -- validation ----------------------------------------------------------------

    def _owes_validation(self, runner: Any) -> bool:
        """Whether the loop would have validated at the resumed iteration or epoch."""
        loop = runner.train_loop
        if runner.val_loop is None or self.batches is None:
            return False
        if isinstance(loop, EpochBasedTrainLoop):
            now, end = (0 if self.skip else loop.epoch), loop.max_epochs
        else:
            now, end = loop.iter, loop.max_iters
        loop._decide_current_val_interval()
        due = now % loop.val_interval == 0 or now == end
        return now > 0 and now >= loop.val_begin and due

    def before_val(self, runner: Any) -> None:
        self.validating = True

    def before_val_epoch(self, runner: Any) -> None:
        if self.training:  # processes may have different numbers of batches
            self.common = _reduced(runner, len(runner.val_dataloader), 'min')

    def after_val_iter(self, runner: Any, batch_idx: int, *_: Any, **__: Any) -> None:
        if self.training and batch_idx < self.common and self._agreed(runner):
            self.validating = False
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # it has swapped the weights
            self._stop(runner, epoch=runner.epoch, iter=runner.iter)

    def after_val(self, runner: Any) -> None:
        self.validating = False

    # -- stopping ------------------------------------------------------------------

    def _listen(self, runner: Any, loader: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning('PreemptionHook: only a main thread gets signals')
            return
        for number in self.signals:
            self.before[number] = signal.signal(number, self._receive)
        atexit.register(self._end)  # before the processes are ended
        if hasattr(loader, 'worker_init_fn'):
            loader.worker_init_fn = _Worker(loader.worker_init_fn, self.doing)

    def _end(self) -> None:
        self.doing[0] = ENDING

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.doing[0] = STOPPING

    def _agreed(self, runner: Any) -> bool:
        """Whether to stop as any process got a signal; all have to ask."""
        # In between, accumulated gradients would be lost.
        complete = getattr(runner.optim_wrapper, 'should_update', lambda: True)()
        return complete and bool(_reduced(runner, self.received, 'max'))

    def _folder(self, runner: Any) -> tuple[str, bool]:
        """Return where checkpoints are saved, and whether this is a local folder."""
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hasattr(hook, 'file_backend'):
                backend = getattr(hook.file_backend, 'client', hook.file_backend)
                return hook.out_dir, isinstance(backend, LocalBackend)
        return runner.work_dir, True

    def _stop(self, runner: Any, **meta: int) -> None:
        """Save unless this is done, and exit.

        Raises:
            SystemExit: With the status 75.
        """
        name = signal.Signals(self.received).name if self.received else 'a signal'
        folder, local = self._folder(runner)
        file = _file(runner)
        # Of a model in shards, only the main process is told what is saved.
        saved = self.saved == (meta['epoch'], meta['iter'])
        if not _reduced(runner, int(saved), 'max'):
            write = save if local and isinstance(runner, Runner) else _save_plainly
            write(runner, folder, file, meta=meta, by_epoch=False)
            if is_main_process():
                write_note(runner.work_dir, osp.join(folder, file))
        barrier()  # a launcher may kill the others when one ends
        runner.logger.warning(
            f'Stopped by {name} after iteration {meta["iter"]}: saved. Continue with '
            '--resume'
        )
        self._end()
        if path := os.environ.get(NOTED):
            with open(path, 'w') as noted:
                noted.write(str(REQUEUE))
        raise SystemExit(REQUEUE)


def _file(runner: Any) -> str:
    return NAME + getattr(runner, 'suffix', '.pth')


def _save_plainly(runner: Any, *args: Any, **kwargs: Any) -> None:
    runner.save_checkpoint(*args, **kwargs)


def _reduced(runner: Any, value: int, op: str) -> int:
    """Return the minimum or maximum of a number in all processes."""
    if runner.world_size == 1:
        return value
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    number = torch.tensor(value, device=device)
    all_reduce(number, op)
    return int(number)


def _next_epoch(loop: Any, sampler: Any) -> None:
    """Do what MMEngine does where a loop that counts iterations ends an epoch."""
    stream = loop.dataloader_iterator
    stream._epoch += 1
    if hasattr(sampler, 'set_epoch'):
        sampler.set_epoch(stream._epoch)


def _number_from(loop: Any, first: int) -> None:
    """Let the first epoch of a resumed run count its batches from where it is."""
    run_iter = loop.run_iter
    loop.run_iter = lambda number, batch: run_iter(number + first, batch)
