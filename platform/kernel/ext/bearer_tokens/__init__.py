"""Authenticates callers by bearer tokens of an OpenID provider."""
