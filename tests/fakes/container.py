"""One container as its pod's manifest describes it, and the script that is its image, its volumes and its user."""

from __future__ import annotations

import os
import re
import shlex
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.cluster import IP, ISTIOD_IP

ROOT = Path(__file__).resolve().parent.parent.parent
ENVOY = Path(sysconfig.get_path("purelib")) / "envoy" / "_bin" / "envoy"
# What the kubelet fills in for `fieldRef`.
FIELDS = {
    "metadata.name": "web",
    "metadata.namespace": "demo",
    "spec.nodeName": "node-1",
    "spec.serviceAccountName": "web",
    "status.podIP": IP,
    "status.hostIP": ISTIOD_IP,
}
MOUNTS = {
    "/var/run/secrets/workload-spiffe-uds": "emptyDir",
    "/var/run/secrets/credential-uds": "emptyDir",
    "/var/run/secrets/istio": "root",
    "/var/lib/istio/data": "emptyDir",
    "/etc/istio/proxy": "memory",
    "/var/run/secrets/tokens": "token",
    "/etc/istio/pod": "podinfo",
}


@dataclass(frozen=True)
class Container:
    """`env`: texts, {field: PATH} or {limit: RESOURCE}; `mounts`: path → kind of volume; `capabilities`: those kept."""

    args: Sequence[str]
    env: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    user: int = 1337
    group: int = 1337
    capabilities: Sequence[str] = ()
    read_only: bool = True

    def environ(self, limits: Mapping[str, str]) -> dict[str, str]:
        """The variables as the kubelet sets them."""

        def text(value: str | Mapping[str, str]) -> str:
            if isinstance(value, str):
                return value
            return FIELDS[value["field"]] if "field" in value else limits[value["limit"]]

        return {name: text(value) for name, value in self.env.items()}

    def become(self) -> list[str]:
        """What runs a command as the container's user, who may not gain any privilege."""
        kept = "".join(f",+{name}" for name in self.capabilities)
        return [
            "setpriv", "--reuid", str(self.user), "--regid", str(self.group), "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", f"--bounding-set=-all{kept}",
        ]  # fmt: skip


def proxy(role: str, **env: str) -> Container:
    """The proxy container of a small pod; keyword arguments are further variables."""
    short = {
        "CA_ADDR": "istiod.istio-system.svc:15012",
        "POD_NAME": "web",
        "POD_NAMESPACE": "demo",
        "SERVICE_ACCOUNT": "web",
        "INSTANCE_IP": IP,
        "ISTIO_CPU_LIMIT": "1",
    }
    return Container(["proxy", role, "--log_output_level=default:info"], {**short, **env}, MOUNTS)


def expand(args: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """`$(NAME)` in arguments, as the kubelet replaces it."""
    return [re.sub(r"\$\((\w+)\)", lambda match: environ.get(match[1], match[0]), arg) for arg in args]


def lay_out(folder: Path, mounts: Mapping[str, str], contents: Mapping[str, Mapping[str, str]]) -> None:
    """The folder that `script` works from; `contents`: kind of volume → name → text."""
    (folder / "image").mkdir(parents=True)
    for number, kind in enumerate(mounts.values()):
        volume = folder / f"volume-{number}"
        volume.mkdir()
        volume.chmod(0o777 if kind == "emptyDir" else 0o755)
        if kind in contents:
            _project(volume, contents[kind])
    entry = folder / "pilot-agent"
    entry.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m agent "$@"\n')
    entry.chmod(0o755)
    for name, text in (
        ("hosts", f"127.0.0.1 localhost\n{IP} web\n"),
        ("resolv.conf", f"search demo.svc.cluster.local svc.cluster.local cluster.local\nnameserver {ISTIOD_IP}\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ):
        (folder / name).write_text(text)


def _project(volume: Path, files: Mapping[str, str]) -> None:
    """Files as the kubelet writes them: links into a directory that it swaps by a link of its own."""
    real = volume / "..2026_01_01"
    real.mkdir()
    (volume / "..data").symlink_to(real.name)
    for name, text in files.items():
        (real / name).write_text(text)
        (volume / name).symlink_to(f"..data/{name}")


def isolated(folder: Path, container: Container, envoy: Path, command: Sequence[str]) -> list[str]:
    """The command in its container: mounts and processes of its own, the network of the caller."""
    script = _script(str(folder), container, str(envoy))
    return ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", *command]


def _script(folder: str, container: Container, envoy: str) -> str:
    """Shell lines that build the root file system, enter it, and become the command."""
    here, local = shlex.quote(folder), "usr/local/bin"
    lines = ["set -e", "umask 022", "mount --make-rprivate /"]
    lines += [f"mount -t tmpfs -o mode=0755 image {here}/image", f"cd {here}/image"]
    trees: list[Path] = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "usr"):
        top = Path("/", name)
        if top.is_symlink():
            lines.append(f"ln -s {shlex.quote(os.readlink(top))} {name}")
        elif top.is_dir():
            trees.append(top)
    # The interpreter, its packages and the project, wherever they are; outer folders come first.
    for tree in sorted({Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1], ROOT}):
        if not any(tree.is_relative_to(other) for other in trees):
            trees.append(tree)
    for quoted in (shlex.quote(str(tree)) for tree in trees):
        lines.append(f"mkdir -p .{quoted} && mount --bind {quoted} .{quoted} && mount -o remount,bind,ro .{quoted}")
    lines += [
        f"mount -t tmpfs -o mode=0755 local {local}",
        f'for f in /{local}/python*; do if [ -e "$f" ]; then touch ".$f"; mount --bind "$f" ".$f"; fi; done',
        f"cp {here}/pilot-agent {local} && touch {local}/envoy",
        f"mount --bind {shlex.quote(envoy)} {local}/envoy",
        "mkdir -p proc sys dev etc run",
        "mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev",
        "for f in alternatives ld.so.cache passwd group protocols services ssl; do",
        '  if [ -e "/etc/$f" ]; then cp -a "/etc/$f" etc; fi',
        "done",
        f"cp {here}/hosts {here}/resolv.conf {here}/nsswitch.conf etc",
    ]
    for number, (path, kind) in enumerate(container.mounts.items()):
        quoted = shlex.quote(path)
        source = "-t tmpfs -o mode=0777 memory" if kind == "memory" else f"--bind {here}/volume-{number}"
        lines.append(f"mkdir -p .{quoted} && mount {source} .{quoted}")
        if kind not in ("memory", "emptyDir"):
            # Another volume may be mounted below: its mount point is made as long as that is possible.
            inner = " ".join(f".{shlex.quote(other)}" for other in container.mounts if other.startswith(f"{path}/"))
            lines.append(f"mkdir -p .{quoted} {inner} && mount -o remount,bind,ro .{quoted}")
    if container.read_only:
        lines.append(f"mount -o remount,bind,ro {local} && mount -o remount,bind,ro {here}/image")
    return "\n".join([*lines, f'exec chroot {here}/image {shlex.join(container.become())} "$@"', ""])
