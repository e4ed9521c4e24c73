"""Everything is in pyproject.toml, but for the folder where mim looks: mmmeta/.mim."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Put configs, tools and the model index into mmmeta/.mim.

    A wheel gets copies; an editable install gets links, so that an edit is seen.
    """

    def run(self):
        super().run()
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
