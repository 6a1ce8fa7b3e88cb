"""What the status port shows of the whole agent: its metrics, and the pages that only this pod may see."""

import json
import socket
from typing import TYPE_CHECKING

from agent import certmetrics, exposition
from agent.envoy.admin import Admin
from agent.status.loglevels import LogLevels
from agent.status.metrics import Registry
from agent.status.server import StatusServer, local_page

if TYPE_CHECKING:
    from agent.app import App


def registry(app: "App") -> Registry:
    """The metrics of every part that exists by now; later ones add theirs."""
    found = Registry()
    certmetrics.certificate(found, app.secret, app.sds.ends if app.sds else dict)
    exposition.envoy(found, app.envoy)
    exposition.events(found, app.recorder)
    if app.xds is not None:
        exposition.xds(found, app.xds.ledger)
        exposition.xds_cache(found, app.xds.cache)
    if app.sds is not None:
        exposition.sds(found, app.sds)
    if app.dns is not None:
        exposition.dns(found, app.dns.stats)
    return found


def server(app: "App", metrics: Registry, sock: socket.socket) -> StatusServer:
    """Port 15020 on `sock`."""
    envoy = app.config.envoy
    # Envoy's page is fetched from its statistics listener, as Prometheus itself would.
    scrape = Admin(envoy.admin_host, envoy.stats_port, "Envoy's statistics port").scrape if envoy.enabled else None
    return StatusServer(
        app.config.status,
        sock,
        app.gates,
        app.drain,
        app.quit,
        metrics,
        scrape,
        lambda: name_table(app),
        {
            "/logging": LogLevels(app.config.log.levels).answer,
            "/debug/certs": local_page(lambda: certificates(app)),
            "/debug/config": local_page(lambda: settings(app)),
            "/debug/events": local_page(app.recorder.to_json),
            "/debug/xds": local_page(lambda: "{}" if app.xds is None else app.xds.report()),
        },
    )


def certificates(app: "App") -> str:
    """A JSON list: the CA's certificate if there is a CA, and what comes from files or from another server."""
    from agent.sds import files, report

    ca, config = app.identity is not None, app.config.sds
    rows = app.sds.report(ca) if app.sds else report.describe(config, files.FileSecrets(), ca)
    own = [] if app.identity is None else [report.shadow(app.identity.report(), rows)]
    return json.dumps(own + rows)


def settings(app: "App") -> str:
    """Every setting with its source, secrets redacted, as JSON."""
    from agent.settings import show

    return show.as_json(app.config)


def name_table(app: "App") -> str | None:
    """The name table as istiod's debug page shows it, None before the first."""
    if app.names.value is None:
        return None
    from agent.dns import table

    return table.debug_json(app.names.value, app.config.dns.proxy_namespace, app.config.dns.proxy_domain)
