"""Scripts for wrk: the requests of a recipe, and at the end one line of JSON, which needs no text parsing."""

import json
from typing import Any

from bench.scenarios import Recipe

# wrk reports percentiles and the duration in microseconds.
_DONE = """
done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d, "broken": %d, "late": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
"""
# Both begin at -2: wrk calls request() once at the start, to detect a pipeline, and does not send the result.
_LISTED = """
local prepared, number = {}, -2
request = function()
  number = number + 1
  local index = number % #paths + 1
  if not prepared[index] then prepared[index] = wrk.format(method, paths[index], headers, body) end
  return prepared[index]
end
"""
_COUNTED = """
local number = -2
request = function()
  number = number + 1
  if if_match then headers["If-Match"] = string.format('"%d"', math.floor(number / count) + 1) end
  return wrk.format(method, before .. string.format("%d", first + number % count) .. after, headers, body)
end
"""


def script(recipe: Recipe) -> str:
    """Return the Lua that makes the same requests as `recipe.request(0)`, `recipe.request(1)`, ... on one thread."""
    common = {"method": _text(recipe.method), "body": _text(recipe.body)}
    headers = ", ".join(f"[{_text(name)}] = {_text(value)}" for name, value in recipe.headers.items())
    common["headers"] = f"{{{headers}}}"
    if recipe.count:
        before, _, after = recipe.path.partition("{}")
        own = {
            "before": _text(before),
            "after": _text(after),
            "first": str(recipe.first),
            "count": str(recipe.count),
            "if_match": "true" if recipe.if_match else "false",
        }
        return _locals(common | own) + _COUNTED + _DONE
    paths = [recipe.path.replace("{}", value) for value in recipe.values] or [recipe.path]
    return _locals(common | {"paths": f"{{{', '.join(map(_text, paths))}}}"}) + _LISTED + _DONE


def result_of(output: str) -> dict[str, Any]:
    """Return the figures in the output of wrk. Raises ValueError with the output if it contains none."""
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        raise ValueError(f"the load generator gave no figures:\n{output.strip()[-2000:]}")
    figures: dict[str, Any] = json.loads(line)
    return figures


def _locals(values: dict[str, str]) -> str:
    return "".join(f"local {name} = {value}\n" for name, value in values.items())


def _text(value: str) -> str:
    """Return a Lua string with these characters as bytes (Lua 5.1, section 2.1)."""
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F) if chr(byte) not in '"\\'}
    return '"' + "".join(plain.get(byte, f"\\{byte:03d}") for byte in value.encode("latin-1")) + '"'
