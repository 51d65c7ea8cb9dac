"""Expressions that the checks cannot read. Each evaluates to `SELECT 1 FROM right.rights` at run time.

The checks do not find them (`test_hostile.py`); the role of a module refuses each (`test_runtime_boundaries_roles.py`).
"""

UNREADABLE = {
    "a text in hexadecimal": 'bytes.fromhex("53454c45435420312046524f4d2072696768742e726967687473").decode()',
    "a text in base64": '__import__("base64").b64decode("U0VMRUNUIDEgRlJPTSByaWdodC5yaWdodHM=").decode()',
    "character codes": '"SELECT 1 FROM " + "".join(map(chr, (114, 105, 103, 104, 116, 46, 114, 105, 103, 104, 116, 115)))',
    "a reversed text": '"sthgir.thgir MORF 1 TCELES"[::-1]',
    "translated letters": '"FELECT 1 SROM right.rights".translate(str.maketrans("FS", "SF"))',
    "a value from JSON": '"SELECT 1 FROM " + __import__("json").loads(\'{"t": "right.rights"}\')["t"]',
    "a format that reads a part of its argument": '"SELECT 1 FROM {0[t]}".format({"t": "right.rights"})',
    "parts of a text": '"SELECT 1 FROM " + "".join("right.rights".partition(","))',
}
