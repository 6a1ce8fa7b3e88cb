import socket
from pathlib import Path

import pytest

from agent.config import DnsConfig
from agent.dns import listen
from agent.errors import FatalError


def config(folder: Path, address: str = "127.0.0.1:0", text: str = "nameserver 10.0.0.1\nsearch a.b\n") -> DnsConfig:
    (folder / "resolv.conf").write_text(text)
    return DnsConfig(True, address, str(folder / "resolv.conf"))


def test_the_place_is_the_address_and_what_resolv_conf_says(tmp_path: Path) -> None:
    where = listen.place(config(tmp_path, "localhost:25353"))
    assert where == ("localhost", 25353, (("10.0.0.1",), ("a.b",)), False)


def test_root_on_port_53_uses_the_saved_resolv_conf_and_serves_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    own = config(tmp_path, "127.0.0.1:53")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert listen.place(own, str(saved))[2:] == ((("10.0.0.1",), ("a.b",)), True)
    saved.write_text("nameserver 10.0.0.2\n")
    assert listen.place(own, str(saved))[2:] == ((("10.0.0.2",), ()), True)
    monkeypatch.setattr("os.geteuid", lambda: 1337)
    assert listen.place(own, str(saved)) == ("localhost", 15053, (("10.0.0.1",), ("a.b",)), False)


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="DNS_PROXY_ADDR: 'nonsense' has no usable port; give host:port"):
        listen.place(config(tmp_path, "nonsense"))
    with pytest.raises(FatalError, match=r"cannot read .*/none: No such file or directory"):
        listen.place(DnsConfig(True, "localhost:0", str(tmp_path / "none")))


@pytest.mark.parametrize("servers", [["10.0.0.1"], ["10.0.0.1", "fd00::1"]])
def test_both_transports_share_a_port_on_every_family(servers: list[str]) -> None:
    udp, tcp = listen.bind("localhost", 0, servers)
    try:
        assert [s.getsockname()[:2] for s in udp] == [s.getsockname()[:2] for s in tcp]
        assert [s.getsockname()[0] for s in udp] == ["127.0.0.1", "::1"][: len(servers)]
        assert not any(s.getblocking() for s in udp + tcp)
    finally:
        for sock in udp + tcp:
            sock.close()


def test_an_empty_host_is_every_address() -> None:
    (udp,), (tcp,) = listen.bind("", 0, [])
    with udp, tcp, socket.socket(socket.AF_INET) as client:
        client.connect(("127.0.0.1", tcp.getsockname()[1]))


def test_a_taken_port_is_one_sentence_and_nothing_stays_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(FatalError, match=f"cannot listen on localhost:{port}: Address already in use"):
            listen.bind("localhost", port, ["10.0.0.1"])
