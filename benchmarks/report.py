"""Computing ratios from timings, and showing results."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import median, quantiles
from textwrap import shorten
from typing import Any

from benchmarks.cases import OPTIMIZED

Facts = Mapping[str, Any]

OWN = ('mmmeta eager', 'mmmeta as users')
STOCK = ('mmpretrain eager contiguous',)
EAGER = ('mmpretrain eager *', 'timm eager *')
BEST = tuple(f'mmmeta {backend}' for backend in OPTIMIZED)
RECOMPUTED = ('mmmeta recompute_mlp',)
COMPILED = ('mmpretrain compile', 'timm compile')
FROZEN = ('mmpretrain frozen', 'timm frozen')
# The comparison's label, mmmeta's rows and the others' (the best of each is used), and
# the figure. Comparisons without such rows in a case are omitted.
COMPARISONS = (
    ('as users run each', OWN[1:], ('mmpretrain as users',), 'median_ms'),
    ('eager, MMPretrain', OWN[:1], STOCK, 'median_ms'),
    ('eager, best peer', OWN[:1], EAGER, 'median_ms'),
    ('compiled, best peer', ('mmmeta compile',), COMPILED, 'median_ms'),
    ('optimized, best compiled peer', BEST, COMPILED + FROZEN, 'median_ms'),
    ('optimized, floor with activations', BEST, ('floor activations',), 'median_ms'),
    ('optimized, floor', BEST, ('floor convolutions',), 'median_ms'),
    ('recompute_mlp, MMPretrain', RECOMPUTED, STOCK, 'median_ms'),
    ('saved for backward', OWN[:1], EAGER, 'saved_mib'),
    ('saved with recompute_mlp', RECOMPUTED, EAGER, 'saved_mib'),
    ('peak memory', OWN[:1], EAGER, 'peak_mib'),
)
UNITS = {'median_ms': 'ms', 'saved_mib': 'MiB', 'peak_mib': 'MiB'}


def summarize(calls: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Return median, quartiles and minimum of calls (milliseconds, page faults)."""
    times = [ms for ms, _ in calls]
    # A single call has no quartiles.
    low, middle, high = quantiles(
        times * (2 if len(times) == 1 else 1), method='inclusive'
    )
    return dict(
        rounds=len(times),
        median_ms=middle,
        q1_ms=low,
        q3_ms=high,
        min_ms=min(times),
        faults=median(faults for _, faults in calls),
    )


def counts(row: Facts) -> bool:
    """Whether a row was measured and computes what mmmeta computes."""
    return not row['failed'] and (row['floor'] or row['error'] <= row['bound'])


def compare(case: dict[str, Any]) -> dict[str, Any]:
    """Add to a case which rows count, their ratios, and the comparisons.

    Ratios are of medians of the same run, among the rows of the shared process or among
    the 'as users' rows: to mmmeta's eager row ('to_mmmeta') and to a peer's first row
    ('to_peer').
    """
    for row in case['rows']:
        row['counts'] = counts(row)
    for alone in (False, True):
        rows = [r for r in case['rows'] if (r['process'] != 'shared') == alone]
        own = next((r for r in rows if r['name'] in OWN), None)
        peers = [r for r in rows if not r['name'].startswith(('mmmeta ', 'floor '))]
        for key, base in (('to_mmmeta', own), ('to_peer', peers[0] if peers else None)):
            for row in rows:
                known = base and base['counts'] and row['counts']
                row[key] = row['median_ms'] / base['median_ms'] if known else None
    counting = [row for row in case['rows'] if row['counts']]
    case['comparisons'] = [
        line for spec in COMPARISONS if (line := _comparison(counting, *spec))
    ]
    return case


def _comparison(
    rows: Sequence[Facts],
    label: str,
    ours: Sequence[str],
    theirs: Sequence[str],
    key: str,
) -> dict[str, Any] | None:
    own, other = _best(rows, ours, key), _best(rows, theirs, key)
    if own is None or other is None:
        return None
    return dict(
        label=label,
        figure=key,
        other=other['name'],
        mmmeta=own['name'],
        values=[other[key], own[key]],
        ratio=other[key] / own[key],
    )


def _best(rows: Sequence[Facts], patterns: Sequence[str], key: str) -> Facts | None:
    fitting = [
        row
        for row in rows
        if row.get(key) and any(fnmatchcase(row['name'], p) for p in patterns)
    ]
    return min(fitting, key=lambda row: row[key], default=None)


def show(case: Facts, markdown: bool = False) -> str:
    """Return a case's table and its comparisons, as plain text or Markdown."""
    header, cells = _table(case)
    title = f'{"## " if markdown else "== "}{case["name"]}'
    lines = [
        f'{line["label"]}: {line["other"]} {_number(line["values"][0])} / '
        f'{line["mmmeta"]} {_number(line["values"][1])} {UNITS[line["figure"]]} = '
        f'{line["ratio"]:.2f}'
        for line in case['comparisons']
    ]
    if case['least_ms']:
        lines.append(f'fewest bytes over the bandwidth: {_number(case["least_ms"])} ms')
    if markdown:
        rows = [header, ['---', *['---:'] * (len(header) - 2), '---'], *cells]
        table = [f'| {" | ".join(row)} |' for row in rows]
        return '\n'.join([title, '', *table, '', *(f'- {line}' for line in lines)])
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    table = [_align(row, widths) for row in (header, *cells)]
    return '\n'.join([title, *table, *lines])


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    """Align a row: the first and last columns are text, the others numbers."""
    first, *numbers, last = zip(row, widths, strict=True)
    middle = [text.rjust(width) for text, width in numbers]
    return '  '.join([first[0].ljust(first[1]), *middle, last[0]]).rstrip()


def _table(case: Facts) -> tuple[list[str], list[list[str]]]:
    columns: dict[str, Callable[[Facts], str]] = {
        'median ms': lambda row: _number(row.get('median_ms')),
        'quartiles': _quartiles,
        'x mmmeta': lambda row: _ratio(row['to_mmmeta']),
        'x peer': lambda row: _ratio(row['to_peer']),
        'faults': lambda row: _number(row.get('faults'), 0),
        'peak MiB': lambda row: _number(row.get('peak_mib'), 0),
        'saved MiB': lambda row: _number(row.get('saved_mib'), 0),
        'error': lambda row: '-' if row['error'] is None else f'{row["error"]:.0e}',
        'remark': _remark,
    }
    if case['task'] != 'training':
        del columns['saved MiB']
    rows = [
        [row['name'], *(cell(row) for cell in columns.values())] for row in case['rows']
    ]
    return ['alternative', *columns], rows


def _number(value: float | None, digits: int = 1) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _ratio(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def _quartiles(row: Facts) -> str:
    return f'{row["q1_ms"]:.1f}-{row["q3_ms"]:.1f}' if 'q1_ms' in row else '-'


def _remark(row: Facts) -> str:
    if row['failed']:
        return f'does not count: {shorten(row["failed"], 90, placeholder=" ...")}'
    if not row['counts']:
        return f'does not count: outputs differ by more than {row["bound"]:g}'
    if row['floor']:
        return 'a bound'
    alone = row['process'] != 'shared'
    return f'own process, {row["allocator"]} allocator' if alone else ''


def describe(environment: Facts) -> str:
    """Return the line above the tables that describes the environment."""
    versions = [
        f'{name} {environment[name]}'
        for name in ('mmmeta', 'torch', 'timm', 'mmpretrain', 'openvino')
        if environment[name]
    ]
    threads = environment['threads']
    return ', '.join(
        [
            environment.get('gpu') or environment['cpu'],
            f'{threads} thread{"s" * (threads > 1)}',
            f'{environment["allocator"]} allocator',
            *versions,
        ]
    )
