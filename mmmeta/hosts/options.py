"""`--cfg-options KEY=VALUE ...` of the tools and commands, with MMEngine's meaning."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmmeta.errors import UserError, one_line

if TYPE_CHECKING:
    from mmengine.config import Config


class ConfigOptions(argparse.Action):
    """MMEngine's `DictAction`, imported only if the option is used.

    Values that it cannot parse are usage errors.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        action = DictAction(self.option_strings, self.dest, self.nargs)
        for text in values:
            key, equals, _ = text.partition('=')
            if not equals or not all(key.split('.')):
                raise argparse.ArgumentError(
                    self, f'expected KEY=VALUE, nested keys with dots, got {text!r}'
                )
            try:
                action(parser, namespace, [text], option_string)
            except (AssertionError, RecursionError) as error:
                raise argparse.ArgumentError(
                    self, f'the brackets of {text!r} do not match'
                ) from error


def merge_options(cfg: 'Config', options: Mapping[str, Any]) -> None:
    """Override settings of a config by dotted keys; new keys are added.

    Raises:
        UserError: A key leads into a value without such entries.
    """
    for key in options:
        # Values that are deleted first may be of any type.
        if not any(k.endswith('._delete_') for k in options):
            _check_key(cfg, key)
    try:
        cfg.merge_from_dict(dict(options))
    except (AttributeError, KeyError, TypeError) as error:  # one key inside another
        raise UserError(
            f'--cfg-options {" ".join(options)}: {one_line(error)}'
        ) from error


def _check_key(cfg: 'Config', key: str) -> None:
    """Check a key as far as it exists in the config."""
    value: Any = cfg
    names = key.split('.')
    for i, name in enumerate(names):
        where = '.'.join(names[:i])
        if isinstance(value, list):
            if not name.isdigit() or int(name) >= len(value):
                raise UserError(
                    f'--cfg-options {key}: {where} is a list of {len(value)}, expected '
                    f'an index below that, got {name!r}'
                )
            if i == len(names) - 1 and not isinstance(value[int(name)], Mapping):
                raise UserError(
                    f'--cfg-options {key}: MMEngine cannot replace an entry of a list; '
                    f'pass the whole list, {where}=[...]'
                )
            value = value[int(name)]
        elif i and not isinstance(value, Mapping):
            raise UserError(
                f'--cfg-options {key}: {where} is {value!r:.80}, which has no '
                f'entry {name!r}; pass all of it, {where}=...'
            )
        elif name not in value:
            return
        else:
            value = value[name]
