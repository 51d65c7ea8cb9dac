"""The feature modules: one folder and one owner per module."""
