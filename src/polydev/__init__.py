"""polydev: the AI subscriptions a person already pays for, as an API of their own."""

__version__ = "0.1.0"
