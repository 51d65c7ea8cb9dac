"""Actions and images are pinned to commits and digests, because a tag can be moved to other code."""

import re
from pathlib import Path

import yaml


def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it(root: Path) -> None:
    files = sorted((root / ".github" / "workflows").glob("*.y*ml"))
    used = [line for path in files for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    for line in used:
        assert re.search(r"uses: (\./|[\w.-]+/[\w./-]+@[0-9a-f]{40} +# v\d+\.\d+\.\d+$)", line), line


def test_every_image_that_is_fetched_is_pinned_to_a_digest(root: Path) -> None:
    dockerfiles = [root / "Dockerfile", root / ".devcontainer" / "Dockerfile"]
    text = "".join(path.read_text() for path in dockerfiles)
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    fetched = [image for image, _ in stages if image not in {name for _, name in stages}]
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"].values()
    fetched += [service["image"] for service in services if "image" in service and "build" not in service]
    assert len(fetched) >= 4
    for image in fetched:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_all_kinds_of_pins_are_moved_by_pull_requests(root: Path) -> None:
    updates = yaml.safe_load((root / ".github" / "dependabot.yml").read_text())["updates"]
    assert {one["package-ecosystem"] for one in updates} == {"github-actions", "docker", "docker-compose", "pip"}
    folders = {folder for one in updates for folder in one.get("directories", [one.get("directory")])}
    assert folders == {"/", "/.devcontainer", "/platform", "/requirements"}
