"""The cases to measure and their alternatives."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mmmeta.archs.families import ARCHS
from mmmeta.errors import UserError

WHOLE = {  # task: (folder of its config, prefix of the config's name)
    'retinanet': ('detection', 'retinanet'),
    'semantic_fpn': ('segmentation', 'semantic_fpn'),
}
TASKS = ('backbone', 'training', *WHOLE)
# Maximum difference of outputs for a row to count, see `worker.difference`.
BOUNDS = {'float32': 1e-4, 'bfloat16': 0.1}
MODELS = 'benchmarks.models'
# Backends of mmmeta.optimize by device.
BACKENDS = {'cpu': ('onednn', 'inductor', 'openvino'), 'cuda': ('inductor',)}
OPTIMIZED = tuple(sorted({*BACKENDS['cpu'], *BACKENDS['cuda']}))


@dataclass(frozen=True)
class Case:
    """One table of the report.

    Attributes:
        task: 'backbone' (inference), 'training' (a backbone's forward and backward
            pass), 'retinanet' or 'semantic_fpn' (inference of the whole model, up to
            the maps of its head).
        arch: Family and size, such as 'poolformer_s12'.
        batch: Number of images.
        size: Their height and width in pixels.
        dtype: 'float32' or 'bfloat16', of weights and images.
    """

    task: str
    arch: str
    batch: int
    size: tuple[int, int]
    dtype: str = 'float32'

    @property
    def name(self) -> str:
        height, width = self.size
        return f'{self.task}/{self.arch}/{self.batch}x{height}x{width}/{self.dtype}'

    @classmethod
    def parse(cls, name: str) -> 'Case | None':
        """Return the case of a full name, or None if it is not one."""
        match = re.fullmatch(r'(\w+)/(\w+)/(\d+)x(\d+)x(\d+)/(\w+)', name)
        if match is None:
            return None
        task, arch, batch, height, width, dtype = match.groups()
        if task not in TASKS or arch not in ARCHS or dtype not in BOUNDS:
            return None
        return cls(task, arch, int(batch), (int(height), int(width)), dtype)


@dataclass(frozen=True)
class Alternative:
    """One row of a table.

    Attributes:
        name: Its name; the first word is the package.
        build: 'module:function', called with the case, the weights in mmmeta's
            layout, and whether to normalize the maps.
        mode: 'eager', 'compile' (torch.compile), 'frozen' (torch.compile with
            Inductor's freezing), or a backend of `mmmeta.optimize`.
        channels_last: Whether weights and images are in this memory format.
        process: 'shared' with the other rows, with raw maps; 'mmmeta tool' or 'stock
            tool': in its own process with the allocator settings of such a tool, and
            normalized maps as in a detector.
        floor: Whether it is a lower bound that computes something else.
    """

    name: str
    build: str
    mode: str = 'eager'
    channels_last: bool = False
    process: str = 'shared'
    floor: bool = False

    @property
    def as_users(self) -> bool:
        return self.process != 'shared'


def all_cases(device: str = 'cpu') -> list[Case]:
    """Return the cases for 'cpu' or 'cuda'."""
    archs = ('poolformer_s12', 'poolformerv2_s12', 'convformer_s18', 'caformer_s18')
    shapes = [(1, (224, 224)), (8, (224, 224)), (1, (512, 512)), (1, (800, 1216))]
    if device == 'cuda':
        shapes.append((2, (800, 1344)))
    cases = [
        Case('backbone', arch, batch, size, dtype)
        for arch in archs
        for dtype in BOUNDS
        for batch, size in shapes
    ]
    cases += [Case('training', arch, 2, (320, 320)) for arch in archs]
    cases.append(Case('retinanet', archs[0], 1, (800, 1216)))
    cases.append(Case('semantic_fpn', archs[0], 1, (512, 512)))
    return cases


def alternatives(case: Case, device: str = 'cpu') -> list[Alternative]:
    """Return the rows of a case on a device, starting with mmmeta's eager one."""
    training = case.task == 'training'
    own = f'{MODELS}:mmmeta'
    rows = [
        Alternative('mmmeta eager', own),
        Alternative('mmmeta compile', own, 'compile'),
    ]
    if training:
        rows.append(Alternative('mmmeta recompute_mlp', f'{MODELS}:recomputed'))
    else:
        rows.append(Alternative('mmmeta plain', f'{MODELS}:plain'))
        rows += [Alternative(f'mmmeta {name}', own, name) for name in BACKENDS[device]]
    for peer in peers(case):
        build = f'{MODELS}:{peer}'
        rows += [
            Alternative(f'{peer} eager contiguous', build),
            Alternative(f'{peer} eager channels_last', build, 'eager', True),
            Alternative(f'{peer} compile', build, 'compile', True),
        ]
        if not training:
            rows.append(Alternative(f'{peer} frozen', build, 'frozen', True))
    if case.task == 'backbone':
        rows += [
            Alternative(f'floor {what}', f'{MODELS}:{what}', 'frozen', True, floor=True)
            for what in ('convolutions', 'activations')
        ]
    if 'mmpretrain' in peers(case):
        rows += [
            Alternative('mmmeta as users', own, process='mmmeta tool'),
            Alternative(
                'mmpretrain as users', f'{MODELS}:mmpretrain', process='stock tool'
            ),
        ]
    return rows


def peers(case: Case) -> list[str]:
    """Return the names of the packages that provide the model of a case."""
    family = case.arch.split('_')[0]
    names = ['mmpretrain'] if family == 'poolformer' else []
    if case.task not in WHOLE and family in (
        *('poolformer', 'poolformerv2', 'convformer', 'caformer'),
    ):
        names.append('timm')
    return names


def select_cases(patterns: Sequence[str], device: str = 'cpu') -> list[Case]:
    """Return the cases that match any of the patterns or full names.

    Raises:
        UserError: A pattern matches none.
    """
    known = all_cases(device)
    found: dict[str, Case] = {}
    for pattern in patterns:
        fitting = [case for case in known if fnmatchcase(case.name, pattern)]
        named = Case.parse(pattern)
        if not fitting and named is None:
            raise UserError(
                f'no case matches {pattern!r}: pass wildcards for the names printed by '
                '--list, or a full name TASK/ARCH/BATCHxHEIGHTxWIDTH/DTYPE'
            )
        found |= {case.name: case for case in fitting or [named]}
    return list(found.values())


def select_alternatives(
    case: Case, patterns: Sequence[str] = ('*',), device: str = 'cpu'
) -> list[Alternative]:
    """Return the rows of a case that match any of the patterns, and the first row.

    Raises:
        UserError: None matches.
    """
    rows = alternatives(case, device)
    fitting = [r for r in rows if any(fnmatchcase(r.name, p) for p in patterns)]
    if not fitting:
        raise UserError(
            f'no alternative of {case.name} matches {" ".join(patterns)}; it has '
            + ', '.join(row.name for row in rows)
        )
    return fitting if rows[0] in fitting else [rows[0], *fitting]
