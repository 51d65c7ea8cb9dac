"""Exchange rates, cached for a minute. This module uses the extension cache."""
