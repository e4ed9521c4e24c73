"""Makes `mmseg::` bases resolve: the first base of what has some.

MMEngine takes mmseg for a distribution named mmsegmentation, which the forks do not
have; importing mmmeta tells it the right name. Tools that are not ours read a config
before anything has imported mmmeta, so the config does it.
"""

import importlib

importlib.import_module('mmmeta')
