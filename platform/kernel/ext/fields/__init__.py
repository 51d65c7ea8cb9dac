"""Types for the fields of requests and of contracts: bounded, strict, and free of what no database stores."""

from kernel.ext.fields.fields import Day, Id, IsLocalTime, LocalTime, NoNul, Omittable, RequestBody

__all__ = ["Day", "Id", "IsLocalTime", "LocalTime", "NoNul", "Omittable", "RequestBody"]
