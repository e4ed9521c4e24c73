"""`mmmeta demo [MODEL]`: a web page.

`found` looks for trained models, `engine` runs one, `drawing` shows its predictions,
`page` is the page, and `server` serves it.
"""

import argparse

from mmmeta.commands.arguments import MODEL_OR_FILE, split_model
from mmmeta.errors import UserError

USAGE = f'mmmeta demo {MODEL_OR_FILE}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = '%(prog)s [options] [NAME | FILE | CONFIG CHECKPOINT]'
    parser.add_argument(
        'words',
        nargs='*',
        metavar='MODEL',
        help='a model to offer on the page: a published one (`mmmeta list --task '
        'detection`), a file of `mmmeta export`, or a config and its checkpoint (a '
        'file, or mmmeta://NAME)',
    )
    parser.add_argument(
        '--port', type=int, help='port (default: the first free port from 7860)'
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: 127.0.0.1, this machine only)',
    )
    parser.add_argument(
        '--device',
        help='such as cpu or cuda:1 (default: a GPU if available; the CPU for FILE)',
    )
    parser.add_argument('--no-browser', action='store_true', help='only print the URL')


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.demo.found import make_model
    from mmmeta.commands.demo.server import serve
    from mmmeta.runtime import is_exported

    given, rest = [], []
    exported = bool(args.words) and is_exported(args.words[0])
    if exported:
        config, *rest = args.words
        given = [make_model(config)]
    elif args.words:
        config, checkpoint, rest = split_model(args.words, USAGE)
        given = [make_model(config, checkpoint)]
    if rest:
        raise UserError(f'unexpected {rest[0]!r}; expected {USAGE}')
    # An exported file runs where PyTorch and the host libraries are not installed; to
    # look for other models would need them.
    return serve(
        given, args.host, args.port, args.device, not args.no_browser, not exported
    )
