"""Files of whole models as mmcv 0.x and 1.x wrote them.

What stands for each has exactly its keys and shapes: the backbone's are those of the
reference (as recorded in tests/data/golden) where that is recorded and else follow from
the same tables; the heads' are written out below, as MMDetection 2.x and
MMSegmentation 0.x named them. Each tensor holds one value of its own, so the file is
small and what arrives where can be told.
"""

import io
from collections import OrderedDict

import torch

from mmmeta.weights.trained import Trained

Shapes = dict[str, tuple[int, ...]]
SIZES = {
    'poolformer_s12': ((2, 2, 6, 2), (64, 128, 320, 512)),
    'poolformer_s24': ((4, 4, 12, 4), (64, 128, 320, 512)),
    'poolformer_s36': ((6, 6, 18, 6), (64, 128, 320, 512)),
    'poolformer_m36': ((6, 6, 18, 6), (96, 192, 384, 768)),
    'poolformer_m48': ((8, 8, 24, 8), (96, 192, 384, 768)),
    'uniformer_small': ((3, 4, 8, 3), (64, 128, 320, 512)),
    'uniformer_base': ((5, 8, 20, 7), (64, 128, 320, 512)),
}
FPN = 256  # channels
COCO, ADE = 80, 150  # classes


def layer(name: str, *shape: int) -> Shapes:
    """A layer with a bias, or a norm."""
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def batch_norm(name: str, dim: int) -> Shapes:
    running = {f'{name}.running_mean': (dim,), f'{name}.running_var': (dim,)}
    return layer(name, dim) | running | {f'{name}.num_batches_tracked': ()}


def conv_bn(name: str, *shape: int) -> Shapes:
    """mmcv's ConvModule with a norm: `conv` has no bias."""
    return {f'{name}.conv.weight': shape} | batch_norm(f'{name}.bn', shape[0])


def poolformer(depths, dims, outputs=(0, 1, 2, 3)) -> Shapes:
    keys = layer('patch_embed.proj', dims[0], 3, 7, 7)
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if i:
            keys |= layer(f'network.{2 * i - 1}.proj', dim, dims[i - 1], 3, 3)
        for block in (f'network.{2 * i}.{b}' for b in range(depth)):
            keys |= layer(f'{block}.norm1', dim) | layer(f'{block}.norm2', dim)
            keys |= layer(f'{block}.mlp.fc1', 4 * dim, dim, 1, 1)
            keys |= layer(f'{block}.mlp.fc2', dim, 4 * dim, 1, 1)
            keys |= {f'{block}.layer_scale_{k}': (dim,) for k in (1, 2)}
    for i in outputs:
        keys |= layer(f'norm{2 * i}', dims[i])
    return keys


def uniformer(depths, dims) -> Shapes:
    keys: Shapes = {}
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        before, side = (dims[i - 1], 2) if i else (3, 4)
        keys |= layer(f'patch_embed{i + 1}.norm', dim)
        keys |= layer(f'patch_embed{i + 1}.proj', dim, before, side, side)
        pointwise = (1, 1) if i < 2 else ()
        for block in (f'blocks{i + 1}.{b}' for b in range(depth)):
            keys |= layer(f'{block}.pos_embed', dim, 1, 3, 3)
            for k in (1, 2):
                norm = batch_norm if i < 2 else layer
                keys |= norm(f'{block}.norm{k}', dim)
            if i < 2:
                keys |= layer(f'{block}.conv1', dim, dim, 1, 1)
                keys |= layer(f'{block}.conv2', dim, dim, 1, 1)
                keys |= layer(f'{block}.attn', dim, 1, 5, 5)
            else:
                keys |= layer(f'{block}.attn.qkv', 3 * dim, dim)
                keys |= layer(f'{block}.attn.proj', dim, dim)
            keys |= layer(f'{block}.mlp.fc1', 4 * dim, dim, *pointwise)
            keys |= layer(f'{block}.mlp.fc2', dim, 4 * dim, *pointwise)
        keys |= layer(f'norm{i + 1}', dim)
    return keys


def fpn(dims, first: int = 0, extra: int = 0) -> Shapes:
    """The FPN from output `first` on, with `extra` strided levels on its input."""
    keys: Shapes = {}
    for i, dim in enumerate(dims[first:]):
        keys |= layer(f'neck.lateral_convs.{i}.conv', FPN, dim, 1, 1)
        keys |= layer(f'neck.fpn_convs.{i}.conv', FPN, FPN, 3, 3)
    for j in range(extra):
        before = FPN if j else dims[-1]
        keys |= layer(f'neck.fpn_convs.{4 - first + j}.conv', FPN, before, 3, 3)
    return keys


def retinanet(dims) -> Shapes:
    keys = fpn(dims, first=1, extra=2)
    for branch in ('cls', 'reg'):
        for i in range(4):
            keys |= layer(f'bbox_head.{branch}_convs.{i}.conv', FPN, FPN, 3, 3)
    keys |= layer('bbox_head.retina_cls', 9 * COCO, FPN, 3, 3)
    return keys | layer('bbox_head.retina_reg', 9 * 4, FPN, 3, 3)


def rpn() -> Shapes:
    keys = layer('rpn_head.rpn_conv', FPN, FPN, 3, 3)
    keys |= layer('rpn_head.rpn_cls', 3, FPN, 1, 1)
    return keys | layer('rpn_head.rpn_reg', 12, FPN, 1, 1)


def mask_head(name: str) -> Shapes:
    keys: Shapes = {}
    for i in range(4):
        keys |= layer(f'{name}.convs.{i}.conv', FPN, FPN, 3, 3)
    keys |= layer(f'{name}.upsample', FPN, FPN, 2, 2)
    return keys | layer(f'{name}.conv_logits', COCO, FPN, 1, 1)


def mask_rcnn(dims) -> Shapes:
    head = 'roi_head.bbox_head'
    keys = layer(f'{head}.shared_fcs.0', 1024, FPN * 7 * 7)
    keys |= layer(f'{head}.shared_fcs.1', 1024, 1024)
    keys |= layer(f'{head}.fc_cls', COCO + 1, 1024)
    keys |= layer(f'{head}.fc_reg', COCO * 4, 1024)
    return fpn(dims) | rpn() | keys | mask_head('roi_head.mask_head')


def cascade_mask_rcnn(dims) -> Shapes:
    """Three heads of four convolutions with batch norms and one linear layer."""
    keys = fpn(dims) | rpn()
    for stage in range(3):
        head = f'roi_head.bbox_head.{stage}'
        for i in range(4):
            keys |= conv_bn(f'{head}.shared_convs.{i}', FPN, FPN, 3, 3)
        keys |= layer(f'{head}.shared_fcs.0', 1024, FPN * 7 * 7)
        keys |= layer(f'{head}.fc_cls', COCO + 1, 1024)
        keys |= layer(f'{head}.fc_reg', COCO * 4, 1024)
        keys |= mask_head(f'roi_head.mask_head.{stage}')
    return keys


def semantic_fpn(dims) -> Shapes:
    keys, dim = fpn(dims), 128
    for level, convs in enumerate((1, 1, 2, 3)):  # upsampling is between them
        for i in range(convs):
            name = f'decode_head.scale_heads.{level}.{2 * i}'
            keys |= conv_bn(name, dim, dim if i else FPN, 3, 3)
    return keys | layer('decode_head.conv_seg', ADE, dim, 1, 1)


def upernet(dims) -> Shapes:
    head, dim = 'decode_head', 512
    keys = layer(f'{head}.conv_seg', ADE, dim, 1, 1)
    for i in range(4):
        keys |= conv_bn(f'{head}.psp_modules.{i}.1', dim, dims[3], 1, 1)
    keys |= conv_bn(f'{head}.bottleneck', dim, dims[3] + 4 * dim, 3, 3)
    for i in range(3):
        keys |= conv_bn(f'{head}.lateral_convs.{i}', dim, dims[i], 1, 1)
        keys |= conv_bn(f'{head}.fpn_convs.{i}', dim, dim, 3, 3)
    keys |= conv_bn(f'{head}.fpn_bottleneck', dim, 4 * dim, 3, 3)
    keys |= conv_bn('auxiliary_head.convs.0', 256, dims[2], 3, 3)
    return keys | layer('auxiliary_head.conv_seg', ADE, 256, 1, 1)


METHODS = {
    'cascade_mask_rcnn': cascade_mask_rcnn,
    'mask_rcnn': mask_rcnn,
    'retinanet': retinanet,
    'semantic_fpn': semantic_fpn,
    'upernet': upernet,
}


def shapes_of(row: Trained) -> Shapes:
    """Return all keys of a row's file."""
    method = next(name for name in METHODS if row.name.startswith(name))
    size = next(name for name in SIZES if name in row.name)
    depths, dims = SIZES[size]
    if size.startswith('uniformer'):
        backbone = uniformer(depths, dims)
    else:
        # Trained with FORK_LAST3=1, a RetinaNet has no norm0.
        outputs = (1, 2, 3) if method == 'retinanet' else (0, 1, 2, 3)
        backbone = poolformer(depths, dims, outputs)
    return {f'backbone.{k}': s for k, s in backbone.items()} | METHODS[method](dims)


def values_of(shapes: Shapes) -> OrderedDict:
    """Return tensors of one value each, all values different."""
    state = OrderedDict()
    for i, (key, shape) in enumerate(shapes.items()):
        if key.endswith('num_batches_tracked'):
            state[key] = torch.tensor(i)
        else:
            state[key] = torch.full((1,), 1 + i / 1000).expand(shape)
    return state


def written_by_mmcv(row: Trained, state: OrderedDict) -> bytes:
    """Return the file that mmcv's CheckpointHook made of a model."""
    number = 80 if row.data == 'COCO' else 150
    meta = dict(
        mmcv_version='1.3.0',
        time='Tue May  3 22:20:49 2022',
        epoch=12,
        iter=87960,
        config="model = dict(type='MaskRCNN')\n",
        CLASSES=tuple(f'class {i}' for i in range(number)),
        PALETTE=[[i, 2 * i % 256, 7] for i in range(number)],
        env_info='sys.platform: linux',
        seed=None,
    )
    optimizer = dict(
        state={0: dict(step=87960, exp_avg=torch.zeros(2))},
        param_groups=[dict(lr=1e-6, params=[0])],
    )
    if row.publisher == 'Sense-X/UniFormer' and row.task == 'segmentation':
        content = dict(state_dict=state)  # released without the rest
    else:
        content = dict(meta=meta, state_dict=state, optimizer=optimizer)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
