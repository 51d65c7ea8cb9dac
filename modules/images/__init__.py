"""Uploaded pictures: their metadata here, their bytes in object storage."""
