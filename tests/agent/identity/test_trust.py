from agent.identity.trust import MAX_FORMER, Trust
from tests.fakes.ca import Root

A, B, C = (Root(name).pem.strip() for name in "abc")


def merged(*roots: bytes) -> bytes:
    return b"\n".join(sorted(r.strip() for r in roots))


def test_former_roots_stay_until_the_certificate_under_them_expires() -> None:
    trust = Trust().answered(A, 0.0)
    assert trust == Trust(A)
    assert trust.answered(A, 50.0) is trust
    trust = trust.answered(B, 100.0)
    assert trust.merged() == merged(A, B)
    assert trust.next_end() == 100.0
    assert trust.at(99.0) is trust
    assert trust.at(100.0).merged() == merged(B)
    assert trust.at(100.0).next_end() is None


def test_without_overlap_they_go_at_once() -> None:
    assert Trust(A).answered(B, 0.0).at(1.0).merged() == merged(B)


def test_a_ca_that_changes_its_mind_or_never_keeps_a_root() -> None:
    trust = Trust(A).answered(B, 100.0).answered(A, 200.0)
    assert (trust.issued, trust.former) == (A, ((B, 200.0),))
    for i in range(3 * MAX_FORMER):
        trust = trust.answered(b"%d" % i, 300.0 + i)
    assert len(trust.former) == MAX_FORMER


def test_the_bundle_of_the_control_plane_joins() -> None:
    trust = Trust(A, bundle=(C.decode(), "junk", A.decode())).answered(B, 100.0)
    assert trust.merged() == merged(A, B, C)
    assert trust.at(100.0).merged() == merged(A, B, C)


def test_every_root_has_an_origin() -> None:
    trust = Trust(A, ((B, 100.0),), (C.decode(),))
    found = {root: trust.origin(root.strip()) for root in (A, B, C)}
    assert found == {A: ("current", None), B: ("former", 100.0), C: ("bundle", None)}
