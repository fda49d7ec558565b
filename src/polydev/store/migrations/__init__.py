"""Revisions of the schema, oldest first; `HEAD` in `store/migrate.py` names the newest.

To add one: a module in `versions/` whose `down_revision` is the present HEAD, the same change in
`tables.py`, and the new HEAD. Tests say when the three disagree. A revision that has been
released is never edited.
"""
