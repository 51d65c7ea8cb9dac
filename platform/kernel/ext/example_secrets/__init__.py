"""Refuses secrets in UAT and PROD that are empty or copied from an example."""
