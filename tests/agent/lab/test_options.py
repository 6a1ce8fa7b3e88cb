"""What a lab refuses before it makes anything."""

from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.lab.demo import MESH
from agent.lab.mesh import parse
from agent.lab.options import check_addresses, find_envoy


def mesh(name: str = "x", ip: str = "10.77.0.40") -> str:
    return f"workloads: [{{name: y, namespace: demo, ip: 10.77.0.41}}, {{name: {name}, namespace: demo, ip: '{ip}'}}]"


def test_the_demo_fits_and_so_does_an_example() -> None:
    check_addresses(parse(MESH))
    check_addresses(parse(mesh()))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (mesh(name="istiod"), "has that name already"),
        (mesh(name="y"), "has that name already"),
        (mesh(ip="10.78.0.4"), r"must be in 10\.77\.0\.0/24"),
        (mesh(ip="fd77::4"), r"must be in 10\.77\.0\.0/24"),
        (mesh(ip="10.77.0.1"), "belongs to the bridge"),
        (mesh(ip="10.77.0.41"), "belongs to y"),
    ],
)
def test_what_does_not_fit_is_one_sentence(text: str, says: str) -> None:
    try:
        parsed = parse(text)
    except ConfigError:
        return  # the mesh file's own rules refuse it before
    with pytest.raises(ConfigError, match=says):
        check_addresses(parsed)


def test_envoy_is_what_the_user_says(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LAB_ENVOY"):
        find_envoy({"LAB_ENVOY": str(tmp_path / "envoy")})
    (tmp_path / "envoy").write_text("")
    assert find_envoy({"LAB_ENVOY": str(tmp_path / "envoy")}) == tmp_path / "envoy"


def test_without_a_word_it_is_the_packaged_one() -> None:
    assert find_envoy({}).name == "envoy"
