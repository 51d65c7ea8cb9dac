"""Orders that are published as messages. This module uses the extension messaging."""
