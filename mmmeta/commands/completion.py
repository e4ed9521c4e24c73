"""`mmmeta completion SHELL`: a script that completes commands and options.

bash: `eval "$(mmmeta completion bash)"`, permanently in ~/.bashrc; zsh likewise.
"""

import argparse

from mmmeta.commands import build_parser
from mmmeta.errors import require

SHELLS = ('bash', 'zsh', 'tcsh')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('shell', choices=SHELLS, help=f'one of {", ".join(SHELLS)}')


def run(args: argparse.Namespace) -> int:
    shtab = require('shtab', 'completion', 'the script')
    print(shtab.complete(build_parser(everything=True), args.shell))
    return 0
