"""`wait`: ends as soon as the proxy is ready. Exec'd by the kubelet's postStart hook, so it starts fast."""

import time
from collections.abc import Mapping, Sequence

from agent.cli.flags import Flag, FlagSet
from agent.cli.http import HttpError, Url, fetch
from agent.errors import ConfigError

FLAGS = FlagSet(
    "pilot-agent wait",
    (
        Flag("timeoutSeconds", 60, "give up after this many seconds"),
        Flag("requestTimeoutMillis", 500, "time limit of one request"),
        Flag("periodMillis", 500, "pause before every request"),
        Flag("url", "http://localhost:15021/healthz/ready", "what to ask; ready is status 200"),
    ),
    about="Wait until the proxy is ready.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 on the first answer 200; ConfigError (255) when the time is up."""
    args = FLAGS.parse(argv)
    try:
        url = Url(args["url"])
    except ValueError as e:
        raise ConfigError(f"--url: {e}") from None
    timeout = args["timeoutSeconds"]
    print(f"Waiting for the proxy to be ready (at most {timeout} seconds)...", flush=True)
    deadline = time.monotonic() + timeout
    last = "nothing was asked yet"
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(max(0.0, min(args["periodMillis"] / 1000, left)))
        if time.monotonic() >= deadline:
            break
        try:
            status, _ = fetch("GET", url, b"", max(0.001, args["requestTimeoutMillis"] / 1000))
        except HttpError as e:
            last = str(e)
            continue
        if status == 200:
            print("The proxy is ready.")
            return 0
        last = f"it answers with status {status}"
    raise ConfigError(f"the proxy at {args['url']} was not ready within {timeout} seconds: {last}")
