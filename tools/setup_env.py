#!/usr/bin/env python3
"""Create .venv with the pinned packages and the editable project, for `make setup`.

If .venv is up to date, this returns immediately. After a failure or an interruption it
resumes: uv's cache keeps downloads. Python 3.8 can parse this file, to print a message.
"""

import fcntl
import os
import re
import shutil
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, run

ROOT = Path(__file__).resolve().parent.parent
VENV, PINNED = ROOT / '.venv', ROOT / 'requirements/pinned.txt'
PYTHON, UV = VENV / 'bin/python', VENV / 'bin/uv'
# MARK: we created this .venv and may empty it. READY: it is complete; written last.
MARK, READY = VENV / 'made-by-setup', VENV / 'ready.stamp'
FILES = (PINNED, ROOT / 'pyproject.toml', ROOT / 'setup.py', Path(__file__))
STAMP = repr([ROOT, sys.version_info[:2], *(file.read_bytes() for file in FILES)])
GIB = 8  # of disk, rounded up: uv's cache, to which .venv links on the same disk
AGAIN = 'rerun the command to resume'
CAUSES = {  # pattern in the output of a failed step: what to do
    'No space left|quota': 'the disk is full: free some space',
    'ensurepip is not': f'apt install python3.{sys.version_info[1]}-venv, or similar',
    '(?i)connect|retries|time.?out|: none': 'check the network and the package index',
}
# Users set these for their own environments; here they would redirect the packages.
FOREIGN = 'PYTHON|(PIP|UV)_(TARGET|PREFIX|USER|.*PYTHON|CONSTRAINT|OVERRIDE)'
VERIFY = """
import torch, torchvision, mmcv.ops, mmdet.apis, mmseg.apis, mmpretrain.apis, mmmeta
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 30.]])
assert mmcv.ops.nms(boxes, torch.tensor([.9, .8, .7]), 0.5)[1].tolist() == [0, 2]
"""


def is_ready():
    return PYTHON.exists() and READY.exists() and READY.read_text() == STAMP


def check_machine():
    """Exit before the setup starts if it could not succeed."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        found = f'found Python {sys.version.split()[0]} ({sys.executable})'
        sys.exit(f'error: {found}; expected 3.10 to 3.13: make PYTHON=/path/to/one')
    begun = MARK.exists()
    if VENV.exists() and any(VENV.iterdir()) and not begun:
        sys.exit(f'error: {VENV} was not created by `make setup`: move it elsewhere')
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    cache = Path(os.environ.get('UV_CACHE_DIR') or Path(home, 'uv'))
    cache.mkdir(parents=True, exist_ok=True)
    free = min(shutil.disk_usage(folder).free for folder in (ROOT, cache)) / 2**30
    if free < GIB and not begun:  # once begun, part of the space is already used
        sys.exit(f'error: {free:.1f} GiB free for .venv and {cache}; expected {GIB}')


def step(what, *command):
    """Run a command; show uv's progress and, if known, the cause of a failure."""
    said = []
    # Child processes that outlive us keep the lock, and keep others out.
    with Popen(command, stdout=PIPE, stderr=STDOUT, close_fds=False) as process:
        for line in process.stdout:
            said.append(line.decode(errors='replace'))
            if re.match(' *(Resolv|Download|Build|Built|Prepared|Installed)', said[-1]):
                print(said[-1], end='', flush=True)
    if process.returncode:
        text = ''.join(said[-20:])
        hint = next((CAUSES[cause] for cause in CAUSES if re.search(cause, text)), '')
        if hint:
            sys.exit(f'error: {what} failed: {hint}; {AGAIN}')
        sys.exit(f'{text}error: {what} failed, see above; {AGAIN}')


def install():
    """Recreate .venv. This may be interrupted at any time: the mark remains."""
    base = os.path.realpath(sys.executable)  # not via a link in .venv
    VENV.mkdir(exist_ok=True)
    MARK.touch()
    for path in sorted(VENV.iterdir(), key=lambda path: path != READY):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != MARK:
            path.unlink()
    step('making .venv', base, '-m', 'venv', VENV)
    pip = [PYTHON, '-m', 'pip', '--disable-pip-version-check', '--no-input']
    # Many users have set an index for only one of the two.
    asked = run([*pip, 'config', 'get', 'global.index-url'], capture_output=True)
    uv_index = os.environ.get('UV_DEFAULT_INDEX') or os.environ.get('UV_INDEX_URL', '')
    os.environ.setdefault('PIP_INDEX_URL', asked.stdout.decode().strip() or uv_index)
    os.environ['UV_DEFAULT_INDEX'] = uv_index or os.environ['PIP_INDEX_URL']
    pin = re.search('(?m)^uv==.*', PINNED.read_text())[0]
    step('installing uv', *pip, 'install', pin)
    pins = ['--build-constraints', PINNED, '--requirements', PINNED, '--editable', ROOT]
    step('installing all', UV, 'pip', 'install', '--python', PYTHON, '--no-deps', *pins)
    step('importing what was installed', PYTHON, '-I', '-c', VERIFY)


def main():
    if is_ready():
        return
    for name in [name for name in os.environ if re.match(FOREIGN, name)]:
        del os.environ[name]
    check_machine()
    with open(str(ROOT / '.venv.lock'), 'a') as lock:
        os.set_inheritable(lock.fileno(), True)
        note = 'setup: creating .venv, one call at a time; downloads at most 3.5 GB'
        print(note, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready():
            install()
            READY.write_text(STAMP)


if __name__ == '__main__':
    try:
        main()
    except (OSError, KeyboardInterrupt) as error:
        sys.exit(f'error: {str(error) or "interrupted"}; {AGAIN}')
