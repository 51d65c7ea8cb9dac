"""Calls between the processes of one application: what extensions that make them and that use them share."""
