from kernel import ModuleSettings
from kernel.settings.groups import Names


class MailSettings(ModuleSettings):
    refused: Names = ()
    fatal: Names = ()
    delay_seconds: float = 0
