import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import SdsConfig
from agent.latest import Latest
from agent.model import Secret
from agent.protos import secret_pb2
from agent.sds.store import MEMO, Store
from tests.fakes.ca import Root

SECRET = Secret(b"chain", b"key", b"roots", "spiffe://x", 0.0, 1.0, 0.0)


def make(tmp_path: Path, secret: Secret | None = SECRET, **config: str | bool) -> tuple[Store, Latest[Secret | None]]:
    latest = Latest(secret)
    return Store(SdsConfig(crl_file=str(tmp_path / "crl"), **config), latest), latest  # type: ignore[arg-type]


def decode(store: Store, name: str) -> secret_pb2.Secret:
    return secret_pb2.Secret.FromString(store.encoded(name))


def test_nothing_is_there_before_the_first_certificate(tmp_path: Path) -> None:
    store, latest = make(tmp_path, None)
    assert store.version("default") is None
    assert store.problem("default") == ""
    assert not store.hopeless("default")
    with pytest.raises(LookupError):
        store.encoded("default")
    latest.set(SECRET)
    assert store.version("default")


def test_versions_follow_the_content_and_nothing_else(tmp_path: Path) -> None:
    store, latest = make(tmp_path)
    cert, root = store.version("default"), store.version("ROOTCA")
    assert cert == store.version("any other name")
    latest.set(replace(SECRET, created=5.0))
    assert (store.version("default"), store.version("ROOTCA")) == (cert, root)
    latest.set(replace(SECRET, chain=b"new"))
    assert store.version("default") != cert
    assert store.version("ROOTCA") == root


def test_a_push_to_many_is_encoded_once_and_old_keys_are_forgotten(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    first = store.encoded("default")
    assert store.encoded("default") is first
    store.forget()
    assert store.encoded("default") is not first
    for i in range(MEMO * 2):
        store.encoded(f"n{i}")


def test_mounted_files_stand_in_for_the_ca(tmp_path: Path) -> None:
    root = Root()
    key, cert = root.workload("spiffe://mounted/x")
    names = {"cert_file": "c.pem", "key_file": "k.pem", "root_file": "r.pem"}
    store, _ = make(tmp_path, **{k: str(tmp_path / v) for k, v in names.items()})
    for name in ("default", "ROOTCA"):
        store.subscribe(name)
    assert decode(store, "default").tls_certificate.certificate_chain.inline_bytes == b"chain"
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    (tmp_path / "r.pem").write_bytes(root.pem)
    before = store.version("default")
    assert store.refresh()
    assert store.version("default") != before
    assert decode(store, "default").tls_certificate.private_key.inline_bytes == key
    assert decode(store, "ROOTCA").validation_context.trusted_ca.inline_bytes == root.pem


def test_a_newcomer_finds_mounted_files_for_those_who_have_the_ca_s_certificate(tmp_path: Path) -> None:
    names = {"cert_file": "c.pem", "key_file": "k.pem"}
    store, _ = make(tmp_path, **{k: str(tmp_path / v) for k, v in names.items()})
    store.subscribe("default")
    assert not store.refresh()
    key, cert = Root().workload("spiffe://mounted/x")
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    store.subscribe("another name")
    assert store.version("default") == store.version("another name")
    assert store.refresh(), "the first stream must be told"


def test_without_a_ca_missing_files_are_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = {"cert_file": str(tmp_path / "c.pem"), "key_file": str(tmp_path / "k.pem")}
    for ca in (True, False):
        store, _ = make(tmp_path, None, ca=ca, **pair)
        store.subscribe("default")
        assert not store.hopeless("default"), "they may still come"
        assert store.files.failures == (not ca)
        reason = f"there is no CA, and cannot read {tmp_path}/c.pem: No such file or directory"
        assert store.problem("default") == ("" if ca else reason)
    assert store.hopeless("ROOTCA")
    assert store.problem("ROOTCA").startswith("there is no CA, and no mounted files stand in for it")
    assert not store.hopeless(f"file-root:{tmp_path}/r")
    key, cert = Root().workload("spiffe://mounted/x")
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    assert store.refresh()
    assert store.problem("default") == ""
    assert store.version("default")


def test_the_control_planes_bundle_joins_the_mounted_roots_and_no_others(tmp_path: Path) -> None:
    mounted, other = Root("mounted"), Root("other")
    (tmp_path / "r.pem").write_bytes(mounted.pem)
    latest, bundle = Latest[Secret | None](SECRET), Latest[tuple[str, ...]](())
    file = f"file-root:{tmp_path}/r.pem"

    def trusted(store: Store, name: str) -> bytes:
        return decode(store, name).validation_context.trusted_ca.inline_bytes

    store = Store(SdsConfig(root_file=str(tmp_path / "r.pem")), latest, bundle)
    store.subscribe("ROOTCA")
    store.subscribe(file)
    versions = [store.version("ROOTCA"), store.version(file)]
    assert trusted(store, "ROOTCA") == mounted.pem
    bundle.set((other.pem.decode(), "junk", mounted.pem.decode()))
    assert store.version("ROOTCA") != versions[0]
    assert store.version(file) == versions[1]
    assert trusted(store, "ROOTCA") == b"\n".join(sorted([mounted.pem.strip(), other.pem.strip()]))
    assert trusted(store, file) == mounted.pem
    # What comes from the CA has been merged by whoever asks the CA.
    store = Store(SdsConfig(), latest, bundle)
    assert trusted(store, "ROOTCA") == b"roots"


def test_the_roots_of_the_operating_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Root("one").pem + Root("two").pem
    (tmp_path / "bundle").write_bytes(bundle)
    store, _ = make(tmp_path)
    with monkeypatch.context() as m:
        m.setattr("agent.peer.OS_BUNDLES", (f"{tmp_path}/missing", f"{tmp_path}/bundle"))
        store.subscribe("file-root:system")
        assert decode(store, "file-root:system").validation_context.trusted_ca.inline_bytes == bundle
        assert store.paths()[0] == f"{tmp_path}/bundle"
        m.setattr("agent.peer.OS_BUNDLES", (f"{tmp_path}/missing",))
        store.unsubscribe("file-root:system")
        store.subscribe("file-root:system")
        assert store.hopeless("file-root:system")
    store.unsubscribe("file-root:system")
    assert store.files.names() == []


def test_beside_an_external_server_only_files_are_served(tmp_path: Path) -> None:
    (tmp_path / "r.pem").write_bytes(Root().pem)
    store, _ = make(tmp_path, None, external=True)
    assert store.hopeless("default")
    assert "files only" in store.problem("default")
    name = f"file-root:{tmp_path}/r.pem"
    store.subscribe(name)
    assert not store.hopeless(name)
    assert decode(store, name).name == name
    store.unsubscribe(name)
    assert store.version(name) is None


def test_an_empty_file_name_is_hopeless(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    store.subscribe("file-root:")
    assert store.hopeless("file-root:")
    assert "no path" in store.problem("file-root:")


def test_stamps_are_time_and_counter(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    first, second = store.stamp(), store.stamp()
    assert (first.rpartition("/")[2], second.rpartition("/")[2]) == ("1", "2")
    assert first.rpartition("/")[0][10] == "T"


def test_a_revocation_list_that_comes_or_goes_is_new_trust(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    assert store.paths() == [str(tmp_path / "crl")]
    root, cert = store.version("ROOTCA"), store.version("default")
    assert not store.refresh()
    (tmp_path / "crl").write_text("x")
    assert store.refresh()
    assert not store.refresh()
    assert store.version("ROOTCA") != root
    assert store.version("default") == cert
    (tmp_path / "crl").unlink()
    assert store.refresh()
    assert store.version("ROOTCA") == root
    off, _ = make(tmp_path, crl_enabled=False)
    assert off.paths() == []


def test_the_report_tells_of_files_and_their_problems(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    key, cert = Root("mounted").workload("spiffe://mounted/x")
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    name = f"file-cert:{tmp_path}/c.pem~{tmp_path}/k.pem"
    store.subscribe(name)
    store.subscribe("file-root:/nonexistent")
    good, bad = store.report(ca=True)
    assert (good["name"], good["source"], good["last_error"]) == (name, "files", None)
    assert good["certificate"]["san"] == ["spiffe://mounted/x"]
    assert bad["files"] == ["/nonexistent"]
    assert "cannot read /nonexistent" in bad["last_error"]
    assert "PRIVATE" not in json.dumps([good, bad])
