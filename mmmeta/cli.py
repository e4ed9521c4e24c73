"""The `mmmeta` command.

A subcommand is a row of `COMMANDS`: its name, what `--help` says of it, and the
module with its `add_arguments(parser)` and `run(args) -> int`, imported only when the
subcommand is the one asked for, so that `mmmeta list` does not wait for PyTorch.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mmmeta.version import __version__

COMMANDS = {
    'list': ('names of models and published checkpoints', 'mmmeta.commands.list'),
    'info': ('what is known of a model or checkpoint', 'mmmeta.commands.info'),
    'convert': ('write a checkpoint in another layout', 'mmmeta.commands.convert'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: The arguments. Default: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser('mmmeta', description='MetaFormer backbones.')
    parser.add_argument('--version', action='version', version=f'mmmeta {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, (text, module) in COMMANDS.items():
        child = subparsers.add_parser(name, help=text, description=text)
        if argv[:1] == [name]:
            command = import_module(module)
            command.add_arguments(child)
            child.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        return 0
    except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
        print(f'mmmeta {args.command}: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
