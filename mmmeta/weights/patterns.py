"""Key layouts as data: rows of rename tables and how they are applied.

A row pairs two patterns, that of an official checkpoint and mmmeta's own:

    Row('network.{2i}.{b}.[norm1|norm2].*', 'stages.{i}.blocks.{b}.[norm1|norm2].*')

`{i}` (the stage) and `{b}` (the block) are integers; `{2i-1}` and `{i+1}` derive the
official number from ours. `[a|b]` matches one of the words; the first bracket of one
side corresponds to the first of the other, word by word. `*` at the end matches any
rest. The same row is used in both directions.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from mmmeta.weights.errors import CheckpointError, first_few

MAX_DIGITS = 9  # of a number in a key; Python converts at most 4,300
_TOKEN = re.compile(
    r'\{(?P<factor>\d*)(?P<field>[a-z])(?P<offset>[+-]\d+)?\}'
    r'|\[(?P<words>[^\]]+)\]|(?P<rest>\*)$|(?P<text>[^{\[*]+)'
)


@dataclass(frozen=True)
class _Match:
    """A match of a pattern: integers by name, words by position, the rest."""

    fields: Mapping[str, int]
    words: tuple[int, ...]
    rest: str


class Pattern:
    """One side of a row; see the module's docstring.

    Args:
        text: The pattern.
        stages: Values that the field `i` may take.

    Raises:
        ValueError: The text is not a valid pattern.
    """

    def __init__(self, text: str, stages: Iterable[int]) -> None:
        self.text = text
        self.stages = tuple(stages)
        self.tokens = list(_TOKEN.finditer(text))
        if ''.join(token.group() for token in self.tokens) != text:
            raise ValueError(f'{text!r} is not a key pattern')
        self._regex = re.compile(''.join(map(self._regex_of, self.tokens)))

    @staticmethod
    def _regex_of(token: re.Match) -> str:
        if token['field']:
            return rf'(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})'
        if token['words']:
            return '(' + '|'.join(map(re.escape, token['words'].split('|'))) + ')'
        return '(.+)' if token['rest'] else re.escape(token['text'])

    def match(self, key: str) -> _Match | None:
        """Return the pattern's match in `key`, or None."""
        found = self._regex.fullmatch(key)
        if found is None:
            return None
        fields, words, rest = {}, [], ''
        groups = iter(found.groups())
        for token in self.tokens:
            if token['field']:
                number = int(next(groups)) - int(token['offset'] or 0)
                value, remainder = divmod(number, int(token['factor'] or 1))
                name = token['field']
                if remainder or (name == 'i' and value not in self.stages):
                    return None
                fields[name] = value
            elif token['words']:
                words.append(token['words'].split('|').index(next(groups)))
            elif token['rest']:
                rest = next(groups)
        return _Match(fields, tuple(words), rest)

    def format(self, match: _Match) -> str:
        """Return the key for a match of the other side's pattern."""
        words = iter(match.words)
        parts = []
        for token in self.tokens:
            if token['field']:
                number = match.fields[token['field']] * int(token['factor'] or 1)
                parts.append(str(number + int(token['offset'] or 0)))
            elif token['words']:
                parts.append(token['words'].split('|')[next(words)])
            else:
                parts.append(match.rest if token['rest'] else token['text'])
        return ''.join(parts)


@dataclass(frozen=True)
class Row:
    """One line of a rename table.

    Attributes:
        official: Pattern of the official keys.
        own: Pattern of mmmeta's keys.
        ndim: 2 or 4 for a pointwise layer: the rank of the official weight, (O, I)
            or (O, I, 1, 1); ours is always (O, I, 1, 1). None for anything else.
        stages: The stages this row applies to.
        beside: If one key of ours has two official forms: pattern of another of
            mmmeta's keys that must exist for this row to be used when writing
            official keys. Rows are tried in order.
    """

    official: str
    own: str
    ndim: int | None = None
    stages: tuple[int, ...] = (0, 1, 2, 3)
    beside: str | None = None

    @cached_property
    def patterns(self) -> tuple[Pattern, Pattern]:
        return Pattern(self.official, self.stages), Pattern(self.own, self.stages)

    def to_own(self, key: str) -> str | None:
        """Return our name of an official key, or None if the row does not apply."""
        official, own = self.patterns
        match = official.match(key)
        return None if match is None else own.format(match)

    def to_official(self, key: str, keys: Iterable[str]) -> str | None:
        """Return the official name of our `key`, one of `keys`, or None as above."""
        official, own = self.patterns
        match = own.match(key)
        if match is None:
            return None
        if self.beside and Pattern(self.beside, self.stages).format(match) not in keys:
            return None
        return official.format(match)


@dataclass(frozen=True)
class Layout:
    """The rename table of one kind of official checkpoint.

    Attributes:
        name: Its name for users. Layouts share a name if their publisher names the
            keys differently for two uses.
        rows: The table.
        prefix: The prefix of a backbone's keys in the publisher's files.
        needs: One of our keys that all models of this layout have, if models
            without it would fit the table too.
    """

    name: str
    rows: tuple[Row, ...]
    prefix: str = ''
    needs: str = ''

    def find(self, key: str) -> tuple[str, Row] | None:
        """Return our name of an official key and its row, or None."""
        for row in self.rows:
            own = row.to_own(key)
            if own is not None:
                return own, row
        return None

    def misfits(self, keys: Iterable[str]) -> list[str]:
        """Return the official keys to which no row applies."""
        return [key for key in keys if self.find(key) is None]

    def to_own(self, keys: Iterable[str]) -> dict[str, tuple[str, Row]]:
        """Return our name and the row of each official key, by official key.

        Raises:
            CheckpointError: Keys without a row, or two keys with the same name.
        """
        found: dict[str, tuple[str, Row]] = {}
        misfits = []
        for key in keys:
            pair = self.find(key)
            if pair is None:
                misfits.append(key)
            else:
                found[key] = pair
        if misfits:
            raise CheckpointError(
                f'layout {self.name!r} has no keys like {first_few(misfits)}'
            )
        refuse_collisions({key: pair[0] for key, pair in found.items()}, self.name)
        return found

    def to_official(self, keys: Iterable[str]) -> dict[str, tuple[str, Row]]:
        """Return the official name and the row of each of our keys, by our key.

        Raises:
            CheckpointError: Keys without a row, two keys with the same name, or a key
                missing that all models of the layout have.
        """
        keys = dict.fromkeys(keys)
        if self.needs and self.needs not in keys:
            raise CheckpointError(
                f'layout {self.name!r} cannot represent a model without {self.needs}'
            )
        found: dict[str, tuple[str, Row]] = {}
        for key in keys:
            for row in self.rows:
                official = row.to_official(key, keys)
                if official is not None:
                    found[key] = official, row
                    break
        misfits = [key for key in keys if key not in found]
        if misfits:
            raise CheckpointError(
                f'layout {self.name!r} cannot represent {first_few(misfits)}'
            )
        refuse_collisions({key: pair[0] for key, pair in found.items()}, self.name)
        return found


def refuse_collisions(renames: Mapping[str, str], what: str) -> None:
    """Raise CheckpointError if two keys would get the same name."""
    seen: dict[str, str] = {}
    for old, new in renames.items():
        if new in seen:
            raise CheckpointError(
                f'two keys of layout {what!r} collide: {seen[new]!r} and {old!r} '
                f'would both be {new!r}; remove one of them from the file'
            )
        seen[new] = old
