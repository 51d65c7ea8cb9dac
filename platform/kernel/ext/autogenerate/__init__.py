"""Migrations written from the models, and comparisons of models with tables."""
