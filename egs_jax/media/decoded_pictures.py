"""What decoders give -> upright, square-pixeled, progressive 8-bit SDR pictures.

Turns made here and nowhere else: interlaced pictures become whole frames (bwdif), HDR becomes SDR
(swscale, to BT.709 primaries and the sRGB curve), what is transparent lies on black, the display
matrix is applied, wide pixels become square.
"""

from collections.abc import Iterator

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter

_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # SMPTE 2084 and ARIB STD-B67
_UNSPECIFIED = 2  # the decoder's "color matrix not stated"


def hdr_curve(frame: av.VideoFrame) -> str | None:
    """Name the HDR curve of a picture, None if it is SDR."""
    return _HDR_TRANSFERS.get(frame.color_trc)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Tell whether a picture says how opaque its pixels are."""
    return any(component.is_alpha for component in frame.format.components)


def transparency_decoder(stream: av.VideoStream) -> av.CodecContext | None:
    """Return a decoder that gives a WebM's alpha, which FFmpeg's own leave out; None elsewhere."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    told = {key.lower(): value for key, value in stream.metadata.items()}  # some write it large
    if name is None or told.get("alpha_mode") != "1":
        return None
    return av.CodecContext.create(name, "r")


def progressive(frames: Iterator[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Give the same pictures at the same times, interlaced ones as whole frames.

    A picture flagged as interlaced keeps its first field; the other field's rows are told from it
    and from the pictures before and after (the filter bwdif). Pictures without the flag are left
    as they are.
    """
    graph = None
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            graph = _deinterlacer(frame, stream)
        if graph is None:
            yield frame
            continue
        graph.vpush(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph)


def _deinterlacer(frame: av.VideoFrame, stream: av.VideoStream) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base
    )
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


class Converter:
    """A function from decoded pictures to upright, square-pixeled, contiguous 8-bit RGB."""

    def __init__(self, stream: av.VideoStream):
        # One for the whole video: it holds the color tables, which take 1.6 s to build for HDR.
        self._reformatter = VideoReformatter()
        ratio = stream.sample_aspect_ratio
        self._ratio = float(ratio) if ratio else 1.0

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert one picture."""
        options = {}
        if hdr_curve(frame):
            options = {
                "dst_color_trc": ColorTrc.IEC61966_2_1,
                "dst_color_primaries": ColorPrimaries.BT709,
            }
        elif frame.colorspace == _UNSPECIFIED and frame.height >= 720:
            options = {"src_colorspace": Colorspace.ITU709}  # what players assume for untagged HD
        width, layered = max(1, round(frame.width * self._ratio)), has_alpha(frame)
        kind = "rgba" if layered else "rgb24"
        image = self._reformatter.reformat(frame, width=width, format=kind, **options).to_ndarray()
        if layered:
            opacity = image[..., 3:].astype(np.uint16)
            image = ((image[..., :3] * opacity + 127) // 255).astype(np.uint8)
        turned, flip_rows, flip_columns = display_matrix(frame)
        image = image.transpose(1, 0, 2) if turned else image
        image = image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        # A copy: the rows of `image` are padded and belong to the decoder.
        return np.array(image, order="C", copy=True)


def display_matrix(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return (transpose, then flip rows, then flip columns), which set a picture upright."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    # The file says x' = a x + c y, y' = b x + d y (16.16 fixed point).
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5]
    if abs(int(a)) >= abs(int(b)):
        return False, bool(d < 0), bool(a < 0)
    return True, bool(b < 0), bool(c < 0)
