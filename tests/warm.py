"""Python processes without the seconds of imports: forks of one that has done them."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

# Reads one order per line, to fork or to wait for a fork, and answers with the process'
# number or its exit code. The code that runs has its own command line, folder,
# environment variables and `__main__`.
SERVER = """
import gc, importlib, json, os, runpy, sys, traceback

answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # libraries print when they are imported
for name in sys.argv[2:]:
    importlib.import_module(name)
quick = runpy.run_path(sys.argv[1])
quick['quicken']()
for library in ('mmdet', 'mmseg', 'mmpretrain'):
    if library in sys.modules:
        quick['read_metafiles'](library)
gc.freeze()  # each data set collects garbage
for line in sys.stdin:
    order = json.loads(line)
    if 'wait' in order:
        ended, status = os.waitpid(order['wait'], order['flags'])
        answer = os.waitstatus_to_exitcode(status) if ended else None
        print(json.dumps(answer), file=answers, flush=True)
        continue
    child = os.fork()
    if child:
        print(child, file=answers, flush=True)
        continue
    for number, file in enumerate(order['files']):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
        os.dup2(os.open(file, flags), number)
    os.chdir(order['cwd'])
    os.environ.update(order['env'])
    if path := order['env'].get('PYTHONPATH'):
        sys.path[1:1] = map(os.path.abspath, path.split(os.pathsep))
    sys.argv = order['args']
    status = 0
    try:
        if sys.argv[0] == '-c':
            exec(compile(order['code'], '<string>', 'exec'), {'__name__': '__main__'})
        else:
            sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
            runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # freeing all modules would take seconds
os._exit(0)
"""


class WarmPython:
    """Runs Python code in processes that start with some modules imported.

    Args:
        *modules: The modules.
        python: The interpreter. Default: the one that runs the tests.
        base: The environment variables. Default: those of this process.
        **env: Environment variables to set in all processes.
    """

    def __init__(
        self,
        *modules: str,
        python: Path | str = sys.executable,
        base: Mapping[str, str] = os.environ,
        **env: str,
    ) -> None:
        self._server = subprocess.Popen(
            [python, '-c', SERVER, Path(__file__).with_name('quick.py'), *modules],
            env={**base, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> 'WarmPython':
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(
        self,
        *args: object,
        code: str = '',
        cwd: Path | str = '.',
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess:
        """Run a script with arguments, or `code` as `python -c` does.

        Args:
            *args: The script and its arguments; with `code` the arguments alone.
            code: What to run in place of a script.
            cwd: The folder where it is run.
            env: Environment variables to set. Default: none.
        """
        with TemporaryDirectory() as folder:
            out, err = (Path(folder, name) for name in ('out', 'err'))
            pid = self._fork([os.devnull, out, err], args, code, cwd, env)
            return subprocess.CompletedProcess(
                [*map(str, args)], self._wait(pid), out.read_text(), err.read_text()
            )

    def start(
        self,
        *args: object,
        log: Path,
        code: str = '',
        cwd: Path | str = '.',
        env: Mapping[str, str] | None = None,
    ) -> 'Fork':
        """Start what `run` would run, and return pipes of it; `log` gets its stderr."""
        with TemporaryDirectory() as folder:
            pipes = [Path(folder, name) for name in ('in', 'out')]
            for pipe in pipes:
                os.mkfifo(pipe)
            pid = self._fork([*pipes, log], args, code, cwd, env)
            stdin, stdout = pipes[0].open('w'), pipes[1].open()
        return Fork(functools.partial(self._wait, pid), pid, stdin, stdout)

    def _fork(
        self,
        files: list,
        args: tuple,
        code: str,
        cwd: Path | str,
        env: Mapping[str, str] | None,
    ) -> int:
        words = [*map(str, args)]
        return self._ask(
            args=['-c', *words] if code else words,
            code=code,
            cwd=str(Path(cwd).resolve()),
            env=dict(env or {}),
            files=[*map(str, files)],
        )

    def _wait(self, pid: int, flags: int = 0) -> int | None:
        return self._ask(wait=pid, flags=flags)

    def _ask(self, **order: object) -> int | None:
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


@dataclass
class Fork:
    """What `WarmPython.start` started, with the part of Popen that is needed."""

    _wait: Callable[..., int | None]
    pid: int
    stdin: TextIO
    stdout: TextIO
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._wait(os.WNOHANG)
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self._wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
