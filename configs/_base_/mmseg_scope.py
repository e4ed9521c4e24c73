"""Makes `mmseg::` bases resolve: the first base of what has some.

MMEngine takes mmseg for a distribution named mmsegmentation, which the forks do not
have; importing mmmeta tells it the right name. Tools that are not ours read a config
before anything has imported mmmeta, so the config does it. By no import statement:
MMEngine 0.10.7 in a virtual environment would take the file for a lazy config.
"""

__import__('mmmeta')
