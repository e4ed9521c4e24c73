"""The `mmmeta` command: dispatch to subcommands and error handling."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from mmmeta.commands import build_parser
from mmmeta.errors import UserError, print_error, printable
from mmmeta.hosts.allocator import tune_allocator

# Not needed for exported models, so not among the required packages.
NOT_REQUIRED = ('torch', 'torchvision', 'timm', 'filelock', 'safetensors', 'mmengine')
COMPUTING = ('predict', 'validate', 'explain', 'demo')  # these run models


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: The arguments. Default: `sys.argv[1:]`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(argv[0] if argv else None)
    # Names that the terminal cannot show are escaped instead of ending the run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    return exit_status(f'mmmeta {args.command}', _run, args)


def _run(args: argparse.Namespace) -> int:
    if args.command in COMPUTING and tune_allocator() and sys.stderr.isatty():
        print(
            'glibc keeps freed memory (MMMETA_MALLOC=0 disables this)', file=sys.stderr
        )
    return args.run(args)


def exit_status(
    name: str, run: Callable[[argparse.Namespace], int], args: argparse.Namespace
) -> int:
    """Return a command's exit status; print user errors in one line and return 1.

    A missing library is such an error.

    With MMMETA_DEBUG=1 they are raised with a traceback, like all other errors.
    """
    try:
        return run(args)
    except BrokenPipeError:  # a reader such as head has closed the pipe
        sys.stderr.close()
        return 0
    except KeyboardInterrupt as error:
        advice = f'; {error}' if str(error) else ''
        print_error(f'{name}: interrupted{advice}')
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package not in NOT_REQUIRED or os.environ.get('MMMETA_DEBUG') == '1':
            raise
        fix = "pip install 'mmmeta-backbones[onedl]'"
        print_error(f'{name}: {package} is not installed: {fix}')
        return 1
    except (UserError, OSError) as error:
        if os.environ.get('MMMETA_DEBUG') == '1':
            raise
        print_error(f'{name}: {printable(error)}')
        return 1


if __name__ == '__main__':
    sys.exit(main())
