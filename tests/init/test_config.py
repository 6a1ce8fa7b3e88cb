import pytest
from hypothesis import given
from hypothesis import strategies as st

from init import config
from init.config import Host, InitConfig, InitError, Ranges, UsageError, parse

PASSWD = "root:x:0:0:root:/root:/bin/sh\nistio-proxy:x:1444:1445::/:/bin/false\nweb:x:33:33::/:/bin/false\n"
GROUP = "root:x:0:\nistio-proxy:x:1445:\nweb:x:34:\n"


def host(*addresses: str, resolv: str | None = "nameserver 10.0.0.10\n", passwd: str = PASSWD) -> Host:
    files = {"/etc/passwd": passwd, "/etc/group": GROUP, "/etc/resolv.conf": resolv}
    return Host(files.get, lambda: addresses or ("127.0.0.1", "10.1.2.3", "::1", "fe80::1"))


def read(*argv: str, environ: dict[str, str] | None = None, on: Host | None = None) -> InitConfig:
    return parse(argv, environ or {}, on or host())


def test_defaults() -> None:
    assert read(on=host(passwd="")) == InitConfig(uids=("1337",), gids=("1337",), host_ip="10.1.2.3")


@pytest.mark.parametrize(
    ("argv", "uids", "gids"),
    [
        ((), ("1444",), ("1444",)),
        (("-u", "1337"), ("1337",), ("1337",)),
        (("-u", "3,4", "-g", "1,2"), ("3", "4"), ("1", "2")),
        (("-u", "web"), ("33",), ("34",)),
        (("-u", "web", "-g", "007"), ("33",), ("7",)),
        (("-u", "5-9"), ("5-9",), ("5-9",)),
    ],
)
def test_owners(argv: tuple[str, ...], uids: tuple[str, ...], gids: tuple[str, ...]) -> None:
    found = read(*argv)
    assert (found.uids, found.gids) == (uids, gids)


def test_the_user_of_the_proxy_gives_the_default_uid() -> None:
    assert read(environ={"ENVOY_USER": "web"}).uids == ("33",)
    assert read(environ={"ENVOY_USER": "nobody-knows"}).uids == ("1337",)


def test_lists_drop_empty_elements_and_blanks() -> None:
    found = read("-d", "15090, 15021,", "-b", "*", "-i", "10.1.2.3/8,fd00::1/8, ", "-c", "eth1,")
    assert found.inbound_exclude == ("15090", "15021")
    assert found.inbound_ports == ("*",)
    assert found.include == Ranges(v4=("10.0.0.0/8",), v6=("fd00::/8",))
    assert found.exclude_interfaces == ("eth1",)


def test_ranges() -> None:
    assert read("-i", "*").include == Ranges(all=True)
    assert read("-i", "").include == Ranges()
    assert read("-i", "127.1.2.3/32").include.loopback
    assert read("-i", "::1/128").include.loopback
    assert not read("-i", "0.0.0.0/0").include.loopback
    assert read("-x", "::ffff:10.0.0.0/104").exclude == Ranges(v4=("10.0.0.0/8",))


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("-p", "abc"), "--envoy-port"),
        (("-p", "0"), "--envoy-port"),
        (("-z", ""), "--inbound-capture-port"),
        (("-e", "65536"), "--inbound-tunnel-port"),
        (("-b", "80,abc"), "--istio-inbound-ports"),
        (("-b", "*,80"), "--istio-inbound-ports"),
        (("-b", "90:80"), "--istio-inbound-ports"),
        (("-d", "*"), "--istio-local-exclude-ports"),
        (("-o", "80,x"), "--istio-local-outbound-ports-exclude"),
        (("-q", "-1"), "--istio-outbound-ports"),
        (("-i", "10.0.0.1"), "--istio-service-cidr"),
        (("-i", "10.0.0.0/33"), "--istio-service-cidr"),
        (("-i", "10.0.0.0/08"), "--istio-service-cidr"),
        (("-i", "*,10.0.0.0/8"), "--istio-service-cidr"),
        (("-x", "*"), "--istio-service-exclude-cidr"),
        (("-u", "nobody-knows"), "--proxy-uid"),
        (("-u", "4294967295"), "--proxy-uid"),
        (("-u", "9-5"), "--proxy-uid"),
        (("-g", "nobody-knows"), "--proxy-gid"),
        (("-c", "abcdefghijklmnop"), "--istio-exclude-interfaces"),
        (("-c", "-j"), "--istio-exclude-interfaces"),
        (("-k", "a b"), "--kube-virt-interfaces"),
        (("-t", "0x539"), "--istio-inbound-tproxy-mark"),
        (("-m", "TPROXY", "-t", "1338"), "--istio-inbound-tproxy-mark"),
        (("-r", "254"), "--istio-inbound-tproxy-route-table"),
        (("--force-iptables-binary", "banana"), "--force-iptables-binary"),
    ],
)
def test_bad_values_are_refused_before_anything_is_touched(argv: tuple[str, ...], word: str) -> None:
    with pytest.raises(InitError) as e:
        read(*argv)
    assert word in str(e.value)
    assert e.value.exit_code == 1
    assert "\n" not in str(e.value)


def test_usage_errors_have_their_own_exit_code() -> None:
    with pytest.raises(UsageError) as e:
        read("--no-such-flag")
    assert e.value.exit_code == 255


@pytest.mark.parametrize("text", ["10.0.0.0/8", "127.0.0.1", "127.0.0.0/7", "", "::1/128", "127.0.0.1/33"])
def test_bad_loopback(text: str) -> None:
    with pytest.raises(InitError, match="LOOPBACK"):
        read(environ={"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": text})


def test_owner_groups() -> None:
    name = "ISTIO_OUTBOUND_OWNER_GROUPS"
    assert read(environ={name: "202,web"}).groups == ("202", "34")
    found = read(environ={name + "_EXCLUDE": "888,web"})
    assert (found.groups, found.groups_exclude) == (("*",), ("888", "34"))
    assert read(environ={name: "1", name + "_EXCLUDE": "2"}).groups_exclude == ()
    assert len(read(environ={name: ",".join(map(str, range(64)))}).groups) == 64
    with pytest.raises(InitError, match="65 groups"):
        read(environ={name: ",".join(map(str, range(65)))})


@pytest.mark.parametrize(
    ("addresses", "dual", "v6"),
    [
        (("127.0.0.1", "10.0.0.1", "fd00::1"), False, False),
        (("127.0.0.1", "10.0.0.1", "fd00::1"), True, True),
        (("127.0.0.1", "169.254.1.1", "fd00::1"), False, True),
        (("10.0.0.1", "fe80::1", "::1"), True, False),
        (("::ffff:10.0.0.1",), True, False),
        (("10.0.0.1", "::6"), True, False),
    ],
)
def test_when_ipv6_is_planned(addresses: tuple[str, ...], dual: bool, v6: bool) -> None:
    found = read(*(["--dual-stack"] if dual else []), on=host(*addresses))
    assert found.v6 == v6


def test_an_address_that_is_not_captured_is_named() -> None:
    assert "fd00::1" in read(on=host("10.0.0.1", "fd00::1")).warnings[0]


def test_no_address() -> None:
    with pytest.raises(InitError, match="no local address"):
        read(on=host("127.0.0.1", "fe80::1"))
    assert read("--cleanup-only", on=host("127.0.0.1")).host_ip == ""


def test_name_servers() -> None:
    text = (
        "# nameserver 9.9.9.9\nsearch a.b\n nameserver 10.0.0.10\nnameserver\tfe80::1%eth0\nnameserver banana\n"
        "nameserver ::ffff:10.0.0.11\nnameserver\nnameserver 10.0.0.10\n"
    )
    found = read("--redirect-dns", on=host(resolv=text))
    assert found.dns_servers == Ranges(v4=("10.0.0.10/32", "10.0.0.11/32"), v6=("fe80::1/128",))
    assert found.dns


def test_dns_without_servers() -> None:
    found = read("--redirect-dns", on=host(resolv="search a.b\n"))
    assert not found.dns
    assert found.warnings
    with pytest.raises(InitError, match=r"resolv\.conf"):
        read("--redirect-dns", on=host(resolv=None))
    found = read("--redirect-dns", "--capture-all-dns", on=host(resolv=None))
    assert found.dns
    assert found.dns_all
    assert not read("--capture-all-dns", on=host(resolv=None)).dns_all


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("default:info", "info"),
        ("debug", "debug"),
        ("grpc:none", "info"),
        ("all:error", "error"),
        ("grpc:none,warn", "warn"),
    ],
)
def test_log_level(text: str, level: str) -> None:
    assert config.default_level(text) == level


@given(st.text(max_size=24))
def test_a_range_is_canonical_or_refused(text: str) -> None:
    try:
        family, canonical, _ = config.network(text)
    except ValueError:
        return
    assert config.network(canonical)[:2] == (family, canonical)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_ranges_agree_with_the_standard_library(address: object, bits: int) -> None:
    import ipaddress

    want = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    assert config.network(f"{address}/{bits}")[:2] == (4, str(want))


@given(st.text(max_size=80))
def test_any_resolv_conf_is_read(text: str) -> None:
    config.nameservers(text)
