import pytest

from init import apply, restore
from init.errors import InitError
from init.settings import InitConfig


def test_without_the_capability_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "has_capability", lambda: False)
    with pytest.raises(InitError, match="NET_ADMIN is missing"):
        apply.verify(InitConfig(path="/nowhere"))


def test_native_tables_are_refused_before_anything_is_read() -> None:
    with pytest.raises(InitError, match="--native-nftables"):
        apply.apply(InitConfig(native=True))


def test_the_lock_of_a_pod_is_its_namespace_file() -> None:
    assert apply.tools(InitConfig(cni_mode=True, namespace="/run/ns")).lock_file == "/run/ns"
    assert apply.tools(InitConfig(namespace="/run/ns")).lock_file == ""
