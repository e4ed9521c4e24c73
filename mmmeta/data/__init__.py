"""The users' data sets: recognized by content, checked, converted.

`read_data(path)` reads any of the formats. Neither PyTorch nor MMEngine is needed.
"""

from mmmeta.data.faults import Problem
from mmmeta.data.model import DataSet, Item, Maps, Object, Split
from mmmeta.data.recognise import read_data

__all__ = ['DataSet', 'Item', 'Maps', 'Object', 'Problem', 'Split', 'read_data']
