"""The subcommands of `mmmeta`, each a module or package.

A subcommand is a row of `COMMANDS`: its name, its `--help` text, and the module with
`add_arguments(parser)` and `run(args) -> int`. The module is imported only if the
subcommand is used, so that `mmmeta list` does not wait for PyTorch; its top-level
imports need neither PyTorch nor MMEngine.
"""

import argparse
from importlib import import_module

from mmmeta.version import __version__

COMMANDS = {
    name: (text, f'mmmeta.commands.{name}')
    for name, text in {
        'list': 'list models and published checkpoints',
        'info': 'show details of a model or checkpoint',
        'download': 'download published checkpoints in advance',
        'convert': 'write a checkpoint in another layout',
        'data': 'say what a data set is and what is wrong with it, and convert it',
        'finetune': 'train a model on a data set of your own',
        'predict': 'run a detector, segmentor or classifier on images',
        'export': 'write a trained model as one file: ONNX, OpenVINO or PyTorch',
        'validate': 'measure top-1 and top-5 accuracy on a folder of class folders',
        'explain': 'show where models look: Grad-CAM, side by side',
        'flops': 'count parameters and multiply-accumulates by stage',
        'plot': 'plot loss, learning rate, AP or mIoU from logs',
        'demo': 'open a web page to try a model on an image',
        'doctor': 'find problems with this installation and how to fix them',
        'completion': 'print a completion script for a shell',
    }.items()
}


def build_parser(
    command: str | None = None, everything: bool = False
) -> argparse.ArgumentParser:
    """Return the parser.

    Args:
        command: The subcommand to add arguments for; the others get none.
        everything: Add the arguments of all subcommands. Default: False.
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
