from agent.model import Secret


def test_a_secret_never_prints_its_key() -> None:
    secret = Secret(b"chain", b"PRIVATE", b"roots", "spiffe://a/ns/b/sa/c", 0.0, 1.0, 0.5)
    assert "PRIVATE" not in repr(secret)
