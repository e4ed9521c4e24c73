"""Adds two items to the package; everything else is in pyproject.toml.

mmmeta/.mim is the folder that mim reads. mmmeta_finder.pth makes Python import
mmmeta_finder.py when it starts, which finds operators for mmcv.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Add mmmeta/.mim and mmmeta_finder.pth.

    A wheel gets copies; an editable install gets links, so that edits take effect.
    """

    def run(self):
        super().run()
        self.add_mim()
        # An editable wheel contains only files that are installed next to the package.
        install = self.get_finalized_command('install')
        site = install.install_purelib if self.editable_mode else self.build_lib
        Path(site, 'mmmeta_finder.pth').write_text('import mmmeta_finder\n')

    def add_mim(self):
        parent = 'mmmeta' if self.editable_mode else Path(self.build_lib, 'mmmeta')
        mim = Path(parent, '.mim')
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM_FILES:
            if self.editable_mode:
                os.symlink(os.path.join('..', '..', name), mim / name)
            elif Path(name).is_dir():
                ignored = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(name, mim / name, ignore=ignored)
            else:
                shutil.copy2(name, mim / name)


setup(cmdclass={'build_py': BuildWithMim})
