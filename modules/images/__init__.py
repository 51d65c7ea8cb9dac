"""Uploaded images: metadata in the database, bytes in object storage."""
