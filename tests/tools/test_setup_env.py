"""tools/setup_env.py, really run; only uv is replaced by a small wheel."""

import ast
import ctypes
import fcntl
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

SCRIPT = 'tools/setup_env.py'
NO_INDEX = 'http://127.0.0.1:9/simple'  # nothing listens there
INFO = 'uv-0.0.1.dist-info'
UV = {
    f'{INFO}/METADATA': 'Metadata-Version: 2.1\nName: uv\nVersion: 0.0.1',
    f'{INFO}/WHEEL': 'Wheel-Version: 1.0\nTag: py3-none-any',
    f'{INFO}/RECORD': '',
    f'{INFO}/entry_points.txt': '[console_scripts]\nuv = fake_uv:main',
    'fake_uv.py': """import json, os, sys
def main(): json.dump([sys.argv, dict(os.environ)], open(os.environ['UV_LOG'], 'w'))
""",
}
# Python, but it says that it is of another version. It is called as make does it.
OTHER_PYTHON = """#!/bin/sh
[ "$1" = -V ] && echo Python {1} && exit
[ "$2" = -c ] && run='exec(a[3])' || run='runpy.run_path(a[2], None, "__main__")'
exec {0} -c "import runpy, sys; sys.version_info = {2}; a = sys.argv; $run" "$@"
"""


@pytest.fixture(scope='module')
def make_project(root, tmp_path_factory):
    """A function that copies the setup's files; the final import check is skipped."""

    def make(gib=0):
        project = tmp_path_factory.mktemp('project')
        for name in ('Makefile', 'pyproject.toml', 'setup.py', SCRIPT):
            (project / name).parent.mkdir(exist_ok=True)
            shutil.copy(root / name, project / name)
        text = (root / SCRIPT).read_text()
        text = re.sub('VERIFY = """.*?"""', 'VERIFY = ""', text, flags=re.DOTALL)
        (project / SCRIPT).write_text(re.sub(r'GIB = \d+', f'GIB = {gib}', text))
        (project / 'requirements').mkdir()
        (project / 'requirements/pinned.txt').write_text('uv==0.0.1\n')
        return project

    return make


def call(project, command=(sys.executable, SCRIPT), preexec_fn=None, **env):
    """Run the setup with an empty cache; at most one line of errors is printed."""
    kept = {key: text for key, text in os.environ.items() if key != 'PYTHON'}
    cache = dict(UV_CACHE_DIR=f'{project}-cache', PIP_RETRIES='0', UV_HTTP_RETRIES='0')
    done = subprocess.run(
        [str(part) for part in command],
        cwd=project,
        env={**kept, **cache, **env},
        preexec_fn=preexec_fn,
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = [e for e in done.stderr.splitlines() if not e.startswith('make')]
    assert len(errors) == (done.returncode != 0), done.stderr
    return done.returncode, ''.join(errors)


@pytest.fixture(scope='module')
def ready(make_project, tmp_path_factory):
    """A completed setup: first without a network, then with users' variables set."""
    project, wheels = make_project(), tmp_path_factory.mktemp('wheels')
    with zipfile.ZipFile(wheels / 'uv-0.0.1-py3-none-any.whl', 'w') as wheel:
        for name, text in UV.items():
            wheel.writestr(name, text)
    code, error = call(project, PIP_INDEX_URL=NO_INDEX, PIP_FIND_LINKS='')
    assert code == 1 and 'uv failed: check the network and the package index' in error
    foreign = dict.fromkeys(('PYTHONPATH', 'PIP_TARGET', 'UV_PYTHON'), '/elsewhere')
    foreign.update(UV_LOG=f'{project}/log', UV_DEFAULT_INDEX=NO_INDEX)
    foreign.update(PIP_NO_INDEX='1', PIP_FIND_LINKS=str(wheels))
    assert call(project, **foreign) == (0, '')
    return project


def test_what_uv_is_told(ready):
    argv, env = json.loads((ready / 'log').read_text())
    assert argv[1:3] == ['pip', 'install'] and argv[-2:] == ['--editable', str(ready)]
    assert '/elsewhere' not in env.values()
    assert env['PIP_INDEX_URL'] == env['UV_DEFAULT_INDEX'] == NO_INDEX


@pytest.mark.parametrize('command', [(sys.executable, SCRIPT), ('make', '-s', 'setup')])
def test_the_second_call_returns_at_once(ready, command):
    before = {path: path.stat().st_mtime_ns for path in ready.rglob('*')}
    start = time.monotonic()
    assert call(ready, command) == (0, '')
    assert time.monotonic() - start < 2  # 0.05 on an idle machine
    assert {path: path.stat().st_mtime_ns for path in ready.rglob('*')} == before


@pytest.mark.parametrize('name', ['requirements/pinned.txt', 'setup.py', SCRIPT])
def test_an_edit_makes_it_anew(ready, name):
    def is_ready():
        return runpy.run_path(str(ready / SCRIPT))['is_ready']()

    text = (ready / name).read_text()
    assert is_ready()
    (ready / name).write_text(text + '\n')
    assert not is_ready()
    (ready / name).write_text(text)
    assert is_ready()


def test_two_at_once(ready):
    (ready / '.venv/ready.stamp').rename(ready / 'kept')
    with open(ready / '.venv.lock', 'a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, ready / SCRIPT]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
            assert 'one call at a time' in second.stdout.readline()
            (ready / 'kept').rename(ready / '.venv/ready.stamp')
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.stdout.read() == ''  # nothing is left to do
    assert second.returncode == 0


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 10, 0), (3, 13, 9), (3, 14, 0)])
def test_python_version(make_project, version):
    """make and the script reject the same versions, and leave a foreign .venv alone."""
    project = make_project()
    (project / '.venv').mkdir()
    (project / '.venv/mine').touch()
    dotted = '.'.join(map(str, version))
    python = project / 'python'
    python.write_text(OTHER_PYTHON.format(sys.executable, dotted, version))
    python.chmod(0o755)
    for command in (('make', 'setup', f'PYTHON={python}'), (python, '-S', SCRIPT)):
        code, error = call(project, command)
        assert code != 0
        if version[1] in (9, 14):
            assert error.startswith('error: found Python 3.')
            assert 'expected ' in error and '3.10 to 3.13' in error
        else:
            assert error.endswith('not created by `make setup`: move it elsewhere')
    assert (project / '.venv/mine').exists()


def test_python_that_is_not_there(make_project):
    error = call(make_project(), ('make', 'setup', 'PYTHON=/none/python'))[1]
    assert '/none/python: not found; expected Python 3.10 to 3.13: install one' in error


def test_old_pythons_can_read_the_script(root):
    ast.parse((root / SCRIPT).read_text(), feature_version=(3, 8))


def test_too_little_disk(make_project):
    project = make_project(gib=10**9)
    code, error = call(project)
    assert code == 1 and 'GiB free for .venv and ' in error
    assert error.endswith('; expected 1000000000')
    assert not (project / '.venv').exists()


def test_read_only_checkout(make_project):
    """Root can write anywhere, so drop the capability that allows it."""
    project = make_project()
    project.chmod(0o555)
    drop = ctypes.CDLL(None).prctl
    code, error = call(project, (sys.executable, SCRIPT), lambda: drop(24, 1, 0, 0, 0))
    assert code == 1 and error.startswith("error: [Errno 13] Permission denied: '")


def test_a_step_that_fails(make_project, tmp_path, monkeypatch):
    """uv's errors without a network and with a full disk, and an unknown error."""
    monkeypatch.setenv('UV_CACHE_DIR', str(tmp_path))
    monkeypatch.setenv('UV_HTTP_RETRIES', '0')
    uv = [Path(sys.executable).with_name('uv'), 'pip', 'install', '--dry-run', 'timm']
    uv += ['--python', sys.executable, '--reinstall', '--index-url', NO_INDEX]
    full = 'error: failed to write: No space left on device (os error 28)'
    for command, said in (
        (uv, 'error: .* failed: check the network and the package index; .*'),
        ([sys.executable, '-c', f'exit({full!r})'], 'error: .* the disk is full: .*'),
        ([sys.executable, '-c', 'exit("new")'], 'new\nerror: .* failed, see above.*'),
    ):
        with pytest.raises(SystemExit) as error:
            runpy.run_path(str(make_project() / SCRIPT))['step']('it', *command)
        assert re.fullmatch(said, error.value.code)


def test_pinned_file(root):
    """It has no URLs, all requirements, and one distribution each of cv2 and mmcv."""
    pinned = (root / 'requirements/pinned.txt').read_text()
    assert '://' not in pinned
    names = [line.split('==')[0] for line in pinned.splitlines() if '==' in line]
    wanted = {'uv', 'setuptools', 'onedl-mmcv', 'torch', 'pytest', 'ruff', 'mypy'}
    assert wanted < set(names)
    assert 'opencv-python-headless' in names
    assert not {'opencv-python', 'mmengine', 'mmcv'} & set(names)
