"""Exchange rates, cached for a minute. This module uses the extensions cache and conditional."""
