"""`polydev bench`: what polydev costs, measured on this machine against the bare CLIs.

Everything runs against the simulator with an instant provider, both sides of a comparison in
turn in the same run, so that only ratios and differences are quoted, never bare milliseconds.
"""
