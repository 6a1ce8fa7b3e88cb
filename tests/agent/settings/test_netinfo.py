"""Spelling and choice of addresses, and this machine's own in a namespace of known content."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import netinfo
from agent.settings.netinfo import canonical_ip, interface_ips, resolve_udp, usable


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:77:0::0002", "fd00:77::2"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::1", "::1"),
        ("", ""),
        ("1.2.3", ""),
        ("1.2.3.4.5", ""),
        ("host", ""),
        ("fe80::1%eth0", ""),
        ("[::1]", ""),
        ("1.2.3.4\0", ""),
    ],
)
def test_canonical(text: str, canonical: str) -> None:
    assert canonical_ip(text) == canonical


@pytest.mark.parametrize(
    ("ip", "good"),
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("127.0.0.6", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("febf::1", False),
        ("ff02::1", False),
        ("2001:db8::1", True),
        ("172.16.0.1", True),
    ],
)
def test_usable(ip: str, good: bool) -> None:
    assert usable(ip) is good


@given(st.text(max_size=20))
def test_any_text(text: str) -> None:
    found = canonical_ip(text)
    assert not found or canonical_ip(found) == found


def test_no_exception_on_this_machine() -> None:
    assert all(usable(ip) for ip in interface_ips())


NAMESPACE = """
import subprocess
from agent.settings.netinfo import interface_ips
def ip(line): subprocess.run(["ip", *line.split()], check=True)
ip("link set lo up")
for n in (0, 1, 2):
    ip(f"link add cfg{n} type veth peer name cfg{n}p")
for line in ("10.9.0.2/24 dev cfg1", "fd09::2/64 dev cfg1 nodad", "10.9.0.3/24 dev cfg0", "10.9.0.4/24 dev cfg2",
             "10.9.1.1 peer 10.9.1.2 dev cfg0", "169.254.3.3/16 dev cfg0"):
    ip(f"addr add {line}")
ip("link set cfg0 up")
ip("link set cfg1 up")
print(interface_ips())
print(interface_ips({"cfg0"}))
"""


@pytest.mark.root
def test_a_known_machine() -> None:
    out = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", NAMESPACE], capture_output=True, text=True, timeout=60, check=True
    )
    everything, without = map(eval, out.stdout.splitlines())
    assert everything == ("10.9.0.3", "10.9.1.1", "10.9.0.2", "fd09::2")
    assert without == ("10.9.0.2", "fd09::2")


def test_an_unspecified_address_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [((), False), (("10.0.0.9",), True)]
    monkeypatch.setattr(netinfo, "POLL", 0.0)
    monkeypatch.setattr(netinfo, "_scan", lambda _: answers.pop(0))
    assert netinfo.interface_ips() == ("10.0.0.9",)
    monkeypatch.setattr(netinfo, "PATIENCE", 0.0)
    monkeypatch.setattr(netinfo, "_scan", lambda _: (("10.0.0.8",), False))
    assert netinfo.interface_ips() == ("10.0.0.8",)


def test_resolve() -> None:
    assert resolve_udp("127.0.0.1", 5) == "127.0.0.1:5"
    assert resolve_udp("::1", 5) == "[::1]:5"
    with pytest.raises(OSError, match=r".+"):
        resolve_udp("no.such.host.invalid", 5)
    with pytest.raises(OSError, match="does not resolve"):
        resolve_udp("a..b" + "x" * 70, 5)
