// The page of `egs-jax view`: one speech of an avatar, to be looked into from anywhere.
//
// `window.view` is for whoever wants to steer it from a script. Before: player.js, lens.js.

import { openAvatar } from "./avatar.js";
import { SoundClock } from "./clock.js";
import { Lens } from "./lens.js";
import { Motion } from "./motion.js";
import { Player } from "./player.js";
import { Playing } from "./playing.js";
import { listenToKeys, point, viewKeys } from "./pointing.js";

const WITHOUT = ["silent", "open", "still"]; // sound, blinks, a pose that moves
const element = (id) => document.getElementById(id);

class View extends Playing {
  /**
   * @param {Object<string, Motion>} motions all of it, and without each of these
   * @param {Object<string, Float32Array>} shares how much each Gaussian listens to kinds of tokens
   */
  constructor(avatar, motions, shares, sound) {
    super(sound, motions.all.duration, complain);
    Object.assign(this, { avatar, motions, shares, clock: new SoundClock(sound) });
    this.canvas = element("picture");
    this.lens = new Lens();
    this.player = new Player(this.canvas, avatar, "sorter.js", this.lens);
    this.player.renderer.showColor([0.12, 0.12, 0.12, 1]);
  }

  run(now) {
    this.player.fit(window.devicePixelRatio);
    if (!this.sound.paused || this.stale) {
      this.stale = false;
      this.show(Math.min(this.clock.seconds(now), this.motions.all.duration));
    } else if (this.player.isRearranged) this.player.draw();
    requestAnimationFrame((next) => this.run(next));
  }

  show(seconds) {
    const moment = this.motions.all.at(seconds);
    this.lens.others = this.moving(moment.codes, seconds);
    this.player.show(moment);
    const seek = element("seek");
    if (document.activeElement !== seek || !this.sound.paused) seek.value = seconds;
    element("time").textContent = `${seconds.toFixed(2)} s`;
  }

  /** Codes whose shifts are painted. */
  moving(codes, seconds) {
    const paint = element("paint").value, chosen = Number(element("code").value) - 1;
    if (paint === "one") return codes.map((code, k) => (k === chosen ? code : 0));
    if (!WITHOUT.includes(paint)) return codes;
    const without = this.motions[paint].at(seconds).codes;
    return codes.map((code, k) => code - without[k]);
  }

  /** Takes what the controls say. */
  choose() {
    const { lens, player, avatar } = this, paint = element("paint").value;
    const isDelta = ["all", "one", ...WITHOUT].includes(paint), shares = this.shares[paint];
    Object.assign(lens, {
      shape: element("shape").value, isOpacity: paint === "opacity",
      paint: paint === "depth" ? "depth" : isDelta ? "deltas" : shares ? "shares" : "picture",
    });
    const wanted = { code: paint === "one", most: isDelta };
    for (const id of ["code", "most", "near", "far"]) {
      element(id).closest("label").hidden = !(wanted[id] ?? paint === "depth");
    }
    element("legend").textContent = shares ? this.listened(shares) : "";
    for (const name of ["near", "far", "most"]) lens[name] = Number(element(name).value);
    if (paint === "picture" && lens.shape === "splats") {
      player.renderer.showPicture(avatar.plate, avatar.width, avatar.height);
    } else player.renderer.showColor([0.12, 0.12, 0.12, 1]);
    this.stale = true;
  }

  /** Has shares painted from the least to the greatest; what these colors mean. */
  listened(shares) {
    const least = shares.reduce((a, b) => Math.min(a, b));
    const most = shares.reduce((a, b) => Math.max(a, b));
    this.lens.shares = shares.map((share) => (share - least) / (most - least || 1));
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    return `blue: ${percent(least)}, red: ${percent(most)} of their attention, mean of the speech`;
  }
}

function complain(error) {
  element("trouble").textContent = `This page cannot be shown: ${error.message ?? error}`;
}

function listen(view) {
  const { sound } = view, play = element("play"), seek = element("seek");
  const on = (id, event, work) => element(id).addEventListener(event, work);
  for (const event of ["play", "pause", "ended"]) {
    sound.addEventListener(event, () => {
      play.textContent = sound.paused ? "Play" : "Pause";
      view.stale = true; // the last picture may be of a little earlier
    });
  }
  sound.addEventListener("seeked", () => (view.stale = true));
  on("play", "click", () => view.play());
  on("seek", "input", () => view.seek(Number(seek.value)));
  on("reset", "click", () => view.reset());
  for (const id of ["shape", "paint", "code", "most", "near", "far"]) {
    on(id, "input", () => view.choose());
  }
  const frame = 1 / view.motions.all.fps;
  listenToKeys(view.canvas, {
    ...viewKeys(view), " ": () => view.play(),
    ",": () => view.seek(sound.currentTime - frame), ".": () => view.seek(sound.currentTime + frame),
  });
  point(view);
  new ResizeObserver(() => (view.stale = true)).observe(view.canvas);
}

/** What Gaussians listen to, by the names of the choices that it adds. */
function offered(tokens, bytes, count) {
  element("unheard").hidden = tokens.length > 0;
  return Object.fromEntries(tokens.map((token, k) => {
    element("paint").add(new Option(`how much they listen to: ${token}`, `token ${token}`));
    return [`token ${token}`, new Float32Array(bytes.buffer, 4 * k * count, count)];
  }));
}

async function main() {
  const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
  const words = await (await fetch("speech.json")).json();
  const avatar = await openAvatar(await bytes("avatar.egs"));
  const motions = {};
  for (const name of ["all", ...WITHOUT]) {
    motions[name] = new Motion(avatar, words.fps);
    motions[name].push(await bytes(`${name}.bin`));
  }
  // All of it at once: servers that send no parts let nobody seek.
  const sound = URL.createObjectURL(new Blob([await bytes(words.sound)], { type: words.type }));
  const shares = offered(words.tokens, await bytes("shares.bin"), avatar.count);
  const view = new View(avatar, motions, shares, new Audio(sound));
  element("seek").max = motions.all.duration;
  element("code").max = avatar.codes;
  const away = motions.all.frames[0].head[6];
  element("near").value = (away - 1).toFixed(1);
  element("far").value = (away + 1).toFixed(1);
  element("figures").textContent = `${words.name}: ${avatar.count} Gaussians, ${avatar.codes} ` +
    `codes, harmonics of degree ${Math.sqrt(avatar.harmonics) - 1}, ` +
    `${avatar.width} x ${avatar.height} pixels`;
  listen(view);
  view.choose();
  requestAnimationFrame((now) => view.run(now));
  element("play").disabled = false;
  window.view = view;
}

window.addEventListener("error", ({ error }) => complain(error));
main().catch(complain);
