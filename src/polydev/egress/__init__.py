"""The only way out of a sandbox, as a process of its own.

`polydev.egress.client` is what the gateway uses: it starts the process, hands listening sockets
to it and hears what passed. The other modules run inside that process (`python -m
polydev.egress`), which starts lean because nothing is imported here.
"""
