"""The doctor's findings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        subject: What it is about, such as 'mmcv'.
        mark: 'ok', 'warning' (works, with limitations), 'problem' (something does not
            work) or '-' (optional and not installed).
        text: What was found.
        fix: The command that fixes it; empty if there is nothing to fix.
    """

    subject: str
    mark: str
    text: str
    fix: str = ''
