"""Measure mmmeta beside its peers: `mmmeta bench`, see docs/benchmark.md.

python tools/benchmark.py --quick
python tools/benchmark.py --cases '*/1x800x1216/*' --json bench.json --plot bench.png
"""

import sys

from mmmeta.cli import main

if __name__ == '__main__':
    sys.exit(main(['bench', *sys.argv[1:]]))
