"""The contents of files in answers, and the formats of files in calls."""

# A minimal baseline JPEG of 16 by 16 grey pixels, with one table of each kind.
JPEG = b"".join(
    (
        b"\xff\xd8",  # start of image
        b"\xff\xdb\x00\x43\x00" + b"\x01" * 64,  # quantisation
        b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00",  # 8 bits, 16x16, one component
        b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\x00",  # DC: one code, no difference
        b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\x00",  # AC: one code, end of block
        b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00",  # scan
        b"\x00",  # four blocks, each two zero bits
        b"\xff\xd9",  # end of image
    )
)

REFLECT_SEQUENCE = b'{"light":["red","green","blue"],"from":"faceid-emulator"}'
"""The sequence file of GenerateReflectSequence. Its content has no meaning."""

MAGIC = {
    "JPG": (0, (b"\xff\xd8\xff",)),
    "PNG": (0, (b"\x89PNG\r\n\x1a\n",)),
    "MP4": (4, (b"ftyp",)),
    "AVI": (8, (b"AVI ",)),
    "FLV": (0, (b"FLV",)),
}
"""Maps formats to the offset of their magic bytes and the possible values of these."""


def has_format(head: bytes, name: str) -> bool:
    """Return whether a file has the format ``name``, judging by its first bytes, ``head``."""
    offset, marks = MAGIC[name]
    return head[offset:].startswith(marks)
