"""Finds a replacement for `mmcv._ext`, mmcv's compiled operators, if mmcv has none.

`mmmeta_finder.pth`, next to the installed package, imports this file whenever Python
starts, because stock tools import MMDetection before they read a config that names
mmmeta. It therefore imports nothing else and does nothing until `mmcv._ext` is
imported; compiled operators are found first. MMMETA_MMCV_OPS=0 disables it.
"""

import os
import sys

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


def install() -> None:
    """Append the finder to the path finders, once."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)


install()
