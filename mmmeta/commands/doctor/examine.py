"""All checks.

Distributions are checked by their metadata; libraries are imported in a separate
process (`probe.py`), where they may fail, crash or hang.
"""

from mmmeta.commands.doctor.finding import Finding
from mmmeta.commands.doctor.libraries import check_libraries, run_probes
from mmmeta.commands.doctor.machine import check_machine
from mmmeta.commands.doctor.packages import check_extras, check_packages, read_packages


def examine() -> list[Finding]:
    """Return the findings: libraries first, then the machine and the extras."""
    packages = read_packages()
    probes = run_probes()
    return [
        *check_libraries(probes, packages),
        *check_packages(packages),
        *check_machine(probes),
        *check_extras(packages),
    ]
