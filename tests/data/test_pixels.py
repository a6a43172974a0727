"""Images of every depth, kind and orientation become the 8-bit images that they show."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lit_aux.data.files import read_image
from lit_aux.data.transforms import InputFormat
from lit_aux.errors import ConfigurationError

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def read(path: Path, channels: int = 1, size: tuple[int, int] = (256, 256)) -> NDArray[np.uint8]:
    view = InputFormat(
        size=size, channels=channels, mean=(0.0,), std=(1.0,), interpolation="nearest", crop=1.0
    )
    found: NDArray[np.uint8] = read_image(str(path), view).numpy()
    return found


def png(path: Path, pixels: NDArray[np.uint16], kind: int) -> Path:
    """Write a PNG of 16 bits a channel: Pillow writes gray ones alone."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def tiff(
    path: Path, content: bytes, size: tuple[int, int], bits: int, kind: int = 1, photometric: int = 1
) -> Path:
    """Write a gray TIFF: kinds are 1 (unsigned), 2 (signed) and 3 (floating point)."""
    width, height = size
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    tags |= {279: len(content), 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content)
    return path


def assert_ramp(found: NDArray[np.uint8], ramp: NDArray[np.uint16], most: int) -> None:
    """Compare with the ramp's share of white, to the nearest of 256 levels or the one below."""
    exact = ramp.astype(float) * 255 / most
    for channel in found:
        assert np.abs(channel - exact).max() <= 1.0
        assert len(np.unique(channel)) == 256
        assert (channel.min(), channel.max()) == (0, 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "tif", "pgm", "inverted", "rgb", "gray+alpha", "rgba"])
def test_sixteen_bits(kind: str, channels: int, tmp_path: Path) -> None:
    path, opaque = tmp_path / f"a.{kind}", np.full_like(RAMP, 65535)
    if kind in ("png", "tif"):
        Image.fromarray(RAMP).save(path)
    elif kind == "pgm":
        path.write_bytes(b"P5 256 256 65535\n" + RAMP.astype(">u2").tobytes())
    elif kind == "inverted":  # white is 0
        path = tiff(tmp_path / "a.tif", (65535 - RAMP).tobytes(), (256, 256), 16, photometric=0)
    elif kind == "rgb":
        path = png(tmp_path / "a.png", np.stack([RAMP] * 3, -1), 2)
    else:
        layers = [RAMP, opaque] if kind == "gray+alpha" else [RAMP, RAMP, RAMP, opaque]
        path = png(tmp_path / "a.png", np.stack(layers, -1), 4 if kind == "gray+alpha" else 6)
    assert_ramp(read(path, channels), RAMP, 65535)


def test_twelve_bits(tmp_path: Path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    pairs = ramp.reshape(-1, 2).astype(int)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    path = tiff(tmp_path / "a.tif", packed.astype(np.uint8).tobytes(), (64, 64), 12)
    assert_ramp(read(path, size=(64, 64)), ramp, 4095)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 64 64 4095\n" + ramp.astype(">u2").tobytes())
    assert_ramp(read(path, size=(64, 64)), ramp, 4095)


@pytest.mark.parametrize(
    ("dtype", "bits", "kind", "what"),
    [
        (np.uint32, 32, 1, "signed or 32-bit numbers"),
        (np.int32, 32, 2, "signed or 32-bit numbers"),
        (np.int16, 16, 2, "signed or 16-bit numbers"),
        (np.float32, 32, 3, "floating-point numbers"),
    ],
)
def test_what_has_no_white_is_refused(dtype: type, bits: int, kind: int, what: str, tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.ones((4, 4), dtype).tobytes(), (4, 4), bits, kind)
    with pytest.raises(ConfigurationError, match=rf"--data.root: {path} cannot be read .*it holds {what}"):
        read(path)


@pytest.mark.filterwarnings("error")
def test_other_kinds_of_images(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[:2], colour[2:] = (200, 100, 50), (0, 0, 255)
    image = Image.fromarray(colour)
    expected = np.moveaxis(colour, -1, 0)

    def found(
        made: Image.Image, name: str = "a.png", channels: int = 3, **options: object
    ) -> NDArray[np.uint8]:
        made.save(tmp_path / name, **options)
        return read(tmp_path / name, channels, (4, 4))

    bits = Image.fromarray(colour[..., 0] > 0)
    assert np.array_equal(found(bits)[0], np.where(colour[..., 0] > 0, 255, 0))
    gray = np.array(image.convert("L"))
    assert np.array_equal(found(image.convert("LA"))[0], gray)
    assert np.array_equal(found(image.convert("LA"), channels=1)[0], gray)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    assert np.array_equal(found(palette), expected)
    assert np.array_equal(found(palette, transparency=bytes([128, 255])), expected)
    assert np.array_equal(found(image.convert("RGBA")), expected)
    ink = Image.fromarray(np.concatenate([255 - colour, np.zeros((4, 4, 1), np.uint8)], -1), "CMYK")
    assert np.array_equal(found(ink, "a.tif"), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "raw.tif", "lzw.tif", "deep.tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_says_how_an_image_stands(turn: int, name: str, tmp_path: Path) -> None:
    stored = np.zeros((16, 8), np.uint8)
    stored[:8, :4], stored[:8, 4:], stored[8:, :4] = 255, 160, 80  # its quarters differ
    quarters = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].T, 8: np.rot90(stored),
    }  # fmt: skip
    path = tmp_path / name
    if name.endswith(".tif"):
        deep = stored.astype(np.uint16) * 257 if name == "deep.tif" else stored
        compression = "tiff_lzw" if name == "lzw.tif" else None
        Image.fromarray(deep).save(path, tiffinfo={274: turn}, compression=compression)
    else:
        exif = Image.Exif()
        exif[274] = turn
        options = {"lossless": True} if name == "a.webp" else {"quality": 100} if name == "a.jpg" else {}
        Image.fromarray(stored).save(path, exif=exif, **options)
    shown = quarters[turn]
    height, width = shown.shape
    assert np.abs(read(path, 1, (height, width))[0].astype(int) - shown).max() <= 3  # JPEG


def test_a_damaged_exif_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(path, exif=b"Exif\0\0 no TIFF at all", quality=100)
    assert abs(int(read(path, 1, (8, 8)).mean()) - 100) <= 1


@pytest.mark.parametrize("content", [b"", b"no image", None])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_damaged_images_are_named(content: bytes | None, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ConfigurationError, match=rf"--data.root: {path} cannot be read as an image") as error:
        read(path)
    assert "\n" not in str(error.value)


# Images from others


def test_images_that_are_larger_than_they_look_are_refused(tmp_path: Path) -> None:
    """A header that claims more than Pillow's limit; a line of few bytes that would be resized to a wall."""
    path = png(tmp_path / "claims.png", np.zeros((1, 1), np.uint16), 0)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    Image.new("L", (5_000_000, 1)).save(tmp_path / "line.png")
    assert (tmp_path / "line.png").stat().st_size < 10_000
    for name in ("claims.png", "line.png"):
        with pytest.raises(ConfigurationError, match=rf"^--data\.root: .*{name} cannot be read") as raised:
            read(tmp_path / name, size=(224, 224))
        assert "\n" not in str(raised.value)
    assert read(tmp_path / "line.png", size=(1, 1)).shape == (1, 1, 1)


def test_no_other_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by what a file holds, and gives PostScript to Ghostscript."""
    from PIL import EpsImagePlugin

    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    header = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    path = tmp_path / "cat.png"
    path.write_text(f"{header}(touch ran) system\n%%EOF\n")
    with Image.open(path) as opened:
        assert opened.format == "EPS"
    with pytest.raises(ConfigurationError, match=r"^--data\.root: .*cat\.png cannot be read .*EPS"):
        read(path)
    assert not started
