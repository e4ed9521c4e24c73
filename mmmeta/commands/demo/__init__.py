"""`mmmeta demo [CONFIG CHECKPOINT]`: a web page.

`found` looks for trained models, `engine` runs one, `drawing` shows its predictions,
`page` is the page, and `server` serves it.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', nargs='?', help='a config to offer on the page')
    parser.add_argument(
        'checkpoint', nargs='?', help='its checkpoint: a file, or mmmeta://NAME'
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
        '--device', help='such as cpu or cuda:1 (default: a GPU if available)'
    )
    parser.add_argument('--no-browser', action='store_true', help='only print the URL')


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.demo.found import make_model
    from mmmeta.commands.demo.server import serve
    from mmmeta.errors import UserError

    if args.config and not args.checkpoint:
        raise UserError(
            f'{args.config} needs a checkpoint: mmmeta demo CONFIG CHECKPOINT'
        )
    given = [make_model(args.config, args.checkpoint)] if args.config else []
    return serve(given, args.host, args.port, args.device, not args.no_browser)
