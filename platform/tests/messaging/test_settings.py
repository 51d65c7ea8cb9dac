"""The settings of messages."""

import sys
from pathlib import Path

import pytest

from kernel.settings import SettingsError
from kernel.testing import settings_for


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("nats://h", "nats", "messaging-nats"),
        ("amqps://h", "aio_pika", "messaging-rabbitmq"),
        ("redis://h", "redis", "messaging-redis"),
    ],
)
def test_a_broker_without_its_extra_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, package: str, extra: str
) -> None:
    (tmp_path / "modules").mkdir()
    monkeypatch.setitem(sys.modules, package, None)
    remedy = rf"MESSAGING_BROKER_URL: needs the packages faststream and {package}: install platform-kernel\[{extra}\]"
    with pytest.raises(SettingsError, match=remedy):
        settings_for(tmp_path, {"MESSAGING_BROKER_URL": url})
