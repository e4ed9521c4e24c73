"""What MMEngine reads and formats again and again is read and formatted once."""

import functools
import importlib.util

import mmengine.config.utils
import yapf.yapflib.yapf_api


def quicken() -> None:
    """Remember the libraries' metafiles and the formatted texts of configs.

    For each base of a library MMEngine rereads the library's hundred metafiles, which
    takes nine tenths of a config's time. A training formats the text of its config five
    times, which takes a third of a short one.
    """
    mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)
    plain, found = yapf.yapflib.yapf_api.FormatCode, {}

    def format_once(text: str, **options: object) -> tuple[str, bool]:
        key = text, repr(options)
        if key not in found:
            found[key] = plain(text, **options)
        return found[key]

    yapf.yapflib.yapf_api.FormatCode = format_once


def read_metafiles(library: str) -> None:
    """Read those of an installed library, for forks of this process."""
    (folder,) = importlib.util.find_spec(library).submodule_search_locations
    read = mmengine.config.utils.load
    for path in read(f'{folder}/.mim/model-index.yml')['Import']:
        read(f'{folder}/.mim/{path}')
