"""Detectors and segmentors: their metric on a user's COCO or ADE20K."""

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmmeta.errors import UserError
from mmmeta.weights.names import SCHEME
from mmmeta.weights.trained import Trained

if TYPE_CHECKING:
    from mmengine.config import Config

# By our names: the host libraries' names, and what makes them percent.
METRICS = {
    'box AP': ('coco/bbox_mAP', 100),
    'mask AP': ('coco/segm_mAP', 100),
    'mIoU': ('mIoU', 1),
}
WITH_SCALES = 'mIoU(ms+flip)'


def validate(row: Trained, args: argparse.Namespace) -> int:
    """Test a published model, print its figures beside the published ones.

    Returns:
        1 if a figure differs by more than `args.tolerance` points from the published
        one, else 0.

    Raises:
        UserError: The data are not there, or an option does not apply.
        CheckpointError: The weights cannot be obtained or do not fit.
    """
    from mmmeta.hosts import config, launch

    if args.tta and WITH_SCALES not in row.results:
        raise UserError(f'{row.name} has no published result with --tta')
    cfg = config.load_config(row.name, args.cfg_options)
    if args.data_dir:
        use_data(cfg, args.data_dir)
    if args.tta:
        config.set_tta(cfg)
    config.check_data(cfg, ('test_dataloader',))
    cfg.load_from, cfg.resume = args.checkpoint or SCHEME + row.name, False
    cfg.test_dataloader.num_workers = args.workers
    cfg.test_dataloader.persistent_workers = args.workers > 0
    with TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        cfg.work_dir = folder
        measured = launch.build_runner(cfg, testing=True).test()
    found = figures(measured, args.tta)
    published = {} if args.checkpoint else {k: row.results[k] for k in found}
    off = [k for k, v in published.items() if abs(found[k] - v) > args.tolerance]
    if args.json:
        facts = dict(model=row.name, data=row.data, measured=found, published=published)
        print(json.dumps(dict(facts, tolerance=args.tolerance, off=off)))
    else:
        print('\n'.join(_table(row, found, published, off, args)))
    return 1 if off else 0


def use_data(cfg: 'Config', root: Path) -> None:
    """Make a config's test read the data in `root`."""
    dataset = cfg.test_dataloader.dataset
    old = str(dataset.data_root).rstrip('/')
    dataset.data_root = str(root)
    ann_file = cfg.test_evaluator.get('ann_file')
    if ann_file:
        cfg.test_evaluator.ann_file = ann_file.replace(old, str(root), 1)


def figures(measured: Mapping[str, float], tta: bool) -> dict[str, float]:
    """Return a test's metrics under the names of `Trained.results`, in percent."""
    found = {
        name: round(measured[key] * factor, 2)
        for name, (key, factor) in METRICS.items()
        if key in measured
    }
    return {WITH_SCALES: found['mIoU']} if tta else found


def _table(
    row: Trained,
    found: Mapping[str, float],
    published: Mapping[str, float],
    off: list[str],
    args: argparse.Namespace,
) -> list[str]:
    changed = ', changed by --cfg-options' if args.cfg_options else ''
    lines = [
        f'model       {row.name}',
        f'checkpoint  {args.checkpoint or SCHEME + row.name}',
        f'test        {row.test}{changed}',
        f'{"":10}  measured  published',
    ]
    for name, value in found.items():
        theirs = f'{published[name]:9.1f}' if name in published else f'{"":>9}'
        remark = f'  off by more than {args.tolerance:g}' if name in off else ''
        lines.append(f'{name:10}  {value:8.2f}  {theirs}{remark}')
    return lines
