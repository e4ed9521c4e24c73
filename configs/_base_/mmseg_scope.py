"""Makes `mmseg::` bases resolve: the first base of configs that use them.

MMEngine looks for a distribution named mmsegmentation, which the forks do not have;
importing mmmeta tells it the right name. Stock tools read a config before mmmeta is
imported, so the config imports it, but without an import statement: in a virtual
environment MMEngine 0.10.7 would mistake the file for a lazy config.
"""

__import__('mmmeta')
