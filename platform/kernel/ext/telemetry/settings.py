"""Metrics and traces."""

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class TelemetrySettings(SettingsGroup):
    """Metrics. The variables of traces are OpenTelemetry's (OTEL_*)."""

    model_config = SettingsConfigDict(env_prefix="TELEMETRY_")

    # Count requests, and serve /metrics; outside LOCAL only with the token: `Authorization: Bearer TOKEN`.
    metrics: bool = True
    metrics_token: SecretStr | None = None
