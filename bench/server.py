"""`python -m bench.server NAME PORT`: serve an application with uvicorn, without an access log."""

import sys

import uvicorn

from bench.apps.registry import APPS


def main(name: str, port: str) -> None:
    """Serve until the process is stopped."""
    uvicorn.run(APPS[name].factory, factory=True, host="127.0.0.1", port=int(port), access_log=False, lifespan="on")


if __name__ == "__main__":
    main(*sys.argv[1:])
