"""A stand-in for libnuma where the machine has none: a shared library that says there is one memory node.

vLLM's CPU kernels are linked against libnuma.so.1, which is a system package; without it they do not load and the
engine ends. All that they ask for on a machine with one node is `numa_available`, and -1 is libnuma's own answer
where there is nothing to place. The few hundred bytes are written here because nothing may be compiled or fetched.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from pathlib import Path

NAME = "libnuma.so.1"
_VERSIONS = {
    "libnuma_1.1": ("numa_available", "numa_migrate_pages", "numa_set_strict"),
    "libnuma_1.2": (
        "numa_bitmask_free",
        "numa_get_mems_allowed",
        "numa_parse_nodestring",
        "numa_set_interleave_mask",
        "numa_set_membind",
    ),
}
"""The functions that vLLM names, by the version under which it asks for them. All but `numa_available`, which answers
-1, answer 0: nobody calls them after that."""

# (ELF machine, code that answers -1, code that answers 0)
_MACHINES = {
    "x86_64": (62, bytes.fromhex("b8ffffffffc3"), bytes.fromhex("31c0c3")),
    "aarch64": (183, bytes.fromhex("00008012c0035fd6"), bytes.fromhex("000080d2c0035fd6")),
}
_SONAME, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT = 14, 4, 5, 6, 10, 11
_VERSYM, _VERDEF, _VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
_HEADER, _PROGRAM_HEADER, _SYMBOL = 64, 56, 24
# The largest page of either machine: a segment must not share a page with one of other rights.
_PAGE = 0x10000


def stand_in(folder: Path, machine: str | None = None) -> Path | None:
    """The folder to look for libraries in; None where the machine has its own libnuma or is of another kind."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None or _present():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{NAME}.new"
    fresh.write_bytes(library(*known))
    fresh.chmod(0o755)
    fresh.replace(folder / NAME)
    return folder


def library(machine: int, absent: bytes, nothing: bytes) -> bytes:
    """The shared library: one segment to read and run, one with the table that the dynamic linker reads."""
    names = b"\0"
    offsets = dict[str, int]()
    functions = [(name, version) for version, each in _VERSIONS.items() for name in each]
    for name in (NAME, *_VERSIONS, *(name for name, _ in functions)):
        offsets[name] = len(names)
        names += name.encode() + b"\0"
    count = len(functions) + 1
    hash_at = _HEADER + 4 * _PROGRAM_HEADER
    # One bucket: the linker walks a chain of eight.
    hashes = struct.pack(f"<II{1 + count}I", 1, count, 1, 0, *range(2, count), 0)
    symbols_at = _aligned(hash_at + len(hashes))
    versions_at = symbols_at + count * _SYMBOL
    order = list(_VERSIONS)
    # Version 1 is the library itself.
    versions = struct.pack(f"<{count}H", 0, *(order.index(version) + 2 for _, version in functions))
    defined_at = _aligned(versions_at + len(versions))
    defined = b""
    for number, name in enumerate((NAME, *order), start=1):
        follows = 0 if number > len(order) else 28
        defined += struct.pack("<HHHHIII", 1, number == 1, number, 1, _elf_hash(name), 20, follows)
        defined += struct.pack("<II", offsets[name], 0)
    names_at = defined_at + len(defined)
    code_at = _aligned(names_at + len(names))
    nothing_at = code_at + _aligned(len(absent))
    code = absent.ljust(_aligned(len(absent)), b"\0") + nothing
    symbols = bytes(_SYMBOL)
    for name, _ in functions:
        at, size = (code_at, len(absent)) if name == "numa_available" else (nothing_at, len(nothing))
        # 0x12: a function that everyone sees; section 1: any but the undefined one.
        symbols += struct.pack("<IBBHQQ", offsets[name], 0x12, 0, 1, at, size)
    end = code_at + len(code)
    table = [
        (_SONAME, offsets[NAME]),
        (_HASH, hash_at),
        (_STRTAB, names_at),
        (_SYMTAB, symbols_at),
        (_STRSZ, len(names)),
        (_SYMENT, _SYMBOL),
        (_VERSYM, versions_at),
        (_VERDEF, defined_at),
        (_VERDEFNUM, len(order) + 1),
        (0, 0),
    ]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in table)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, _HEADER, 0, 0, _HEADER, _PROGRAM_HEADER, 4, 0, 0, 0,
    )  # fmt: skip
    segments = (
        # PT_LOAD to read and run, PT_LOAD to read and write, PT_DYNAMIC, PT_GNU_STACK: no stack to run code from.
        struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end, end, _PAGE)
        + struct.pack("<IIQQQQQQ", 1, 6, _PAGE, _PAGE, _PAGE, len(dynamic), len(dynamic), _PAGE)
        + struct.pack("<IIQQQQQQ", 2, 6, _PAGE, _PAGE, _PAGE, len(dynamic), len(dynamic), 8)
        + struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    )
    body = (header + segments + hashes).ljust(symbols_at, b"\0") + symbols + versions
    body = body.ljust(defined_at, b"\0") + defined + names
    return (body.ljust(code_at, b"\0") + code).ljust(_PAGE, b"\0") + dynamic


def _aligned(offset: int) -> int:
    return (offset + 15) & ~15


def _elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _present() -> bool:
    try:
        ctypes.CDLL(NAME)
    except OSError:
        return False
    return True
