"""Checkpoints that are whole: written beside, synced, renamed; then the old one goes.

MMEngine removes the old checkpoint before it writes the new one, in place.
"""

import os
import os.path as osp
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as PlainCheckpointHook
from mmengine.runner import Runner

from mmmeta.errors import UserError
from mmmeta.registry import HOOKS
from mmmeta.weights.parts import SUFFIX

OLD = '.old'  # the end of the name of a folder that is being replaced
PARTIAL = '.partial'  # the end of the name of a file that is being written
STAGING = '.saving'  # a folder of such files
NOTE = 'last_checkpoint'


def replace(source: str, target: str) -> None:
    """Rename a file once its content is on the disk, in place of another one.

    Or a folder; one that it replaces is at `*.old` meanwhile (see `present`).
    """
    if folder := osp.isdir(source):
        for name in os.listdir(source):
            _sync(osp.join(source, name))
    _sync(source)
    if folder and osp.isdir(target):
        remove(target + OLD)
        os.rename(target, target + OLD)
    os.replace(source, target)
    remove(target + OLD)
    with suppress(OSError):  # some file systems cannot sync folders
        _sync(osp.dirname(target) or '.')


def remove(path: str) -> None:
    """Remove a file or a folder, if it is there."""
    if osp.isdir(path) and not osp.islink(path):
        shutil.rmtree(path)
    elif osp.lexists(path):
        os.remove(path)


def present(path: str) -> str | None:
    """Return where a checkpoint is, or None: a crash may leave a folder at `*.old`."""
    return next((p for p in (path, path + OLD) if osp.exists(p)), None)


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def note_of(work_dir: str) -> str | None:
    """Return what a work folder names as its last checkpoint, or None."""
    try:
        with open(osp.join(work_dir, NOTE)) as file:
            return file.read().strip() or None
    except OSError:
        return None


def write_note(work_dir: str, checkpoint: str) -> None:
    """Name a work folder's last checkpoint.

    Raises:
        UserError: It cannot be written; the former note is kept.
    """
    path = osp.join(work_dir, NOTE)
    try:
        with open(path + PARTIAL, 'w') as file:
            file.write(checkpoint)
        replace(path + PARTIAL, path)
    except OSError as error:
        _give_up(path, work_dir, error)


def save(runner: Any, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
    """Save a checkpoint of a run to a local folder so that nobody reads half of it.

    Args:
        runner: MMEngine's.
        out_dir: The folder.
        filename: The file's name in it.
        *args: For `runner.save_checkpoint`, like `kwargs`.

    Raises:
        UserError: It cannot be written; all former files are kept.
    """
    path = osp.join(out_dir, filename)
    try:
        runner.save_checkpoint(out_dir, filename + PARTIAL, *args, **kwargs)
        if is_main_process():
            replace(path + PARTIAL, path)
    except OSError as error:
        _give_up(path, runner.work_dir, error)


def _give_up(path: str, work_dir: str, error: OSError) -> NoReturn:
    """Remove what was written of a file, and say what is still there.

    Raises:
        UserError: Always.
    """
    with suppress(OSError):
        remove(path + PARTIAL)
    last = note_of(work_dir)
    kept = f'the last checkpoint is still {last}' if last else 'there is none before it'
    try:
        free = f', {shutil.disk_usage(osp.dirname(path) or ".").free / 2**20:.0f} MiB'
    except OSError:
        free = ''
    raise UserError(
        f'{path} was not saved: {error.strerror or error}{free and free + " free"}. No '
        f'other file was changed; {kept}. Make room (default_hooks.checkpoint: '
        'max_keep_ckpts, or out_dir on another disk), then continue with --resume'
    ) from error


class _Saver:
    """A runner whose checkpoints are written by `save`, their note to `staging`."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.saved: set[str] = set()
        self.staging = osp.join(runner.work_dir, STAGING)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    @property
    def work_dir(self) -> str:
        """MMEngine overwrites its note in this folder."""
        os.makedirs(self.staging, exist_ok=True)
        return self.staging

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        save(self.runner, out_dir, filename, *args, **kwargs)
        self.saved.add(osp.join(out_dir, filename))


class _Keeper:
    """A file backend that removes nothing until it is told to."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.waiting: list[tuple[Callable[[str], None], str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.waiting.append((self.backend.remove, path))

    def rmtree(self, path: str) -> None:
        self.waiting.append((self.backend.rmtree, path))


@HOOKS.register_module()
class CheckpointHook(PlainCheckpointHook):
    """MMEngine's CheckpointHook, of which a crash or a full disk loses no checkpoint.

    The arguments are the same. A file is written under another name (`*.partial`),
    synced and renamed; then `last_checkpoint` is replaced in the same way, and only
    then are the checkpoints removed that `max_keep_ckpts` and `save_best` give up. So
    the disk needs space for one more. This holds for local folders and MMEngine's
    plain Runner; remote backends and other runners save as with MMEngine's hook.

    Raises:
        UserError: In training, where a file cannot be written.
    """

    safe = False
    file_backend: Any

    def before_train(self, runner: Any) -> None:
        super().before_train(runner)
        backend = getattr(self.file_backend, 'client', self.file_backend)
        self.safe = isinstance(backend, LocalBackend) and isinstance(runner, Runner)
        if self.safe and is_main_process():
            _clean(runner.work_dir)
            _clean(self.out_dir)

    @contextmanager
    def _safely(self, runner: Any) -> Iterator[Any]:
        """Yield what to pass to MMEngine's methods in place of the runner."""
        if not self.safe or isinstance(runner, _Saver):
            yield runner
            return
        saver, backend = _Saver(runner), self.file_backend
        self.file_backend = keeper = _Keeper(backend)
        note = osp.join(saver.staging, NOTE)
        try:
            yield saver
            if osp.isfile(note):
                replace(note, osp.join(runner.work_dir, NOTE))
        except OSError as error:
            _give_up(osp.join(runner.work_dir, NOTE), runner.work_dir, error)
        finally:
            self.file_backend = backend
            if is_main_process():
                shutil.rmtree(saver.staging, ignore_errors=True)
        for remove, path in keeper.waiting:
            if path not in saver.saved:
                remove(path)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        with self._safely(runner) as saver:
            super()._save_checkpoint_with_step(saver, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._safely(runner) as saver:
            super()._save_best_checkpoint(saver, metrics)

    def _publish_model(self, runner: Any, ckpt_path: str) -> None:
        if not self.safe:
            super()._publish_model(runner, ckpt_path)
            return
        if not is_main_process():
            return
        # MMEngine writes the published file beside the checkpoint: here, beside a link.
        staging = osp.join(osp.dirname(ckpt_path), STAGING)
        try:
            os.makedirs(staging, exist_ok=True)
            link = osp.join(staging, osp.basename(ckpt_path))
            os.symlink(osp.abspath(ckpt_path), link)
            super()._publish_model(runner, link)
            os.remove(link)
            for name in os.listdir(staging):
                replace(osp.join(staging, name), osp.join(self.out_dir, name))
                runner.logger.info(f'Published as {osp.join(self.out_dir, name)}')
        except OSError as error:
            _give_up(f'{osp.splitext(ckpt_path)[0]}-*.pth', runner.work_dir, error)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _clean(folder: str) -> None:
    """Remove what a process left that was killed while it wrote."""
    if not osp.isdir(folder):
        return
    shutil.rmtree(osp.join(folder, STAGING), ignore_errors=True)
    for name in os.listdir(folder):
        path = osp.join(folder, name)
        with suppress(OSError):
            if name.endswith((f'.pth{PARTIAL}', SUFFIX + PARTIAL, NOTE + PARTIAL)):
                remove(path)
            elif name.endswith(SUFFIX + OLD):
                whole = path.removesuffix(OLD)
                if osp.isdir(whole):
                    remove(path)
                else:
                    os.rename(path, whole)
