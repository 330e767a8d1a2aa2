"""Errors of the tuner. Their words are for the person who asked for the training.

::

    TuningError
    ├── ConfigError     the training configuration cannot work
    ├── DataError       the dataset cannot be learned from
    └── DownloadError   a dataset cannot be had
"""

from __future__ import annotations


class TuningError(Exception):
    """Base of every error that the tuner raises on purpose."""


class ConfigError(TuningError):
    """The training configuration cannot work."""


class DataError(TuningError):
    """The dataset cannot be learned from."""


class DownloadError(TuningError):
    """A dataset cannot be had."""
