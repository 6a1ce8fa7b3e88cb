"""The file that tells gRPC applications where their xDS server is: written at start, watched for by readiness."""

import json
import os

from agent import atomicfile
from agent.config import AgentConfig
from agent.envoy import proxyless
from agent.envoy.metadata import Warn
from agent.errors import FatalError
from agent.model import Readiness


def write(config: AgentConfig, warn: Warn) -> None:
    """Write GRPC_XDS_BOOTSTRAP (0644: applications run as other users), at once or not at all; raises FatalError."""
    path = config.proxyless.bootstrap
    text = json.dumps(proxyless.render(config, warn), indent=2, ensure_ascii=False)
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        atomicfile.write(path, text, 0o644)
    except OSError as error:
        raise FatalError(
            f"the bootstrap for gRPC applications cannot be written to {path}: {error.strerror}; "
            "set GRPC_XDS_BOOTSTRAP to a writable file, or to nothing if there are no such applications"
        ) from error


def readiness(path: str) -> Readiness:
    """A gate: applications can use the bootstrap at `path`, and the certificates that it names exist."""
    try:
        with open(path, encoding="utf-8") as file:
            missing = [name for name in proxyless.certificate_files(file.read()) if not os.path.exists(name)]
    except (OSError, ValueError, RecursionError) as error:
        return Readiness(False, f"the gRPC bootstrap {path} cannot be used: {error}")
    if missing:
        return Readiness(False, f"the certificate file {missing[0]} does not exist yet")
    return Readiness(True)
