#!/usr/bin/env python3
"""Make .venv: check the machine, install the pinned packages, compile mmcv once.

`make setup` runs this. Every check comes before the first download, a second call
returns at once, and an interrupted call is continued by the next. The file runs with
Python 3.8, so that an unsuitable Python gets a message and no traceback.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from setup_checks import (
    PYTHONS,
    SetupError,
    cache_folders,
    check_disk,
    check_writable,
    choose_compiler,
    choose_python,
    clean_env,
    disk_needs,
    dotted,
    output,
    probe_python,
)

ROOT = Path(__file__).resolve().parent.parent
# Of the compile: memory a job may take, how long one core is at it (without CUDA), and
# flags in place of Python's own, whose debug information would double the time.
GIB_PER_JOB, CORE_MINUTES, FLAGS = 2, 9, '-O3 -DNDEBUG -fwrapv -g0 -w'
# Files in .venv. MARK: we made it; PACKAGES: all pinned packages are in; READY:
# everything is. The two stamps are written after the work that they stand for.
MARK, PACKAGES, READY = 'made-by-setup', 'packages.stamp', 'ready.stamp'
PACKAGE_FILES = ('requirements/pinned.txt',)
SETUP_FILES = (
    *PACKAGE_FILES,
    'requirements/mmcv.txt',
    'pyproject.toml',
    'setup.py',
    'tools/setup_env.py',
    'tools/setup_checks.py',
)

TORCH_PROBE = """
import json, torch
from torch.utils.cpp_extension import CUDA_HOME
cards = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
print(json.dumps(dict(
    torch=torch.__version__, cuda=torch.version.cuda, cuda_home=CUDA_HOME,
    gpus=sorted({torch.cuda.get_device_capability(card) for card in cards}))))
"""

VERIFY = """
import torch, mmcv.ops, mmdet.apis, mmseg.apis, mmpretrain.apis, mmmeta
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 30.]])
keep = mmcv.ops.nms(boxes, torch.tensor([.9, .8, .7]), 0.5)[1].tolist()
assert keep == [0, 2], keep
"""


def say(line):
    print(f'setup: {line}', flush=True)


# ----------------------------------------------------------------- running commands


def run(command, env, lock, what):
    """Run with the lock inherited, so that what outlives us still keeps others out."""
    done = subprocess.run(
        [str(part) for part in command],
        env=env,
        cwd=str(ROOT),
        stdin=subprocess.DEVNULL,
        pass_fds=(lock,),
    )
    if done.returncode:
        raise SetupError(f'{what} failed, see above; the next call goes on from here')


def run_logged(command, env, lock, log):
    """Run with the output in a log, and a line for every tenth of ninja's steps."""
    shown = 0
    process = subprocess.Popen(
        [str(part) for part in command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors='replace',
        pass_fds=(lock,),
    )
    with process, open(str(log), 'w') as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
            if step and int(step[1]) * 10 // int(step[2]) > shown:
                shown = int(step[1]) * 10 // int(step[2])
                say(f'  {step[1]} of {step[2]} steps')
    return process.returncode


@contextlib.contextmanager
def locked(root):
    """One set-up at a time in this folder; yields the lock's descriptor."""
    with open(str(root / '.venv.lock'), 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up is at work in this folder: waiting for it')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def check_machine(root, env):
    """(interpreter, compiler); all that is missing is reported in one go."""
    names = [f'python{dotted(version)}' for version in reversed(PYTHONS)]
    # Once chosen, a Python stays until another is asked for.
    candidates = [root / '.venv/bin/python', sys.executable, *names]
    python, problems = choose_python(env.get('PYTHON'), candidates)
    compiler, found = choose_compiler(env)
    problems += found
    problems += check_writable([root, *cache_folders(env), tempfile.gettempdir()])
    if not (python and packages_ready(root, python['version'])):
        problems += check_disk(disk_needs(root, env))
    if problems:
        raise SetupError('\n'.join(dict.fromkeys(problems)))
    return python, compiler


# ------------------------------------------------------------------------ the stamps


def stamp_text(root, files, version):
    """All that a stamp's work depends on, the project's place included."""
    text = hashlib.sha256(json.dumps([str(root), list(version[:2])]).encode())
    for name in files:
        text.update(name.encode() + b'\0' + (root / name).read_bytes() + b'\0')
    return text.hexdigest()


def is_stamped(root, stamp, files, version):
    file = root / '.venv' / stamp
    return file.exists() and file.read_text() == stamp_text(root, files, version)


def write_stamp(root, stamp, files, version):
    file = root / '.venv' / stamp
    file.with_suffix('.new').write_text(stamp_text(root, files, version))
    file.with_suffix('.new').replace(file)


def venv_version(root):
    """(major, minor) of .venv's Python; None where none runs."""
    code = 'import sys; print(*sys.version_info[:2])'
    text = output([root / '.venv/bin/python', '-c', code])
    return tuple(map(int, text.split())) if text else None


def packages_ready(root, version):
    ours = tuple(version[:2])
    stamped = is_stamped(root, PACKAGES, PACKAGE_FILES, ours)
    return stamped and venv_version(root) == ours


def is_ready(root, wanted):
    ours = venv_version(root)
    if not ours or not is_stamped(root, READY, SETUP_FILES, ours):
        return False
    python = probe_python(wanted) if wanted else {'version': ours}
    return bool(python) and tuple(python['version'][:2]) == ours


# ------------------------------------------------------------------------ the steps


def install_env(python):
    """The user's environment, with the same index for pip and uv."""
    env = clean_env()
    # What the last step's imports compile must stay, or later imports are slow.
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    pip_config = [python, '-m', 'pip', 'config', 'get', 'global.index-url']
    pip_index = env.get('PIP_INDEX_URL') or output(pip_config, env)
    uv_index = env.get('UV_DEFAULT_INDEX') or env.get('UV_INDEX_URL')
    if pip_index and not uv_index:
        env['UV_DEFAULT_INDEX'] = pip_index
    elif uv_index and not pip_index:
        env['PIP_INDEX_URL'] = uv_index
    return env


def clear_venv(venv):
    """Empty .venv: the stamps first, the mark never, so it may stop at any moment."""
    if not (venv / MARK).exists() and any(venv.iterdir()):
        raise SetupError(f'{venv} is there, but not of our making: move it elsewhere')
    children = [child for child in venv.iterdir() if child.name != MARK]
    for child in sorted(children, key=lambda child: child.suffix != '.stamp'):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(str(child))
        else:
            child.unlink()


def install_packages(root, python, lock):
    """A new .venv with all of pinned.txt. What uv has downloaded is kept."""
    venv = root / '.venv'
    venv.mkdir(exist_ok=True)
    clear_venv(venv)
    (venv / MARK).touch()
    say(f'creating .venv with Python {dotted(python["version"])}: seconds')
    make = [python['executable'], '-m', 'venv', venv]
    run(make, clean_env(), lock, 'creating .venv')

    env = install_env(venv / 'bin/python')
    pinned = root / 'requirements/pinned.txt'
    uv = re.search(r'^uv==\S+', pinned.read_text(), re.M)[0]
    pip = [venv / 'bin/python', '-m', 'pip', 'install', '--disable-pip-version-check']
    run([*pip, '--quiet', uv], env, lock, f'installing {uv}')

    say('installing the pinned packages: a download of about 3 GB, if uv lacks them')
    install = [venv / 'bin/uv', 'pip', 'install', '--python', venv / 'bin/python']
    install += ['--no-deps', '--build-constraints', pinned, '--requirements', pinned]
    run(install, env, lock, 'installing the pinned packages')
    write_stamp(root, PACKAGES, PACKAGE_FILES, python['version'])


def choose_ops(gpu, nvcc, torch_cuda):
    """('cuda' or 'cpu', why): CUDA operators only where they can be built and used.

    `nvcc` and `torch_cuda` are versions such as '13.0', or None.
    """
    if not torch_cuda:
        return 'cpu', 'this torch is built without CUDA'
    if not gpu:
        return 'cpu', 'torch sees no GPU'
    if not nvcc:
        return 'cpu', 'torch sees a GPU, but there is no nvcc to compile with'
    if nvcc.split('.')[0] != torch_cuda.split('.')[0]:
        return 'cpu', f'nvcc is of CUDA {nvcc}, and torch of CUDA {torch_cuda}'
    return 'cuda', f'torch sees a GPU, and nvcc {nvcc} goes with it'


def nvcc_version(cuda_home):
    text = output([Path(cuda_home, 'bin/nvcc'), '--version']) if cuda_home else ''
    found = re.search(r'release (\d+\.\d+)', text)
    return found[1] if found else None


def compile_jobs(env):
    """One a core, as far as the memory goes; MAX_JOBS has the last word."""
    if env.get('MAX_JOBS', '').isdigit():
        return int(env['MAX_JOBS'])
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    limit = Path('/sys/fs/cgroup/memory.max')
    if limit.exists() and limit.read_text().strip().isdigit():
        memory = min(memory, int(limit.read_text()))
    return max(1, min(os.cpu_count(), memory // (GIB_PER_JOB * 2**30)))


def install_mmcv(root, compiler, lock):
    """Install the wheel kept for exactly this torch and machine, or compile it."""
    python = root / '.venv/bin/python'
    env = dict(install_env(python), CXX=compiler)
    facts = output([python, '-c', TORCH_PROBE], env)
    if not facts:
        raise SetupError('torch does not import: run `make clean`, then this again')
    torch = json.loads(facts)
    nvcc = nvcc_version(torch['cuda_home'])
    ops, why = choose_ops(bool(torch['gpus']), nvcc, torch['cuda'])
    say(f"mmcv's operators: for {ops}, since {why}")

    pinned = (root / 'requirements/mmcv.txt').read_text()
    requirement = re.search(r'^onedl-mmcv==\S+', pinned, re.M)[0]
    depends = [requirement, torch['torch'], ops, FLAGS, output([python, '-VV'])]
    depends += [nvcc, torch['gpus']] if ops == 'cuda' else []
    depends += [output([*shlex.split(compiler), '--version'], env)]
    depends += [platform.machine(), platform.libc_ver()]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    kept = cache_folders(env)[1] / key
    wheel = next(kept.glob('*.whl'), None)
    if wheel:
        say(f'mmcv was compiled before: {wheel}')
    else:
        work = root / '.venv/mmcv-build' / key
        wheel = compile_mmcv(python, requirement, ops, work, kept, env, lock)
    install = [root / '.venv/bin/uv', 'pip', 'install', '--quiet', '--offline']
    install += ['--python', python, '--no-deps', '--reinstall', wheel]
    run(install, env, lock, 'installing mmcv')


def compile_mmcv(python, requirement, ops, work, kept, env, lock):
    """Compile in a folder of .venv, where an interrupted compile is continued."""
    env = dict(env, FORCE_CUDA='1' if ops == 'cuda' else '0')
    if ops == 'cpu':
        env['CUDA_VISIBLE_DEVICES'] = ''
    for name in ('CFLAGS', 'CXXFLAGS'):
        env[name] = f'{FLAGS} {env.get(name, "")}'.strip()
    jobs = compile_jobs(env)
    env['MAX_JOBS'] = str(jobs)
    if not (work / 'source').exists():
        fetch_source(python, requirement, work, env, lock)

    log = work.parent.with_suffix('.log')
    minutes = -(-CORE_MINUTES // jobs) if ops == 'cpu' else 30
    say(f'compiling them once: about {minutes} minutes, {jobs} at a time; log: {log}')
    wheel = [python, '-m', 'pip', 'wheel', '--verbose', '--no-deps', '--no-index']
    wheel += ['--no-build-isolation', '--wheel-dir', work / 'wheel', work / 'source']
    code = run_logged(wheel, env, lock, log)
    if code:
        print(*log.read_text().split('\n')[-20:], sep='\n', file=sys.stderr)
        raise SetupError(
            f"mmcv's operators did not compile (exit code {code}), the whole log is "
            f'{log}; if the compiler was killed it lacked memory: try MAX_JOBS=1 make'
        )
    built = next((work / 'wheel').glob('*.whl'))
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(str(built), str(kept / 'new'))
    (kept / 'new').replace(kept / built.name)
    shutil.rmtree(str(work.parent))
    return kept / built.name


def fetch_source(python, requirement, work, env, lock):
    shutil.rmtree(str(work.parent), ignore_errors=True)
    say(f'downloading the source of {requirement}: seconds')
    pip = [python, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check']
    pip += ['--no-deps', '--no-build-isolation', '--no-binary', ':all:']
    run([*pip, '--dest', work, requirement], env, lock, 'downloading mmcv')
    with tarfile.open(str(next(work.glob('*.tar.gz')))) as archive:
        # Unset, it makes Python 3.12 and 3.13 warn; older ones may not have it.
        archive.extraction_filter = getattr(tarfile, 'data_filter', None)
        archive.extractall(str(work / 'unpacked'))
    next((work / 'unpacked').iterdir()).replace(work / 'source')


def install_mmmeta(root, lock):
    """The project itself, editable; then a look at whether everything works."""
    python = root / '.venv/bin/python'
    env = install_env(python)
    say('installing mmmeta itself, editable, and importing everything once: seconds')
    install = [root / '.venv/bin/uv', 'pip', 'install', '--quiet', '--offline']
    install += ['--python', python, '--no-deps', '--no-build-isolation']
    run([*install, '--editable', root], env, lock, 'installing mmmeta')
    done = subprocess.run(
        [str(python), '-c', VERIFY],
        env=env,
        cwd=str(root / '.venv'),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        print(done.stdout.decode(errors='replace')[-4000:], file=sys.stderr)
        kept = cache_folders(env)[1]
        raise SetupError(
            'what was installed does not work, see above; expected that everything '
            f'imports: run `make clean`, remove {kept}, and try again'
        )


def set_up(root):
    wanted = os.environ.get('PYTHON')
    if is_ready(root, wanted):
        return
    if not os.access(str(root), os.W_OK):
        check_machine(root, clean_env())
    with locked(root) as lock:
        if is_ready(root, wanted):
            return
        start = time.monotonic()
        python, compiler = check_machine(root, clean_env())
        if not packages_ready(root, python['version']):
            install_packages(root, python, lock)
        install_mmcv(root, compiler, lock)
        install_mmmeta(root, lock)
        write_stamp(root, READY, SETUP_FILES, python['version'])
        say(f'.venv is ready after {time.monotonic() - start:.0f} s')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    check = 'check the machine and install nothing'
    parser.add_argument('--check', action='store_true', help=check)
    try:
        if parser.parse_args().check:
            python, compiler = check_machine(ROOT, clean_env())
            say(f'{python["executable"]} and {compiler} will do, and so will the disk')
        else:
            set_up(ROOT)
    except (SetupError, OSError) as error:
        for line in str(error).split('\n'):
            print(f'error: {line}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted: the next call goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
