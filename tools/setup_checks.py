"""What `make setup` asks of a machine, checked before the first download.

The file runs with Python 3.8, so that an unsuitable Python gets a message and no
traceback.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

PYTHONS = ((3, 10), (3, 11), (3, 12))
# Set by users for environments of their own; here they would redirect an installation.
FOREIGN = {
    *('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'CONDA_PREFIX'),
    *('PIP_TARGET', 'PIP_PREFIX', 'PIP_USER', 'PIP_CONSTRAINT'),
    *('UV_TARGET', 'UV_PREFIX', 'UV_PYTHON', 'UV_SYSTEM_PYTHON'),
    *('UV_CONSTRAINT', 'UV_OVERRIDE'),
}
# Measured in GiB, rounded up: the packages as uv's cache holds them (.venv links to
# them on the same file system, and copies them elsewhere), the compile, small files.
CACHE_GIB, VENV_GIB, BUILD_GIB, TEMP_GIB = 6.0, 6.0, 0.5, 0.5

PYTHON_PROBE = """
import json, os, sys
try:
    from importlib.util import find_spec
except ImportError:
    find_spec = lambda name: None
import sysconfig
executable = sys.executable
if sys.prefix != getattr(sys, 'base_prefix', sys.prefix):  # in a venv: what made it
    name = 'python%d.%d' % sys.version_info[:2]
    executable = os.path.join(sys.base_exec_prefix, 'bin', name)
print(json.dumps(dict(
    version=list(sys.version_info[:3]), executable=executable,
    header=os.path.join(sysconfig.get_paths()['include'], 'Python.h'),
    venv=all(find_spec(name) for name in ('venv', 'ensurepip')))))
"""


class SetupError(Exception):
    """What went wrong, one line for each thing, for a user to read."""


def dotted(version):
    return '.'.join(str(part) for part in version)


def clean_env():
    return {key: value for key, value in os.environ.items() if key not in FOREIGN}


def output(command, env=None):
    """What a command prints; empty where it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=env or clean_env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout.decode().strip() if done.returncode == 0 else ''


def probe_python(command):
    """What the interpreter says about itself; None where it does not run."""
    text = output([command, '-c', PYTHON_PROBE])
    return json.loads(text) if text else None


def python_problems(python):
    """What an interpreter of the right version lacks."""
    version = dotted(python['version'][:2])
    name = f'Python {version} ({python["executable"]})'
    problems = []
    if not python['venv']:
        problems.append(
            f'{name} lacks its modules venv and ensurepip; expected both: install them '
            f'(Debian, Ubuntu: apt install python{version}-venv)'
        )
    if not os.path.exists(python['header']):
        problems.append(
            f'{name} lacks its C headers; expected {python["header"]}: install them '
            f'(Debian, Ubuntu: apt install python{version}-dev)'
        )
    return problems


def choose_python(wanted, candidates):
    """(interpreter or None, problems): the one asked for, or the first that will do."""
    expected = 'expected Python 3.10, 3.11 or 3.12'
    hint = 'name one: make PYTHON=/path/to/python3.11 ...'
    if wanted:
        python = probe_python(wanted)
        if python and tuple(python['version'][:2]) in PYTHONS:
            return python, python_problems(python)
        if python:
            found = f'is Python {dotted(python["version"])}'
        else:
            found = 'does not run' if shutil.which(wanted) else 'is not there'
        return None, [f'PYTHON={wanted} {found}; {expected}: {hint}']

    runs = [python for python in map(probe_python, candidates) if python]
    fits = [python for python in runs if tuple(python['version'][:2]) in PYTHONS]
    if fits:
        best = min(fits, key=lambda python: len(python_problems(python)))
        return best, python_problems(best)
    found = ', '.join(f'{dotted(p["version"])} ({p["executable"]})' for p in runs)
    return None, [
        f'found Python {found or "nowhere"}; {expected}: install one (Debian, Ubuntu: '
        f'apt install python3.11 python3.11-venv python3.11-dev), or {hint}'
    ]


def choose_compiler(env):
    """(command or None, problems): a C++ compiler that really compiles C++17."""
    candidates = [env['CXX']] if env.get('CXX') else ['c++', 'g++', 'clang++']
    reasons = []
    for command in candidates:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, 'probe.cpp')
            source.write_text('#include <optional>\nstd::optional<int> probe;\n')
            line = [*shlex.split(command), '-std=c++17', '-c', str(source)]
            try:
                done = subprocess.run(
                    [*line, '-o', f'{source}.o'],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                reasons.append(f'{command}: {error.strerror}')
                continue
        if done.returncode == 0:
            return command, []
        said = done.stdout.decode(errors='replace').strip().split('\n')
        reasons.append(f'{command}: {said[0] or done.returncode}')
    return None, [
        f'no C++ compiler that compiles C++17 ({"; ".join(reasons)}); expected g++ 9, '
        'clang 10 or newer: install one (Debian, Ubuntu: apt install g++) or name one '
        'in CXX'
    ]


def existing(path):
    """The path, or the nearest folder above that is there."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def cache_folders(env):
    """uv's cache, and where compiled mmcv wheels outlive their .venv."""
    home = Path(env.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return Path(env.get('UV_CACHE_DIR') or home / 'uv'), home / 'mmmeta'


def disk_needs(root, env):
    """(folder, GiB) of all that is written."""
    uv_cache, venv = cache_folders(env)[0], root / '.venv'
    linked = os.stat(str(existing(uv_cache))).st_dev == os.stat(str(root)).st_dev
    return [
        (uv_cache, CACHE_GIB),
        (venv, BUILD_GIB if linked else BUILD_GIB + VENV_GIB),
        (tempfile.gettempdir(), TEMP_GIB),
    ]


def check_disk(needs):
    """Problems with (folder, GiB) needs, added up for each file system."""
    systems = {}
    for folder, gib in needs:
        device = os.stat(str(existing(folder))).st_dev
        first, total = systems.get(device, (folder, 0))
        systems[device] = (first, total + gib)
    problems = []
    for folder, gib in systems.values():
        free = shutil.disk_usage(str(existing(folder))).free / 2**30
        if free < gib:
            problems.append(
                f'{free:.1f} GiB are free for {folder}; expected {gib:.1f}: make room, '
                'or point UV_CACHE_DIR and TMPDIR to a larger disk'
            )
    return problems


def check_writable(folders):
    problems = []
    for folder in map(existing, folders):
        try:
            with tempfile.TemporaryFile(dir=str(folder)):
                pass
        except OSError as error:
            problems.append(
                f'cannot write to {folder} ({error.strerror}); expected a writable '
                'folder: change its owner, or XDG_CACHE_HOME, UV_CACHE_DIR, TMPDIR'
            )
    return problems
