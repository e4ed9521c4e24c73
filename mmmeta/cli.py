"""The `mmmeta` command: which subcommand runs, and how it ends."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from mmmeta.commands import build_parser
from mmmeta.errors import UserError
from mmmeta.hosts.allocator import tune_allocator

COMPUTING = ('predict', 'validate', 'explain', 'demo')  # which run models


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: The arguments. Default: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(argv[0] if argv else None)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    return exit_status(f'mmmeta {args.command}', _run, args)


def _run(args: argparse.Namespace) -> int:
    if args.command in COMPUTING and tune_allocator() and sys.stderr.isatty():
        print(
            'glibc keeps freed memory (MMMETA_MALLOC=0: it does not)', file=sys.stderr
        )
    return args.run(args)


def exit_status(
    name: str, run: Callable[[argparse.Namespace], int], args: argparse.Namespace
) -> int:
    """Return what a command returns; an error of the user's is one line, and 1.

    With MMMETA_DEBUG=1 it keeps its traceback, as any other error does.
    """
    try:
        return run(args)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print(f'{name}: interrupted', file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        if os.environ.get('MMMETA_DEBUG') == '1':
            raise
        print(f'{name}: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
