"""The `mmmeta` command.

A subcommand is a row of `COMMANDS`: its name, what `--help` says of it, and the
module with its `add_arguments(parser)` and `run(args) -> int`, imported only when the
subcommand is the one asked for, so that `mmmeta list` does not wait for PyTorch.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mmmeta.allocator import tune_allocator
from mmmeta.version import __version__

COMMANDS = {
    name: (text, f'mmmeta.commands.{name}')
    for name, text in {
        'list': 'names of models and published checkpoints',
        'info': 'what is known of a model or checkpoint',
        'convert': 'write a checkpoint in another layout',
        'predict': 'run a detector, segmentor or classifier on images',
        'validate': 'top-1 and top-5 accuracy on a folder of class folders',
        'explain': 'show where models look: Grad-CAM, side by side',
        'flops': 'parameters and multiply-accumulates, by stage',
        'plot': 'curves of loss, learning rate, AP or mIoU from logs',
        'bench': 'speed and memory beside the other implementations',
        'demo': 'a page in the browser to try a model on an image',
        'doctor': 'what is wrong with this installation, and what mends it',
        'completion': 'print the completion script of a shell',
    }.items()
}

COMPUTING = ('predict', 'validate', 'explain', 'demo')  # which run models


def build_parser(
    command: str | None = None, everything: bool = False
) -> argparse.ArgumentParser:
    """Return the parser.

    Args:
        command: The subcommand whose arguments are wanted; the others have none.
        everything: All subcommands' are. Default: False.
    """
    parser = argparse.ArgumentParser('mmmeta', description='MetaFormer backbones.')
    parser.add_argument('--version', action='version', version=f'mmmeta {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, (text, path) in COMMANDS.items():
        child = subparsers.add_parser(name, help=text, description=text)
        if everything or name == command:
            module = import_module(path)
            module.add_arguments(child)
            child.set_defaults(run=module.run)
    return parser


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
    try:
        if args.command in COMPUTING and tune_allocator() and sys.stderr.isatty():
            print(
                'glibc keeps freed memory (MMMETA_MALLOC=0: it does not)',
                file=sys.stderr,
            )
        return args.run(args)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print(f'mmmeta {args.command}: interrupted', file=sys.stderr)
        return 130
    except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
        print(f'mmmeta {args.command}: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
