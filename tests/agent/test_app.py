import asyncio
from typing import Any, cast

import pytest

from agent.app import App
from agent.boot import Boot
from agent.identity.manager import IdentityManager
from agent.model import Secret
from agent.protos import mesh_pb2
from agent.roots import merge_roots
from tests.fakes.ca import Root
from tests.fakes.configs import make

MOUNTED = {f"./etc/certs/{name}.pem": b"x" for name in ("cert-chain", "key", "root-cert")}


@pytest.mark.parametrize("mounted", [True, False], ids=["files", "CA"])
def test_the_control_planes_trust_bundle_is_for_everybody_who_has_roots(mounted: bool) -> None:
    async def main() -> None:
        config = make(files=MOUNTED if mounted else {})
        app = App(Boot(config, cast(Any, None), cast(Any, None)), 0.0)
        one = Root("one").pem.decode()
        payload = mesh_pb2.ProxyConfig(ca_certificates_pem=[one]).SerializeToString()
        if config.identity is not None:
            app.identity = IdentityManager(config.identity, app.secret, app.identity_ready, app.recorder)
            app.secret.set(Secret(b"chain", b"key", b"", "spiffe://x", 0.0, 1.0, 0.0))
        app._take_trust(payload)
        assert app.bundle.value == (one,)
        assert app.secret.value is None or app.secret.value.roots == merge_roots(one.encode())
        with pytest.raises(ValueError, match="cannot be decoded"):
            app._take_trust(b"\xff\xff\xff")
        app._take_trust(payload)
        assert (app.bundle.value, app.bundle.version) == ((one,), 1)

    asyncio.run(main())
