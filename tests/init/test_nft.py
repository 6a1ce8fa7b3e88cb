from pathlib import Path

import pytest

from init import netlink, nft, restore
from init.errors import InitError
from init.nftrules import native, render
from init.plan import plan
from init.restore import INET, Tools
from init.rules import RuleSet
from init.settings import InitConfig
from tests.init.test_restore import program

WANT = native(plan(InitConfig()))
TABLE = ("inet", "istio-proxy-nat")


def backend(folder: Path) -> nft.NftBackend:
    return nft.NftBackend("nftables", Tools(str(folder)))


def test_reading_names_our_tables_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "nft", f'echo "$@" >> {tmp_path}/words; cat {tmp_path}/state\n')
    (tmp_path / "state").write_text(render(WANT))
    monkeypatch.setattr(netlink, "nft_tables", lambda: [TABLE, ("inet", "mine"), ("ip", "istio-proxy-nat")])
    assert backend(tmp_path).read(INET) == WANT
    assert (tmp_path / "words").read_text() == "-s -n list table inet istio-proxy-nat\n"
    (tmp_path / "state").write_text("banana\n")
    with pytest.raises(InitError, match="not understood: line 1"):
        backend(tmp_path).read(INET)


def test_one_command_writes_and_none_when_all_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "nft", f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/text\n')
    monkeypatch.setattr(netlink, "nft_tables", list)
    backend(tmp_path).apply(INET, WANT, WANT)
    backend(tmp_path).cleanup(INET, RuleSet())
    backend(tmp_path).rollback(INET, RuleSet(), WANT)
    assert not (tmp_path / "text").exists()
    backend(tmp_path).apply(INET, WANT, RuleSet())
    assert (tmp_path / "words").read_text() == "-f -\n"
    assert (tmp_path / "text").read_text().endswith(render(WANT))


def test_without_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(netlink, "nft_tables", list)
    with pytest.raises(InitError, match="nft is not installed"):
        nft.choose(Tools(str(tmp_path)))


def test_a_kernel_without_nftables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "nft_tables", lambda: None)
    with pytest.raises(InitError, match="the kernel has no nftables"):
        nft.choose(Tools())
    assert netlink.own_tables() == []


def test_rules_of_ours_that_no_command_can_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(netlink, "nft_tables", list)
    left = netlink.NftChain("ip", "nat", "ISTIO_OUTPUT", "", "", 0, 3)
    monkeypatch.setattr(netlink, "nft_chains", lambda: [left])
    program(tmp_path, "nft", "")
    with pytest.raises(InitError, match="iptables-nft-restore is not installed"):
        nft.choose(Tools(str(tmp_path)))


def test_a_command_that_fails_is_one_sentence(tmp_path: Path) -> None:
    error = r"/dev/stdin:3:1-4: Error: %s\n\t\tmeta l4proto tcp tproxy ip to :15006\n\t\t^^^^^~~~^^\n"
    for why, words in (("No such file or directory", "the kernel module nft_tproxy is missing"), ("oh", "exit code 1")):
        program(tmp_path, "nft", f"printf '{error % why * 2}' >&2; exit 1\n")
        with pytest.raises(InitError, match=words) as e:
            backend(tmp_path).load("add x")
        assert "\n" not in str(e.value)
        assert "^^" not in str(e.value)
        assert str(e.value).count(why) == 1
