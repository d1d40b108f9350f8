"""An avatar for LiveTalking (github.com/lipku/LiveTalking), by its registry of plugins.

Copy this file to its folder `avatars`, name it in `_avatar_modules` of its app.py
(`"egs": "avatars.egs_avatar"`), and start it with `--model egs --avatar_id /path/to/me.egs`.
Written for its registry and `BaseAvatar` as they were published in 2026; it was tested against
stand-ins for the two, not against LiveTalking itself.
"""

import collections
import time

import numpy as np
from avatars.base_avatar import BaseAvatar
from registry import register

import egs_jax as egs

RATE, FPS = 16_000, 25
PIECE = RATE // (2 * FPS)
"""Samples that LiveTalking hands over at once, 20 ms; two are heard with every frame."""
SILENCE = (np.zeros(PIECE, np.float32), {})


def load_model(*_):
    """Return what all sessions share."""
    return egs.Sessions()


def load_avatar(avatar_id):
    """Return an avatar: its id is a run folder, or an .egs file."""
    return egs.Avatar.load(avatar_id)


def warm_up(*_):
    """Compile nothing before a session asks for it."""


@register("avatar", "egs")
class EgsAvatar(BaseAvatar):
    """One session: 20 ms pieces of sound in, frames with their sound out."""

    def __init__(self, opt, model, avatar):
        """Open the session."""
        super().__init__(opt)
        self.session = model.open(avatar, sample_rate=RATE)
        self.waiting = collections.deque()  # pieces that nobody has heard
        self.heard = collections.deque()  # pieces whose frames are not out
        self.number, self.is_flushed = 0, False

    def put_audio_frame(self, audio_chunk, datainfo=None):
        """Take 20 ms of speech."""
        self.waiting.append((np.asarray(audio_chunk, np.float32), datainfo or {}))

    def flush_talk(self):
        """Fall silent."""
        super().flush_talk()
        self.waiting.clear()
        self.is_flushed = True

    def render(self, quit_event):
        """Speak, or be silent, in real time until told to quit."""
        self.tts.render(quit_event)
        self.output.start()
        begun, count = time.monotonic(), 0
        while not quit_event.is_set():
            if self.is_flushed:
                self._interrupt()
            for _ in range(2):
                piece = self.waiting.popleft() if self.waiting else SILENCE
                self.heard.append(piece)
                self.session.push(np.clip(piece[0], -1, 1))
            for frame in self.session.ready():
                self._show(frame)
            count += 1
            time.sleep(max(0.0, begun + count / FPS - time.monotonic()))
        self.output.stop()
        self.session.close()

    def _interrupt(self):
        """Forget what is not out; up to what comes next, silence is heard."""
        self.is_flushed = False
        next_heard = self.session.interrupt()
        silent = max(0, round(next_heard * 2 * FPS) - 2 * self.number)
        self.heard = collections.deque([SILENCE] * silent)

    def _show(self, frame):
        self.number, self.speaking = frame.number + 1, frame.speaking
        self.output.push_video_frame(np.ascontiguousarray(frame.rgb[..., ::-1]))
        for _ in range(2):
            samples, told = self.heard.popleft() if self.heard else SILENCE
            self.output.push_audio_frame(np.int16(32767 * np.clip(samples, -1, 1)), told)
