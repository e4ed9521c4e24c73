"""What stock tools of OpenMMLab need from mmmeta before they read a config.

A replacement for `mmcv._ext`, mmcv's compiled operators, if mmcv has none; compiled
operators are found first, and MMMETA_MMCV_OPS=0 disables it. And the names `mmmeta::`
and `mmseg::` for configs, which MMEngine has in a table of its own.

`mmmeta_finder.pth`, next to the installed package, imports this file whenever Python
starts, because stock tools import MMDetection before they read a config that names
mmmeta. It therefore imports nothing else and does nothing until one of the two modules
is imported.
"""

import os
import sys

TABLE_OF = 'mmengine.config.utils'
TYPE_CHECKING = False  # as in `typing`, whose import takes time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class Finder:
    """A meta path finder (PEP 451) for one module."""

    @staticmethod
    def find_spec(
        name: str,
        path: 'Sequence[str] | None' = None,
        target: 'ModuleType | None' = None,
    ) -> 'ModuleSpec | None':
        """Return the spec of the replacement for `mmcv._ext`, else None."""
        if name != 'mmcv._ext' or os.environ.get('MMMETA_MMCV_OPS') == '0':
            return None
        from importlib.util import find_spec, spec_from_file_location

        package = find_spec('mmmeta')
        if package is None or not package.submodule_search_locations:
            return None
        folder = os.path.join(
            package.submodule_search_locations[0], 'hosts', 'mmcv_ops'
        )
        return spec_from_file_location(
            name,
            os.path.join(folder, '__init__.py'),
            submodule_search_locations=[folder],
        )


class ConfigNames:
    """A meta path finder that completes MMEngine's table of config packages."""

    @staticmethod
    def find_spec(
        name: str,
        path: 'Sequence[str] | None' = None,
        target: 'ModuleType | None' = None,
    ) -> 'ModuleSpec | None':
        """Return the spec of `mmengine.config.utils`, with the table, else None."""
        if name != TABLE_OF:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        loader = spec and spec.loader
        if loader is None or not hasattr(loader, 'exec_module'):
            return None
        execute = loader.exec_module

        def exec_module(module: 'ModuleType') -> None:
            execute(module)
            name_configs(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def name_configs(module: 'ModuleType') -> None:
    """Make `mmmeta::` and `mmseg::` configs resolve.

    MMEngine looks for a distribution named mmsegmentation, but the fork's has a
    different name.
    """
    from importlib.util import find_spec

    table = getattr(module, 'MODULE2PACKAGE', None)
    if isinstance(table, dict):
        table['mmmeta'] = 'mmmeta'
        if find_spec('mmseg'):
            table['mmseg'] = 'mmseg'


def install() -> None:
    """Add the finders to the path finders, once."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
        sys.meta_path.insert(0, ConfigNames)  # its module is found by others, too
        if TABLE_OF in sys.modules:
            name_configs(sys.modules[TABLE_OF])


install()
