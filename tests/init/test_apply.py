import pytest

from init import apply, restore
from init.errors import InitError
from init.nft import NftBackend
from init.nftrules import native
from init.plan import plan
from init.restore import INET, Tools
from init.rules import RuleSet
from init.settings import InitConfig


def test_without_the_capability_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "has_capability", lambda: False)
    with pytest.raises(InitError, match="NET_ADMIN is missing"):
        apply.verify(InitConfig(path="/nowhere"))


def test_native_rules_are_planned_for_both_families_at_once() -> None:
    config = InitConfig(native=True, v6=True)
    planned = plan(config)
    state = apply.State(
        planned, restore.Choice(NftBackend("nftables", Tools()), {INET: RuleSet()}), (), (), native(planned)
    )
    assert state.of(INET) == native(planned)
    assert state.of(6) == planned.v6
    assert state.count() == native(planned).count() < planned.count()


def test_the_lock_of_a_pod_is_its_namespace_file() -> None:
    assert apply.tools(InitConfig(cni_mode=True, namespace="/run/ns")).lock_file == "/run/ns"
    assert apply.tools(InitConfig(namespace="/run/ns")).lock_file == ""
