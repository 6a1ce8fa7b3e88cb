"""Private keys: kind, size and encoding as configured.

Usable before an event loop exists: cryptography is imported only when a key is made, and OpenSSL releases the GIL.
"""

import threading
from concurrent.futures import Future

from agent.config import IdentityConfig


def generate(config: IdentityConfig) -> bytes:
    """A new private key as PEM: PKCS#1, SEC1, or PKCS#8 if configured. RSA-2048 takes 30-80 ms."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if config.ecdsa:
        key = ec.generate_private_key(ec.SECP384R1() if config.curve.upper() == "P384" else ec.SECP256R1())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=config.rsa_key_size)
    form = serialization.PrivateFormat.PKCS8 if config.pkcs8 else serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def pregenerate(config: IdentityConfig) -> Future[bytes]:
    """Start making a key in a thread of its own and return at once; hand the future to the IdentityManager."""
    future: Future[bytes] = Future()
    future.set_running_or_notify_cancel()  # whoever stops waiting does not disturb the thread

    def work() -> None:
        try:
            future.set_result(generate(config))
        except Exception as e:  # noqa: BLE001 - whoever waits for the key gets it
            future.set_exception(e)

    threading.Thread(target=work, name="key", daemon=True).start()
    return future
