"""The published detectors and segmentors: whole models, one row each.

Names are those of the recipes in configs/; where one checkpoint is published with
several test modes, each mode is a name, and where somebody else trained the same
recipe, the name ends with who. Figures are the publishers': the READMEs of
sail-sg/poolformer and Sense-X/UniFormer, and MMSegmentation's pull request 2191.
Importing this needs only the standard library.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmmeta.weights.source import Source, drive, hugging_face

SHORTER_800 = 'shorter side 800, longer side at most 1333'
MULTIPLE_OF_32 = 'shorter side 512, resized to multiples of 32, whole image'
WHOLE = 'shorter side 512, whole image'


@dataclass(frozen=True)
class Trained:
    """One published detector or segmentor, with one way to test it.

    Attributes:
        name: What users call it.
        config: Its config, relative to configs/; where it differs from the one that it
            was trained with, that is what the test mode needs.
        sources: Addresses, all with the same weights.
        layout: The layout of its backbone's keys.
        results: Metric, such as 'box AP', to the published figure in percent.
        test: How the images were prepared in the published test.
        data: What it was trained and tested on: 'COCO' or 'ADE20K'.
        publisher: Who trained it.
        license: SPDX name.
        paper: arXiv number.
        page: The publisher's page.
    """

    name: str
    config: str
    sources: tuple[Source, ...]
    layout: str
    results: Mapping[str, float]
    test: str
    data: str
    publisher: str
    license: str
    paper: str
    page: str

    @property
    def task(self) -> str:
        """'detection' or 'segmentation'."""
        return self.config.split('/')[0]


SAIL = dict(
    layout='sail-sg/poolformer',
    publisher='sail-sg/poolformer',
    license='Apache-2.0',
    paper='2111.11418',
    page='https://github.com/sail-sg/poolformer',
)
SENSEX = dict(
    layout='Sense-X/UniFormer',
    publisher='Sense-X/UniFormer',
    license='MIT',
    paper='2201.09450',
    page='https://github.com/Sense-X/UniFormer',
)
MMSEG = dict(
    layout='mmpretrain',
    publisher='MMSegmentation',
    license='Apache-2.0',
    paper='2111.11418',
    page='https://github.com/open-mmlab/mmsegmentation/tree/main/configs/poolformer',
)

# The files that are on Google Drive, by its ids.
DRIVE = {
    'retinanet_poolformer_s12': '1GKx4jbxdO4ClagPXXt7CoomrV4pOpqul',
    'retinanet_poolformer_s24': '1EjsWpdopem-xeLndPQnQcHp8aoEUHQXR',
    'retinanet_poolformer_s36': '1EgJDCg7LXXnHdGdJaHyEnoBPm-fNG2bt',
    'mask_rcnn_poolformer_s12': '1-GSkqaS3SovfCVDsH8CzS1DikPX3cFTY',
    'mask_rcnn_poolformer_s24': '10Br62EU-VErQq6rP67sf4qXJIBLOnmLT',
    'mask_rcnn_poolformer_s36': '1LyJxcO0fw2hwZg9Z--Zbjbw3W7U4JyqT',
    'mask_rcnn_uniformer_small': '13KhBYkHKQg-CyhAgn1LQM1K0R4bwSpWT',
    'mask_rcnn_uniformer_base': '13YrVEiqFraSuX1NzdhPnhw7bFXTvEii1',
    'mask_rcnn_uniformer_small_ms_3x': '13O6P-spXbWuXgUjLw8AyRITYTwhdOwuD',
    'mask_rcnn_uniformer_base_ms_3x': '12xyS2xqFSYMkHUiVYVGVW7gaLIxuK2q6',
    'cascade_mask_rcnn_uniformer_small_ms_3x': '13IhpRkh2hE8WfDyw-5-NXSUVZjn9DX20',
    'cascade_mask_rcnn_uniformer_base_ms_3x': '13G9wc73CmS1Kb-kVelFSDlK-ezUBadzQ',
    'semantic_fpn_poolformer_s12': '1BcqU1yU2IPkI7RtWEmIw-R8tqMGY_XBt',
    'semantic_fpn_poolformer_s24': '1DO329W8eDrfgycHi7YagFWz7IyAb07Wl',
    'semantic_fpn_poolformer_s36': '1Rd6XxBXLEYWH-70IMvF6UiVymaWA3gik',
    'semantic_fpn_poolformer_m36': '1Xgk7FI3FpOW2__UQhnGf7UGUHA3UzTRq',
    'semantic_fpn_poolformer_m48': '1KjeR_4Ue0QyslDimp3OYkRqeqNAwoAez',
    'semantic_fpn_uniformer_base': '14XokJDp1oYDV9jZnniMXyk3AnVfk1S1-',
    'semantic_fpn_uniformer_small_global': '14bEsZqMw35tmDgrvYA_dRMsSC0Z4TX2Y',
    'semantic_fpn_uniformer_base_global': '14dLoIcAUWjyo1d5XXuo1yb2jcslt_t4P',
    'upernet_uniformer_small_global': '13hOneJiFqwEneUz1Zpqo1W2uv7BsoXGF',
    'upernet_uniformer_base_global': '14bEgmFbTijBoTKTwny_aCJlARs6z31mP',
}
# What is published: the metrics of each task, and the figures by name. The weights of
# the two `_test_` names are those of the name before them.
METRICS = {
    'detection': ('box AP', 'mask AP'),
    'segmentation': ('mIoU', 'mIoU(ms+flip)'),  # the latter with six scales and flips
}
FIGURES = {
    'detection': {
        'retinanet_poolformer_s12': (36.2,),
        'retinanet_poolformer_s24': (38.9,),
        'retinanet_poolformer_s36': (39.5,),
        'mask_rcnn_poolformer_s12': (37.3, 34.6),
        'mask_rcnn_poolformer_s24': (40.1, 37.0),
        'mask_rcnn_poolformer_s36': (41.0, 37.7),
        'mask_rcnn_uniformer_small': (45.6, 41.6),
        'mask_rcnn_uniformer_base': (47.4, 43.1),
        'mask_rcnn_uniformer_small_ms_3x': (48.2, 43.4),
        'mask_rcnn_uniformer_base_ms_3x': (50.3, 44.8),
        'cascade_mask_rcnn_uniformer_small_ms_3x': (52.1, 45.2),
        'cascade_mask_rcnn_uniformer_base_ms_3x': (53.8, 46.4),
    },
    'segmentation': {
        'semantic_fpn_poolformer_s12': (37.2,),
        'semantic_fpn_poolformer_s24': (40.3,),
        'semantic_fpn_poolformer_s36': (42.0,),
        'semantic_fpn_poolformer_m36': (42.4,),
        'semantic_fpn_poolformer_m48': (42.7,),
        'semantic_fpn_uniformer_base': (47.0,),
        'semantic_fpn_uniformer_small_global': (46.6,),
        'semantic_fpn_uniformer_small_global_test_w32': (45.6,),
        'semantic_fpn_uniformer_small_global_test_h32': (46.2,),
        'semantic_fpn_uniformer_base_global': (48.0,),
        'semantic_fpn_uniformer_base_global_test_w32': (47.0,),
        'semantic_fpn_uniformer_base_global_test_h32': (47.7,),
        'upernet_uniformer_small_global': (47.6, 48.5),
        'upernet_uniformer_small_global_test_w32': (46.6, 48.4),
        'upernet_uniformer_small_global_test_h32': (47.0, 48.5),
        'upernet_uniformer_base_global': (50.0, 50.8),
        'upernet_uniformer_base_global_test_w32': (49.1, 50.6),
        'upernet_uniformer_base_global_test_h32': (49.5, 50.7),
    },
}
# MMSegmentation's own training of PoolFormer: stamp of the file, mIoU.
MMSEG_FIGURES = {
    's12': ('20220501_115154-b5aa2f49', 37.07),
    's24': ('20220503_222049-394a7cf7', 40.36),
    's36': ('20220501_151122-b47e607d', 41.81),
    'm36': ('20220501_164230-3dc83921', 42.35),
    'm48': ('20220504_003923-64168d3b', 42.76),
}
# Copies that can be had where Drive's quota is used up.
COPIES = {
    'mask_rcnn_uniformer_small_ms_3x': (
        hugging_face('Andy1621/uniformer', 'mask_rcnn_3x_ms_hybrid_small.pth'),
    ),
    'upernet_uniformer_small_global': (
        hugging_face('lllyasviel/Annotators', 'upernet_global_small.pth'),
        hugging_face(
            'lllyasviel/ControlNet', 'annotator/ckpts/upernet_global_small.pth'
        ),
        hugging_face('Andy1621/uniformer', 'upernet_global_small.pth'),
    ),
}


def _theirs() -> Iterator[Trained]:
    """Yield what the papers' authors trained."""
    for task, table in FIGURES.items():
        for name, figures in table.items():
            weights = name.partition('_test_')[0]
            if task == 'detection':
                test, data = SHORTER_800, 'COCO'
            else:
                test = WHOLE if name.startswith('upernet') else MULTIPLE_OF_32
                data = 'ADE20K'
            yield Trained(
                name,
                f'{task}/{name}.py',
                (*COPIES.get(weights, ()), drive(DRIVE[weights], f'{weights}.pth')),
                results=dict(zip(METRICS[task], figures, strict=False)),
                test=test,
                data=data,
                **(SAIL if 'poolformer' in name else SENSEX),
            )


def _mmseg() -> Iterator[Trained]:
    """Yield what MMSegmentation trained."""
    hosts = ('https://download.openmmlab.com', 'https://mmassets.onedl.ai')
    for size, (stamp, miou) in MMSEG_FIGURES.items():
        folder = f'fpn_poolformer_{size}_8x4_512x512_40k_ade20k'
        path = f'mmsegmentation/v0.5/poolformer/{folder}/{folder}_{stamp}.pth'
        digits = stamp.rpartition('-')[2]
        yield Trained(
            f'semantic_fpn_poolformer_{size}_mmseg',
            f'segmentation/semantic_fpn_poolformer_{size}.py',
            tuple(Source(f'{host}/{path}', digits) for host in hosts),
            results={'mIoU': miou},
            test=MULTIPLE_OF_32,
            data='ADE20K',
            **MMSEG,
        )


TRAINED: dict[str, Trained] = {row.name: row for row in (*_theirs(), *_mmseg())}
