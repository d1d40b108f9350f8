// The two ways in which a live avatar is seen: drawn here by its codes, or drawn by the server.
//
// Both have what live.js asks for: `want` of a session, `take` and `show` of frames, `over` what is
// behind, `asks` of the server's drawing, and the view of player.js. Before: socket.js, player.js;
// after: live.js.

import { Motion } from "./motion.js";
import { Player } from "./player.js";
import { turnView } from "./poses.js";

const KEPT = 250, FPS = 25; // frames that are remembered, and are sent a second

/** Frames of a session that goes on and on. */
class LiveMotion extends Motion {
  first = 0; // number of the first that is remembered

  /** @param {import("./socket.js").Frame} frame */
  take({ number, body }) {
    if (number !== this.first + this.frames.length) Object.assign(this, { frames: [], first: number });
    this.push(body);
    if (this.frames.length > KEPT) {
      this.frames.shift();
      this.first++;
    }
  }

  at(seconds) {
    return super.at(seconds - this.first / this.fps);
  }
}

/** An avatar that this page draws. */
export class CodedPlayer extends Player {
  want = "codes";
  asks = null;

  constructor(canvas, avatar, sorter) {
    super(canvas, avatar, sorter);
    this.clear();
  }

  clear() {
    this.motion = new LiveMotion(this.avatar, FPS);
  }

  take(frame) {
    this.motion.take(frame);
  }

  /** Draws a time of the session; nothing before there is any frame. */
  showAt(seconds) {
    if (this.motion.frames.length) this.show(this.motion.at(seconds));
  }

  /** @param {string} behind plate, color or nothing @param {string} color as #rrggbb */
  over(behind, color) {
    const { avatar, renderer } = this;
    if (behind === "plate") renderer.showPicture(avatar.plate, avatar.width, avatar.height);
    else renderer.showColor([...numbersOf(color), behind === "color" ? 1 : 0]);
  }

  close() {
    this.sorter.terminate();
    this.renderer.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** An avatar that the server draws, for pages that cannot. */
export class PicturePlayer {
  want = "jpeg";

  /**
   * @param {{width: number, height: number, axes: number[]}} avatar its picture's size, and how far
   *   yaw and pitch of seen directions reach, radians
   */
  constructor(canvas, { width, height, axes }) {
    Object.assign(this, { canvas, width, height, axes, context: canvas.getContext("2d") });
    Object.assign(canvas, { width, height });
    this.view = { yaw: 0, pitch: 0, zoom: 1, x: width / 2, y: height / 2 };
    this.background = "plate";
    this.clear();
  }

  /** What the server's drawing is asked for. */
  get asks() {
    const { yaw, pitch, zoom, x, y } = this.view, { width, height, background } = this;
    const degrees = (angle) => (angle * 180) / Math.PI;
    return {
      yaw: degrees(yaw), pitch: degrees(pitch), zoom, x: x / width, y: y / height, background,
    };
  }

  clear() {
    /** @type {{time: number, picture: ImageBitmap}[]} */
    this.waiting = [];
  }

  async take({ time, body }) {
    const picture = await createImageBitmap(new Blob([body], { type: "image/jpeg" }));
    this.waiting.push({ time, picture });
    this.waiting.sort((a, b) => a.time - b.time);
    while (this.waiting.length > KEPT) this.waiting.shift().picture.close();
  }

  /** Shows the last picture that is due. */
  showAt(seconds) {
    const due = this.waiting.filter(({ time }) => time <= seconds);
    if (!due.length) return;
    this.context.drawImage(due.at(-1).picture, 0, 0);
    for (const { picture } of this.waiting.splice(0, due.length)) picture.close();
  }

  over(behind, color) {
    this.background = behind === "color" ? color : "plate"; // a JPEG is never transparent
  }

  turn(yaw, pitch) {
    turnView(this.view, this.axes, yaw, pitch);
  }

  zoom(factor, x, y) {
    const { view } = this;
    view.zoom = Math.min(Math.max(view.zoom * factor, 1), 6);
    Object.assign(view, { x, y });
  }

  reset() {
    Object.assign(this.view, { yaw: 0, pitch: 0, zoom: 1, x: this.width / 2, y: this.height / 2 });
  }

  window() {
    const { view, canvas } = this, scale = view.zoom;
    return { scale, x: canvas.width / 2 - scale * view.x, y: canvas.height / 2 - scale * view.y };
  }

  fit() {}

  pace() {}

  close() {
    this.clear();
  }
}

function numbersOf(color) {
  return [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16) / 255);
}
