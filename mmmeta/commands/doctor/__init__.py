"""`mmmeta doctor`: problems with this installation and how to fix them.

`examine` collects a `Finding` for each check of `packages` (metadata), `libraries`
(imports, in the process of `probe`) and `machine`. Only the standard library and parts
of mmmeta that need nothing else are used: it works if MMEngine or PyTorch do not.
"""

import argparse
import json
import sys
from dataclasses import asdict

COLORS = {'ok': 32, 'warning': 33, 'problem': 31, '-': 2}  # of ANSI terminals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.doctor.examine import examine

    findings = examine()
    problems = sum(finding.mark == 'problem' for finding in findings)
    if args.json:
        report = dict(problems=problems, findings=[asdict(f) for f in findings])
        print(json.dumps(report, indent=2))
        return int(problems > 0)
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f'{finding.subject:{width}}  {_mark(finding.mark)}  {finding.text}')
        if finding.fix:
            print(f'{"":{width}}  {"":7}  $ {finding.fix}')
    print(f'\n{problems or "no"} problem{"" if problems == 1 else "s"}')
    return int(problems > 0)


def _mark(mark: str) -> str:
    text = f'{mark:7}'
    return f'\033[{COLORS[mark]}m{text}\033[0m' if sys.stdout.isatty() else text
