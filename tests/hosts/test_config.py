"""What a config is checked for before anything is built, and `--out`."""

import pytest
from mmengine.config import Config

from mmmeta.errors import UserError
from mmmeta.hosts.config import add_output, check_data, check_evaluator


def loader(**dataset: object) -> Config:
    return Config(dict(train_dataloader=dict(dataset=dict(type='X', **dataset))))


def test_class_names_that_are_one_string(tmp_path):
    for cfg in (
        loader(metainfo=dict(classes='circle')),
        loader(classes='circle'),
        Config(
            dict(
                train_dataloader=dict(
                    dataset=dict(dataset=dict(metainfo=dict(classes='circle')))
                )
            )
        ),
    ):
        with pytest.raises(UserError) as error:
            check_data(cfg, ('train_dataloader',))
        message = str(error.value)
        assert message.startswith('train_dataloader: ')
        assert "classes is a string, 'circle'; expected a tuple of names" in message
        assert "('circle',)" in message
    (tmp_path / 'names.txt').write_text('circle\n')
    for names in (('circle',), ['circle'], str(tmp_path / 'names.txt')):
        check_data(loader(metainfo=dict(classes=names)), ('train_dataloader',))


def test_data_behind_links(tmp_path):
    (tmp_path / 'disk/images').mkdir(parents=True)
    (tmp_path / 'disk/ann.json').touch()
    (tmp_path / 'data').symlink_to('disk')
    (tmp_path / 'gone').symlink_to('nowhere')
    names = ('train_dataloader',)
    check_data(loader(data_root=f'{tmp_path}/data/', ann_file='ann.json'), names)
    with pytest.raises(UserError) as error:
        check_data(loader(data_root=f'{tmp_path}/gone/'), names)
    assert f'{tmp_path}/gone/ does not exist (a link to {tmp_path}/nowhere). ' in str(
        error.value
    )


def config_of(scope: str, evaluator: object) -> Config:
    return Config(dict(default_scope=scope, test_evaluator=evaluator, test_cfg={}))


IOU = dict(type='IoUMetric', iou_metrics=['mIoU'])
DUMP = dict(type='DumpDetResults', out_file_path='f.pkl')
COCO = dict(type='CocoMetric')


@pytest.mark.parametrize(
    ('evaluator', 'expected'),
    [
        (IOU, [dict(IOU, output_dir='maps')]),
        ([DUMP, IOU], [DUMP, dict(IOU, output_dir='maps')]),
        (
            dict(type='Evaluator', metrics=[IOU]),
            dict(type='Evaluator', metrics=[dict(IOU, output_dir='maps')]),
        ),
        (dict(metrics=IOU), dict(metrics=[dict(IOU, output_dir='maps')])),
    ],
)
def test_maps_of_a_test_are_written(evaluator, expected):
    cfg = config_of('mmseg', evaluator)
    add_output(cfg, 'maps')
    assert cfg.to_dict()['test_evaluator'] == expected


@pytest.mark.parametrize(
    ('evaluator', 'expected'),
    [
        (COCO, [COCO, DUMP]),
        ([COCO, COCO], [COCO, COCO, DUMP]),
        (dict(metrics=[COCO]), dict(metrics=[COCO, DUMP])),
    ],
)
def test_predictions_of_a_test_are_dumped(evaluator, expected):
    cfg = config_of('mmdet', evaluator)
    add_output(cfg, 'f.pkl')
    assert cfg.to_dict()['test_evaluator'] == expected


def test_a_test_without_what_it_needs():
    cfg = config_of('mmseg', [dict(type='DumpResults', out_file_path='f.pkl')])
    with pytest.raises(UserError, match='--out: no metric in test_evaluator'):
        add_output(cfg, 'maps')
    check_evaluator(cfg)
    for name in ('test_evaluator', 'test_cfg'):
        cfg = config_of('mmseg', IOU)
        cfg[name] = None
        with pytest.raises(UserError, match=f'has no {name}; a test needs'):
            check_evaluator(cfg)
