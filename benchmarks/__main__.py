"""Measure speed and memory compared with other implementations.

python -m benchmarks --quick
python -m benchmarks --cases '*/1x800x1216/*' --json bench.json --plot bench.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmmeta.cli import exit_status
from mmmeta.commands.arguments import positive
from mmmeta.errors import UserError

NAME = 'benchmarks'
QUICK_CASE = 'backbone/poolformer_s12/1x224x224/float32'
QUICK_ROWS = ('* eager', '* eager *')
QUICK_ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: The arguments. Default: `sys.argv[1:]`.
    """
    parser = argparse.ArgumentParser(
        'python -m benchmarks', description=__doc__.split('\n')[0]
    )
    add_arguments(parser)
    return exit_status(NAME, run, parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--cases',
        nargs='+',
        metavar='PATTERN',
        help="wildcards for case names, such as 'backbone/*/1x800x1216/*', or a "
        'full name of any arch and size (default: all)',
    )
    parser.add_argument(
        '--alternatives',
        nargs='+',
        metavar='PATTERN',
        help="wildcards for row names, such as '*eager*' (default: all)",
    )
    parser.add_argument(
        '--list', action='store_true', help='print cases and alternatives, then exit'
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help=f'{QUICK_CASE}, eager, {QUICK_ROUNDS} rounds, no peak memory; other '
        'options override this',
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=positive, help="default: PyTorch's choice")
    parser.add_argument(
        '--rounds', type=positive, help='calls per row (default: as time allows)'
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=30.0,
        help='time for the rounds of a case, at least five rounds (default: 30)',
    )
    parser.add_argument(
        '--allocator',
        choices=['tuned', 'stock'],
        default='tuned',
        help="in the shared process: as set by mmmeta's tools, or unchanged "
        '(default: tuned)',
    )
    parser.add_argument(
        '--no-memory',
        action='store_true',
        help='skip peak memory, for which each row runs in another process',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the results')
    parser.add_argument(
        '--markdown', action='store_true', help='print Markdown instead of plain text'
    )


def run(args: argparse.Namespace) -> int:
    from benchmarks.cases import select_alternatives, select_cases

    patterns = args.cases or ([QUICK_CASE] if args.quick else ['*'])
    names = args.alternatives or (QUICK_ROWS if args.quick else ['*'])
    chosen = [
        (case, select_alternatives(case, names, args.device))
        for case in select_cases(patterns, args.device)
    ]
    if args.list:
        alternatives = dict.fromkeys(row.name for _, rows in chosen for row in rows)
        print('cases', *(case.name for case, _ in chosen), sep='\n  ')
        print('alternatives', *alternatives, sep='\n  ')
        return 0
    _check_files(args.json, args.plot)
    return _measure(args, chosen)


def _check_files(*paths: Path | None) -> None:
    """Raise UserError before hours of measuring rather than afterwards."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f'no folder {path.parent} for {path.name}; create it')


def _measure(args: argparse.Namespace, chosen: list[tuple[Any, list]]) -> int:
    from benchmarks.report import describe, show
    from benchmarks.run import Settings, WorkerError, run_case

    settings = Settings(
        device=args.device,
        threads=args.threads,
        tuned=args.allocator == 'tuned',
        rounds=args.rounds or (QUICK_ROUNDS if args.quick else None),
        seconds=args.seconds,
        memory=not (args.no_memory or args.quick),
    )
    results: list[dict[str, Any]] = []
    failures = 0
    for case, rows in chosen:
        try:
            result = run_case(case, rows, settings)
        except WorkerError as error:
            print(f'{NAME}: {case.name}: {error}', file=sys.stderr)
            failures += 1
            continue
        if not results:
            print(describe(result['environment']['shared']))
        print(f'\n{show(result, args.markdown)}', flush=True)
        results.append(result)
        failures += sum(not row['counts'] for row in result['rows'])
        if args.json:  # after each case, so that an interrupted run has results
            args.json.write_text(json.dumps(results, indent=1))
    if args.plot and results:
        from benchmarks.plot import plot

        plot(results, args.plot)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
