"""The settings of the audit log."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from kernel.settings import SettingsGroup


class AuditSettings(SettingsGroup):
    """Where the audit log is written."""

    model_config = SettingsConfigDict(env_prefix="AUDIT_")

    # A relative path starts at the project's folder.
    file: Path = Path("audit.log")
