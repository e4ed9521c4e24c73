"""The `mmmeta` command itself: what it imports, its exit codes, its completion."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from mmmeta.cli import main
from mmmeta.commands import COMMANDS

HEAVY = {'torch', 'torchvision', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'matplotlib'}
# Import mmmeta with one command line, then print which of some modules are loaded after
# each of several calls.
CALLS = """
import json, sys
calls, looked_for = json.loads(sys.argv.pop())
import mmmeta.cli
found = []
for call in calls:
    try:
        mmmeta.cli.main(call)
    except SystemExit as end:
        assert not end.code
    tops = {name.partition('.')[0] for name in sys.modules}
    found.append(sorted(tops & {*looked_for}))
print(json.dumps(found), file=sys.stderr)
"""
MMMETA = [sys.executable, '-m', 'mmmeta.cli']


def command(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*MMMETA, *args], capture_output=True, text=True, timeout=120, **kwargs
    )


def imported(started_as: list[str], calls: list[list[str]], *names: str) -> dict:
    """Which top-level modules a process has loaded after each of several calls."""
    code = f'import sys; sys.argv[:-1] = {started_as}\n{CALLS}'
    order = json.dumps([calls, [*HEAVY, *names]])
    done = subprocess.run(
        [sys.executable, '-c', code, order], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    return {' '.join(c): names for c, names in zip(calls, found, strict=True)}


def test_the_package_imports_nothing_heavy():
    assert imported(['mmmeta', 'list'], [['list', 'caformer*']]) == {
        'list caformer*': []
    }


def test_arguments_do_not_need_torch():
    """`completion` builds the parser of every command."""
    calls = [
        ['--help'],
        ['--version'],
        ['list', 'caformer*'],
        ['info', 'caformer_s18'],
        *([name, '--help'] for name in COMMANDS),
        ['completion', 'bash'],
    ]
    found = imported(['mmmeta'], calls, 'torchvision')
    assert len(found) == len(COMMANDS) + 5
    assert not any(found.values()), found


def test_help_names_every_command():
    done = command('--help')
    assert done.returncode == 0
    for name, (text, _) in COMMANDS.items():
        assert f'\n    {name}' in done.stdout
        assert text.split()[0] in done.stdout


def test_no_command_prints_help_and_fails(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith('usage: mmmeta')


def test_an_unknown_command_fails_with_the_known_ones():
    done = command('lsit')
    assert done.returncode == 2
    assert done.stdout == ''
    last = done.stderr.splitlines()[-1]
    assert "'lsit'" in last
    assert 'predict' in last


def test_a_users_error_is_one_line_and_1():
    done = command('info', 'caformer_s19')
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.startswith("mmmeta info: no published checkpoint is called 'caf")
    assert done.stderr.count('\n') == 1
    assert 'caformer_s18' in done.stderr


def test_an_interruption_is_130(tmp_path):
    """A library that hangs on import, then Ctrl-C."""
    hang = 'import time; print(1, flush=True); time.sleep(99)'
    (tmp_path / 'shtab.py').write_text(hang)
    process = subprocess.Popen(
        [*MMMETA, 'completion', 'bash'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    )
    assert process.stdout.readline() == '1\n'
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert process.returncode == 130
    assert err == 'mmmeta completion: interrupted\n'


def test_a_closed_pipe_is_no_error(tmp_path):
    """More output than fits into a pipe, for a reader that reads one line."""
    (tmp_path / 'shtab.py').write_text(
        'def complete(*args): return "line\\n" * 100_000'
    )
    pipe = '"$@" | head -n 1; exit ${PIPESTATUS[0]}'
    done = subprocess.run(
        ['bash', '-c', pipe, '-', *MMMETA, 'completion', 'bash'],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    )
    assert done.stdout == 'line\n'
    assert done.stderr == ''
    assert done.returncode == 0


def test_a_missing_library_names_its_extra(tmp_path):
    (tmp_path / 'shtab.py').write_text('raise ImportError("broken")')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    done = command('completion', 'bash', env=env)
    assert done.returncode == 1
    assert done.stderr == (
        'mmmeta completion: the script needs shtab, which cannot be imported '
        "(broken): pip install 'mmmeta-backbones[completion]'\n"
    )


@pytest.fixture(scope='module')
def script(tmp_path_factory) -> str:
    done = command('completion', 'bash')
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp('completion') / 'mmmeta.bash'
    path.write_text(done.stdout)
    return str(path)


def test_the_completion_script_is_valid_bash(script):
    done = subprocess.run(['bash', '-n', script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p mmmeta | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" mmmeta "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['pr'], {'predict'}),
        (['pl'], {'plot'}),
        (['d'], {'data', 'demo', 'doctor', 'download'}),
        (['plot', '--s'], {'--smooth'}),
        (['doctor', '--j'], {'--json'}),
        (['completion', ''], {'bash', 'zsh', 'tcsh'}),
    ],
    ids=lambda value: ' '.join(sorted(value)),
)
def test_bash_completes(script, words, expected):
    done = subprocess.run(
        ['bash', '-c', COMPLETE, '-', script, 'mmmeta', *words],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ''
    assert set(done.stdout.split()) - {'-h', '--help'} == expected


def test_an_error_is_written_in_one_piece():
    """So lines of several processes never share one; datagrams keep writes apart."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        done = subprocess.run(
            [*MMMETA, 'info', 'no.pth'],
            env=dict(os.environ, PYTHONUNBUFFERED='1'),
            stderr=there,
            timeout=120,
        )
        here.setblocking(False)
        pieces = []
        with contextlib.suppress(BlockingIOError):
            while True:
                pieces.append(here.recv(10_000).decode())
    (line,) = pieces
    assert done.returncode == 1
    assert line.startswith('mmmeta info: ')
    assert line.endswith('\n')
