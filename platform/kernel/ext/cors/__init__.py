"""Lets web pages of other origins call the API (CORS)."""
