// The page that `render ... --out talk.html` makes: one avatar, one speech, and controls.
//
// Everything lies in the page itself, as text in elements that no browser runs. `window.talk` is
// for whoever wants to steer it from a script.

import { openAvatar } from "./avatar.js";
import { SoundClock } from "./clock.js";
import { Motion } from "./motion.js";
import { Player } from "./player.js";
import { Playing } from "./playing.js";
import { listenToKeys, point, viewKeys } from "./pointing.js";
import { bytesOf, unpacked } from "./text.js";

const STEP = 5; // seconds of a key
const element = (id) => document.getElementById(id);

const bytesIn = (id) => bytesOf(element(id).textContent);
const address = (data, type) => URL.createObjectURL(new Blob([data], { type }));
const time = (seconds) =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

class Talk extends Playing {
  constructor(avatar, motion, sound) {
    super(sound, motion.duration, complain);
    /** `isApart`: whether something else is drawn for once. */
    Object.assign(this, { avatar, motion, clock: new SoundClock(sound), isApart: false });
    this.canvas = element("picture");
    const sorter = address(element("sorter").textContent, "text/javascript");
    this.player = new Player(this.canvas, avatar, sorter);
  }

  /** The moment of the speech that is heard at a time of this machine's clock. */
  seconds(now) {
    return Math.min(this.clock.seconds(now), this.motion.duration);
  }

  /** Draws one picture a frame of the screen while there is anything new to see. */
  run(now) {
    if (!this.isApart) this.draw(now);
    requestAnimationFrame((next) => this.run(next));
  }

  draw(now) {
    this.player.fit(window.devicePixelRatio);
    if (!this.sound.paused) this.player.pace(now);
    if (!this.sound.paused || this.stale) {
      this.drawn = this.seconds(now); // what the picture shows
      this.player.show(this.motion.at(this.drawn));
      this.tell(this.drawn);
      this.stale = false;
    } else if (this.player.isRearranged) {
      this.player.draw();
    }
  }

  tell(seconds) {
    const seek = element("seek");
    if (document.activeElement !== seek || !this.sound.paused) seek.value = seconds;
    const text = `${time(seconds)} / ${time(this.motion.duration)}`;
    if (element("time").textContent !== text) {
      element("time").textContent = text;
      seek.setAttribute("aria-valuetext", text);
    }
  }

  /**
   * Draws a moment at a size of its own.
   * @returns {Promise<Uint8Array>} its pixels, r, g, b, alpha, row by row from the top
   */
  async picture(seconds, width, height) {
    this.isApart = true; // nothing else is drawn meanwhile
    Object.assign(this.canvas, { width, height });
    await this.player.showSorted(this.motion.at(seconds));
    const pixels = this.player.renderer.pixels();
    Object.assign(this, { isApart: false, stale: true });
    return pixels;
  }
}

function complain(error) {
  element("trouble").textContent = `This page cannot be shown: ${error.message ?? error}`;
}

/** Play, seek, keys, pointer and wheel. */
function listen(talk) {
  const { canvas, sound } = talk, play = element("play"), seek = element("seek");
  const name = () => {
    play.textContent = sound.paused ? "Play" : "Pause";
    talk.stale = true; // the last picture may be of a little earlier
  };
  for (const event of ["play", "pause", "ended"]) sound.addEventListener(event, name);
  sound.addEventListener("error", () => complain("its sound cannot be played here"));
  sound.addEventListener("seeked", () => (talk.stale = true));
  play.addEventListener("click", () => talk.play());
  seek.addEventListener("input", () => talk.seek(Number(seek.value)));
  element("reset").addEventListener("click", () => talk.reset());
  listenToKeys(canvas, {
    ...viewKeys(talk),
    " ": () => talk.play(),
    j: () => talk.seek(sound.currentTime - STEP), l: () => talk.seek(sound.currentTime + STEP),
  });
  point(talk);
  new ResizeObserver(() => (talk.stale = true)).observe(canvas);
}

async function main() {
  const avatar = await openAvatar(await unpacked(bytesIn("avatar")));
  const motion = new Motion(avatar, Number(element("motion").dataset.fps));
  motion.push(bytesIn("motion"));
  const sound = new Audio(address(bytesIn("speech"), element("speech").dataset.type));
  const talk = new Talk(avatar, motion, sound);
  element("seek").max = motion.duration;
  listen(talk);
  requestAnimationFrame((now) => talk.run(now));
  element("play").disabled = false;
  window.talk = talk;
}

window.addEventListener("error", ({ error }) => complain(error));
main().catch(complain);
