"""Test a trained model with its config's own metric.

python tools/test.py CONFIG CHECKPOINT --show-dir pictures
"""

import os.path as osp

from mmmeta.errors import UserError
from mmmeta.hosts import config, launch


def main() -> None:
    parser = launch.parser_for('Test a trained model.')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='write the predictions to this .pkl file (segmentation: PNG maps into '
        'this folder)',
    )
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument('--show-dir', help='folder for pictures of predictions')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average over the scales and flips of the config's tta_pipeline",
    )
    args = parser.parse_args()

    cfg = launch.config_of(args)
    if '://' not in args.checkpoint and not osp.exists(args.checkpoint):
        raise UserError(f'no checkpoint {args.checkpoint}')
    cfg.load_from, cfg.resume = args.checkpoint, False
    config.check_evaluator(cfg)
    if args.show or args.show_dir:
        config.set_visualization(cfg, args.show, args.show_dir)
    if args.tta:
        config.set_tta(cfg)
    if args.out:
        config.add_output(cfg, args.out)
    config.check_data(cfg, ('test_dataloader',))
    launch.build_runner(cfg, testing=True).test()


if __name__ == '__main__':
    launch.run(main)
