"""The published checkpoints: one row each, built from one compact table per family.

Names are `arch.tag` with timm's tags where timm has them (`sail_in1k`,
`sail_in1k_384`, `sail_in22k`, `sail_in22k_ft_in1k`, `sail_in22k_ft_in1k_384`) and
`sensex_in1k` for UniFormer. Figures are the publishers': the READMEs of
sail-sg/poolformer, sail-sg/metaformer and Sense-X/UniFormer, input and crop from
timm's configurations and UniFormer's `datasets.py`. Importing this needs only the
standard library.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mmmeta.archs.families import SIZES_12_TO_48
from mmmeta.weights.source import Source, drive, hugging_face


@dataclass(frozen=True)
class Published:
    """One published checkpoint, a classifier.

    Attributes:
        arch: Family and size, such as 'caformer_s18'.
        tag: Who trained it on what, such as 'sail_in22k_ft_in1k'.
        sources: URLs, the publisher's own first; all have the same weights.
        layout: The layout of the first.
        top1: ImageNet-1k top-1 accuracy in percent; None for ImageNet-21k.
        params: Millions of parameters, as printed; without RandFormer's frozen ones.
        macs: Billions of multiply-adds at `input_size`, as printed.
        crop_pct: Ratio of the crop's side to the resized image's shorter side.
        input_size: Side of the crop in pixels.
        num_classes: Classes of the head.
        license: SPDX name.
        paper: arXiv number.
        page: The publisher's page.
    """

    arch: str
    tag: str
    sources: tuple[Source, ...]
    layout: str
    top1: float | None
    params: float
    macs: float
    crop_pct: float
    input_size: int = 224
    num_classes: int = 1000
    license: str = 'Apache-2.0'
    paper: str = '2210.13452'
    page: str = 'https://github.com/sail-sg/metaformer'
    interpolation: str = 'bicubic'
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def name(self) -> str:
        return f'{self.arch}.{self.tag}'

    @property
    def family(self) -> str:
        return self.arch.split('_')[0]

    @property
    def task(self) -> str:
        return 'classification'

    @property
    def config(self) -> str:
        """Its recipe, relative to configs/."""
        ending = '' if self.input_size == 224 else f'_{self.input_size}'
        return f'classification/{self.arch}{ending}.py'


def _timm(arch: str, tag: str) -> Source:
    return hugging_face(f'timm/{arch}.{tag}', 'model.safetensors')


# size: params (M), MACs (G), top-1, crop, first digits of MMPretrain's SHA-256
POOLFORMER = {
    's12': (12, 1.8, 77.2, 0.9, 'f8d83051'),
    's24': (21, 3.4, 80.3, 0.9, 'd7055904'),
    's36': (31, 5.0, 81.4, 0.9, 'd78ff3e8'),
    'm36': (56, 8.8, 82.1, 0.95, 'c55e0949'),
    'm48': (73, 11.6, 82.5, 0.95, '9378f3eb'),
}


def _poolformer() -> Iterator[Published]:
    home = 'https://github.com/sail-sg/poolformer'
    for size, (params, macs, top1, crop, digits) in POOLFORMER.items():
        arch, file = f'poolformer_{size}', f'poolformer_{size}.pth.tar'
        mmpretrain = (
            f'mmclassification/v0/poolformer/poolformer-{size}_3rdparty_32xb128_in1k_'
            f'20220414-{digits}.pth'
        )
        sources = (
            Source(f'{home}/releases/download/v1.0/{file}'),
            Source(f'https://download.openmmlab.com/{mmpretrain}', digits),
            Source(f'https://mmassets.onedl.ai/{mmpretrain}', digits),
            _timm(arch, 'sail_in1k'),
        )
        yield Published(
            arch,
            'sail_in1k',
            sources,
            'sail-sg/poolformer',
            top1,
            params,
            macs,
            crop,
            paper='2111.11418',
            page=home,
        )


SAIL_OWNERS = ('sail', 'whyu')  # the second is the older copy


def _sail(arch: str, file: str, *more: Source) -> tuple[Source, ...]:
    family = arch.split('_')[0]
    copies = (hugging_face(f'{owner}/dl', f'{family}/{file}') for owner in SAIL_OWNERS)
    return (*copies, *more)


# For each of SIZES_12_TO_48; params (M) are the same for all three.
BASIC_PARAMS = (11.9, 21.3, 30.8, 56.1, 73.3)
BASIC = {  # family: MACs (G), top-1
    'identityformer': ((1.8, 3.4, 5.0, 8.8, 11.5), (74.6, 78.2, 79.3, 80.0, 80.4)),
    'randformer': ((1.9, 3.5, 5.2, 9.0, 11.9), (76.6, 78.2, 79.5, 81.2, 81.4)),
    'poolformerv2': ((1.8, 3.4, 5.0, 8.8, 11.5), (78.0, 80.7, 81.6, 82.2, 82.6)),
}


def _basic() -> Iterator[Published]:
    for family, figures in BASIC.items():
        for size, params, macs, top1 in zip(
            SIZES_12_TO_48, BASIC_PARAMS, *figures, strict=True
        ):
            arch, file = f'{family}_{size}', f'{family}_{size}.pth'
            in_timm = family == 'poolformerv2'
            sources = _sail(arch, file, *[_timm(arch, 'sail_in1k')] * in_timm)
            yield Published(
                arch,
                'sail_in1k',
                sources,
                'sail-sg/metaformer',
                top1,
                params,
                macs,
                1.0,
            )


# tag: suffix of the file name, input size, classes, column of top-1 below
COMMON_TAGS = {
    'sail_in1k': ('', 224, 1000, 0),
    'sail_in1k_384': ('_384', 384, 1000, 1),
    'sail_in22k_ft_in1k': ('_in21ft1k', 224, 1000, 2),
    'sail_in22k_ft_in1k_384': ('_384_in21ft1k', 384, 1000, 3),
    'sail_in22k': ('_in21k', 224, 21841, None),
}
COMMON = {  # arch: params (M), MACs (G) at 224 and 384, top-1 of the first four tags
    'convformer_s18': (27, 3.9, 11.6, (83.0, 84.4, 83.7, 85.0)),
    'convformer_s36': (40, 7.6, 22.4, (84.1, 85.4, 85.4, 86.4)),
    'convformer_m36': (57, 12.8, 37.7, (84.5, 85.6, 86.1, 86.9)),
    'convformer_b36': (100, 22.6, 66.5, (84.8, 85.7, 87.0, 87.6)),
    'caformer_s18': (26, 4.1, 13.4, (83.6, 85.0, 84.1, 85.4)),
    'caformer_s36': (39, 8.0, 26.0, (84.5, 85.7, 85.8, 86.9)),
    'caformer_m36': (56, 13.2, 42.0, (85.2, 86.2, 86.6, 87.5)),
    'caformer_b36': (99, 23.2, 72.2, (85.5, 86.4, 87.4, 88.1)),
}


def _common() -> Iterator[Published]:
    for arch, (params, macs, macs_384, top1) in COMMON.items():
        for tag, (ending, side, classes, column) in COMMON_TAGS.items():
            file = f'{arch}{ending}.pth'
            yield Published(
                arch,
                tag,
                _sail(arch, file, _timm(arch, tag)),
                'sail-sg/metaformer',
                None if column is None else top1[column],
                params,
                macs if side == 224 else macs_384,
                1.0,
                side,
                classes,
            )


# size: params (M), FLOPs (G), top-1, id on Google Drive
UNIFORMER = {
    'small': (22, 3.6, 82.9, '1-uepH3Q3BhTmWU6HK-sGAGQC_MpfIiPD'),
    'small_plus': (24, 4.2, 83.4, None),
    'small_plus_dim64': (24, 4.2, 83.4, '178ipRvMBKeAP_Fzy6fEr2HQkIQWdgEY6'),
    'base': (50, 8.3, 83.8, '1-wT39QazTGELxgrQIu6J12D3qcla3hui'),
    'base_ls': (50, 8.3, 83.9, '10FnwzMVgGL8bPO3EMZ7oG4vDvqnPoBK5'),
}
ON_HUGGING_FACE = ('small', 'small_plus', 'base')
_SMALL_COPY = Source(
    'https://huggingface.co/Andy1621/uniformer/resolve/main/uniformer_small_in1k.pth',
    'fd192c31f8bd77670de8f171111bd51f56fd87e6aea45043ab2edc181e1fa775',
    86314461,
)


def _uniformer() -> Iterator[Published]:
    for size, (params, macs, top1, drive_id) in UNIFORMER.items():
        file = f'uniformer_{size}_in1k.pth'
        sources = [drive(drive_id, file)] if drive_id else []
        if size in ON_HUGGING_FACE:
            copies = [_SMALL_COPY] if size == 'small' else []
            sources = [hugging_face('Sense-X/uniformer_image', file), *copies, *sources]
        yield Published(
            f'uniformer_{size}',
            'sensex_in1k',
            tuple(sources),
            'Sense-X/UniFormer',
            top1,
            params,
            macs,
            0.875,
            license='MIT',
            paper='2201.09450',
            page='https://github.com/Sense-X/UniFormer',
        )


ZOO: dict[str, Published] = {
    row.name: row for row in (*_poolformer(), *_basic(), *_common(), *_uniformer())
}
