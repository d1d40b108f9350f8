// An avatar on a canvas: draws any moment of a motion, looked at from where the user wants.
//
// Gaussians are sorted by a worker; while it is at work the last order is drawn, which differs by
// what a head moves in a frame or two. Before: renderer.js, motion.js; after: talk.js.

import { lookedAt, placed, turnView } from "./poses.js";
import { FORM } from "./avatar.js";
import { Renderer } from "./renderer.js";

const MOST_ZOOM = 6;
const MOST_DENSE = 2; // pixels for one of the avatar's own picture: more cost and show no more
const LEAST_DENSE = 0.5;
const SLOW = 25; // ms between pictures: beyond, fewer pixels are drawn
const STEP = 0.8, LEAST_SHARE = 0.25;

export class Player {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./avatar.js").Avatar} avatar
   * @param {string} sorter address of sorter.js
   * @param {import("./lens.js").Lens?} lens with which it may be looked at from anywhere
   */
  constructor(canvas, avatar, sorter, lens = null) {
    Object.assign(this, { canvas, avatar, renderer: new Renderer(canvas, avatar, lens) });
    this.isFree = lens !== null;
    this.moment = null; // what was shown last
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.restore());
    /** From where it is looked at: turned by radians, and what part of the picture is seen. */
    this.view = { yaw: 0, pitch: 0, zoom: 1, x: avatar.width / 2, y: avatar.height / 2 };
    /** How many pixels are drawn where the screen has one, and what tells it. */
    Object.assign(this, { share: 1, before: 0, took: 0, fine: 0, patience: 60 });
    this.means = meanCounts(avatar);
    this.sorter = new Worker(sorter);
    const { means, skins, codes } = avatar;
    this.sorter.postMessage({ means, skins, codes, counts: this.means.counts });
    /** Whether the worker is at work, what it is to do next, and who waits for its last order. */
    Object.assign(this, { isSorting: false, next: null, waiting: [] });
    /** Whether an order came that nothing was drawn in. */
    this.isRearranged = false;
    this.sorter.onmessage = ({ data }) => this.arrange(data);
  }

  /**
   * Draws a moment, in the last order that is known.
   * @param {import("./motion.js").Moment} moment
   */
  show(moment) {
    const { limits } = this.avatar, { yaw, pitch } = this.view, { codes, head, body } = moment;
    this.moment = moment;
    const seen = lookedAt(limits, { head, body }, yaw, pitch, this.isFree);
    this.seen = seen; // its poses, as they were looked at
    this.renderer.move(codes, placed(limits, seen.head, seen.body));
    this.sort(codes, seen);
    this.draw();
  }

  /** Goes on once the browser, which had lost what lay on the GPU, gives it back. */
  restore() {
    this.renderer.restore();
    if (this.moment) this.show(this.moment);
  }

  /** Draws a moment in its own order, once that is known. */
  async showSorted(moment) {
    this.show(moment);
    await new Promise((resolve) => this.waiting.push(resolve));
    this.draw();
  }

  /** Draws what was moved last. */
  draw() {
    this.isRearranged = false;
    this.renderer.draw(this.window());
  }

  /** Takes the canvas's place on the screen as its size. @param {number} ratio pixels of one */
  fit(ratio) {
    const { canvas, avatar } = this, { width: own, height } = avatar;
    const wanted = Math.min(canvas.clientWidth * ratio, MOST_DENSE * own) * this.share;
    const width = Math.round(Math.max(wanted, LEAST_DENSE * own));
    const size = { width, height: Math.round((width * height) / own) };
    if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  }

  /**
   * Draws fewer pixels where pictures come too slowly, and more once they came well for long; each
   * time they did not it waits twice as long.
   * @param {number} now ms
   */
  pace(now) {
    const took = now - this.before;
    this.before = now;
    if (took > 1000) return; // it was not seen, or stood still
    this.took += (took - this.took) / 8;
    this.fine++;
    if (this.took > SLOW) {
      const share = Math.max(STEP * this.share, LEAST_SHARE);
      Object.assign(this, { share, took: 0, fine: 0, patience: 2 * this.patience });
    } else if (this.fine > this.patience) {
      Object.assign(this, { share: Math.min(this.share / STEP, 1), fine: 0 });
    }
  }

  /** Turns the view. @param {number} yaw by radians to the right @param {number} pitch down */
  turn(yaw, pitch) {
    const axes = this.isFree ? [Infinity, Infinity] : this.avatar.limits.slice(23);
    turnView(this.view, axes, yaw, pitch);
  }

  /** Zooms by a factor about a place of the picture. */
  zoom(factor, x, y) {
    const { view, avatar } = this, before = view.zoom;
    view.zoom = Math.min(Math.max(before * factor, 1), MOST_ZOOM);
    const held = (value, size) => {
      const half = size / 2 / view.zoom;
      return Math.min(Math.max(value, half), size - half);
    };
    const share = before / view.zoom;
    view.x = held(x + (view.x - x) * share, avatar.width);
    view.y = held(y + (view.y - y) * share, avatar.height);
  }

  /** Looks from the front at all of the picture again. */
  reset() {
    const { width, height } = this.avatar;
    Object.assign(this.view, { yaw: 0, pitch: 0, zoom: 1, x: width / 2, y: height / 2 });
  }

  /** @returns {import("./renderer.js").Window} */
  window() {
    const { view, canvas, avatar } = this, scale = (canvas.width / avatar.width) * view.zoom;
    return {
      scale, x: canvas.width / 2 - scale * view.x, y: canvas.height / 2 - scale * view.y,
    };
  }

  /** Has the worker find the order of a moment; of several only the last, while it is at work. */
  sort(codes, { head, body }) {
    const { steps } = this.means, row = ({ turn, shift }) => [...turn.slice(6), shift[2]];
    const weights = steps.map((step, i) => step * codes[Math.floor(i / 3)]);
    this.next = { weights, head: row(head), body: row(body) };
    if (!this.isSorting) this.ask();
  }

  ask() {
    this.sorter.postMessage(this.next);
    Object.assign(this, { isSorting: true, next: null });
  }

  arrange(order) {
    this.renderer.arrange(order);
    Object.assign(this, { isSorting: false, isRearranged: true });
    if (this.next) this.ask();
    else this.waiting.splice(0).forEach((resolve) => resolve());
  }
}

/** The part of the patterns that moves means. */
function meanCounts({ codes, count, formCounts, formSteps }) {
  const counts = new Int8Array(3 * codes * count), steps = new Float32Array(3 * codes);
  for (let k = 0; k < codes; k++) {
    const first = k * FORM;
    counts.set(formCounts.subarray(first * count, (first + 3) * count), 3 * k * count);
    steps.set(formSteps.subarray(first, first + 3), 3 * k);
  }
  return { counts, steps };
}
