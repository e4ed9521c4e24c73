"""Measure the memory of attention at detection image sizes.

    python -m benchmarks.attention_memory                # both tables
    python -m benchmarks.attention_memory --size 512 512

One table is the forward pass of a Mask R-CNN with CAFormer-S18, for three
implementations of the backbone with the same weights: mmmeta's, timm's, and mmmeta's
with a score matrix ("naive"). The other is stage 3 of UniFormer-S in its three modes,
with and without such a matrix, forward and in a training step. Each figure is the peak
memory of a fresh process beyond its memory before the call, in MiB, on the CPU; outputs
that differ are an error.
"""

import argparse
import json
import math
import os
import subprocess
import sys

from benchmarks.run import GIVE_BACK, MIB, ROOT

CAFORMER = [('mask_rcnn', kind, 'forward') for kind in ('mmmeta', 'timm', 'naive')]
UNIFORMER = [
    (mode, kind, step)
    for mode in ('global', 'window', 'hybrid')
    for kind in ('mmmeta', 'naive')
    for step in ('forward', 'training')
]


def naive_attention(query, key, value):
    """Replace `scaled_dot_product_attention`, with the scores as a matrix."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return scores.softmax(-1) @ value


def detector(kind: str):
    """Return Mask R-CNN with CAFormer-S18 of a kind; all have the same weights."""
    import timm
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from mmmeta.weights.state import parse, to_layout

    cfg = Config.fromfile(ROOT / 'configs/detection/mask_rcnn_caformer_s18.py')
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    if kind != 'timm':
        return model
    backbone = model.backbone
    peer = timm.create_model('caformer_s18', num_classes=0).eval()
    stages = {k: v for k, v in backbone.state_dict().items() if k.startswith('stages')}
    result = peer.load_state_dict(to_layout(parse(stages), 'timm'), strict=False)
    lacking = [key for key in result.missing_keys if not key.startswith('head')]
    if lacking or result.unexpected_keys:
        raise RuntimeError(f'{lacking} and {result.unexpected_keys} do not fit')

    class Timm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.peer, self.ours = peer, [backbone]

        def forward(self, x):
            maps = self.peer.forward_intermediates(x, intermediates_only=True)
            norms = [getattr(self.ours[0], f'norm{i}') for i in range(4)]
            return tuple(norm(m) for norm, m in zip(norms, maps, strict=True))

    model.backbone = Timm()
    return model


def measure(what: str, kind: str, step: str, size: tuple[int, int]) -> dict:
    """Measure one case in this process."""
    import torch
    from mmengine.registry import MODELS

    from benchmarks.measure import peak_bytes
    from mmmeta.models import token_mixers

    if kind == 'naive':
        token_mixers.F.scaled_dot_product_attention = naive_attention
    torch.manual_seed(0)
    if what == 'mask_rcnn':
        from mmdet.structures import DetDataSample

        model = detector(kind)
        torch.manual_seed(0)
        images = torch.randn(1, 3, *size)
        sample = DetDataSample()
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
        out = []

        def call() -> None:
            with torch.no_grad():
                out.extend(model.backbone(images))
                model.predict(images, [sample])
    else:
        backbone = MODELS.build(
            dict(type='mmmeta.UniFormer', arch='small', attention=what)
        )
        model = backbone.stages[2].train(step == 'training')
        maps = torch.randn(1, backbone.arch.dims[1], size[0] // 8, size[1] // 8)
        out = []

        def call() -> None:
            with torch.set_grad_enabled(step == 'training'):
                out.append(model(maps))
                if step == 'training':
                    out[0].square().mean().backward()

    peak = peak_bytes(call)
    if peak is None:
        raise RuntimeError('this needs Linux, which reports peak resident memory')
    return dict(
        mib=peak / MIB, check=[float(m.detach().double().abs().mean()) for m in out]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--size', nargs=2, type=int, default=(800, 1344), metavar='N')
    parser.add_argument('--case', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = tuple(args.size)
    if args.case:
        print(json.dumps(measure(*args.case, size)))
        return
    found = {}
    for case in CAFORMER + UNIFORMER:
        command = [sys.executable, '-m', __spec__.name, '--size', *map(str, size)]
        done = subprocess.run(
            [*command, '--case', *case],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, **GIVE_BACK, 'PYTHONWARNINGS': 'ignore'},
        )
        found[case] = json.loads(done.stdout.splitlines()[-1])
        what, kind, step = case
        first = found[(what, 'mmmeta', step)]
        for a, b in zip(first['check'], found[case]['check'], strict=True):
            if not math.isclose(a, b, rel_tol=1e-4):
                sys.exit(f'error: outputs of {case} differ: {a} and {b}')
        mib = found[case]['mib']
        print(
            f'{what:10} {kind:7} {step:9} {mib:8.0f} MiB  x{mib / first["mib"]:.2f}',
            flush=True,
        )


if __name__ == '__main__':
    main()
