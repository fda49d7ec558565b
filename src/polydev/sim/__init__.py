"""The simulator: local stand-ins for the providers, good enough for their unmodified CLIs.

`Simulator` starts one; everything in it answers over TLS on one loopback port, told apart by the
Host header. `World` is what it knows; `/_sim/` on any host is how it is steered while running.
Their logins are there too, as pages; `polydev.sim.person` signs in at them without a browser.
"""

from polydev.sim.knobs import Knobs
from polydev.sim.server import Simulator
from polydev.sim.state import Account, World

__all__ = ["Account", "Knobs", "Simulator", "World"]
