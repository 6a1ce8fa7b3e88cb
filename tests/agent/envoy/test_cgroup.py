"""Where the out-of-memory counter is, on machines of both kinds."""

from pathlib import Path

import pytest

from agent.envoy.cgroup import count, locate, oom_kills

V2_MOUNT = "29 22 0:26 {root} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
V1_MOUNT = "40 35 0:31 {root} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("membership", "mounts", "path"),
    [
        ("0::/\n", V2_MOUNT.format(root="/"), "/sys/fs/cgroup/memory.events"),
        ("0::/a/b\n", V2_MOUNT.format(root="/"), "/sys/fs/cgroup/a/b/memory.events"),
        ("0::/a/b\n", V2_MOUNT.format(root="/a"), "/sys/fs/cgroup/b/memory.events"),
        ("0::/../..\n", V2_MOUNT.format(root="/"), "/sys/fs/cgroup/memory.events"),
        ("4:memory:/pod/x\n0::/\n", V1_MOUNT.format(root="/"), "/sys/fs/cgroup/memory/pod/x/memory.oom_control"),
        ("4:memory:/pod/x\n", V1_MOUNT.format(root="/pod/x"), "/sys/fs/cgroup/memory/memory.oom_control"),
        (
            "4:cpu,memory:/x\n0::/\n",
            V2_MOUNT.format(root="/") + V1_MOUNT.format(root="/"),
            "/sys/fs/cgroup/memory/x/memory.oom_control",
        ),
        ("", V2_MOUNT.format(root="/"), ""),
        ("0::/\n", "nonsense\n - \n", ""),
    ],
)
def test_locate(membership: str, mounts: str, path: str) -> None:
    assert locate(membership, mounts) == path


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n", 2),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7),
        ("oom_kill many\n", None),
        ("", None),
    ],
)
def test_count(text: str, kills: int | None) -> None:
    assert count(text) == kills


def test_a_machine_that_does_not_say(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) is None


def test_the_counter_is_read_through_the_files(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.events").write_text("oom_kill 4\n")
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(f"29 22 0:26 / {group} ro - cgroup2 cgroup rw\n")
    assert oom_kills(tmp_path) == 4
