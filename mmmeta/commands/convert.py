"""`mmmeta convert SRC DST --to LAYOUT`."""

import argparse

from mmmeta.weights.layouts import LAYOUT_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('src', help='a file, a URL or mmmeta://NAME')
    parser.add_argument('dst', help='output file: .safetensors or .pth')
    parser.add_argument(
        '--to',
        metavar='LAYOUT',
        choices=LAYOUT_NAMES,
        help=f'one of {", ".join(LAYOUT_NAMES)} (default: mmmeta; a .dcp folder '
        'becomes one .pth file with all that it has)',
    )
    parser.add_argument(
        '--no-ema',
        action='store_true',
        help='use the raw weights even if the file also has averaged ones',
    )
    parser.add_argument('--prefix', help="prefix of the backbone's keys in the file")
    parser.add_argument(
        '--overwrite', action='store_true', help='replace DST if it exists'
    )


def run(args: argparse.Namespace) -> int:
    from mmmeta.weights.convert import convert_checkpoint, merge_checkpoint
    from mmmeta.weights.locate import local_path
    from mmmeta.weights.parts import is_parted

    if args.to is None and is_parted(local_path(args.src)):
        path = merge_checkpoint(args.src, args.dst, overwrite=args.overwrite)
        print(f'wrote {path}')
        return 0
    path = convert_checkpoint(
        args.src,
        args.dst,
        args.to or 'mmmeta',
        ema=not args.no_ema,
        prefix=args.prefix,
        overwrite=args.overwrite,
    )
    print(f'wrote {path}')
    return 0
