"""Recognizing a data set's format by its content."""

from __future__ import annotations

import os

from mmmeta.data.model import DataSet


def read_data(path: str | os.PathLike[str]) -> DataSet:
    """Read a data set of any known format, with everything that is wrong with it.

    Args:
        path: Its folder; or a COCO file or a data.yaml.

    Raises:
        UserError: The format is not recognized; lists what was found and what is
            expected.
    """
    raise NotImplementedError
