"""Finding the image files that annotations name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmmeta.data.faults import Faults
from mmmeta.data.tree import Tree, base, folder, split_of, stem


def image_folder(tree: Tree, names: Sequence[str], split: str, near: str) -> str:
    """Return the folder that most image names of an annotation file are relative to.

    Args:
        tree: Has the images.
        names: The names, with slashes.
        split: Of several such folders, one of this split is taken;
        near: else the one of this file.

    Returns:
        The folder, relative to the root; '' is the root.
    """
    hits: Counter[str] = Counter()
    for name in names:
        for path in tree.by_base.get(base(name).lower(), ()):
            if path == name:
                hits[''] += 1
            elif path.endswith(f'/{name}'):
                hits[path[: -len(name) - 1]] += 1
    if not hits:
        return folder(near)

    def rank(start: str) -> tuple[bool, bool, int, int]:
        same = split_of(start)[0] == split
        return same, start == folder(near), hits[start], -len(start)

    most = max(hits.values())
    # Few images may be missing in the right one.
    likely = [start for start, count in hits.items() if 2 * count >= most]
    return max(likely, key=rank)


def find_image(
    tree: Tree, start: str, name: str, faults: Faults, source: str, where: str
) -> str:
    """Return the path of an image, relative to the root.

    That it is missing is recorded as a fault, unless another folder, but not one of
    another split, has the only file of this name; that is a fault of its own.

    Args:
        tree: Has the images.
        start: The folder that the name is relative to.
        name: As in the annotations.
        faults: Gets the faults.
        source: The annotation file.
        where: The place in it.
    """
    path = f'{start}/{name}' if start else name
    if path in tree.known:
        return path
    split = split_of(source)[0]
    found = [
        other
        for other in tree.by_base.get(base(name).lower(), ())
        if base(other) == base(name)
        and (not split or split_of(folder(other))[0] in ('', split))
    ]
    if len(found) == 1:
        faults.add('image-path', source, where, f'{name} is {found[0]}')
        return found[0]
    similar = _similar(tree, path)
    detail = f'{name}; {similar} is there' if similar else name
    if len(found) > 1:
        detail = f'{name}; {len(found)} folders have such a file'
    faults.add('image-missing', source, where, detail)
    return path


def _similar(tree: Tree, path: str) -> str:
    """Return an image whose name differs by the suffix or by case, or ''."""
    same = tree.by_stem.get(stem(path)) or [
        p for p in tree.by_base.get(base(path).lower(), ()) if p.lower() == path.lower()
    ]
    return base(same[0]) if same else ''


def report_unused(
    tree: Tree, used: set[str], faults: Faults, ignore: str = '\0'
) -> None:
    """Record images in the folders of used ones that no annotation names.

    Args:
        tree: Has the images.
        used: The paths of those that are used.
        faults: Gets the faults.
        ignore: End of the names of files that are no images. Default: none.
    """
    folders = {folder(path) for path in used}
    for path in tree.images:
        if path not in used and folder(path) in folders and not path.endswith(ignore):
            faults.add('image-unused', path)
