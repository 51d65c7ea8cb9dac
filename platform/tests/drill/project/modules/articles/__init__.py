"""Articles that are found by their words. This module uses the extension search."""
