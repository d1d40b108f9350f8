// What an avatar does, frame by frame, and in between: the twin of egs_jax/avatar/motion.py.
//
// A frame is a record: head and body pose (quaternion w, x, y, z and shift, to the camera; 14
// float32) and K codes (int16), filled up to four bytes. Count 0 of a code is the middle of its
// range, +-32767 are 1.25 half ranges off, beyond which no code goes. Before: bytes from a page or
// a socket; after: player.js.

import { quatBetween, turnOf } from "./poses.js";

const POSES = 14, MOST = 32767, REACH = 1.25;

/** @typedef {import("./poses.js").Pose} Pose */
/** @typedef {{codes: Float32Array, head: Pose, body: Pose}} Moment */

/** Frames at an even rate, of which more may arrive. */
export class Motion {
  /**
   * @param {import("./avatar.js").Avatar} avatar
   * @param {number} fps frames a second
   */
  constructor(avatar, fps) {
    this.fps = fps;
    this.codes = avatar.codes;
    this.middles = Float32Array.from({ length: avatar.codes }, (_, k) =>
      (avatar.ranges[k] + avatar.ranges[avatar.codes + k]) / 2);
    this.units = Float32Array.from({ length: avatar.codes }, (_, k) =>
      ((avatar.ranges[avatar.codes + k] - avatar.ranges[k]) / 2) * (REACH / MOST));
    this.record = 4 * POSES + 4 * Math.ceil(avatar.codes / 2);
    /** @type {{codes: Float32Array, head: Float32Array, body: Float32Array}[]} */
    this.frames = [];
  }

  /** Seconds that its frames last. */
  get duration() {
    return this.frames.length / this.fps;
  }

  /** Takes the records of further frames. @param {Uint8Array} bytes of whole records */
  push(bytes) {
    if (bytes.length % this.record) throw new Error("frames that were cut short");
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at < bytes.length; at += this.record) {
      const pose = (first) =>
        Float32Array.from({ length: 7 }, (_, i) => view.getFloat32(at + 4 * (first + i), true));
      const codes = Float32Array.from({ length: this.codes }, (_, k) =>
        this.middles[k] + this.units[k] * view.getInt16(at + 4 * POSES + 2 * k, true));
      this.frames.push({ codes, head: pose(0), body: pose(7) });
    }
  }

  /**
   * What it does at a moment: between two frames the way from one to the other, before the first
   * and after the last these.
   * @param {number} seconds since the first frame
   * @returns {Moment}
   */
  at(seconds) {
    const place = Math.min(Math.max(seconds * this.fps, 0), this.frames.length - 1);
    const first = Math.floor(place), share = place - first;
    const a = this.frames[first], b = this.frames[Math.min(first + 1, this.frames.length - 1)];
    return {
      codes: a.codes.map((code, k) => code + share * (b.codes[k] - code)),
      head: between(a.head, b.head, share),
      body: between(a.body, b.body, share),
    };
  }
}

function between(a, b, share) {
  const quat = quatBetween([...a.slice(0, 4)], [...b.slice(0, 4)], share);
  return {
    turn: turnOf(quat),
    shift: [4, 5, 6].map((i) => a[i] + share * (b[i] - a[i])),
  };
}
