"""`python -m bench.server NAME PORT`: an application on uvicorn, as its documentation has it, without an access log."""

import sys

import uvicorn

from bench.apps.registry import APPS


def main(name: str, port: str) -> None:
    """Serve until somebody ends the process."""
    uvicorn.run(APPS[name].factory, factory=True, host="127.0.0.1", port=int(port), access_log=False, lifespan="on")


if __name__ == "__main__":
    main(*sys.argv[1:])
