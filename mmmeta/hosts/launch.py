"""Building an MMEngine runner from command-line arguments, for all host libraries.

Used by `tools/train.py` and `tools/test.py`.
"""

import argparse
import os
import os.path as osp
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config

from mmmeta.errors import UserError, one_line, print_error, printable
from mmmeta.hosts.allocator import tune_allocator
from mmmeta.hosts.checkpoints import innermost, watch
from mmmeta.hosts.config import load_config
from mmmeta.hosts.options import ConfigOptions


def parser_for(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options shared by training and testing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'config', help='config file, or LIBRARY::PATH for one in an installed library'
    )
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints (default: work_dirs/NAME-OF-CONFIG)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings that override those of the config, as key=value pairs; nested '
        'keys with dots, lists as key="[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher (default: none)',
    )
    # torch.distributed.launch passes --local-rank; torchrun sets LOCAL_RANK.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )
    return parser


def config_of(args: argparse.Namespace) -> Config:
    """Read the config and apply the options of `parser_for`.

    Raises:
        UserError: The config does not exist or cannot be read.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config.split('::')[-1]))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    return cfg


def build_runner(cfg: Config, testing: bool = False) -> Any:
    """Build MMEngine's runner, or the one that `runner_type` names.

    It reports checkpoints that do not fit; the config's `allow_missing` lists parts
    that may be missing in training. `fsdp` spreads the parameters over the processes
    (see `mmmeta.hosts.sharding`). In training it has a PreemptionHook and a
    BadStepHook, with their defaults if the config has none.

    Args:
        cfg: The config.
        testing: Whether the runner will be tested. Default: False.
    """
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmmeta.hosts.bad_steps import BadStepHook
    from mmmeta.hosts.parallel import stop_with_torchrun, use_cpu_if_alone
    from mmmeta.hosts.preemption import PreemptionHook

    if cfg.get('launcher') == 'pytorch':
        stop_with_torchrun()
        use_cpu_if_alone(cfg)
    if cfg.get('fsdp') is not None and not testing:
        _use_shards(cfg)
    with _undumped(cfg, Runner):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    watch(runner, testing, cfg.get('allow_missing') or ())
    if not testing:
        for kind in (BadStepHook, PreemptionHook):
            if not any(isinstance(hook, kind) for hook in runner.hooks):
                runner.register_hook(kind())
    return runner


def train(runner: Any) -> None:
    """Train by a runner of `build_runner`.

    Raises:
        UserError: A process that loads data was killed, or a parameter got no gradient
            with several processes, among others.
        SystemExit: With status 75 after SIGTERM or SIGUSR1: to be continued.
    """
    try:
        runner.train()
    except RuntimeError as error:
        from mmmeta.hosts.parallel import raise_if_unused

        raise_if_unused(innermost(runner.model), error)
        if not re.match(r'DataLoader worker \(pid', str(error)):
            raise
        from mmmeta.hosts.saving import note_of

        last = note_of(runner.work_dir)
        cause = error.__cause__  # which tells the signal
        known = cause is not None and str(cause).startswith('DataLoader worker')
        reason = one_line(cause if known and cause else error).rstrip('. ')
        raise UserError(
            f'a process that loads training data was killed: {reason}. Often the '
            'memory, or the shared memory in /dev/shm, is full: lower '
            'train_dataloader.num_workers or batch_size, then continue with --resume '
            f'(the last checkpoint: {last or "none yet"})'
        ) from error


@contextmanager
def _undumped(cfg: Config, runner: Any) -> Iterator[None]:
    """Keep MMEngine from writing the resolved config over the config itself.

    That happens to one in the work folder. vis_data/ has the resolved one, too.
    """
    copy = osp.join(cfg.get('work_dir') or '', osp.basename(cfg.filename or ''))
    dump = runner.dump_config
    if osp.isfile(copy) and osp.samefile(copy, cfg.filename):
        runner.dump_config = lambda self: None
    try:
        yield
    finally:
        runner.dump_config = dump


def _use_shards(cfg: Config) -> None:
    """Let several processes share the parameters, as the config's `fsdp` says.

    Raises:
        UserError: An unknown option, or another runner.
    """
    from mmmeta.hosts.sharding import check_options

    check_options(cfg.fsdp)
    if cfg.get('launcher', 'none') == 'none':
        return  # one process has all of them
    if cfg.get('runner_type', 'Runner') not in ('Runner', 'mmmeta.ShardedRunner'):
        raise UserError(
            f'fsdp cannot be used with runner_type={cfg.runner_type!r}; expected '
            "MMEngine's Runner"
        )
    cfg.runner_type = 'mmmeta.ShardedRunner'


def run(main: Callable[[], None]) -> None:
    """Call a tool's main function; print user errors in one line and exit with 1."""
    if tune_allocator():
        print('glibc keeps freed memory (MMMETA_MALLOC=0 disables this)', flush=True)
    try:
        main()
    except UserError as error:
        if os.environ.get('MMMETA_DEBUG') == '1':
            raise
        print_error(f'error: {printable(error)}')
        sys.exit(1)
