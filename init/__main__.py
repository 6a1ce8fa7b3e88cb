"""`remora-init plan|apply|verify|cleanup|explain FLAGS`, and the drop-in for `istio-iptables FLAGS`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from init import config as configuration
from init import flags
from init.errors import InitError
from init.plan import Plan, plan
from init.rules import RuleSet, render
from init.settings import InitConfig

VERBS = ("plan", "apply", "verify", "cleanup")


def main() -> None:
    """Console script `remora-init`."""
    end_cleanly()
    sys.exit(run(sys.argv[1:], os.environ))


def end_cleanly() -> None:
    """Told to stop, this process ends as after a failure: with everything put back, which nothing can interrupt."""
    import signal

    stopping = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

    def stop(number: int, _: object) -> None:
        for each in stopping:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    try:
        for each in stopping:
            signal.signal(each, stop)
    except ValueError:
        return  # a thread of somebody's program, whose signals are not ours


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """A verb with flags, or flags alone, which act as `istio-iptables` does. Returns the exit code."""
    if argv and argv[0] == "explain":
        from init import ask

        return guarded(lambda: ask.run(argv[1:], environ))
    if not argv or argv[0] not in VERBS:
        return istio_iptables(argv, environ)
    return guarded(lambda: verb(argv[0], parsed(argv[1:], environ)))


def istio_iptables(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The drop-in command: exit 0, 1 for errors, 126 when validation fails, 255 for a bad command line."""
    return guarded(lambda: drop_in(parsed(argv, environ), environ))


def guarded(body: object) -> int:
    try:
        return int(body())  # type: ignore[operator]
    except InitError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except BrokenPipeError:
        return 1


def parsed(argv: Sequence[str], environ: Mapping[str, str]) -> InitConfig:
    return configuration.parse(argv, environ)


# Environment variables that are logged as they came, before the settings that were made of them.
SHOWN = (
    "ENVOY_PORT",
    "INBOUND_CAPTURE_PORT",
    "ISTIO_INBOUND_INTERCEPTION_MODE",
    "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
    "ISTIO_INBOUND_PORTS",
    "ISTIO_OUTBOUND_PORTS",
    "ISTIO_LOCAL_EXCLUDE_PORTS",
    "ISTIO_EXCLUDE_INTERFACES",
    "ISTIO_SERVICE_CIDR",
    "ISTIO_SERVICE_EXCLUDE_CIDR",
    "ISTIO_META_DNS_CAPTURE",
    "INVALID_DROP",
)


def drop_in(config: InitConfig, environ: Mapping[str, str]) -> int:
    if config.help:
        print(flags.usage(), end="")
        return 0
    say(config, *(f"{name}={environ.get(name, '')}" for name in SHOWN))
    say(config, *(f"{name}={value}" for name, value in effective(config)))
    for warning in config.warnings:
        say(config, warning, level="warn")
    if config.dry_run:
        preview(config)
    elif config.cleanup_only or not config.skip_apply:
        from init import apply

        if config.cleanup_only:
            outcome = apply.cleanup(config)
            done = "rules removed" if outcome.changed else "no rules of ours were in place"
        else:
            outcome = apply.apply(config, replace=config.reconcile or config.force_apply)
            done = f"{outcome.rules} rules " + ("written" if outcome.changed else "in place already, nothing written")
        for warning in outcome.warnings[len(config.warnings) :]:
            say(config, warning, level="warn")
        say(config, f"{done} ({outcome.backend})")
        for family, rules in outcome.after.items():
            if family != 6 or config.v6:
                say(config, *saved(family, rules).splitlines())
    if config.validate and not config.cleanup_only and not config.dry_run:
        from init.validate import validate

        validate(config)
        say(config, "validation passed: the proxy's probe was redirected")
    return 0


def verb(name: str, config: InitConfig) -> int:
    if config.help:
        print(flags.usage(), end="")
        return 0
    if name == "plan" or config.dry_run:
        preview(config)
        return 0
    from init import apply

    if name == "verify":
        found = apply.verify(config)
        for difference in found:
            print(f"{difference.kind}: {difference.text}")
        harmful = sum(d.harmful for d in found)
        print(f"{harmful} differences from the plan" if harmful else f"the plan's {count(config)} rules are in force")
        return 1 if harmful else 0
    if name == "cleanup":
        outcome = apply.cleanup(config)
        print("rules removed" if outcome.changed else "no rules of ours were in place")
        return 0
    outcome = apply.apply(config)
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{outcome.rules} rules {'written' if outcome.changed else 'in place, nothing written'} ({outcome.backend})")
    return 0


def preview(config: InitConfig) -> None:
    """Print what would be loaded, and write it to DRY_RUN_FILE_PATH when that is set. Touches nothing else."""
    text = "" if config.cleanup_only else describe(plan(config), native=config.native)
    print(text, end="")
    if config.dry_run and config.dry_run_file:
        try:
            with open(config.dry_run_file, "w", encoding="utf-8") as f:
                f.write(text)
        except OSError as e:
            raise InitError(f"DRY_RUN_FILE_PATH {config.dry_run_file} cannot be written: {e.strerror}") from None


def count(config: InitConfig) -> int:
    """How many rules the plan has in the form that is asked for."""
    if not config.native:
        return plan(config).count()
    from init import nftrules

    return nftrules.native(plan(config)).count()


def saved(family: int, rules: RuleSet) -> str:
    """Rules as the command prints them that lists them."""
    if family in (4, 6):
        return f"{'iptables' if family == 4 else 'ip6tables'}-save\n{render(rules)}"
    from init import nftrules

    return "nft list tables\n" + nftrules.render(rules)


def describe(planned: Plan, *, native: bool = False) -> str:
    """The plan as commands, each with what it reads."""
    if native:
        from init import nftrules

        text = "# nft -f -\n" + nftrules.transition(RuleSet(), nftrules.native(planned))
    else:
        text = "# iptables-restore --noflush\n" + render(planned.v4)
        if planned.v6 is not None:
            text += "# ip6tables-restore --noflush\n" + render(planned.v6)
    wanted = planned.routes
    for family in wanted.families:
        text += f"# ip -{family} rule add fwmark {wanted.mark} lookup {wanted.table}\n"
        text += f"# ip -{family} route add local default dev lo table {wanted.table}\n"
    if wanted.passthrough6:
        text += "# ip -6 addr add ::6/128 dev lo\n"
    return text


def effective(config: InitConfig) -> list[tuple[str, str]]:
    """The settings in force under the names that istio's command prints."""

    def joined(values: Sequence[str]) -> str:
        return ",".join(values)

    def ranged(which: configuration.Ranges) -> str:
        return "*" if which.all else joined(which.v4 + which.v6)

    def yes(value: bool) -> str:
        return str(value).lower()

    return [
        ("PROXY_PORT", str(config.proxy_port)),
        ("INBOUND_CAPTURE_PORT", str(config.inbound_port)),
        ("INBOUND_TUNNEL_PORT", str(config.tunnel_port)),
        ("PROXY_UID", joined(config.uids)),
        ("PROXY_GID", joined(config.gids)),
        ("INBOUND_INTERCEPTION_MODE", "TPROXY" if config.tproxy else "REDIRECT"),
        ("INBOUND_TPROXY_MARK", str(config.mark)),
        ("INBOUND_TPROXY_ROUTE_TABLE", str(config.route_table)),
        ("INBOUND_PORTS_INCLUDE", joined(config.inbound_ports)),
        ("INBOUND_PORTS_EXCLUDE", joined(config.inbound_exclude)),
        ("OUTBOUND_OWNER_GROUPS_INCLUDE", joined(config.groups)),
        ("OUTBOUND_OWNER_GROUPS_EXCLUDE", joined(config.groups_exclude)),
        ("OUTBOUND_IPRANGES_INCLUDE", ranged(config.include)),
        ("OUTBOUND_IPRANGES_EXCLUDE", ranged(config.exclude)),
        ("OUTBOUND_PORTS_INCLUDE", joined(config.outbound_ports)),
        ("OUTBOUND_PORTS_EXCLUDE", joined(config.outbound_exclude)),
        ("KUBE_VIRT_INTERFACES", joined(config.virtual_interfaces)),
        ("EXCLUDE_INTERFACES", joined(config.exclude_interfaces)),
        ("ENABLE_INBOUND_IPV6", yes(config.v6)),
        ("HOST_IP", config.host_ip),
        ("HOST_IPV4_LOOPBACK_CIDR", config.loopback4),
        ("REDIRECT_DNS", yes(config.dns)),
        ("CAPTURE_ALL_DNS", yes(config.dns_all)),
        ("DNS_SERVERS_V4", joined(config.dns_servers.v4)),
        ("DNS_SERVERS_V6", joined(config.dns_servers.v6)),
        ("DROP_INVALID", yes(config.drop_invalid)),
        ("FORCE_IPTABLES_BINARY", config.backend),
        ("NATIVE_NFTABLES", yes(config.native)),
        ("RECONCILE", yes(config.reconcile)),
        ("CLEANUP_ONLY", yes(config.cleanup_only)),
        ("FORCE_APPLY", yes(config.force_apply)),
        ("SKIP_RULE_APPLY", yes(config.skip_apply)),
        ("DRY_RUN", yes(config.dry_run)),
        ("RUN_VALIDATION", yes(config.validate)),
        ("CNI_MODE", yes(config.cni_mode)),
    ]


def say(config: InitConfig, *lines: str, level: str = "info") -> None:
    """Log lines on standard error, as text or JSON, when the configured level lets them through."""
    if config.log_level not in flags.LEVELS[: flags.LEVELS.index(level) + 1]:
        return
    for line in lines:
        if config.log_json:
            import json

            line = json.dumps({"level": level, "scope": "iptables", "msg": line})
        else:
            line = f"{level}\t{line}"
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
