"""What the sections compute from their own fields."""

import dataclasses

import pytest

from agent import config
from tests.fakes.configs import make


def test_names_of_the_node() -> None:
    node = make().node
    assert node.id == "sidecar~10.77.0.2~app-1.demo~demo.svc.cluster.local"
    assert node.spiffe_id == "spiffe://cluster.local/ns/demo/sa/app"
    assert not node.all_v6


def test_every_section_says_what_it_is_and_is_frozen() -> None:
    sections = [c for c in vars(config).values() if dataclasses.is_dataclass(c)]
    assert len(sections) > 10
    for section in sections:
        assert section.__doc__
    with pytest.raises(AttributeError, match="frozen"):
        make().node.pod_name = "x"  # type: ignore[misc]
