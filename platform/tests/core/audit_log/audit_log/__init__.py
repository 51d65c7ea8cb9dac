"""An audit log: method, path, caller and status of each request that may change data."""
