"""`--cfg-options`: MMEngine's meaning, and one line for what has none."""

import argparse

import pytest
from mmengine.config import Config

from mmmeta.errors import UserError
from mmmeta.hosts.options import ConfigOptions, merge_options


def parse(*words: str) -> dict:
    parser = argparse.ArgumentParser('tool')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('a=1', 1),
        ('a=1e-3', 0.001),
        ('a=1,2', [1, 2]),
        ('a=[1,b]', [1, 'b']),
        ('a=(1,2)', (1, 2)),
        ('a=[(1,2),(3,4)]', [(1, 2), (3, 4)]),
        ("a=\"['x','y']\"", ['x', 'y']),
        ("a='text'", 'text'),
        ('a=None', None),
        ('a=true', True),
        ('a=False', False),
        ('a=x=y=z', 'x=y=z'),
        ('a=', ''),
        ('a.b.0.c=s12', 's12'),
    ],
)
def test_values_are_those_of_mmengine(text, value):
    ((key, found),) = parse(text).items()
    assert (key, found, type(found)) == (text.partition('=')[0], value, type(value))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model.depth', "expected KEY=VALUE, nested keys with dots, got 'model.depth'"),
        ('=1', "expected KEY=VALUE, nested keys with dots, got '=1'"),
        ('a..b=1', "expected KEY=VALUE, nested keys with dots, got 'a..b=1'"),
        ('a.=1', "expected KEY=VALUE, nested keys with dots, got 'a.=1'"),
        ('a=[1,2', "the brackets of 'a=[1,2' do not match"),
        ('a=),(', "the brackets of 'a=),(' do not match"),
    ],
)
def test_what_is_none_is_an_error_of_usage(text, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse('b=1', text)
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f'tool: error: argument --cfg-options: {message}'


def config() -> Config:
    return Config(
        dict(
            model=dict(arch='s12', dims=(1, 2), init_cfg=None, norm=dict(type='GN')),
            pipeline=[dict(type='Load'), dict(type='Resize', scale=(4, 4))],
            rates=[1, 2],
        )
    )


def test_options_are_merged_as_mmengine_does():
    cfg = config()
    merge_options(
        cfg,
        {
            'model.arch': 's24',
            'model.norm.eps': 1e-3,
            'pipeline.1.scale': (8, 8),
            'pipeline.0.new': True,
            'rates': [3],
            'new.key': 5,
        },
    )
    assert cfg.model.to_dict() == dict(
        arch='s24', dims=(1, 2), init_cfg=None, norm=dict(type='GN', eps=1e-3)
    )
    assert cfg.pipeline == [
        dict(type='Load', new=True),
        dict(type='Resize', scale=(8, 8)),
    ]
    assert (cfg.rates, cfg.new.key) == ([3], 5)
    merge_options(cfg, {'model.init_cfg._delete_': True, 'model.init_cfg.a': 1})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'pipeline.2.scale': 1}, 'pipeline is a list of 2, expected an index below'),
        ({'pipeline.x.scale': 1}, "an index below that, got 'x'"),
        ({'rates.0': 5}, 'pass the whole list, rates=[...]'),
        ({'model.arch.depth': 5}, "model.arch is 's12', which has no entry 'depth'"),
        ({'model.dims.0': 5}, "model.dims is (1, 2), which has no entry '0'"),
        ({'model.init_cfg.type': 5}, "model.init_cfg is None, which has no entry 'ty"),
        ({'new': 1, 'new.key': 2}, '--cfg-options new new.key: TypeError'),
    ],
)
def test_keys_that_lead_nowhere_are_one_line(options, message):
    with pytest.raises(UserError) as error:
        merge_options(config(), options)
    assert message in str(error.value) and '\n' not in str(error.value)
    assert str(error.value).startswith('--cfg-options ')
