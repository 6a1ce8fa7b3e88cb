import pytest
from hypothesis import given
from hypothesis import strategies as st

from init.nftwords import parse_rule, rule_text
from init.rules import Rule

# Lines as versions of nft print them, and the rule in iptables' words.
LINES = {
    'oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect': (
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
    ),
    "ip6 daddr fd00::/8 tcp dport != { 53, 15008 } counter packets 3 bytes 180 return": (
        "-d fd00::/8 -p tcp -m multiport ! --dports 53,15008 -j RETURN"
    ),
    'iifname "eth*" meta skgid != 1-5 counter drop': "-i eth+ -m owner ! --gid-owner 1-5 -j DROP",
    'iifname != "eth0" udp sport 15053 ct zone set 2': "! -i eth0 -p udp -m udp --sport 15053 -j CT --zone 2",
    "meta l4proto 6 ct state 0x2,0x4 counter goto istio-divert": (
        "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -g ISTIO_DIVERT"
    ),
    "meta l4proto tcp ct state { established, related } accept": (
        "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    ),
    "meta l4proto 6 ct state invalid drop": "-p tcp -m conntrack --ctstate INVALID -j DROP",
    "tcp dport 80-90 redirect to :15006": "-p tcp -m tcp --dport 80:90 -j REDIRECT --to-ports 15006",
    "meta nfproto 10 meta mark != 0x0000053a return": "-s ::/0 -m mark ! --mark 0x53a -j RETURN",
    "meta l4proto 6 ct mark 0x00000539 counter meta mark set ct mark": (
        "-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
    ),
    "meta l4proto 6 ip6 daddr != ::1 counter tproxy ip6 to :15006 meta mark set 0x00000539 accept": (
        "! -d ::1/128 -p tcp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff"
    ),
    "counter meta mark set 0x00000539": "-j MARK --set-xmark 0x539/0xffffffff",
}


@pytest.mark.parametrize("line", LINES)
def test_lines_are_understood(line: str) -> None:
    rule = parse_rule(line)
    assert rule.text() == LINES[line]
    assert parse_rule(rule_text(rule)) == rule


@pytest.mark.parametrize(
    "line",
    [
        "ip saddr @seen drop",
        "tcp dport vmap { 80 : drop }",
        "tcp dport { 80, 443 } return",
        "tcp dport 80 tcp dport 90 log drop",
        "tcp dport 80 udp dport 80 drop",
        "ip daddr 10.0.0.1-10.0.0.9 return",
        "ip daddr 10.0.0.1 ip daddr 10.0.0.2 return",
        "ip6 daddr 10.0.0.1 return",
        "meta mark set 0x1 tcp dport 80 accept",
        "meta mark 0x1 and 0xff == 0x1 return",
        "ct state sideways return",
        "jump elsewhere",
        "redirect",
        "redirect to 1.2.3.4:80",
        "dnat ip to 10.0.0.1",
        'oifname { "a", "b" } return',
        "tcp dport",
        "counter",
        'accept comment "x"',
    ],
)
def test_others_are_kept_as_they_are(line: str) -> None:
    rule = parse_rule(line)
    assert rule == Rule(extra=(line,))
    assert rule_text(rule) == line


WORDS = [*" ".join(LINES).split(), "{", "}", "!=", "@x", "set", "", "0x", "-1"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join))
def test_any_words_are_understood_whole_or_not_at_all(line: str) -> None:
    rule = parse_rule(line)
    assert parse_rule(rule_text(rule)) == rule


def test_a_condition_that_only_iptables_has() -> None:
    with pytest.raises(ValueError, match="-m addrtype"):
        rule_text(Rule("RETURN", matches=(("addrtype", "--dst-type", "LOCAL"),)))
