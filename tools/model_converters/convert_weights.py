"""Write a checkpoint in another layout: `mmmeta convert`, in OpenMMLab's usual place.

python tools/model_converters/convert_weights.py SRC DST --to LAYOUT
"""

import sys

from mmmeta.cli import main

if __name__ == '__main__':
    sys.exit(main(['convert', *sys.argv[1:]]))
