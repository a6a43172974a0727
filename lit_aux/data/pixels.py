"""Images of any depth and orientation as 8-bit gray or colour."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0


def pixels_of(image: "Image", channels: int) -> "Image":
    """Return an image as it is meant to be seen: 8 bits a channel, upright.

    Whole numbers of up to 16 bits are scaled by their depth, so that the largest one is white. EXIF's
    rotation is carried out. Transparency is left out of account: the colours that are stored count. Of
    several frames it is the first.

    Args:
        image: As it was opened.
        channels: 1 for gray, 3 for colour.

    Returns:
        Of mode ``L`` or ``RGB``.

    Raises:
        ValueError: For depths whose black and white the file does not say.
    """
    most, inverted = _most(image), _is_inverted(image)
    image = _upright(image)
    if most is not None:
        image = _scaled(image, most, inverted)
    elif image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # else some palettes are warned of
    return image.convert("L" if channels == 1 else "RGB")


def _most(image: "Image") -> int | None:
    """Return the number that is white, for images of more than 8 bits; None for others."""
    if image.mode == "F":
        raise ValueError(_unknown("floating-point numbers"))
    if not image.mode.startswith("I"):
        return None
    if image.format == "TIFF":
        bits = _tag(image, _BITS)
        if image.mode == "I":
            raise ValueError(_unknown(f"signed or {bits}-bit numbers"))
        return (1 << bits) - 1
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these two hold 16 bits in it
        raise ValueError(_unknown("32-bit numbers"))
    return 2**16 - 1


def _is_inverted(image: "Image") -> bool:
    return image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO


def _tag(image: "Image", number: int) -> int:
    value = image.tag_v2.get(number, 16 if number == _BITS else 1)  # type: ignore[attr-defined]
    return int(value[0] if isinstance(value, tuple) else value)


def _unknown(what: str) -> str:
    return f"it holds {what}, of which a file does not say what is white; save it with 8 or 16 bits a channel"


def _upright(image: "Image") -> "Image":
    """Carry out EXIF's rotation; what is no proper EXIF says nothing."""
    from PIL import ImageOps

    image.load()  # here, so that a damaged image is not taken for one without EXIF
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # parsers raise anything of a damaged one
        return image


def _scaled(image: "Image", most: int, inverted: bool) -> "Image":
    """Scale numbers from 0 to ``most`` to 8 bits."""
    import numpy as np
    from PIL import Image

    numbers = np.clip(np.asarray(image).astype(np.int64), 0, most)
    numbers = most - numbers if inverted else numbers
    return Image.fromarray(((numbers * 255 + most // 2) // most).astype(np.uint8))
