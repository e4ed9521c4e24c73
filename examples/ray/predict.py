"""Run an exported detector over many images with Ray Data, on one machine or a cluster.

    python examples/ray/predict.py model.onnx photos/ found/

found/ gets Parquet files with a row per image. Needs `pip install 'ray[data]'` and
`mmmeta-backbones[runtime]` on all machines, which have to see the same files.
"""

import argparse
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import ray

from mmmeta.hosts.images import read_image
from mmmeta.runtime import open_model

SCHEMA = pa.schema(
    {
        'path': pa.string(),
        'boxes': pa.list_(pa.list_(pa.float32())),  # x1, y1, x2, y2 in pixels
        'scores': pa.list_(pa.float32()),  # descending
        'labels': pa.list_(pa.int64()),  # indices of `open_model(FILE).classes`
        'error': pa.string(),  # why an image has no result, else null
    }
)


class Detector:
    """Opens the file once per actor, and runs it on the actor's images."""

    def __init__(self, path: str) -> None:
        self.model = open_model(path)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [self.find(path) for path in table['path'].to_pylist()]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def find(self, path: str) -> dict:
        try:
            found = self.model(read_image(path)[..., ::-1])  # RGB
        except Exception as error:  # costs this image alone
            return dict(path=path, error=f'{type(error).__name__}: {error}')
        return dict(
            path=path,
            boxes=found.boxes.tolist(),
            scores=found.scores.tolist(),
            labels=found.labels.tolist(),
        )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument('model', help='a file of `mmmeta export`')
    parser.add_argument('images', type=Path, help='their folder')
    parser.add_argument('out', help='new folder for the results, or one as s3://...')
    parser.add_argument('--actors', type=int, default=2, help='with a CPU each')
    args = parser.parse_args()
    paths = sorted(p for p in args.images.resolve().rglob('*') if p.is_file())
    found = ray.data.from_items([dict(path=str(path)) for path in paths]).map_batches(
        Detector,
        fn_constructor_args=[os.path.abspath(args.model)],
        batch_format='pyarrow',
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=args.actors),
        num_cpus=1,
    )
    found.write_parquet(args.out, mode='error')  # nothing may be there
    failed = ~pyarrow.dataset.field('error').is_null()
    rows = pyarrow.dataset.dataset(args.out).to_table(filter=failed).to_pylist()
    for row in rows:
        print(f'{row["path"]}: {row["error"]}', file=sys.stderr)
    return 1 if rows else 0


if __name__ == '__main__':
    sys.exit(main())
