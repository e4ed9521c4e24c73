"""Running cases with workers that take turns, so that only one computes at a time."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.cases import BOUNDS, Alternative, Case
from benchmarks.report import compare, summarize

ROOT = Path(__file__).resolve().parents[1]  # parent folder of `benchmarks`
FEWEST_ROUNDS, MOST_ROUNDS = 5, 1000
MIB = 2**20
# With a fixed threshold, glibc returns every larger buffer as soon as it is freed, so
# resident memory equals memory in use.
GIVE_BACK = {'MALLOC_MMAP_THRESHOLD_': str(2**16), 'MALLOC_TRIM_THRESHOLD_': str(2**16)}


@dataclass(frozen=True)
class Settings:
    """Settings for running cases.

    Attributes:
        device: 'cpu' or 'cuda'. Default: 'cpu'.
        threads: PyTorch's threads. Default: PyTorch's own choice.
        tuned: Whether the shared process tunes its allocator like mmmeta's tools.
            Default: True.
        rounds: Number of rounds; None for as many as `seconds` allow, at least five.
            Default: None.
        seconds: Time for the rounds of a case. Default: 30.
        memory: Measure peak memory, on a CPU in a new process for each row.
            Default: True.
    """

    device: str = 'cpu'
    threads: int | None = None
    tuned: bool = True
    rounds: int | None = None
    seconds: float = 30.0
    memory: bool = True


class WorkerError(RuntimeError):
    """A row could not be built or called."""


class Worker:
    """A process with one session of `benchmarks.worker`.

    Args:
        case: The case to measure.
        folder: Folder of the case's weights, images and outputs.
        settings: Device and threads.
        tuned: Whether it tunes its allocator.
        variables: Environment variables to add. Default: none.
    """

    def __init__(
        self,
        case: Case,
        folder: Path,
        settings: Settings,
        tuned: bool,
        variables: dict[str, str] | None = None,
    ) -> None:
        env = {**os.environ, **(variables or {})}
        if settings.threads is not None:
            env['OMP_NUM_THREADS'] = str(settings.threads)
        self.folder = folder
        self.log = folder / 'log.txt'
        with self.log.open('a') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'benchmarks.worker', str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=env,
            )
        self.environment = self.ask(
            'open',
            case=asdict(case),
            device=settings.device,
            threads=settings.threads,
            tuned=tuned,
        )

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the session and wait for its result.

        Raises:
            WorkerError: It failed, or the process exited.
        """
        try:
            print(json.dumps([method, arguments]), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            status = self.process.wait()
            last = self.log.read_text(errors='replace').strip().splitlines()[-1:]
            raise WorkerError(
                f'the process exited with status {status}: {" ".join(last)}'
            )
        answer = json.loads(line)
        if 'error' in answer:
            raise WorkerError(answer['error'])
        return answer['result']

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.stdin.close()
        if exception[0] is not None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def run_case(
    case: Case, alternatives: Sequence[Alternative], settings: Settings | None = None
) -> dict[str, Any]:
    """Measure one case.

    Args:
        case: The case.
        alternatives: Its rows, mmmeta's eager one first.
        settings: The settings. Default: `Settings()`.

    Returns:
        The fields of the case, and 'name', 'environment' (by process), 'least_ms' (the
        fewest bytes over the bandwidth, on a GPU), 'rows' and 'comparisons', as
        `benchmarks.report` shows them.

    Raises:
        WorkerError: A process exited, or mmmeta cannot compute the expected outputs.
    """
    settings = settings or Settings()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with Worker(case, folder, settings, tuned=False) as worker:
            worker.ask('prepare')
        workers = {
            process: stack.enter_context(Worker(case, folder, settings, tuned))
            for process, tuned in _processes(alternatives, settings).items()
        }
        rows = {
            row.name: _add(case, row, workers[row.process], settings)
            for row in _bar(alternatives, f'{case.name}: building')
        }
        running = [row for row in alternatives if not rows[row.name]['failed']]
        calls = _interleave(running, workers, settings, f'{case.name}: timing')
        for row in _bar(running, f'{case.name}: memory'):
            facts = rows[row.name]
            facts.update(summarize(calls[row.name]))
            facts.update(_memory(case, row, workers[row.process], settings))
        least = None
        if settings.device == 'cuda' and case.task == 'backbone':
            least = workers[alternatives[0].process].ask('least_ms')
    return compare(
        dict(
            asdict(case),
            name=case.name,
            environment={name: w.environment for name, w in workers.items()},
            least_ms=least,
            rows=list(rows.values()),
        )
    )


def _processes(
    alternatives: Sequence[Alternative], settings: Settings
) -> dict[str, bool]:
    """Return the processes that rows need, and whether each tunes its allocator."""
    tuned = {'shared': settings.tuned, 'mmmeta tool': True, 'stock tool': False}
    return {row.process: tuned[row.process] for row in alternatives}


def _bar(items: Sequence[Alternative], text: str) -> Iterable[Alternative]:
    """Show progress in a terminal, and clear it afterwards."""
    return tqdm(items, desc=text, unit='row', leave=False, disable=None)


def _add(
    case: Case, row: Alternative, worker: Worker, settings: Settings
) -> dict[str, Any]:
    """Build a row, compare its outputs and warm it up."""
    facts = dict(
        asdict(row),
        allocator=worker.environment['allocator'],
        error=None,
        bound=None if row.floor else BOUNDS[case.dtype],
        failed=None,
    )
    try:
        facts['error'] = worker.ask('add', alternative=asdict(row))
        worker.ask('warm_up', name=row.name, seconds=settings.seconds)
    except WorkerError as error:
        if worker.ended:
            raise WorkerError(f'{case.name}, {row.name}: {error}') from None
        facts['failed'] = str(error)
    return facts


def _interleave(
    rows: Sequence[Alternative],
    workers: Mapping[str, Worker],
    settings: Settings,
    text: str,
) -> dict[str, list[tuple[float, int]]]:
    """Call the rows in turn, starting each round with a different row.

    Returns:
        Milliseconds and page faults of each call, by row.
    """
    calls: dict[str, list[tuple[float, int]]] = {row.name: [] for row in rows}
    deadline = time.monotonic() + settings.seconds
    rounds = range(settings.rounds or MOST_ROUNDS)
    for k in tqdm(rounds, desc=text, unit='round', leave=False, disable=None):
        enough = settings.rounds is None and k >= FEWEST_ROUNDS
        if enough and time.monotonic() > deadline:
            break
        for i in range(len(rows)):
            row = rows[(i + k) % len(rows)]
            calls[row.name].append(workers[row.process].ask('call', name=row.name))
    return calls


def _memory(
    case: Case, row: Alternative, worker: Worker, settings: Settings
) -> dict[str, float | None]:
    """Return a row's memory kept for the backward pass and at the peak, in MiB."""
    saved = peak = None
    if case.task == 'training':
        saved = worker.ask('saved', name=row.name) / MIB
    if settings.memory and settings.device == 'cuda':
        peak = worker.ask('peak', name=row.name)
    elif settings.memory:
        with Worker(case, worker.folder, settings, False, GIVE_BACK) as alone:
            alone.ask('add', alternative=asdict(row))
            peak = alone.ask('peak', name=row.name)
    return dict(saved_mib=saved, peak_mib=None if peak is None else peak / MIB)
