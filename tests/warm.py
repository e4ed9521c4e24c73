"""Python processes without the seconds of imports: forks of one that has done them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

# Reads one order per line and writes the exit code of each. The code that runs has its
# own command line, folder and `__main__`.
SERVER = """
import importlib, json, os, runpy, sys, traceback

answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # libraries print when they are imported
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
        continue
    for number, file in enumerate(order['files']):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.chdir(order['cwd'])
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
            [python, '-c', SERVER, *modules],
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
        self, *args: object, code: str = '', cwd: Path | str = '.'
    ) -> subprocess.CompletedProcess:
        """Run a script with arguments, or `code` as `python -c` does.

        Args:
            *args: The script and its arguments; with `code` the arguments alone.
            code: What to run in place of a script.
            cwd: The folder where it is run.
        """
        words = [*map(str, args)]
        with TemporaryDirectory() as folder:
            out, err = (Path(folder, name) for name in ('out', 'err'))
            order = dict(
                args=['-c', *words] if code else words,
                code=code,
                cwd=str(Path(cwd).resolve()),
                files=[os.devnull, str(out), str(err)],
            )
            print(json.dumps(order), file=self._server.stdin, flush=True)
            status = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(
                words, status, out.read_text(), err.read_text()
            )
