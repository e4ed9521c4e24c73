"""The form of what the doctor says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        subject: What it is about, such as 'mmcv'.
        mark: 'ok', 'warning' (works, with a catch), 'problem' (something does not
            work) or '-' (not there, and needed by some only).
        text: What was found.
        fix: The command that fixes it; empty where there is nothing to fix.
    """

    subject: str
    mark: str
    text: str
    fix: str = ''
