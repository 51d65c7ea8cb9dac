"""What the application tells about itself."""

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class TelemetrySettings(SettingsGroup):
    """Metrics, and where traces go. The exporter's own variables are OpenTelemetry's (OTEL_*)."""

    model_config = SettingsConfigDict(env_prefix="TELEMETRY_")

    # Count, and serve /metrics: outside LOCAL only to who sends the token, `Authorization: Bearer TOKEN`.
    metrics: bool = True
    metrics_token: SecretStr | None = None
