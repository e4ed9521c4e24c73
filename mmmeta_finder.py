"""Finds `mmcv._ext`, mmcv's compiled operators, where nothing else does.

`mmmeta_finder.pth`, beside the installed package, imports this file whenever Python
starts: stock tools import MMDetection before they read a config that names mmmeta. So
it needs no other import; nothing happens until somebody imports `mmcv._ext`, and a
compiled one is found first. MMMETA_MMCV_OPS=0 switches it off.
"""

import os
import sys


class Finder:
    """A meta path finder (PEP 451) of one module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return the spec of the stand-in for `mmcv._ext`, and None for all else."""
        if name != 'mmcv._ext' or os.environ.get('MMMETA_MMCV_OPS') == '0':
            return None
        from importlib.util import find_spec, spec_from_file_location

        package = find_spec('mmmeta')
        if package is None or not package.submodule_search_locations:
            return None
        folder = package.submodule_search_locations[0]
        return spec_from_file_location(
            name, os.path.join(folder, 'hosts', 'mmcv_ops.py')
        )


def install():
    """Put the finder last, once."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)


install()
