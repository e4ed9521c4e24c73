"""How many inputs are generated: a few in the suite, always the same; others by hand.

MMMETA_EXAMPLES=500 python -m pytest tests/generated
"""

import os

from hypothesis import HealthCheck, Phase, settings

COUNT = os.environ.get('MMMETA_EXAMPLES')
generated = settings(
    max_examples=int(COUNT or 5),
    derandomize=COUNT is None,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
# What may be in the place of any value.
ODD = (None, True, -1, 0, 2.5, float('nan'), '', 'x', [], {}, [1], (1, 2, 3), {'a': 1})
