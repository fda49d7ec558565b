"""Frozen records that every layer speaks in. One module per subject; nothing here does any work."""
