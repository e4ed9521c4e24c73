"""Measure the images per second of a training with one process and with two.

python tests/hosts/scaling.py --rounds 3

RetinaNet with PoolFormer-S12 on the embedded images, by `tools/dist_train.sh`, with
one thread in each process and the same batch in each. The processes of a round follow
each other, so that other work on the machine meets all of them. Then it calculates what
gradients cost on a network, from the parameters of the zoo's models.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from mmmeta.datasets import make_shapes

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
_base_ = {base!r}
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False,
                        dataset=dict(data_root={data!r}))
train_cfg = dict(max_epochs=1)
val_dataloader = val_evaluator = val_cfg = None
default_hooks = dict(logger=dict(interval=1), checkpoint=None)
"""
WARM_UP = 4  # iterations
MODELS = [
    ('detection', 'retinanet_poolformer_s12'),
    ('detection', 'mask_rcnn_poolformer_s12'),
    ('detection', 'cascade_mask_rcnn_caformer_s18'),
    ('segmentation', 'semantic_fpn_poolformer_s12'),
    ('segmentation', 'upernet_convformer_s18'),
]


def times(count: int, fsdp: bool) -> list[float]:
    """Return the seconds of each iteration of one run."""
    with tempfile.TemporaryDirectory() as work:
        words = ['config.py', count, '--work-dir', work, '--cfg-options']
        # With two processes an epoch has half of the iterations.
        words += [f'train_cfg.max_epochs={count}']
        words += ['fsdp.mixed_precision=None'] if fsdp else []
        path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
        environment = dict(os.environ, OMP_NUM_THREADS='1', PATH=path)
        subprocess.run(
            ['bash', ROOT / 'tools/dist_train.sh', *map(str, words)],
            env=dict(environment, CUDA_VISIBLE_DEVICES=''),
            check=True,
            capture_output=True,
        )
        (log,) = Path(work).glob('*/vis_data/scalars.json')
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    # MMEngine's `time` is a mean of the last iterations, here of one.
    return [row['time'] for row in rows if 'loss' in row][WARM_UP:]


def measure(rounds: int) -> None:
    kinds = {'1 process': (1, False), '2, DDP': (2, False), '2, FSDP2': (2, True)}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            seconds[name] += times(*kind)
    alone = 4 / statistics.median(seconds['1 process'])
    for name, (count, _) in kinds.items():
        rate = 4 * count / statistics.median(seconds[name])
        print(f'{name}: {rate:.2f} images/s, {rate / alone:.2f} times that of one')
    print('load:', *(f'{x:.1f}' for x in os.getloadavg()))


def calculate(processes: int = 8, backward: float = 0.1) -> None:
    """Print a table of bytes and link speeds.

    Args:
        processes: How many share the work.
        backward: Seconds of a backward pass.
    """
    print('| model | parameters, M | gradients, MB | sent, MB | link, GB/s |')
    print('|---|---|---|---|---|')
    for task, name in MODELS:
        entries = yaml.safe_load((ROOT / f'configs/{task}/metafile.yml').read_text())
        (entry,) = (m for m in entries['Models'] if m['Name'] == name)
        count = entry['Metadata']['Parameters']
        sent = 2 * (processes - 1) / processes * 4 * count
        sizes = [f'{x / 1e6:.0f}' for x in (4 * count, sent)]
        row = [name, f'{count / 1e6:.1f}', *sizes, f'{sent / backward / 1e9:.1f}']
        print('|', ' | '.join(row), '|')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3, help='0 only calculates')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data = make_shapes('shapes', num_train=64, num_val=4, progress=False).resolve()
        base = ROOT / 'configs/detection/retinanet_poolformer_s12_shapes.py'
        text = CONFIG.format(base=str(base), data=f'{data}/')
        Path('config.py').write_text(text)
        if args.rounds:
            measure(args.rounds)
    calculate()


if __name__ == '__main__':
    main()
