"""Our subset of the wire messages, and the generated code that reads and writes them."""

from agent.deferred import defer

# The messages in pure Python: 8 ms of every start that the C runtime (upb) has no use for.
defer("google.protobuf.internal", "python_message")
