"""Codes that a caller may request a few times a day. This module uses the extension rate_limit."""
