"""Make the embedded data, train a RetinaNet on it, test it and draw what it sees.

python tools/demo.py          (or: make demo)
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/detection/retinanet_poolformer_s12_shapes.py'
COLOURS = [(60, 60, 230), (60, 180, 60), (230, 130, 40), (40, 190, 230)] + [
    (200, 60, 200),
    (200, 200, 60),
]  # BGR, one a class


def tool(name: str, *args: str) -> None:
    """Run a tool as a user would; its output goes to the terminal as it comes."""
    command = [sys.executable, *name.split(), *args]
    print(f'$ python {" ".join(command[1:])}', flush=True)
    result = subprocess.run(command, cwd=ROOT)
    if result.returncode:
        sys.exit(f'error: {name} ended with exit code {result.returncode}; see above')


def draw_boxes(
    image: np.ndarray, boxes: list, labels: list[str], colours: list
) -> np.ndarray:
    """Return a copy of `image` (H, W, 3) enlarged twice, with [x, y, w, h] boxes."""
    image = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    for box, label, colour in zip(boxes, labels, colours, strict=True):
        x, y, w, h = (round(2 * v) for v in box)
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, 2)
        origin = (x + 2, max(y - 4, 12))
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(image, label, origin, font, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(image, label, origin, font, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def draw_comparison(
    annotations: Path, predictions: Path, images: Path, out: Path, count: int
) -> Path:
    """Write one picture: for `count` images, ground truth beside predictions.

    Args:
        annotations: COCO annotations.
        predictions: COCO results, as CocoMetric's `outfile_prefix` writes them.
        images: Folder of the images.
        out: The picture to write.
        count: Number of images, drawn at random with a fixed seed.

    Returns:
        `out`.
    """
    truth = json.loads(annotations.read_text())
    found = json.loads(predictions.read_text())
    names = {c['id']: c['name'] for c in truth['categories']}
    rows = []
    for info in random.Random(0).sample(truth['images'], count):
        image = cv2.imread(str(images / info['file_name']))
        panels = []
        for title, objects in (
            ('ground truth', truth['annotations']),
            ('found', found),
        ):
            mine = [o for o in objects if o['image_id'] == info['id']]
            mine = [o for o in mine if o.get('score', 1) >= 0.3]
            labels = [
                names[o['category_id']] + (f' {o["score"]:.2f}' if 'score' in o else '')
                for o in mine
            ]
            colours = [COLOURS[o['category_id'] % len(COLOURS)] for o in mine]
            panel = draw_boxes(image, [o['bbox'] for o in mine], labels, colours)
            bar = np.full((24, panel.shape[1], 3), 255, np.uint8)
            text = f'{info["file_name"]}: {title}'
            cv2.putText(
                bar, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA
            )
            panels.append(np.vstack([bar, panel]))
        rows.append(np.hstack(panels))
    half = (len(rows) + 1) // 2
    columns = [np.vstack(rows[:half]), np.vstack(rows[half:])] if half > 1 else rows
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), np.hstack(columns)):
        sys.exit(f'error: cannot write {out}')
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--config', default=CONFIG, help='default: %(default)s')
    parser.add_argument(
        '--data', default='data/shapes', help='the data set (default: %(default)s)'
    )
    parser.add_argument(
        '--work-dir', default='work_dirs/demo', help='default: %(default)s'
    )
    parser.add_argument(
        '--images', type=int, default=6, help='images in the picture (default: 6)'
    )
    args, options = parser.parse_known_args()
    start = time.time()
    work = ROOT / args.work_dir

    print('== 1/4 data', flush=True)
    tool('-m mmmeta.datasets', '--root', args.data)
    print('== 2/4 training (eta is in the log lines)', flush=True)
    tool('tools/train.py', args.config, '--work-dir', str(work), *options)
    print('== 3/4 test', flush=True)
    checkpoint = Path((work / 'last_checkpoint').read_text().strip())
    prefix = work / 'predictions'
    found = f'test_evaluator.outfile_prefix={prefix}'
    tool(
        'tools/test.py',
        args.config,
        str(checkpoint),
        '--work-dir',
        str(work),
        '--cfg-options',
        found,
    )
    print('== 4/4 picture', flush=True)
    data = ROOT / args.data
    picture = draw_comparison(
        data / 'annotations/instances_val.json',
        Path(f'{prefix}.bbox.json'),
        data / 'images/val',
        work / 'predictions.png',
        args.images,
    )
    minutes = (time.time() - start) / 60
    print(f'Done in {minutes:.1f} min. The COCO table is above.')
    print(f'Checkpoint:  {checkpoint.relative_to(ROOT)}')
    print(f'Predictions: {prefix.relative_to(ROOT)}.bbox.json')
    print(f'Picture:     {picture.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
