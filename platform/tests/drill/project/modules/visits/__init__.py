"""A number of visits that all processes share. This module uses the extension store."""
