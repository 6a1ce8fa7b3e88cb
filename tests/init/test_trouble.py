import pytest

from init.trouble import explain

TEXT = "*nat\n-A ISTIO_OUTPUT -p tcp -m tcp -m owner --uid-owner 1 -j ISTIO_IN_REDIRECT\n-A X -p tcp -j REDIRECT\n"


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("(nf_tables): Could not fetch rule set generation id: Permission denied", "NET_ADMIN"),
        ("iptables-restore v1.8.9 (legacy): must be root", "NET_ADMIN"),
        ("can't initialize iptables table `nat': Table does not exist (do you need to insmod?)", "module iptable_nat "),
        ("can't initialize ip6tables table `raw': Table does not exist (insmod?)", "module ip6table_raw "),
        ("Extension owner revision 0 not supported, missing kernel module?\nline 2: failed", "module xt_owner "),
        ("iptables-restore: line 2 failed: No chain/target/match by that name.", "module xt_owner is"),
        ("iptables-restore: line 3 failed: No chain/target/match by that name.", "module xt_REDIRECT is"),
        ("line 99: No chain/target/match by that name.", "module of a rule"),
        ("Fatal: can't open lock file /run/xtables.lock: Permission denied", "cannot use the xtables lock"),
        ("Another app is currently holding the xtables lock; waited (30s)", "waited 30 seconds for the xtables lock"),
        ("iptables-restore: line 3 failed", "at '-A X -p tcp -j REDIRECT'"),
        ("# Warning: iptables-legacy tables present\n", "no message"),
    ],
)  # fmt: skip
def test_a_failed_command_is_one_sentence(stderr: str, words: str) -> None:
    text = explain("iptables-restore", 1, stderr, TEXT)
    assert words in text
    assert "\n" not in text


def test_a_killed_command() -> None:
    assert explain("iptables-restore", -9, "", "") == "iptables-restore was killed by signal 9"
