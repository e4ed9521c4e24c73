"""Make the embedded data, train a RetinaNet on it, test it and draw its predictions.

python tools/demo.py             (or: make demo)
python tools/demo.py --short     (or: make demo DEMO_ARGS=--short)
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/detection/retinanet_poolformer_s12_easy_shapes.py'
LOADERS = ('train', 'val', 'test')
TITLE = 24  # height of a panel's title, pixels
WHITE = (255, 255, 255)
MIN_SCORE = 0.5  # of the objects that are drawn
# Numbers of training and validation images.
FULL_COUNTS, SHORT_COUNTS = ('1000', '200'), ('60', '12')
# In such a short training no score exceeds the config's threshold.
SHORT_OPTIONS = ('train_cfg.max_epochs=1', 'model.test_cfg.score_thr=0.0')
COLORS = (  # BGR, one per class
    (60, 60, 230),
    (60, 180, 60),
    (230, 130, 40),
    (40, 190, 230),
    (200, 60, 200),
    (200, 200, 60),
)


def tool(name: str, *args: str) -> None:
    """Run a tool as a user would, with its output in the terminal."""
    command = [sys.executable, *name.split(), *args]
    print(f'$ python {" ".join(command[1:])}', flush=True)
    # If another process needs a core, threads that spin while waiting for each other
    # make training several times slower; GNU's OpenMP reads this.
    env = {'GOMP_SPINCOUNT': '1000', **os.environ}
    result = subprocess.run(command, cwd=ROOT, env=env)
    if result.returncode:
        sys.exit(f'error: {name} failed with exit code {result.returncode}; see above')


def draw_panel(
    image: np.ndarray, title: str, objects: list[dict], names: dict[int, str]
) -> np.ndarray:
    """Return `image` (H, W, 3) enlarged twice, with a title and its objects' boxes."""
    panel = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    panel = cv2.copyMakeBorder(panel, TITLE, 0, 0, 0, cv2.BORDER_CONSTANT, value=WHITE)
    write(panel, title, (6, TITLE - 7))
    for item in objects:
        x, y, w, h = (round(2 * v) for v in item['bbox'])
        y += TITLE
        color = COLORS[item['category_id'] % len(COLORS)]
        cv2.rectangle(panel, (x, y), (x + w, y + h), color, 2)
        score = f' {item["score"]:.2f}' if 'score' in item else ''
        write(
            panel, names[item['category_id']] + score, (x + 2, max(y - 4, TITLE + 12))
        )
    return panel


def write(image: np.ndarray, text: str, origin: tuple[int, int]) -> None:
    """Write black text with a white outline, readable on any background."""
    for color, thickness in ((WHITE, 3), ((0, 0, 0), 1)):
        cv2.putText(
            image,
            text,
            origin,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.45,
            color,
            thickness,
            cv2.LINE_AA,
        )


def draw_comparison(
    annotations: Path, predictions: Path, images: Path, out: Path, count: int
) -> None:
    """Write one picture of `count` images with ground truth next to predictions.

    Args:
        annotations: COCO annotations.
        predictions: COCO results, as written by CocoMetric's `outfile_prefix`; those
            with a score of at least MIN_SCORE are drawn.
        images: Folder of the images.
        out: The output picture.
        count: Number of images, selected at random with a fixed seed.
    """
    truth = json.loads(annotations.read_text())
    found = [o for o in json.loads(predictions.read_text()) if o['score'] >= MIN_SCORE]
    names = {c['id']: c['name'] for c in truth['categories']}
    sample = random.Random(0).sample(truth['images'], min(count, len(truth['images'])))
    pairs = []
    for info in sample:
        image = cv2.imread(str(images / info['file_name']))
        panels = [
            draw_panel(
                image,
                f'{info["file_name"]}: {title}',
                [o for o in objects if o['image_id'] == info['id']],
                names,
            )
            for title, objects in (('truth', truth['annotations']), ('found', found))
        ]
        pairs.append(np.hstack(panels))
    if len(pairs) % 2:
        pairs.append(np.full_like(pairs[0], 255))
    rows = [np.hstack(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]
    if not cv2.imwrite(str(out), np.vstack(rows)):
        sys.exit(f'error: cannot write {out}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--config', default=CONFIG, help='default: %(default)s')
    parser.add_argument(
        '--short',
        action='store_true',
        help='few images and iterations, for slow machines: every step runs, but the '
        'detector finds almost nothing',
    )
    parser.add_argument(
        '--data',
        help='the data set (default: data/easy_shapes; short: data/easy_shapes_short)',
    )
    for k, name in enumerate(('--num-train', '--num-val')):
        parser.add_argument(
            name, help=f'default: {FULL_COUNTS[k]}; short: {SHORT_COUNTS[k]}'
        )
    parser.add_argument(
        '--work-dir', help='default: work_dirs/demo; short: work_dirs/demo_short'
    )
    parser.add_argument(
        '--images', type=int, default=6, help='images in the picture (default: 6)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], help='key=value pairs for the config'
    )
    args = parser.parse_args()
    # The short form uses separate folders so as not to overwrite the full one's.
    suffix = '_short' if args.short else ''
    args.data = args.data or f'data/easy_shapes{suffix}'
    args.work_dir = args.work_dir or f'work_dirs/demo{suffix}'
    num_train, num_val = SHORT_COUNTS if args.short else FULL_COUNTS
    args.num_train = args.num_train or num_train
    args.num_val = args.num_val or num_val
    return args


def main() -> None:
    args = parse_args()
    start = time.time()
    data, work = ROOT / args.data, ROOT / args.work_dir
    prefix = work / 'predictions'
    truth = data / 'annotations/instances_val.json'
    options = [
        '--work-dir',
        str(work),
        '--cfg-options',
        *[f'{loader}_dataloader.dataset.data_root={data}/' for loader in LOADERS],
        f'val_evaluator.ann_file={truth}',
        f'test_evaluator.ann_file={truth}',
        f'test_evaluator.outfile_prefix={prefix}',
        *(SHORT_OPTIONS if args.short else ()),
        *args.cfg_options,
    ]

    print('== 1/4 data', flush=True)
    counts = ['--num-train', args.num_train, '--num-val', args.num_val]
    tool('-m mmmeta.datasets', '--root', str(data), '--easy', *counts)
    print('== 2/4 training', flush=True)
    tool('tools/train.py', args.config, *options)
    print('== 3/4 test', flush=True)
    checkpoint = Path((work / 'last_checkpoint').read_text().strip())
    tool('tools/test.py', args.config, str(checkpoint), *options)
    print('== 4/4 picture', flush=True)
    found = Path(f'{prefix}.bbox.json')
    picture = work / 'predictions.png'
    draw_comparison(truth, found, data / 'images/val', picture, args.images)

    minutes = (time.time() - start) / 60
    print(f'Done in {minutes:.1f} min. The COCO table is above.')
    if args.short:
        print('This was the short form: its training is too short to detect well.')
    for name, path in (
        ('Checkpoint', checkpoint),
        ('Predictions', found),
        ('Picture', picture),
    ):
        print(f'{name + ":":12} {os.path.relpath(path)}')


if __name__ == '__main__':
    main()
