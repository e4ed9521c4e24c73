"""The key layouts that mmmeta reads and writes, one table each.

Sources: the model files of sail-sg/poolformer, sail-sg/metaformer and
Sense-X/UniFormer; timm's `metaformer.py`; MMPretrain's `poolformer.py`;
transformers' `modeling_poolformer.py`. `patterns.py` explains rows.

mmmeta's own names: `stages.{i}.downsample.*` and `stages.{i}.blocks.{b}.*` with
pointwise weights (O, I, 1, 1); `norm{i}` for the dense outputs; `norm` for a final
norm over the map; `neck.*` and `head.fc` for the rest of a classifier.
"""

from mmmeta.weights.patterns import Layout, Row

WB = '[weight|bias]'
BN = '[weight|bias|running_mean|running_var|num_batches_tracked]'
BLOCK = 'stages.{i}.blocks.{b}'
REDUCTIONS = (1, 2, 3)  # the stages whose downsampling is not the stem

MMMETA = Layout(
    'mmmeta',
    (
        Row('stages.{i}.downsample.*', 'stages.{i}.downsample.*'),
        Row('stages.{i}.blocks.{b}.*', 'stages.{i}.blocks.{b}.*'),
        Row(f'norm{{i}}.{BN}', f'norm{{i}}.{BN}'),
        Row(f'norm.{BN}', f'norm.{BN}'),
        Row('neck.*', 'neck.*'),
        Row('head.*', 'head.*'),
    ),
    prefix='backbone.',
)

# The official module list has a downsampling between stages, so stage i is at 2i.
# The norms of dense outputs are numbered the same way.
_POOLFORMER = (
    Row(f'patch_embed.proj.{WB}', f'stages.0.downsample.conv.{WB}'),
    Row(
        f'network.{{2i-1}}.proj.{WB}',
        f'stages.{{i}}.downsample.conv.{WB}',
        stages=REDUCTIONS,
    ),
    Row(f'network.{{2i}}.{{b}}.[norm1|norm2].{WB}', f'{BLOCK}.[norm1|norm2].{WB}'),
    Row(
        f'network.{{2i}}.{{b}}.mlp.[fc1|fc2].{WB}',
        f'{BLOCK}.mlp.[fc1|fc2].{WB}',
        ndim=4,
    ),
    Row('network.{2i}.{b}.layer_scale_[1|2]', f'{BLOCK}.layer_scale[1|2]'),
)
_POOLFORMER_DENSE = (Row(f'norm{{2i}}.{WB}', f'norm{{i}}.{WB}'),)

SAIL_POOLFORMER = Layout(
    'sail-sg/poolformer',
    (
        *_POOLFORMER,
        *_POOLFORMER_DENSE,
        Row(f'norm.{WB}', f'norm.{WB}'),
        Row(f'head.{WB}', f'head.fc.{WB}'),
    ),
)

# MMPretrain also numbers norms by position, so norm6 is the final norm in a classifier
# but the last output's norm in a dense model, which also has others.
MMPRETRAIN_CLASSIFIER = Layout(
    'mmpretrain',
    (
        *_POOLFORMER,
        Row(f'norm6.{WB}', f'norm.{WB}'),
        Row(f'head.fc.{WB}', f'head.fc.{WB}'),
    ),
    prefix='backbone.',
)
MMPRETRAIN_DENSE = Layout(
    'mmpretrain', (*_POOLFORMER, *_POOLFORMER_DENSE), prefix='backbone.'
)

SAIL_METAFORMER = Layout(
    'sail-sg/metaformer',
    (
        Row(f'downsample_layers.{{i}}.conv.{WB}', f'stages.{{i}}.downsample.conv.{WB}'),
        Row(
            'downsample_layers.0.post_norm.weight',
            'stages.0.downsample.post_norm.weight',
        ),
        Row(
            'downsample_layers.{i}.pre_norm.weight',
            'stages.{i}.downsample.pre_norm.weight',
            stages=REDUCTIONS,
        ),
        Row('stages.{i}.{b}.[norm1|norm2].weight', f'{BLOCK}.[norm1|norm2].weight'),
        Row('stages.{i}.{b}.mlp.[fc1|fc2].weight', f'{BLOCK}.mlp.[fc1|fc2].weight', 2),
        Row('stages.{i}.{b}.mlp.act.[scale|bias]', f'{BLOCK}.mlp.act.[scale|bias]'),
        Row(
            'stages.{i}.{b}.token_mixer.[pwconv1|pwconv2|qkv|proj].weight',
            f'{BLOCK}.token_mixer.[pwconv1|pwconv2|qkv|proj].weight',
            ndim=2,
        ),
        Row(
            'stages.{i}.{b}.token_mixer.[dwconv.weight|act1.scale|act1.bias]',
            f'{BLOCK}.token_mixer.[dwconv.weight|act1.scale|act1.bias]',
        ),
        Row(
            'stages.{i}.{b}.token_mixer.random_matrix',
            f'{BLOCK}.token_mixer.random_matrix',
        ),
        Row(
            'stages.{i}.{b}.[res_scale1|res_scale2].scale',
            f'{BLOCK}.[res_scale1|res_scale2]',
        ),
        Row(f'norm.{WB}', f'neck.norm.{WB}'),
        Row(f'head.[fc1|norm].{WB}', f'neck.[fc1|mlp_norm].{WB}'),
        Row(f'head.fc2.{WB}', f'head.fc.{WB}', beside='neck.fc1.weight'),
        Row(f'head.{WB}', f'head.fc.{WB}'),
    ),
    needs='stages.0.downsample.post_norm.weight',
)

_TIMM = (
    Row(f'stem.conv.{WB}', f'stages.0.downsample.conv.{WB}'),
    Row(
        f'stages.{{i}}.downsample.conv.{WB}',
        f'stages.{{i}}.downsample.conv.{WB}',
        stages=REDUCTIONS,
    ),
)
TIMM_POOLFORMER = Layout(
    'timm',
    (
        *_TIMM,
        Row(f'{BLOCK}.[norm1|norm2].{WB}', f'{BLOCK}.[norm1|norm2].{WB}'),
        Row(f'{BLOCK}.mlp.[fc1|fc2].{WB}', f'{BLOCK}.mlp.[fc1|fc2].{WB}', ndim=4),
        Row(f'{BLOCK}.layer_scale[1|2].scale', f'{BLOCK}.layer_scale[1|2]'),
        Row(f'head.norm.{WB}', f'norm.{WB}'),
        Row(f'head.fc.{WB}', f'head.fc.{WB}'),
    ),
)
TIMM_METAFORMER = Layout(
    'timm',
    (
        *_TIMM,
        Row('stem.norm.weight', 'stages.0.downsample.post_norm.weight'),
        Row(
            'stages.{i}.downsample.norm.weight',
            'stages.{i}.downsample.pre_norm.weight',
            stages=REDUCTIONS,
        ),
        Row(f'{BLOCK}.[norm1|norm2].weight', f'{BLOCK}.[norm1|norm2].weight'),
        # There, blocks with attention use linear layers on (B, N, C).
        Row(
            f'{BLOCK}.mlp.[fc1|fc2].weight',
            f'{BLOCK}.mlp.[fc1|fc2].weight',
            ndim=2,
            beside=f'{BLOCK}.token_mixer.qkv.weight',
        ),
        Row(f'{BLOCK}.mlp.[fc1|fc2].weight', f'{BLOCK}.mlp.[fc1|fc2].weight', ndim=4),
        Row(f'{BLOCK}.mlp.act.[scale|bias]', f'{BLOCK}.mlp.act.[scale|bias]'),
        Row(
            f'{BLOCK}.token_mixer.[pwconv1|pwconv2].weight',
            f'{BLOCK}.token_mixer.[pwconv1|pwconv2].weight',
            ndim=4,
        ),
        Row(
            f'{BLOCK}.token_mixer.[qkv|proj].weight',
            f'{BLOCK}.token_mixer.[qkv|proj].weight',
            ndim=2,
        ),
        Row(
            f'{BLOCK}.token_mixer.[dwconv.weight|act1.scale|act1.bias]',
            f'{BLOCK}.token_mixer.[dwconv.weight|act1.scale|act1.bias]',
        ),
        Row(
            f'{BLOCK}.[res_scale1|res_scale2].scale', f'{BLOCK}.[res_scale1|res_scale2]'
        ),
        Row(f'head.norm.{WB}', f'neck.norm.{WB}'),
        Row(f'head.fc.[fc1|norm].{WB}', f'neck.[fc1|mlp_norm].{WB}'),
        Row(f'head.fc.fc2.{WB}', f'head.fc.{WB}', beside='neck.fc1.weight'),
        Row(f'head.fc.{WB}', f'head.fc.{WB}'),
    ),
    needs='stages.0.downsample.post_norm.weight',
)


def _transformers(prefix: str) -> Layout:
    """`PoolFormerForImageClassification` and, with no prefix, `PoolFormerModel`."""
    block = f'{prefix}encoder.block.{{i}}.{{b}}'
    return Layout(
        'transformers',
        (
            Row(
                f'{prefix}encoder.patch_embeddings.{{i}}.projection.{WB}',
                f'stages.{{i}}.downsample.conv.{WB}',
            ),
            Row(
                f'{block}.[before_norm|after_norm].{WB}', f'{BLOCK}.[norm1|norm2].{WB}'
            ),
            Row(f'{block}.output.[conv1|conv2].{WB}', f'{BLOCK}.mlp.[fc1|fc2].{WB}', 4),
            Row(f'{block}.layer_scale_[1|2]', f'{BLOCK}.layer_scale[1|2]'),
            Row(f'norm.{WB}', f'norm.{WB}'),
            Row(f'classifier.{WB}', f'head.fc.{WB}'),
        ),
    )


TRANSFORMERS = _transformers('poolformer.')
TRANSFORMERS_MODEL = _transformers('')

# Stages 0 and 1 are convolutional with batch norms, 2 and 3 have attention with
# layer norms and linear layers. With the convolutional stem (small_plus) every
# downsampling is a sequence: its first layer and its second.
_CONV, _ATTENTION = (0, 1), (2, 3)
_CONV_STEM = 'stages.0.downsample.conv1.weight'
UNIFORMER = Layout(
    'Sense-X/UniFormer',
    (
        Row(
            f'patch_embed1.proj.[0|3].{WB}',
            f'stages.0.downsample.[conv1|conv2].{WB}',
        ),
        Row(
            f'patch_embed1.proj.[1|4].{BN}',
            f'stages.0.downsample.[norm1|norm2].{BN}',
        ),
        Row(
            f'patch_embed{{i+1}}.proj.0.{WB}',
            f'stages.{{i}}.downsample.conv.{WB}',
            stages=REDUCTIONS,
            beside=_CONV_STEM,
        ),
        Row(
            f'patch_embed{{i+1}}.proj.1.{BN}',
            f'stages.{{i}}.downsample.post_norm.{BN}',
            stages=REDUCTIONS,
            beside=_CONV_STEM,
        ),
        Row(f'patch_embed{{i+1}}.proj.{WB}', f'stages.{{i}}.downsample.conv.{WB}'),
        Row(f'patch_embed{{i+1}}.norm.{WB}', f'stages.{{i}}.downsample.post_norm.{WB}'),
        Row(f'blocks{{i+1}}.{{b}}.pos_embed.{WB}', f'{BLOCK}.pos_embed.{WB}'),
        Row(
            f'blocks{{i+1}}.{{b}}.[norm1|norm2].{BN}',
            f'{BLOCK}.[norm1|norm2].{BN}',
            stages=_CONV,
        ),
        Row(
            f'blocks{{i+1}}.{{b}}.[norm1|norm2].{WB}',
            f'{BLOCK}.[norm1|norm2].{WB}',
            stages=_ATTENTION,
        ),
        Row(
            f'blocks{{i+1}}.{{b}}.[conv1|conv2].{WB}',
            f'{BLOCK}.token_mixer.[pwconv1|pwconv2].{WB}',
            ndim=4,
            stages=_CONV,
        ),
        Row(
            f'blocks{{i+1}}.{{b}}.attn.{WB}',
            f'{BLOCK}.token_mixer.dwconv.{WB}',
            stages=_CONV,
        ),
        Row(
            f'blocks{{i+1}}.{{b}}.attn.[qkv|proj].{WB}',
            f'{BLOCK}.token_mixer.[qkv|proj].{WB}',
            ndim=2,
            stages=_ATTENTION,
        ),
        Row(
            f'blocks{{i+1}}.{{b}}.mlp.[fc1|fc2].{WB}',
            f'{BLOCK}.mlp.[fc1|fc2].{WB}',
            ndim=4,
            stages=_CONV,
        ),
        Row(
            f'blocks{{i+1}}.{{b}}.mlp.[fc1|fc2].{WB}',
            f'{BLOCK}.mlp.[fc1|fc2].{WB}',
            ndim=2,
            stages=_ATTENTION,
        ),
        Row('blocks{i+1}.{b}.gamma_[1|2]', f'{BLOCK}.layer_scale[1|2]'),
        Row(f'norm{{i+1}}.{WB}', f'norm{{i}}.{WB}'),
        Row(f'norm.{BN}', f'norm.{BN}'),
        Row(f'head.{WB}', f'head.fc.{WB}'),
    ),
    needs='stages.0.blocks.0.pos_embed.weight',
)

LAYOUTS: tuple[Layout, ...] = (
    MMMETA,
    SAIL_POOLFORMER,
    SAIL_METAFORMER,
    UNIFORMER,
    TIMM_POOLFORMER,
    TIMM_METAFORMER,
    MMPRETRAIN_CLASSIFIER,
    MMPRETRAIN_DENSE,
    TRANSFORMERS,
    TRANSFORMERS_MODEL,
)
LAYOUT_NAMES: tuple[str, ...] = tuple(dict.fromkeys(row.name for row in LAYOUTS))
