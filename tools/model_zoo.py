"""Write docs/model_zoo.md and the README's table from the metafiles.

    python tools/model_zoo.py           # write
    python tools/model_zoo.py --check   # exit code 1 if a file is not up to date

A model's figures come from its metafile; its title and the source of its figures, from
the first line of its config's docstring: `WHAT: RESULT (SOURCE).`
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/model_zoo.md'
README = ROOT / 'README.md'
BEGIN, END = '<!-- made by tools/model_zoo.py -->\n', '<!-- end -->'

# Metrics of a metafile, in the order of the columns, and their headers.
METRICS = {
    'box AP': 'box AP',
    'mask AP': 'mask AP',
    'mIoU': 'mIoU',
    'mIoU(ms+flip)': 'mIoU, several scales',
    'Top 1 Accuracy': 'top-1 %',
}
TITLES = {
    'detection': 'Detection and instance segmentation, COCO',
    'segmentation': 'Semantic segmentation, ADE20K',
    'classification': 'Classification, ImageNet-1k',
}
NOTES = {
    'segmentation': (
        'MMSegmentation trained Semantic FPN with PoolFormer again: its weights, with '
        '37.07, 40.36, 41.81,\n42.35 and 42.76 mIoU as it reports, are named '
        '`semantic_fpn_poolformer_s12_mmseg` and so on. The\nresults of ConvFormer and '
        'CAFormer are second-hand: MambaOut (2405.07992, table 3) lists them.\n\n'
    ),
}
METHODS = {
    'retinanet': 'RetinaNet',
    'mask_rcnn': 'Mask R-CNN',
    'cascade_mask_rcnn': 'Cascade Mask R-CNN',
    'semantic_fpn': 'Semantic FPN',
    'upernet': 'UPerNet',
}
INTRODUCTION = """# Model zoo

<!-- made by tools/model_zoo.py -->

Every config with its published result and size. The results are those that the source
in the "published by" column reports for its own training; this project measured none of
them, and cells without a published figure are empty. The weights in the last column are
whole models, which `mmmeta predict NAME photo.jpg`, `mmmeta.load('NAME')` and
`mmmeta://NAME` use by the name of their config ([trained models](trained_models.md)).
For training, all detectors and segmentors start from the ImageNet backbone weights
of the third table, set by `init_cfg` in their config.
"""


def models() -> Iterator[dict]:
    """Yield the metafiles' models, each with its task, title and source."""
    for path in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        for model in yaml.safe_load((ROOT / path).read_text())['Models']:
            config = ROOT / model['Config']
            docstring = ast.get_docstring(ast.parse(config.read_text()))
            first = docstring.split('\n')[0]
            source = re.search(r'\(([^()]+)\)\.$', first)
            if model['Results'] and not source:
                raise ValueError(
                    f'{model["Config"]}: its result needs a source at the end of the '
                    f"docstring's first line, '... (SOURCE).', got {first!r}"
                )
            metrics = {}
            for result in model['Results']:
                metrics |= result['Metrics']
            unknown = metrics.keys() - METRICS
            if unknown:
                raise ValueError(f'{model["Name"]}: unknown metrics {sorted(unknown)}')
            yield dict(
                model,
                task=config.parent.name,
                title=re.split(r'[:.](?: |$)', first)[0],
                source=source[1] if source and metrics else '',
                metrics=metrics,
            )


def schedule(metadata: dict) -> str:
    if 'Iterations' in metadata:
        return f'{metadata["Iterations"]:,} iterations'
    return f'{metadata["Epochs"]} epochs'


def row(cells: list[str]) -> str:
    return f'| {" | ".join(cells)} |\n'


def table(rows: list[dict]) -> str:
    """Return one task's table: a row per model, a column per metric in use."""
    used = [key for key in METRICS if any(key in model['metrics'] for model in rows)]
    headers = ['config', *(METRICS[key] for key in used)]
    headers += ['training', 'parameters', 'published by', 'weights']
    text = row(headers) + row(['---'] * len(headers))
    for model in rows:
        cells = [f'[{model["title"]}](../{model["Config"]})']
        cells += [str(model['metrics'].get(key, '')) for key in used]
        cells += [schedule(model['Metadata'])]
        cells += [f'{model["Metadata"]["Parameters"] / 1e6:.1f} M', model['source']]
        cells += [f'[file]({model["Weights"]})' if model.get('Weights') else '']
        text += row(cells)
    return text


def page() -> str:
    text, found = INTRODUCTION, list(models())
    for task, title in TITLES.items():
        rows = [model for model in found if model['task'] == task]
        text += f'\n## {title}\n\n{NOTES.get(task, "")}{table(rows)}'
    return text


def summary() -> str:
    """Return the README's table: a row per method and family."""
    groups: dict[tuple[str, str], list[str]] = {}
    for model in models():
        name = model['Name']
        method = next((m for m in METHODS if name.startswith(f'{m}_')), None)
        if method is None:  # a classifier
            continue
        family = model['title'].split(', ')[1].split('-')[0]
        size = name.removeprefix(f'{method}_{family.lower()}_')
        figures = ' / '.join(map(str, model['metrics'].values()))
        cell = f'[{size}]({model["Config"]}) {figures}'.strip()
        groups.setdefault((method, family), []).append(cell)
    text = row(['method', 'backbone', 'config and published result'])
    text += row(['---'] * 3)
    for (method, family), cells in groups.items():
        text += row([METHODS[method], family, ', '.join(cells)])
    return text


def readme() -> str:
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f'README.md lacks the lines {BEGIN!r} and {END!r}')
    return f'{before}{BEGIN}{summary()}{end}{after}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    check = parser.parse_args().check
    stale = []
    for path, text in ((PAGE, page()), (README, readme())):
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.relative_to(ROOT).as_posix())
        if not check:
            path.write_text(text)
    if check and stale:
        sys.exit(f'error: {" and ".join(stale)} differ: run tools/model_zoo.py')
    print(f'written: {", ".join(stale)}' if stale else 'everything is up to date')


if __name__ == '__main__':
    main()
