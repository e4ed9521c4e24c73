"""The subcommands of `mmmeta`, one module each, a folder where it has parts.

A subcommand is a row of `COMMANDS`: its name, what `--help` says of it, and the
module with its `add_arguments(parser)` and `run(args) -> int`, imported only when the
subcommand is the one asked for, so that `mmmeta list` does not wait for PyTorch. What
such a module imports at its top needs neither PyTorch nor MMEngine.
"""

import argparse
from importlib import import_module

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
        'demo': 'a page in the browser to try a model on an image',
        'doctor': 'what is wrong with this installation, and what fixes it',
        'completion': 'print the completion script of a shell',
    }.items()
}


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
