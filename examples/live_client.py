"""A program at `egs-jax serve`: sends a speech, and gets codes and poses of every frame, live.

    python examples/live_client.py http://127.0.0.1:8765/TOKEN/ speech.wav

Needs a server, whose address it prints when it starts. Who wants "jpeg" or "h264" in the place of
"codes" gets pictures that the server has drawn. With --tiny only a second is sent.
"""

import argparse
import asyncio
import struct

import aiohttp
import numpy as np

from egs_jax.media.audio_file import read_audio


async def speak(address, sound):
    """Send 16 kHz sound; return number, time and body of each frame until all of it is shown."""
    frames = []
    async with aiohttp.ClientSession() as web, web.ws_connect(f"{address}socket") as socket:
        await socket.send_json({"type": "hello", "rate": 16_000, "want": "codes"})
        for piece in np.split(np.int16(32767 * sound), range(16_000, len(sound), 16_000)):
            await socket.send_bytes(piece.tobytes())  # at most 30 s may wait
        await socket.send_json({"type": "finish"})
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                kind, speaking, blink, number, time = struct.unpack_from("<BBeId", message.data)
                frames.append((number, time, message.data[16:]))
            elif message.json()["type"] in ("finished", "error", "full"):
                print(message.data)
                return frames
    return frames


def main(argv=None):
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="what `egs-jax serve` prints")
    parser.add_argument("speech", help="any sound that ffmpeg reads, at most 30 s")
    parser.add_argument("--tiny", action="store_true", help="send only a second")
    arguments = parser.parse_args(argv)
    sound = read_audio(arguments.speech)[: 16_000 if arguments.tiny else None]
    frames = asyncio.run(speak(arguments.address, sound))
    print(f"{len(frames)} frames of {len(frames[-1][2]) if frames else 0} bytes")


if __name__ == "__main__":
    main()
