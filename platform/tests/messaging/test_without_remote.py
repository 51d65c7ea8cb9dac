"""Messages without the extension remote: in one process and through a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.ext.messaging.bus import MessageBus
from kernel.health import Degraded
from kernel.runtime import Kernel
from kernel.settings import SettingsError
from kernel.testing import project_for
from tests.core.project import imported_alone
from tests.messaging.shop import write_shop

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Provide the shop and the mail, without remote."""
    write_shop(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.kernel]\nwithout-extensions = ["remote"]\n')
    with imported_alone():
        yield tmp_path


async def test_a_subscriber_elsewhere_needs_a_channel(project: Path) -> None:
    kernel = Kernel(*project_for(project, {"MESSAGING_SUBSCRIBERS": "other", "OTHER_URL": NOWHERE}))
    with pytest.raises(SettingsError, match=r"OTHER_URL: names a module in another process .* extension remote"):
        async with kernel.running():
            pass


async def test_an_unreachable_subscriber_degrades_readiness_with_a_remedy(project: Path) -> None:
    kernel = Kernel(*project_for(project, {"ENABLED_MODULES": "shop"}))
    async with kernel.running():
        with pytest.raises(Degraded, match="use the extension remote and set MAIL_URL"):
            await kernel.health_checks()["messages"]()


def test_a_broker_connects_modules_in_two_processes(project: Path) -> None:
    broker = {"MESSAGING_BROKER_URL": "redis://127.0.0.1:9"}
    kernel = Kernel(*project_for(project, {"ENABLED_MODULES": "mail", "SHOP_URL": NOWHERE, **broker}))
    assert [module.name for module in kernel.modules] == ["mail"]
    assert [*kernel.get(MessageBus).targets] == ["mail.write_letter", "broker"]
