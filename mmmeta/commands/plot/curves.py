"""Training curves from the scalars that MMEngine logs.

A work folder has a folder for each start of training, named by its time, with
`vis_data/scalars.json`: a line for each logged step and for each validation.
"""

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

from mmmeta.commands.files import write_whole
from mmmeta.errors import UserError

SCALARS = 'vis_data/scalars.json'
PLACE = {'iter', 'epoch', 'step'}  # the position of a line; all other keys are values
DEFAULT_KEYS = ('loss', '*loss*', 'lr', '*mAP', '*mIoU', '*accuracy/top1')
# Okabe and Ito's colors for color-blind readers, without the yellow.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')
STYLES: tuple[Literal['-', '--', ':', '-.'], ...] = ('-', '--', ':', '-.')
STYLE: dict[Any, Any] = {  # some versions of matplotlib have a type for its keys
    'axes.axisbelow': True,
    'axes.edgecolor': '#666666',
    'axes.formatter.useoffset': False,
    'axes.grid': True,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'font.size': 9,
    'grid.color': '#e5e5e5',
    'legend.frameon': False,
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'mmmeta',  # the same file for the same logs
}


@dataclass
class Series:
    """The values of one key: `y[i]` after iteration `x[i]`."""

    validation: bool
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)


class Look(NamedTuple):
    """The style of a run's lines."""

    color: str
    style: Literal['-', '--', ':', '-.']


@dataclass
class Run:
    """The log of a run: a series for each key, in the order of the log."""

    name: str
    series: dict[str, Series]


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Read the newest run in a work folder.

    If it was resumed, the earlier logs are prepended, up to where each was resumed.
    Starts that were killed before their first log line are skipped.

    Args:
        folder: A work folder, or one of the folders named by a time in it, to read
            only that one.
        name: Its name in the legend. Default: the work folder's name.

    Raises:
        UserError: There is no such folder, no log in it, or a line is not JSON; the
            last line of a log may be truncated.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'no folder {folder}; expected the work folder of a training')
    starts = [folder] if (folder / SCALARS).is_file() else sorted(folder.iterdir())
    logs: list[list[dict]] = []
    for start in reversed(starts):
        if records := _read_records(start / SCALARS):
            logs.insert(0, records)
            if _from_scratch(start):
                break
    if not logs:
        raise UserError(
            f'no log in {folder}: expected lines in {folder}/TIME/{SCALARS}; the first '
            'is written after default_hooks.logger.interval training steps'
        )
    return Run(name or folder.resolve().name, _series(logs))


def _from_scratch(start: Path) -> bool:
    """Whether the config saved next to a log shows that nothing was resumed."""
    config = start / 'vis_data/config.py'
    return config.is_file() and bool(
        re.search(r'^resume = False', config.read_text(), re.M)
    )


def _read_records(file: Path) -> list[dict]:
    texts = file.read_text().splitlines() if file.is_file() else []
    records = []
    for number, text in enumerate(texts, 1):
        try:
            records.append(json.loads(text))
        except ValueError:
            if number == len(texts):  # training was killed while writing this line
                break
            raise UserError(f'{file}, line {number}: not JSON: {text[:40]!r}') from None
    return records


def _series(logs: list[list[dict]]) -> dict[str, Series]:
    """Join the logs of a run; where two overlap, the later one is used."""
    length = _epoch_length([record for records in logs for record in records])
    points: list[tuple[float, bool, dict]] = []
    first, first_step = math.inf, math.inf  # of all lines, and of training steps
    for records in reversed(logs):
        older = [
            (x, validation, record)
            for x, validation, record in _points(records, length)
            if x < first or (not validation and x < first_step)
        ]
        points = older + points
        first = points[0][0] if points else first
        steps = (x for x, validation, _ in points if not validation)
        first_step = next(steps, first_step)
    series: dict[str, Series] = {}
    for x, validation, record in points:
        for key, value in record.items():
            if key not in PLACE and isinstance(value, int | float):
                row = series.setdefault(key, Series(validation))
                if row.validation == validation:  # both kinds of lines have `time`
                    row.x.append(x)
                    row.y.append(value)
    return series


def _points(records: list[dict], length: float) -> Iterator[tuple[float, bool, dict]]:
    """Yield each record's iteration, whether it is a validation, and the record."""
    # A resumed run may begin with the validation that its checkpoint was without.
    epoch = next((r['epoch'] for r in records if 'epoch' in r), 0)
    for record in records:
        if 'iter' in record:
            epoch = record.get('epoch', 0)
            yield record['iter'], False, record
        else:  # epoch-based training logs validations by epoch
            by_epoch = record['step'] <= epoch
            yield record['step'] * (length if by_epoch else 1), True, record


def _epoch_length(records: list[dict]) -> float:
    """Return the number of iterations per epoch, which is not logged.

    Lines are at the same positions in each epoch, so compare the first of two epochs.
    """
    first: dict[int, int] = {}
    for record in records:
        if 'epoch' in record:
            first.setdefault(record['epoch'], record['iter'])
    if len(first) > 1:
        (a, at_a), *_, (b, at_b) = first.items()
        return (at_b - at_a) / (b - a)
    ends = [record['iter'] for record in records if 'epoch' in record]
    return max(ends, default=0) / max(first, default=1)


def choose_keys(runs: Sequence[Run], patterns: Sequence[str] = ()) -> list[str]:
    """Return the keys to draw, in the order of the patterns and then of the logs.

    Args:
        runs: The runs.
        patterns: Keys, or wildcards for several. Default: losses, learning rate, box
            and mask AP, mIoU and top-1 accuracy.

    Raises:
        UserError: A pattern matches no key; lists the keys.
    """
    known = list(dict.fromkeys(key for run in runs for key in run.series))
    chosen = {}
    for pattern in patterns or DEFAULT_KEYS:
        fits = [key for key in known if fnmatchcase(key, pattern)]
        if patterns and not fits:
            raise UserError(f'no key {pattern!r}; the log has {", ".join(known)}')
        chosen.update(dict.fromkeys(fits))
    terms = [key for key in chosen if 'loss' in key and key != 'loss']
    if not patterns and 'loss' in chosen and len(terms) == 1:
        del chosen[terms[0]]  # a single term equals the sum
    return list(chosen)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the centered mean of `window` values for each value.

    Near an end the window is narrower to stay centered. NaNs and infinities are
    ignored, unless there is nothing else.
    """
    result = []
    for i, value in enumerate(values):
        half = min(window // 2, i, len(values) - 1 - i)
        near = [v for v in values[i - half : i + half + 1] if math.isfinite(v)]
        result.append(math.fsum(near) / len(near) if near else value)
    return result


def draw(
    runs: Sequence[Run],
    keys: Sequence[str],
    window: int | None = None,
    log: bool = False,
) -> Figure:
    """Return a figure with a panel for each key and a line for each run.

    Args:
        runs: The runs, each drawn in its own color.
        keys: The keys to draw.
        window: Number of logged values to average; the raw values are drawn faintly.
            Learning rates and validations are not averaged. Default: a twentieth of
            the log.
        log: Use a logarithmic scale for losses and learning rates. Default: False.
    """
    columns = 2 if len(keys) == 4 else min(len(keys), 3)
    rows = math.ceil(len(keys) / columns)
    looks = [_look(number) for number in range(len(runs))]
    with rc_context(STYLE):
        figure = Figure((3.4 * columns, 2.2 * rows + 0.5), layout='constrained')
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axis, key in zip(axes, keys, strict=False):
            for run, look in zip(runs, looks, strict=True):
                if key in run.series:
                    smoothed = not (run.series[key].validation or key.endswith('lr'))
                    _draw_series(axis, run.series[key], look, window if smoothed else 1)
            _finish(axis, key, log)
        for axis in axes[len(keys) :]:
            axis.remove()
        for axis in axes[len(keys) - columns : len(keys)]:  # the lowest panels
            axis.tick_params(labelbottom=True)
        figure.supxlabel('iteration', fontsize='medium')
        handles = [
            Line2D([], [], color=color, linestyle=style, label=run.name)
            for run, (color, style) in zip(runs, looks, strict=True)
        ]
        figure.legend(
            handles=handles, loc='outside upper left', ncols=min(len(runs), columns)
        )
    return figure


def save(figure: Figure, file: str | Path) -> None:
    """Write a figure in the format of the file's extension."""
    file, content = Path(file), io.BytesIO()
    metadata = {'Date': None} if file.suffix == '.svg' else None
    with rc_context(STYLE):
        figure.savefig(content, dpi=150, format=file.suffix[1:], metadata=metadata)
    write_whole(file, content.getvalue())


def _look(number: int) -> Look:
    turn, color = divmod(number, len(COLORS))
    return Look(COLORS[color], STYLES[turn % len(STYLES)])


def _draw_series(axis: Axes, series: Series, look: Look, window: int | None) -> None:
    if window is None:
        window = len(series.y) // 20
    axis.plot(
        series.x,
        smooth(series.y, window),
        color=look.color,
        linestyle=look.style,
        marker='o' if series.validation else None,
        markersize=3,
    )
    if window > 1:
        axis.plot(series.x, series.y, alpha=0.35, linewidth=0.8, color=look.color)
    if series.validation:
        axis.annotate(
            f'{series.y[-1]:.4g}',
            (series.x[-1], series.y[-1]),
            xytext=(0, 4),
            textcoords='offset points',
            ha='center',
            color=look.color,
        )


def _finish(axis: Axes, key: str, log: bool) -> None:
    axis.set_title(key, loc='left', fontsize='medium')
    axis.margins(y=0.12)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10), integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=''))
    axis.set_xlim(left=0)
    if log and ('loss' in key or key.endswith('lr')):
        axis.set_yscale('log', nonpositive='mask')
        low, high = axis.get_ylim()
        span = high / low
        subs = (1,) if span > 300 else (1, 2, 5) if span > 10 else (1, 2, 3, 5, 7)
        axis.yaxis.set_major_locator(LogLocator(subs=subs))
        axis.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axis.yaxis.set_minor_locator(NullLocator())
