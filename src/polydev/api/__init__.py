"""The edges: wire formats in, events out. No rules of their own."""
