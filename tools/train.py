"""Train a detector, segmentor or classifier.

python tools/train.py configs/detection/retinanet_poolformer_s12.py
"""

from mmmeta.hosts import config, launch


def main() -> None:
    parser = launch.parser_for('Train a detector, segmentor or classifier.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or from the newest in the work folder; if '
        'there is none yet, start as without this option',
    )
    parser.add_argument(
        '--allow-missing',
        nargs='+',
        metavar='PART',
        help='parts of the model, such as neck bbox_head, that may be missing in the '
        'checkpoint of load_from: they start from random weights',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision training (needs a GPU)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size of this run',
    )
    parser.add_argument(
        '--tensorboard',
        action='store_true',
        help='also write logs for TensorBoard, into vis_data/',
    )
    args = parser.parse_args()

    cfg = launch.config_of(args)
    if args.amp:
        config.set_amp(cfg)
    if args.auto_scale_lr:
        config.set_auto_scale_lr(cfg)
    if args.resume:
        config.set_resume(cfg, args.resume)
    if args.allow_missing:
        cfg.allow_missing = args.allow_missing
    if args.tensorboard:
        config.set_tensorboard(cfg)
    config.check_constructor(cfg)
    config.check_data(cfg, ('train_dataloader', 'val_dataloader'))
    launch.train(launch.build_runner(cfg))


if __name__ == '__main__':
    launch.run(main)
