"""The picture of a run: bars of medians with quartiles, one panel per case."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colors for color-blind readers.
COLORS = {'mmmeta': '#D55E00', 'mmpretrain': '#0072B2', 'timm': '#009E73'}
FLOOR_COLOR = '#999999'


def plot(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the rows that were timed; those that do not count are hatched.

    Args:
        cases: Results of `run_case`.
        path: The output file; its suffix determines the format.
    """
    timed = [[r for r in case['rows'] if 'median_ms' in r] for case in cases]
    heights = [len(rows) + 2 for rows in timed]
    figure = Figure(figsize=(9, 0.28 * sum(heights)), layout='constrained')
    panels = figure.subplots(
        len(cases), squeeze=False, gridspec_kw=dict(height_ratios=heights)
    )
    for case, rows, axes in zip(cases, timed, panels[:, 0], strict=True):
        middles = [row['median_ms'] for row in rows]
        spread = [
            [row['median_ms'] - row['q1_ms'] for row in rows],
            [row['q3_ms'] - row['median_ms'] for row in rows],
        ]
        colors = [COLORS.get(row['name'].split()[0], FLOOR_COLOR) for row in rows]
        bars = axes.barh(
            [row['name'] for row in rows], middles, xerr=spread, color=colors
        )
        for bar, row in zip(bars, rows, strict=True):
            bar.set_hatch(None if row['counts'] else '///')
        labels = [
            f' {ms:.1f}' + ('' if row['counts'] else ', does not count')
            for ms, row in zip(middles, rows, strict=True)
        ]
        axes.bar_label(bars, labels, padding=6, fontsize=8)
        axes.set(title=case['name'], xlabel='ms, median and quartiles')
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=120)
