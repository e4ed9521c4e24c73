"""The checks of tools/setup_checks.py and setup_env.py, run for real."""

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PYTHON_314 = """#!/bin/sh
echo '{"version": [3, 14, 0], "executable": "/fake/python3.14", "header": "/none",
"venv": true}'
"""


@pytest.fixture
def setup_checks(root, monkeypatch):
    monkeypatch.syspath_prepend(root / 'tools')
    return importlib.import_module('setup_checks')


@pytest.fixture
def setup_env(setup_checks):
    return importlib.import_module('setup_env')


@pytest.fixture
def project(root, tmp_path):
    """A copy of what the set-up reads, with a .venv that was set up by it."""
    project = tmp_path / 'project'
    for name in (
        *('Makefile', 'pyproject.toml', 'setup.py'),
        *('tools/setup_env.py', 'tools/setup_checks.py'),
        *('requirements/pinned.txt', 'requirements/mmcv.txt'),
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, project / name)
    (project / '.venv/bin').mkdir(parents=True)
    (project / '.venv/bin/python').symlink_to(sys.executable)
    return project


@pytest.fixture
def ready(project, setup_env):
    (project / '.venv' / setup_env.MARK).touch()
    stamps = {
        setup_env.PACKAGES: setup_env.PACKAGE_FILES,
        setup_env.READY: setup_env.SETUP_FILES,
    }
    for stamp, files in stamps.items():
        setup_env.write_stamp(project, stamp, files, sys.version_info)
    return project


@pytest.fixture
def only_path(tmp_path):
    """A function that makes a PATH on which there are only the tools named."""

    def make(*tools):
        folder = tmp_path / 'bin'
        folder.mkdir()
        for tool in tools:
            (folder / tool).symlink_to(shutil.which(tool))
        return str(folder)

    return make


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def call(project, *args, **env):
    """Run the copy's setup_env.py; CXX unset, so that the PATH decides."""
    kept = {k: v for k, v in os.environ.items() if k not in ('CXX', 'PYTHON')}
    return subprocess.run(
        [sys.executable, project / 'tools/setup_env.py', *args],
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_check_passes_here(root):
    """The machine that runs the tests was set up, so the checks must pass on it."""
    done = call(root, '--check')
    assert (done.returncode, done.stderr) == (0, '')
    assert 'will do' in done.stdout


def test_no_compiler(ready, only_path):
    done = call(ready, '--check', PATH=only_path('python3'))
    assert done.returncode == 1
    line = 'error: no C++ compiler that compiles C++17 (c++: No such file or directory'
    assert done.stderr.startswith(line)
    assert 'apt install g++' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ('compiler', 'reason'),
    [
        ("echo 'unknown option -std=c++17'; exit 1", 'unknown option -std=c++17'),
        ('exit 3', '3'),
    ],
)
def test_compiler_fails(ready, tmp_path, compiler, reason):
    path = script(tmp_path / 'old', f'#!/bin/sh\n{compiler}\n')
    done = call(ready, '--check', CXX=str(path))
    assert done.returncode == 1
    assert f'({path}: {reason})' in done.stderr


def test_unsuitable_python_and_compiler_together(ready, tmp_path, only_path):
    """What is missing is said at once, one line for each thing."""
    python = script(tmp_path / 'python3.14', PYTHON_314)
    path = only_path('python3', 'sh')
    done = call(ready, PYTHON=str(python), PATH=path)
    first, second = done.stderr.splitlines()
    assert done.returncode == 1
    assert first == (
        f'error: PYTHON={python} is Python 3.14.0; expected Python 3.10, 3.11 or 3.12: '
        'name one: make PYTHON=/path/to/python3.11 ...'
    )
    assert second.startswith('error: no C++ compiler')


def test_python_asked_for_is_not_there(ready):
    done = call(ready, PYTHON='python3.99')
    assert done.returncode == 1
    assert 'PYTHON=python3.99 is not there; expected Python 3.10' in done.stderr


def test_python_that_does_not_run(ready, tmp_path):
    python = script(tmp_path / 'python', '#!/bin/sh\nexit 127\n')
    done = call(ready, PYTHON=str(python))
    assert done.returncode == 1
    assert f'PYTHON={python} does not run; expected Python 3.10' in done.stderr


def test_python_is_searched_for(setup_checks, tmp_path):
    """The first that fits is taken, shims that do not run are passed over."""
    new = script(tmp_path / 'new', PYTHON_314)
    shim = script(tmp_path / 'shim', '#!/bin/sh\nexit 127\n')
    python, _ = setup_checks.choose_python(None, [str(new), str(shim), sys.executable])
    assert tuple(python['version']) == sys.version_info[:3]

    python, (problem,) = setup_checks.choose_python(None, [str(new), str(shim)])
    assert python is None
    assert problem.startswith('found Python 3.14.0 (/fake/python3.14); expected Python')
    assert 'apt install python3.11' in problem and 'make PYTHON=' in problem

    _, (problem,) = setup_checks.choose_python(None, [])
    assert problem.startswith('found Python nowhere; expected')


def test_python_once_chosen_stays(project, setup_env, monkeypatch):
    monkeypatch.delenv('PYTHON', raising=False)
    chosen = PYTHON_314.replace('14, 0', '10, 99').replace('/none', '/dev/null')
    (project / '.venv/bin/python').unlink()
    script(project / '.venv/bin/python', chosen)
    python, _ = setup_env.check_machine(project, dict(os.environ))
    assert python['version'] == [3, 10, 99]


def test_python_of_a_venv_is_the_one_that_made_it(setup_checks, tmp_path):
    """.venv is emptied before it is made again, so its own Python cannot do that."""
    subprocess.run(
        [sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True
    )
    python = setup_checks.probe_python(tmp_path / 'venv/bin/python')
    assert tmp_path not in Path(python['executable']).parents
    assert setup_checks.probe_python(python['executable']) == python


def test_python_without_headers_and_venv(setup_checks):
    python = {'version': [3, 11, 2], 'executable': '/x', 'header': '/none', 'venv': 0}
    venv, headers = setup_checks.python_problems(python)
    assert 'apt install python3.11-venv' in venv
    assert 'expected /none' in headers and 'apt install python3.11-dev' in headers


def test_disk(setup_checks, tmp_path):
    assert setup_checks.check_disk([(tmp_path, 0.0), (tmp_path / 'to/be', 0.0)]) == []
    # Needs on one file system are added up.
    free = shutil.disk_usage(tmp_path).free / 2**30
    needs = [(tmp_path, free * 0.7), (tmp_path / 'to/be', free * 0.7)]
    (problem,) = setup_checks.check_disk(needs)
    assert f'expected {free * 1.4:.1f}: make room' in problem


def test_disk_is_checked_before_anything_is_made(
    project, setup_env, setup_checks, monkeypatch
):
    monkeypatch.setattr(setup_checks, 'CACHE_GIB', 10**9)
    monkeypatch.delenv('PYTHON', raising=False)
    shutil.rmtree(project / '.venv')
    with pytest.raises(setup_env.SetupError, match=r'free for .*; expected 100000'):
        setup_env.set_up(project)
    assert not (project / '.venv').exists()


def test_not_writable(setup_checks):
    (problem,) = setup_checks.check_writable([Path('/proc/mmmeta')])
    assert problem.startswith('cannot write to /proc (')


def test_second_call_does_nothing(ready):
    before = {file: file.stat().st_mtime_ns for file in ready.rglob('*')}
    start = time.monotonic()
    # Without a compiler and a cache to write to, nothing but a look can succeed.
    done = call(ready, PATH='/none', XDG_CACHE_HOME='/proc/none')
    assert time.monotonic() - start < 5
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert {file: file.stat().st_mtime_ns for file in ready.rglob('*')} == before


def test_make_setup_does_nothing(ready):
    done = subprocess.run(
        ['make', '-C', ready, 'setup', f'PYTHON={sys.executable}'],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert 'setup:' not in done.stdout


@pytest.mark.parametrize(
    'spoil',
    [
        lambda project: (project / 'requirements/pinned.txt').open('a').write('\n'),
        lambda project: (project / 'setup.py').open('a').write('\n'),
        lambda project: (project / '.venv/ready.stamp').unlink(),
        lambda project: (project / '.venv/bin/python').unlink(),
    ],
    ids=['pins', 'build', 'interrupted', 'broken'],
)
def test_not_ready_any_more(ready, setup_env, spoil):
    assert setup_env.is_ready(ready, None)
    spoil(ready)
    assert not setup_env.is_ready(ready, None)


def test_moved_project_is_not_ready(ready, setup_env):
    moved = ready.rename(ready.parent / 'moved')
    assert not setup_env.is_ready(moved, None)


def test_other_python_asked_for(ready, setup_env, tmp_path):
    assert setup_env.is_ready(ready, sys.executable)
    python = script(tmp_path / 'python3.14', PYTHON_314)
    assert not setup_env.is_ready(ready, str(python))


def test_foreign_venv_is_kept(project, setup_env):
    with pytest.raises(setup_env.SetupError, match='not of our making'):
        setup_env.clear_venv(project / '.venv')
    assert (project / '.venv/bin/python').is_symlink()


def test_clear_venv(ready, setup_env):
    setup_env.clear_venv(ready / '.venv')
    assert [file.name for file in (ready / '.venv').iterdir()] == [setup_env.MARK]


def test_second_set_up_waits(ready, setup_env):
    (ready / '.venv/ready.stamp').rename(ready / 'kept')
    with open(ready / '.venv.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [sys.executable, ready / 'tools/setup_env.py'],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert 'waiting' in second.stdout.readline()
        (ready / 'kept').rename(ready / '.venv/ready.stamp')
    # It finds the work done.
    assert second.communicate(timeout=60)[0] == ''
    assert second.returncode == 0


@pytest.mark.parametrize(
    ('gpu', 'nvcc', 'torch_cuda', 'ops', 'why'),
    [
        (True, '13.0', '13.0', 'cuda', 'nvcc 13.0'),
        (True, '13.2', '13.0', 'cuda', 'nvcc 13.2'),
        (True, '12.8', '13.0', 'cpu', 'nvcc is of CUDA 12.8, and torch of CUDA 13.0'),
        (True, None, '13.0', 'cpu', 'no nvcc'),
        (False, '13.0', '13.0', 'cpu', 'no GPU'),
        (False, None, '13.0', 'cpu', 'no GPU'),
        (False, '13.0', None, 'cpu', 'without CUDA'),
        (False, None, None, 'cpu', 'without CUDA'),
    ],
)
def test_choose_ops(setup_env, gpu, nvcc, torch_cuda, ops, why):
    chosen, said = setup_env.choose_ops(gpu, nvcc, torch_cuda)
    assert chosen == ops
    assert why in said


def test_nvcc_version(setup_env, tmp_path):
    (tmp_path / 'bin').mkdir()
    line = 'Cuda compilation tools, release 12.8, V12.8.93'
    script(tmp_path / 'bin/nvcc', f'#!/bin/sh\necho "{line}"\n')
    assert setup_env.nvcc_version(str(tmp_path)) == '12.8'
    assert setup_env.nvcc_version(str(tmp_path / 'none')) is None
    assert setup_env.nvcc_version(None) is None


def test_compile_jobs(setup_env):
    assert setup_env.compile_jobs({'MAX_JOBS': '7'}) == 7
    assert 1 <= setup_env.compile_jobs({}) <= os.cpu_count()


def test_environment_does_not_leak(setup_env, monkeypatch):
    for name in ('PYTHONPATH', 'VIRTUAL_ENV', 'PIP_TARGET', 'UV_PYTHON'):
        monkeypatch.setenv(name, '/elsewhere')
    monkeypatch.setenv('PIP_INDEX_URL', 'https://index.invalid/simple')
    monkeypatch.setenv('HTTPS_PROXY', 'https://proxy.invalid')
    env = setup_env.install_env(sys.executable)
    assert '/elsewhere' not in env.values()
    assert env['HTTPS_PROXY'] == 'https://proxy.invalid'
    assert env['UV_DEFAULT_INDEX'] == 'https://index.invalid/simple'


def test_log_and_progress(setup_env, tmp_path, capfd):
    code = 'print("noise")\nfor i in range(1, 41): print(f"[{i}/40] c++")\nexit(3)'
    with setup_env.locked(tmp_path) as lock:
        log = tmp_path / 'log'
        command = [sys.executable, '-c', code]
        assert setup_env.run_logged(command, None, lock, log) == 3
    assert len(log.read_text().splitlines()) == 41
    shown = capfd.readouterr().out.splitlines()
    assert shown[0] == 'setup:   4 of 40 steps'
    assert len(shown) == 10


def test_pinned_file(root):
    """It holds no address, what it needs, and one owner of cv2."""
    pinned = (root / 'requirements/pinned.txt').read_text()
    assert '://' not in pinned
    names = [line.split('==')[0] for line in pinned.splitlines() if '==' in line]
    assert {'uv', 'ninja', 'setuptools', 'torch', 'pytest', 'ruff'} < set(names)
    assert 'opencv-python-headless' in names
    assert not {'opencv-python', 'onedl-mmcv', 'mmengine', 'mmcv'} & set(names)
