"""What is wrong with an installation, and the command that mends it.

Distributions are judged by their metadata; libraries are imported in a process of
their own (`probe.py`), where they may fail, crash or hang. Only the standard library
is needed, and of mmmeta nothing that needs another.
"""

from mmmeta.doctor.finding import Finding
from mmmeta.doctor.libraries import check_libraries, run_probes
from mmmeta.doctor.machine import check_machine
from mmmeta.doctor.packages import check_extras, check_packages, read_packages

__all__ = ['Finding', 'examine']


def examine() -> list[Finding]:
    """Return what was found, library by library, then the machine and the extras."""
    packages = read_packages()
    probes = run_probes()
    return [
        *check_libraries(probes, packages),
        *check_packages(packages),
        *check_machine(probes),
        *check_extras(packages),
    ]
