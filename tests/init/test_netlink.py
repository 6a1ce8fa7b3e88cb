import struct

from hypothesis import given
from hypothesis import strategies as st

from init import netlink
from init.record import replace


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=20), max_size=6))
def test_attributes_are_read_back(given_: dict[int, bytes]) -> None:
    data = b"".join(netlink.attribute(k, v) for k, v in given_.items())
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == given_


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(data: bytes) -> None:
    netlink.attributes(data)


def test_a_truncated_attribute_ends_the_run() -> None:
    assert netlink.attributes(struct.pack("=HH", 4, 1) + struct.pack("=HH", 12, 2)) == {1: b""}


def test_addresses_of_this_machine_come_with_ipv4_first() -> None:
    families = [":" in a for _, a in netlink.addresses()]
    assert families == sorted(families)


def nat_chain(family: str, table: str, priority: int, **changes: object) -> netlink.NftChain:
    return replace(netlink.NftChain(family, table, "c", "output", "nat", priority, 1), **changes)


def test_chains_that_decide_before_ours() -> None:
    ours, early = nat_chain("inet", "istio-proxy-nat", -100), nat_chain("ip", "mine", -101)
    same, late, iptables = nat_chain("ip", "mine", -100), nat_chain("ip", "mine", -99), nat_chain("ip", "nat", -100)
    empty, other = nat_chain("ip", "mine", -200, uses=0), nat_chain("ip", "mine", -200, hook="input")
    everything = [ours, early, same, late, iptables, empty, other, nat_chain("ip", "mine", -200, kind="filter")]
    assert netlink.ahead(everything, native=False) == [
        "chain c of table ip mine decides about destinations before our rules"
    ]
    assert [text.split()[5:7] for text in netlink.ahead(everything, native=True)] == [
        ["mine", "decides"],
        ["mine", "may"],
        ["nat", "may"],
    ]
