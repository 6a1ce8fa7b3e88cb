import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dns import resolv


@pytest.mark.parametrize(
    ("text", "servers", "search"),
    [
        ("", (), ()),
        ("nameserver 10.96.0.10\nsearch a.b c.d\noptions ndots:5\n", ("10.96.0.10",), ("a.b", "c.d")),
        ("nameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n", ("10.0.0.1", "::1", "fe80::1%eth0"), ()),
        ("nameserver 10.0.0.1\nnameserver 10.0.0.1\nnameserver dns.example\nnameserver\n", ("10.0.0.1",), ()),
        ("search one\ndomain Two.Example.\n", (), ("two.example",)),
        ("domain one\n search  Two. three\n", (), ("two", "three")),
        ("# nameserver 1.2.3.4\n; search x\nsearch .\n", (), ()),
    ],
)
def test_resolv_conf(text: str, servers: tuple[str, ...], search: tuple[str, ...]) -> None:
    assert resolv.parse(text) == (servers, search)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert all(resolv.is_v6(s) is not None for s in resolv.parse(text).servers)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", ("localhost", 15053)),
        ("127.0.0.1:53", ("127.0.0.1", 53)),
        ("[::1]:25353", ("::1", 25353)),
        (":15053", ("", 15053)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert resolv.split_address(address) == expected


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", "localhost:x", "localhost:70000", "::1:53", "[web]:53", "a:²"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="port"):
        resolv.split_address(address)


@pytest.mark.parametrize(
    ("servers", "hosts"),
    [
        ((), ["127.0.0.1"]),
        (("10.0.0.1",), ["127.0.0.1"]),
        (("fd00::1",), ["::1"]),
        (("fd00::1", "10.0.0.1"), ["127.0.0.1", "::1"]),
    ],
)
def test_localhost_follows_the_resolvers_families(servers: tuple[str, ...], hosts: list[str]) -> None:
    assert resolv.listen_hosts("localhost", servers) == hosts
    assert resolv.listen_hosts("10.0.0.9", servers) == ["10.0.0.9"]
