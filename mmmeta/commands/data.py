"""`mmmeta data PATH`: what a data set is, what is wrong with it, and conversions."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmeta.commands.files import check_files, disk_errors, write_whole
from mmmeta.errors import UserError, printable

if TYPE_CHECKING:
    from mmmeta.data import DataSet, Item, Split

PICTURE = Path('data.png')
MARK = 'mmmeta data'  # in pictures, so that only those are replaced unasked
TASKS = {
    'detection': 'boxes',
    'instances': 'boxes with masks',
    'segmentation': 'a map of classes for each image',
    'classification': 'a class for each image',
}
MOST = 40  # classes that are listed as text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'path',
        type=Path,
        metavar='PATH',
        help='folder of a data set: COCO, YOLO, Pascal VOC, LabelMe, maps or class '
        'folders; or a COCO file or a data.yaml',
    )
    parser.add_argument('--json', action='store_true', help='print a JSON object')
    parser.add_argument(
        '--picture',
        type=Path,
        metavar='FILE',
        help='picture of eight annotated images to write, .png or .jpg (default: '
        f'{PICTURE}; none with --json)',
    )
    parser.add_argument(
        '--to', choices=('coco', 'png'), help='write the data set in another format'
    )
    parser.add_argument(
        '-o', '--out', type=Path, metavar='FOLDER', help='new folder for --to'
    )


def run(args: argparse.Namespace) -> int:
    from mmmeta.data import read_data

    if (args.to is None) != (args.out is None):
        raise UserError('--to needs -o FOLDER, the new folder, and -o needs --to')
    if args.picture:
        check_files([args.picture])
        if args.picture.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
            raise UserError(f'--picture must end in .png or .jpg, got {args.picture}')
    data = read_data(args.path)
    facts = describe(data)
    notes = [_draw(data, args.picture, args.json)]
    if args.to:
        from mmmeta.data.convert import write_coco, write_png

        write = write_coco if args.to == 'coco' else write_png
        with disk_errors(args.out):
            facts['lost'] = lost = write(data, args.out)
        notes.append(f'wrote {args.out}')
        notes += [f'not in {args.out}: {text}' for text in lost]
    else:
        notes += [f'not read: {text}' for text in data.lost]
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for line in _report(facts):
            print(printable(line))
    for note in filter(None, notes):
        print(printable(note), file=sys.stderr if args.json else sys.stdout)
    return int(any(problem.severity == 'error' for problem in data.problems))


def describe(data: DataSet) -> dict[str, Any]:
    """Return what is known about a data set, for `--json`."""
    problems = [
        {
            'kind': problem.kind,
            'severity': problem.severity,
            'path': problem.path,
            'count': problem.count,
            'text': printable(problem.text),
        }
        for problem in data.problems
    ]
    return {
        'path': str(data.root),
        'format': data.format,
        'task': data.task,
        'splits': {name: _of_split(data, s) for name, s in data.splits.items()},
        'classes': data.classes,
        'problems': problems,
        'lost': data.lost,
    }


def _of_split(data: DataSet, split: Split) -> dict[str, Any]:
    from mmmeta.data.check import count_classes

    counts = count_classes(split.items)
    by_name = dict.fromkeys(data.classes, 0)
    for i, name in enumerate(data.classes):  # names may repeat
        by_name[name] += counts[i]
    sizes = sorted((i.width, i.height) for i in split.items if i.width and i.height)
    facts: dict[str, Any] = {
        'called': split.source,
        'images': len(split.items),
        'folder': str(split.images),
        'annotations': None if split.annotations is None else str(split.annotations),
        'counts': by_name,
    }
    if sizes:
        by_area = sorted(sizes, key=lambda size: size[0] * size[1])
        middle = by_area[len(by_area) // 2]
        facts['sizes'] = {
            'smallest': list(by_area[0]),
            'median': list(middle),
            'largest': list(by_area[-1]),
        }
    if data.task in ('detection', 'instances'):
        numbers = sorted(len(item.objects) for item in split.items)
        facts['objects'] = sum(numbers)
        facts['crowds'] = _crowds(split.items)
        facts['without_objects'] = numbers.count(0)
        facts['objects_per_image'] = {
            'smallest': numbers[0] if numbers else 0,
            'mean': round(sum(numbers) / max(1, len(numbers)), 2),
            'largest': numbers[-1] if numbers else 0,
        }
    return facts


def _crowds(items: list[Item]) -> int:
    return sum(thing.crowd for item in items for thing in item.objects)


# -- text ---------------------------------------------------------------------


def _report(facts: dict[str, Any]) -> list[str]:
    """Return what is known about a data set as lines of text."""
    count = len(facts['classes'])
    lines = [
        f'{facts["path"]}: {facts["format"]}, {TASKS[facts["task"]]}, '
        f'{count} class{"es" if count != 1 else ""}'
    ]
    for name, split in facts['splits'].items():
        called = split['called']
        title = f'{name} ({called})' if called not in ('', name) else name
        parts = [f'{split["images"]} images']
        if 'sizes' in split:
            low, mid, high = ('x'.join(map(str, s)) for s in split['sizes'].values())
            parts.append(low if low == high else f'{low} to {high}, median {mid}')
        if 'objects' in split:
            low, mean, high = split['objects_per_image'].values()
            parts.append(f'{split["objects"]} boxes, {low} to {high} an image')
            parts[-1] += f', mean {mean:g}'
            if split['without_objects']:
                parts.append(f'{split["without_objects"]} images without')
            if split['crowds']:
                parts.append(f'{split["crowds"]} crowds')
        lines.append(f'{title}: {"; ".join(parts)}')
    lines += ['', *_class_table(facts), '']
    problems = facts['problems']
    if not problems:
        lines.append('no problems')
    lines += [f'{problem["severity"]}: {problem["text"]}' for problem in problems]
    return lines


def _class_table(facts: dict[str, Any]) -> list[str]:
    """Return the classes with their numbers in each split."""
    splits = facts['splits']
    what = {'segmentation': 'pixels', 'classification': 'images'}

    def total(label: int) -> int:
        return sum(s['counts'][facts['classes'][label]] for s in splits.values())

    labels = sorted(range(len(facts['classes'])), key=total, reverse=True)[:MOST]
    names = {i: printable(facts['classes'][i]) for i in sorted(labels)}
    width = max(map(len, [*names.values(), 'class']))
    head = f'{"":>4} {"class":{width}}' + ''.join(f' {name:>12}' for name in splits)
    lines = [f'{head}  {what.get(facts["task"], "boxes")}']
    for i, name in names.items():
        counts = [split['counts'][facts['classes'][i]] for split in splits.values()]
        lines.append(f'{i:4} {name:{width}}' + ''.join(f' {n:12,}' for n in counts))
    if len(facts['classes']) > MOST:
        rest = len(facts['classes']) - MOST
        lines.append(f'     ... and {rest} with fewer (--json has all)')
    return lines


# -- the picture --------------------------------------------------------------


def _draw(data: DataSet, path: Path | None, quiet: bool) -> str:
    """Write the picture; return what to say about it."""
    from PIL.PngImagePlugin import PngInfo

    from mmmeta.data.folders import is_in
    from mmmeta.data.picture import picture

    if path is None:
        if quiet:
            return ''
        path = PICTURE
        if is_in(Path.cwd(), data.root):
            return (
                'no picture inside of the data set; --picture FILE writes it elsewhere'
            )
        if path.exists() and not _is_ours(path):
            return f'no picture: {path} is another file; --picture FILE writes one'
    elif path.exists() and is_in(path, data.root):
        raise UserError(f'--picture {path} is a file of the data set')
    drawn = picture(data)
    if drawn is None:
        return 'no picture: no annotated image can be read'
    content = io.BytesIO()
    if path.suffix.lower() == '.png':
        mark = PngInfo()
        mark.add_text('Software', MARK)
        drawn.save(content, 'png', pnginfo=mark)
    else:
        drawn.save(content, 'jpeg', quality=90)
    write_whole(path, content.getvalue())
    return f'wrote {path}'


def _is_ours(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.info.get('Software') == MARK
    except OSError:
        return False
