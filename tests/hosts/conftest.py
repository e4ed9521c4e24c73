"""Fixtures of the tests of training runs."""

import logging

import pytest


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Warnings of MMEngine's logger."""
    lines: list[str] = []
    handle = logging.Logger.handle

    def keep(self, record) -> None:
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())
        handle(self, record)

    monkeypatch.setattr(logging.Logger, 'handle', keep)
    return lines
