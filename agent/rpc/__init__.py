"""gRPC over HTTP/2 for an agent that lives beside every pod: one event loop, no threads, no needless copies.

A sans-I/O core (`status`, `frames`, `blocks`, `inbox`, `stream`, `sending`, `connection`) below thin shells
(`transport`, `call`, `client`, `server`, `dial`). Messages are bytes: whoever calls decodes them, or relays them as
they are.
"""
