"""Import libraries in a process that may crash, and print a JSON line for each.

python probe.py '{"path": [...], "modules": {"torch": "torch", ...}}'
"""

import json
import os
import runpy
import struct
import sys
import zipfile
from importlib import import_module
from pathlib import Path

# Names of interrupted downloads of mmmeta and torch.hub.
UNFINISHED = ('.part', '.partial')
BOOKKEEPING = ('.lock', '.sha256')


def torch() -> dict:
    import torch

    return dict(
        threads=torch.get_num_threads(),
        cuda=torch.version.cuda,
        archs=torch.cuda.get_arch_list(),
        gpus=[_gpu(i) for i in range(torch.cuda.device_count())],
        why=_why_no_gpu(),
    )


def _gpu(index: int) -> dict:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return dict(
        name=torch.cuda.get_device_name(index),
        capability=torch.cuda.get_device_capability(index),
        free=free,
        total=total,
    )


def _why_no_gpu() -> str:
    import torch

    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    return ''


def operators() -> dict:
    """Check mmcv's nms: of two overlapping boxes it must keep the better one."""
    import mmcv._ext
    import torch
    from mmcv.ops import nms

    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    for device in devices:
        corners = [[0.0, 0, 9, 9], [0.0, 0, 9, 8], [20.0, 20, 30, 30]]
        boxes = torch.tensor(corners, device=device)
        scores = torch.tensor([0.9, 0.8, 0.7], device=device)
        kept = nms(boxes, scores, 0.5)[1].tolist()
        if kept != [0, 2]:
            raise ValueError(f'nms on {device} keeps boxes {kept}, expected [0, 2]')
    compiled = getattr(mmcv._ext, 'READS_STRIDES', None) is not True
    return dict(devices=devices, compiled=compiled)


def allocator() -> dict:
    # By path because importing the package needs MMEngine.
    file = Path(__file__).parents[2] / 'hosts' / 'allocator.py'
    return dict(tuned=runpy.run_path(str(file))['tune_allocator']())


def weights() -> dict:
    """Check the cache, and hash files that have a known SHA-256."""
    from mmmeta.weights.download import cache_dir, check
    from mmmeta.weights.errors import CheckpointError
    from mmmeta.weights.names import published

    folder = cache_dir()
    files = [file for file in folder.glob('*') if file.is_file()]
    files = [file for file in files if not file.name.endswith(BOOKKEEPING)]
    unfinished = [file for file in files if file.name.endswith(UNFINISHED)]
    known = {
        source.file: source for row in published().values() for source in row.sources
    }
    damaged = {}
    for file in files:
        if file not in unfinished and _cut_off(file):
            damaged[str(file)] = f'{file} is truncated'
        elif file.name in known:
            try:
                check(file, known[file.name], thorough=True)
            except CheckpointError as error:
                damaged[str(file)] = str(error)
    return dict(
        folder=str(folder),
        count=len(files) - len(unfinished),
        size=sum(file.stat().st_size for file in files),
        unfinished=[str(file) for file in unfinished],
        damaged=damaged,
    )


def _cut_off(file: Path) -> bool:
    """Whether the end of a checkpoint is missing, according to its start."""
    with file.open('rb') as content:
        start = content.read(8)
        if file.suffix != '.safetensors':
            return start.startswith(b'PK') and not zipfile.is_zipfile(file)
        try:
            header = content.read(struct.unpack('<Q', start)[0])
            tensors = json.loads(header)
        except (struct.error, ValueError, MemoryError, OverflowError):
            return True
    tensors.pop('__metadata__', None)
    end = max((row['data_offsets'][1] for row in tensors.values()), default=0)
    return file.stat().st_size < 8 + len(header) + end


FACTS = dict(torch=torch, operators=operators, allocator=allocator, weights=weights)


def probe(name: str, module: str) -> dict:
    """Import a module and collect facts about it."""
    try:
        import_module(module)
        facts = FACTS[name]() if name in FACTS else {}
    except ModuleNotFoundError as error:
        return dict(error=str(error), missing=error.name)
    except BaseException as error:  # libraries may raise anything or exit
        text = str(error).strip() or type(error).__name__
        return dict(error=text.splitlines()[-1])
    library = sys.modules[module.partition('.')[0]]
    return dict(version=getattr(library, '__version__', ''), **facts)


def main() -> None:
    order = json.loads(sys.argv[1])
    sys.path[:] = order['path']
    # Output of the libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name, module in order['modules'].items():
        print(json.dumps(dict(name=name, **probe(name, module))), file=answers)
        answers.flush()


if __name__ == '__main__':
    main()
