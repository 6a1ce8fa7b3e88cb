import re
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agent.config import IdentityConfig, PeerConfig
from agent.identity import keys

BASE = IdentityConfig("spiffe://td/ns/n/sa/s", PeerConfig(("ca:1",), False, "", "ca"))


@pytest.mark.parametrize(
    ("changes", "label", "kind", "bits"),
    [
        ({}, "RSA PRIVATE KEY", rsa.RSAPrivateKey, 2048),
        ({"rsa_key_size": 3072}, "RSA PRIVATE KEY", rsa.RSAPrivateKey, 3072),
        ({"pkcs8": True}, "PRIVATE KEY", rsa.RSAPrivateKey, 2048),
        ({"ecdsa": True}, "EC PRIVATE KEY", ec.EllipticCurvePrivateKey, 256),
        ({"ecdsa": True, "curve": "P384"}, "EC PRIVATE KEY", ec.EllipticCurvePrivateKey, 384),
        ({"ecdsa": True, "pkcs8": True}, "PRIVATE KEY", ec.EllipticCurvePrivateKey, 256),
    ],
)
def test_kind_size_and_encoding(changes: dict[str, Any], label: str, kind: type, bits: int) -> None:
    pem = keys.generate(replace(BASE, **changes))
    assert re.match(rb"-----BEGIN ([A-Z ]+)-----\n", pem)[1].decode() == label  # type: ignore[index]
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, kind)
    assert key.key_size == bits  # type: ignore[union-attr]


def test_a_key_is_made_in_the_background() -> None:
    config = replace(BASE, ecdsa=True)
    first, second = keys.pregenerate(config), keys.pregenerate(config)
    assert first.result(10) != second.result(10)
