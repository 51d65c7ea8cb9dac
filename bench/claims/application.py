"""This repository's application with production settings, a PostgreSQL database of its own, and events in it."""

import http.client
import json
import random
import subprocess
from pathlib import Path

from sqlalchemy.engine import URL

from bench.claims.processes import KERNEL, ROOT, environment

_WORDS = (
    "the", "a", "of", "in", "and", "with", "for", "by", "to", "music", "concert", "evening", "garden", "entrance",
    "reading", "stage", "friends", "river", "orchestra", "children", "workshop", "market", "lecture", "winter",
    "summer", "open-air", "exhibition", "gallery", "theatre", "quartet", "premiere", "doors", "begin", "eight",
)  # fmt: skip
_PLACES = ("Town hall", "Old brewery", "Library", "Riverside park", "Museum of arts")


def words(count: int, seed: int) -> str:
    """Return this number of words, the same for the same seed. They compress like prose, unlike repeated letters."""
    return " ".join(random.Random(seed).choices(_WORDS, k=count))  # noqa: S311  # no secret


def migrated(folder: Path, database: URL) -> dict[str, str]:
    """Apply the migrations to `database`, and return the variables of the application."""
    variables = environment(
        folder,
        ENVIRONMENT="dev",
        APPLICATION_DEBUG="false",
        AUTH_ENABLED="false",
        DATABASE_URL=database.render_as_string(hide_password=False),
        IMAGES_STORAGE_URL=str(folder / "images"),
    )
    done = subprocess.run([KERNEL, "migrate"], cwd=ROOT, env=variables, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"kernel migrate failed:\n{done.stderr}")
    return variables


def create_events(port: int, count: int, description_words: int) -> None:
    """Create events over HTTP with different words, the same in each run."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for number in range(count):
        event = {
            "title": words(4, number),
            "description": words(description_words, number),
            "date": f"2030-05-{1 + number % 28:02}",
            "time": f"{8 + number % 14:02}:30",
            "location": _PLACES[number % len(_PLACES)],
        }
        connection.request("POST", "/api/v1/events", json.dumps(event), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"an event could not be created: {answer.status} {body.decode()[:300]}")
    connection.close()
