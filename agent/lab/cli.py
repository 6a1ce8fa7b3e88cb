"""`remora-agent lab ...`: a mesh on one machine. Each verb is a process and imports only what it needs."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from agent import logs
from agent.errors import ConfigError, RemoraError

_EXAMPLE = """\
a mesh on one machine, from one YAML file:

  remora-agent lab init  --dir lab --mesh mesh.yaml --san 10.77.0.1
  remora-agent lab ca    --dir lab --listen 10.77.0.1:15013
  remora-agent lab plane --mesh mesh.yaml --listen 10.77.0.1:15012 \\
      --cert lab/istiod-cert.pem --key lab/istiod-key.pem --root lab/root-cert.pem

init, ca and plane end with 255 when their configuration cannot work and with 1 when the machine refuses (a taken port).
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see --help)")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """`argv` is what follows `lab`. Returns the exit status; errors are one sentence on stderr."""
    if argv and argv[0] == "demo":
        from agent.lab import demo

        return demo.run(list(argv[1:]), environ)
    if argv and argv[0] == "up":
        from agent.lab import up

        return up.run(list(argv[1:]), environ)
    try:
        options = _parser().parse_args(list(argv))
        if options.verb is None:
            _parser().print_help()
            return 0
        logs.configure({"default": "info"}, options.log_as_json)
        return int(options.action(options))
    except RemoraError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:  # argparse, after --help
        return int(end.code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="remora-agent lab",
        description="Run a service mesh on one machine: a control plane, a certificate authority and pods.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = _Parser(add_help=False)
    common.add_argument("--log_as_json", action="store_true", help="log JSON lines instead of text")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    verbs.add_parser("demo", help="two workloads, nine faults, one report (needs root)", add_help=False)
    verbs.add_parser("up", help="run the mesh of a YAML file until Ctrl-C (needs root)", add_help=False)

    init = verbs.add_parser(
        "init", parents=[common], help="make root, server certificate and tokens", allow_abbrev=False
    )
    init.add_argument(
        "--dir", type=Path, required=True, metavar="DIR", help="folder to write; an existing root is kept"
    )
    init.add_argument("--mesh", type=Path, required=True, metavar="FILE", help="the mesh: one token for each workload")
    init.add_argument(
        "--san",
        action="append",
        default=[],
        metavar="NAME",
        help="further host name or IP address of the server certificate; repeatable",
    )
    init.set_defaults(action=_init)

    ca = verbs.add_parser("ca", parents=[common], help="serve certificates to workloads over TLS", allow_abbrev=False)
    ca.add_argument("--listen", required=True, metavar="HOST:PORT", help="such as 10.77.0.1:15013")
    ca.add_argument("--dir", type=Path, required=True, metavar="DIR", help="folder written by `lab init`")
    ca.add_argument("--ttl", metavar="DURATION", help="longest certificate life, such as 24h; the mesh may lower it")
    ca.add_argument("--tokens", type=Path, metavar="DIR", help="folder of accepted tokens (default: DIR/tokens)")
    ca.set_defaults(action=_ca)

    plane = verbs.add_parser("plane", parents=[common], help="serve xDS to sidecars", allow_abbrev=False)
    plane.add_argument("--mesh", type=Path, required=True, metavar="FILE", help="followed: a change is pushed at once")
    plane.add_argument("--listen", required=True, metavar="HOST:PORT", help="such as 10.77.0.1:15012, or unix:PATH")
    plane.add_argument("--cert", type=Path, metavar="FILE", help="server certificate chain, PEM")
    plane.add_argument("--key", type=Path, metavar="FILE", help="its key, PEM")
    plane.add_argument("--root", type=Path, metavar="FILE", help="root that must have signed the certificate, PEM")
    plane.add_argument("--tokens", type=Path, metavar="DIR", help="demand one of these tokens of every stream")
    plane.add_argument("--plaintext", action="store_true", help="no TLS (a unix socket never has any)")
    plane.set_defaults(action=_plane)
    return parser


def _init(options: argparse.Namespace) -> int:
    from agent.lab import mesh, serving, setup

    parsed = mesh.parse_bytes(serving.read(options.mesh, "the mesh file"), f"mesh file {options.mesh}")
    for line in setup.initialise(options.dir, parsed, options.san):
        print(line)
    return 0


def _ca(options: argparse.Namespace) -> int:
    import asyncio

    from agent.lab import ca, mesh

    try:
        ttl = None if options.ttl is None else mesh.duration(options.ttl)
    except ValueError as error:
        raise ConfigError(f"--ttl: {error}") from None
    asyncio.run(ca.serve(ca.CaOptions(options.dir, options.listen, ttl, options.tokens)))
    return 0


def _plane(options: argparse.Namespace) -> int:
    import asyncio

    from agent.lab import plane

    asyncio.run(
        plane.serve(
            plane.PlaneOptions(
                mesh=options.mesh,
                listen=options.listen,
                cert=options.cert,
                key=options.key,
                root=options.root,
                tokens=options.tokens,
                plaintext=options.plaintext,
            )
        )
    )
    return 0
