"""Which peers go through the proxy: Go's rules, entry by entry."""

import base64
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.config import HttpProxy
from agent.httpproxy import applies, ascii_name, parse, shown


@pytest.mark.parametrize(
    ("text", "host", "port", "credentials"),
    [
        ("http://proxy:3128", "proxy", 3128, ""),
        ("proxy:3128", "proxy", 3128, ""),
        ("10.0.0.1:3128", "10.0.0.1", 3128, ""),
        ("proxy", "proxy", 80, ""),
        ("http://proxy/", "proxy", 80, ""),
        ("http://proxy:", "proxy", 80, ""),
        ("https://proxy", "proxy", 443, ""),
        ("HTTPS://proxy", "proxy", 443, ""),
        ("http://[fd00::1]:8080/x?y#z", "fd00::1", 8080, ""),
        ("[fd00::1]", "fd00::1", 80, ""),
        (" http://proxy:1\n", "proxy", 1, ""),
        ("http://u:p@proxy:1", "proxy", 1, "u:p"),
        ("u:p@proxy:1", "proxy", 1, "u:p"),
        ("http://u@proxy:1", "proxy", 1, "u:"),
        ("http://u:@proxy:1", "proxy", 1, "u:"),
        ("http://:p@proxy:1", "proxy", 1, ":p"),
        ("http://u:p@q:r@proxy:1", "proxy", 1, "u:p@q:r"),
        ("http://u%3A:p%40%2F%C3%BC@proxy:1", "proxy", 1, "u::p@/ü"),
        ("http://u:pü@proxy:1", "proxy", 1, "u:pü"),
        ("http://u:100%@proxy:1", "proxy", 1, "u:100%"),
    ],
)
def test_the_variable(text: str, host: str, port: int, credentials: str) -> None:
    proxy = parse(text, "x")
    assert (proxy.host, proxy.port, proxy.exceptions) == (host, port, "x")
    shown = base64.b64decode(proxy.authorization.removeprefix("Basic ")).decode()
    assert (shown, proxy.authorization.startswith("Basic ")) == (credentials, bool(credentials))


@pytest.mark.parametrize(
    "text", ["http://", "://", "http://u:sesame/x@proxy:1", "u:sesame@", "u@proxy:sesame", "fd00::1", "a b", "p:0"]
)
def test_an_unusable_variable_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="it must be") as e:
        parse(text)
    assert "sesame" not in str(e.value)
    assert e.value.__suppress_context__


def test_credentials_are_not_shown() -> None:
    assert "c2VzYW1l" not in repr(parse("http://sesame@proxy"))
    assert shown("http://u:p@proxy:1") == "http://(redacted)@proxy:1"
    assert shown("u:p@proxy:1") == "(redacted)@proxy:1"
    assert shown("http://u:p/w@x@proxy:1/y") == "http://(redacted)@proxy:1/y"
    assert shown("http://proxy:1") == "http://proxy:1"
    assert shown("proxy") == "proxy"


@given(st.text(alphabet="ab:/@[]?#% .1é\n", max_size=30))
def test_any_variable_is_read_or_refused(text: str) -> None:
    try:
        proxy = parse(text)
    except ValueError:
        return
    assert 0 < proxy.port < 65536
    assert proxy.host
    assert not any(c.isspace() for c in proxy.host + proxy.authorization.removeprefix("Basic "))


@given(st.text(max_size=20).filter(str.isprintable), st.from_regex(r"[a-z]{1,8}(:[1-9])?", fullmatch=True))
def test_no_secret_is_ever_shown(secret: str, place: str) -> None:
    for scheme in ("", "http://", "socks5://"):
        assert shown(f"{scheme}{secret}@{place}") in (f"{scheme}(redacted)@{place}", f"(redacted)@{place}") or (
            "://" in secret
        )


def goes(host: str, exceptions: str, port: int = 15012) -> bool:
    return applies(HttpProxy("proxy", 1, "", exceptions), host, port)


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_never_proxied(host: str) -> None:
    assert not goes(host, "")


@pytest.mark.parametrize(
    "host", ["istiod", "localhost.net", "a.localhost", "10.0.0.1", "::2", "1.2.3.4.5", "127.0.0.1.example", "fe80::1%x"]
)
def test_everything_else_is(host: str) -> None:
    assert goes(host, "")
    assert goes(host, " , ,:1,:15012,[]:15012,]")
    assert not goes(host, "*")
    assert not goes(host, "x, * ,y")


@pytest.mark.parametrize(
    ("entry", "direct", "proxied"),
    [
        # Names: themselves and what is below them.
        ("a.com", "a.com A.COM b.a.com c.b.a.com", "ba.com a.com.b com a.co a.com."),
        ("A.com", "a.com", ""),
        ("svc", "istiod.istio-system.svc svc", "istiod.istio-system.svc.cluster.local xsvc"),
        # A point or `*.` before it: only what is below.
        (".a.com", "b.a.com c.b.a.com", "a.com ba.com"),
        ("*.a.com", "b.a.com c.b.a.com", "a.com ba.com"),
        ("*a.com", "x.*a.com", "a.com ba.com b.a.com"),
        ("*:15012", "", "a.com"),
        # Ports.
        ("a.com:15012", "a.com b.a.com", "b.com"),
        ("a.com:15010", "", "a.com b.a.com"),
        (".a.com:15012", "b.a.com", "a.com"),
        ("a.com:", "a.com", ""),
        ("a.com:x", "", "a.com"),
        ("a.com:1:2", "", "a.com"),
        # Addresses.
        ("10.0.0.1", "10.0.0.1 ::ffff:10.0.0.1", "10.0.0.2 x.10.0.0.1"),
        ("10.0.0.1:15012", "10.0.0.1", "10.0.0.2"),
        ("10.0.0.1:15010", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("fd00::1", "fd00::1 fd00:0::1 FD00::1 fd00::1%eth0", "fd00::2"),
        ("FD00:0:0::1", "fd00::1", ""),
        ("[fd00::1]:15012", "fd00::1", "fd00::2"),
        ("[fd00::1]:15010", "", "fd00::1"),
        ("[fd00::1]", "", "fd00::1"),
        ("fd00::1%eth0", "", "fd00::1 fd00::1%eth0"),
        ("10.0.0", "", "10.0.0.1"),
        ("010.0.0.1", "", "10.0.0.1"),
        ("0.1", "", "10.0.0.1"),
        ("example.com", "", "1000::%.example.com"),
        # Blocks.
        ("10.0.0.0/30", "10.0.0.0 10.0.0.3 ::ffff:10.0.0.1", "10.0.0.4 ::a00:1 x.10.0.0.0/30"),
        ("10.0.0.2/30", "10.0.0.0 10.0.0.3", "10.0.0.4"),
        ("10.0.0.0/030", "10.0.0.3", "10.0.0.4"),
        ("0.0.0.0/0", "10.0.0.3", "fd00::1 a.com"),
        ("::/0", "fd00::1", "10.0.0.3 a.com"),
        ("::ffff:10.0.0.0/126", "10.0.0.3", "10.0.0.4"),
        ("fd00::45/64", "fd00::123 fd00::1%eth0", "fd00:0:0:1::1"),
        ("10.0.0.0/255.255.255.0", "", "10.0.0.1"),
        ("10.0.0.0/33", "", "10.0.0.1"),
        ("10.0.0.0/-1", "", "10.0.0.1"),
        ("10.0.0.0/", "", "10.0.0.1"),
        ("10.0.0.0/8:15012", "", "10.0.0.1"),
        # Names in other scripts are compared as DNS has them.
        ("bücher.example", "bücher.example xn--bcher-kva.example a.Bücher.example", "bucher.example"),
        (".xn--bcher-kva.example", "www.bücher.example", "bücher.example"),
        (".bücher.example", "www.xn--bcher-kva.example", ""),
    ],
)
def test_exceptions(entry: str, direct: str, proxied: str) -> None:
    for around in ("{}", "x.y, {} ,z", "{},{}"):
        exceptions = around.format(entry, entry)
        assert [h for h in direct.split() if goes(h, exceptions)] == []
        assert [h for h in proxied.split() if not goes(h, exceptions)] == []


ENTRY = st.text(alphabet="a.*:[]/%01é, ", max_size=12)


@given(ENTRY, ENTRY.filter(bool), st.integers(1, 65535))
def test_any_list_is_read(exceptions: str, host: str, port: int) -> None:
    before = goes(host, exceptions, port)
    assert goes(host, f"{exceptions},,", port) == before  # empty entries mean nothing
    assert not goes(host, f"{exceptions},*", port)
    assert before or goes(host, "", port) or "localhost" in host or host[:1] in "1:[0"  # else nothing exempts it


@given(st.from_regex(r"[a-z]{1,4}(\.[a-z]{1,4}){0,3}", fullmatch=True), st.from_regex(r"[a-z]{1,4}", fullmatch=True))
def test_names_cover_what_is_below_them(name: str, label: str) -> None:
    assert not goes(name, name)
    assert not goes(f"{label}.{name}", name)
    assert not goes(f"{label}.{name}", f".{name}")
    assert goes(name, f".{name}")
    assert goes(f"{label}x{name}", f".{name}")


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_is_in_its_own_block(ip: IPv4Address | IPv6Address, length: int) -> None:
    assert not goes(str(ip), str(ip))
    assume(ip.version == 4 or ip.ipv4_mapped is None)  # for Go these are IPv4, and a short IPv6 block has none of them
    assert not goes(str(ip), f"{ip}/{min(length, ip.max_prefixlen)}")


def test_ascii_names() -> None:
    assert ascii_name("a.example") == "a.example"
    assert ascii_name("é" * 64) == "é" * 64
