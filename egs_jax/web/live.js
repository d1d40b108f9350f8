// The page of `egs-jax serve`: an avatar that says what a microphone hears, or a file.
//
// `window.live` is for whoever wants to steer it from a script. `?want=jpeg` in the address has the
// server draw. Before: socket.js, player.js, playout.js.

import { openAvatar } from "./avatar.js";
import { CodedPlayer, PicturePlayer } from "./live_players.js";
import { Playout } from "./playout.js";
import { listenToKeys, point, viewKeys } from "./pointing.js";
import { Session } from "./socket.js";
import { Voice, pcm } from "./voice.js";

const AHEAD = 2.5, PIECE = 0.1; // seconds of a file that are sent before they are due, and at once
const LOUD = 0.04, LONG = 10; // root mean square, pieces of 20 ms: from there on somebody interrupts
const EARS = ["microphone", "computer"]; // buttons
const NEED_SERVER = [...EARS, "speak", "interrupt"];
const MICROPHONE = { echoCancellation: true, noiseSuppression: true, channelCount: 1 };
// Another tab's voice is heard from here, in time with the lips, if the browser makes it silent there;
// it is no voice in a room, whose noise and echo are to be taken away.
const COMPUTER = {
  suppressLocalAudioPlayback: true, restrictOwnAudio: true,
  echoCancellation: false, noiseSuppression: false, autoGainControl: false,
};
const NO_SOUND = "no sound was shared; choose a tab or a screen and its sound with it, or take " +
  "another browser: not all can share sound";
const element = (id) => document.getElementById(id);

class Live {
  constructor(avatars) {
    Object.assign(this, { avatars, canvas: element("picture"), playout: new Playout() });
    /** Of the last second: what the server says, and how many pictures were drawn. */
    Object.assign(this, { told: {}, drawn: 0, fps: 0 });
    Object.assign(this, { speaking: false, isHearing: false, ear: null, asked: 0, loud: 0 });
    this.file = null; // what is being sent, and how much of it was
    setInterval(() => this.second(), 1000);
  }

  /** Shows another avatar, in a session of its own. */
  async open(number) {
    const words = this.avatars[number], canvas = anew(this.canvas);
    element("connect").hidden = true;
    complain("");
    this.end();
    this.player?.close();
    Object.assign(this, { player: null, canvas }); // nothing is drawn meanwhile
    const player = await this.playerOf(words, canvas);
    if (canvas !== this.canvas) return player.close(); // another one was asked for since
    Object.assign(this, { player, words });
    listenToKeys(canvas, viewKeys(this));
    point(this);
    this.connect();
  }

  /** What shows an avatar in this browser. */
  async playerOf(words, canvas) {
    const isAsked = new URL(location).searchParams.get("want") === "jpeg";
    if (isAsked || !words.file || !hasWebGL()) return new PicturePlayer(canvas, words);
    const answer = await fetch(words.file);
    if (!answer.ok) throw new Error(`the server does not give ${words.file}`);
    const avatar = await openAvatar(new Uint8Array(await answer.arrayBuffer()));
    return new CodedPlayer(canvas, avatar, "sorter.js");
  }

  connect() {
    const rate = this.playout.context.sampleRate;
    this.voice = new Voice(rate);
    this.playout.reset();
    this.player.clear();
    const hello = { avatar: this.words.name, rate, want: this.player.want };
    const ours = (work) => (what) => session === this.session && work(what);
    const session = new Session(hello, {
      frame: ours((frame) => this.take(frame)), said: ours((event) => this.hear(event)),
      closed: ours(() => this.closed()),
    });
    this.session = session;
    element("connect").hidden = true;
    complain("");
  }

  /** Ends the session. */
  end() {
    this.session?.close();
    Object.assign(this, { session: null, ready: null, file: null, speaking: false });
    this.asked++; // nobody is heard who was asked before
    this.offer();
    this.stop();
  }

  closed() {
    element("connect").hidden = false;
    this.end();
    if (!element("trouble").textContent) complain("The connection has ended.");
  }

  /** Takes what the server says. */
  hear(event) {
    if (event.type === "ready") {
      this.ready = event;
      this.look();
      this.offer();
    } else if (event.type === "sound") this.voice.begin(event.sample, event.time);
    else if (event.type === "state") this.told = event;
    else if (["error", "full"].includes(event.type)) complain(event.message);
    this.tell();
  }

  /** Takes a frame, and has its sound heard. @param {import("./socket.js").Frame} frame */
  take(frame) {
    this.playout.arrive(frame.time);
    this.player?.take(frame);
    this.speaking = frame.speaking;
    const sound = this.voice.at(frame.time, Math.round(this.voice.rate / 25));
    if (sound) this.playout.play(frame.time, sound);
    this.tell();
  }

  /** Draws one picture a frame of the screen. */
  run(now) {
    if (this.player) {
      this.player.fit(window.devicePixelRatio);
      this.player.pace(now);
      this.shown = this.playout.time(); // what the picture shows
      this.player.showAt(this.shown);
      this.drawn++;
    }
    requestAnimationFrame((next) => this.run(next));
  }

  // What it says.

  /** Says a file. @param {Blob} file */
  async speak(file) {
    complain("");
    await this.playout.start();
    const decoded = await this.playout.context.decodeAudioData(await file.arrayBuffer());
    if (!this.session) return;
    this.interrupt();
    const samples = new Float32Array(decoded.length);
    for (let c = 0; c < decoded.numberOfChannels; c++) {
      decoded.getChannelData(c).forEach((value, i) => {
        samples[i] += value / decoded.numberOfChannels;
      });
    }
    this.session.say({ type: "source", live: false });
    this.file = { samples, at: 0, since: performance.now() };
    this.send();
  }

  /** Sends what is due of the file, and comes back for the rest. */
  send() {
    const { file, voice } = this;
    if (!file) return;
    const due = ((performance.now() - file.since) / 1000 + AHEAD) * voice.rate;
    while (file.at < Math.min(due, file.samples.length)) {
      const piece = file.samples.slice(file.at, file.at + Math.round(PIECE * voice.rate));
      voice.send(piece);
      this.session.say(pcm(piece));
      file.at += piece.length;
    }
    if (file.at < file.samples.length) setTimeout(() => this.file === file && this.send(), 100);
    else this.file = null;
  }

  /** Falls silent. */
  interrupt() {
    this.file = null;
    this.voice?.hush();
    this.session?.say({ type: "interrupt" });
  }

  /** Opens an ear or closes it; one at a time, since somebody may have to be asked. */
  async toggle(id) {
    const was = this.ear?.id;
    this.stop();
    if (was === id) return;
    complain("");
    const asked = ++this.asked; // of several questions the last one counts
    for (const each of EARS) element(each).disabled = true;
    try {
      const ear = await this.opened(id);
      if (asked === this.asked) this.ear = ear;
      else release(ear);
    } finally {
      if (asked === this.asked) this.offer();
      this.tell();
    }
  }

  /** Lets what needs a server be used, or not. */
  offer() {
    for (const id of NEED_SERVER) element(id).disabled = !this.ready;
  }

  /** A microphone that is heard, or what this computer plays. */
  async opened(id) {
    const { playout } = this, { context } = playout, { mediaDevices } = navigator;
    const started = playout.start(); // browsers want it and the question within the click
    const stream = await (id === "microphone" ? mediaDevices.getUserMedia({ audio: MICROPHONE })
      : mediaDevices.getDisplayMedia({ audio: COMPUTER, video: true, systemAudio: "include" }));
    const [track] = stream.getAudioTracks(), ear = { id, stream };
    try {
      if (!track) throw new Error(NO_SOUND);
      track.onended = () => ear === this.ear && this.stop(); // it is shared no more
      stream.getVideoTracks().forEach((picture) => picture.stop()); // nobody looks at it
      await Promise.all([started, context.audioWorklet.addModule("microphone.js")]);
      const options = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
      ear.worklet = new AudioWorkletNode(context, "microphone", options);
      ear.source = context.createMediaStreamSource(stream);
      ear.source.connect(ear.worklet);
      if (track.readyState === "ended") throw new Error("its sound has ended");
    } catch (error) {
      release(ear);
      throw error;
    }
    ear.isSilent = track.getSettings().suppressLocalAudioPlayback === true;
    ear.worklet.port.onmessage = ({ data }) => ear === this.ear && this.listen(data);
    return ear;
  }

  /** Closes the ear. */
  stop() {
    if (this.ear) release(this.ear);
    Object.assign(this, { ear: null, isHearing: false, loud: 0 });
    this.tell();
  }

  /** Takes 20 ms of sound: to be said, or to interrupt. */
  listen(samples) {
    const isSaid = this.ear.id === "computer" || element("voice").value === "said";
    if (isSaid && !this.file) {
      if (!this.isHearing) this.session.say({ type: "source", live: true });
      this.isHearing = true;
      if (this.ear.isSilent) this.voice.send(samples);
      else this.voice.skip(samples.length); // it is heard already
      this.session.say(pcm(samples));
      return;
    }
    this.isHearing = false;
    if (this.ear.id === "computer") return;
    const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
    this.loud = Math.sqrt(power) > LOUD ? this.loud + 1 : 0;
    if (this.loud < LONG || !this.speaking) return;
    this.loud = 0;
    this.interrupt();
  }

  // How it looks.

  turn(yaw, pitch) {
    this.player.turn(yaw, pitch);
    this.ask();
  }

  zoom(factor, x = this.player.view.x, y = this.player.view.y) {
    this.player.zoom(factor, x, y);
    this.look();
  }

  reset() {
    this.player.reset();
    this.look();
  }

  /** Has what the controls say seen. */
  look() {
    const { player } = this, behind = element("behind").value, color = element("color").value;
    if (!player) return; // it is looked at again when there is one
    player.over(behind, color);
    this.canvas.classList.toggle("clear", behind === "nothing");
    element("zoom").value = player.view.zoom;
    this.ask();
  }

  /** Has the server draw what is to be seen, where it draws. */
  ask() {
    if (this.player.asks) this.session?.say({ type: "look", ...this.player.asks });
  }

  // What the page says.

  tell() {
    const state = !this.ready ? (element("connect").hidden ? "Loading" : "Not connected")
      : this.speaking ? "Speaking" : this.ear ? "Listening" : "Idle";
    if (element("state").textContent !== state) element("state").textContent = state;
    for (const id of EARS) element(id).setAttribute("aria-pressed", String(this.ear?.id === id));
  }

  second() {
    Object.assign(this, { fps: this.drawn, drawn: 0 });
    const { delay, late, dropped } = this.told;
    element("figures").textContent = !this.ready || delay === undefined ? "" :
      `${this.fps} pictures a second · sound is seen ` +
      `${(delay + this.playout.waits).toFixed(2)} s after it was sent ` +
      `(${this.ready.latency.toFixed(2)} s are what it listens ahead) · late: ${late} frames there, ` +
      `${this.playout.moved} here · dropped: ${dropped.toFixed(1)} s of sound`;
  }
}

/** A canvas in the place of one that may have been drawn to in another way. */
function anew(canvas) {
  const made = canvas.cloneNode();
  canvas.replaceWith(made);
  return made;
}

/** Closes an ear, or what there is of it. */
function release({ stream, source, worklet }) {
  source?.disconnect();
  if (worklet) worklet.port.onmessage = null;
  stream.getTracks().forEach((track) => track.stop());
}

/** Whether this browser can draw an avatar; tried on a canvas of its own. */
function hasWebGL() {
  const gl = document.createElement("canvas").getContext("webgl2");
  const can = gl !== null && gl.getExtension("EXT_color_buffer_float") !== null;
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return can;
}

function complain(words) {
  element("trouble").textContent = words.message ?? words;
}

/** Buttons, files, keys and pointers. */
function listen(live) {
  const known = {
    NotAllowedError: "The page may not hear that: you or the browser said no.",
    NotFoundError: "This browser finds nothing to hear.",
    EncodingError: "This browser cannot read that file as sound.",
  };
  const act = (work) => Promise.resolve(work()).catch((error) => complain(
    known[error.name] ?? `This cannot be done: ${error.message}`));
  const on = (id, event, work) => element(id).addEventListener(event, () => act(work));
  const file = element("file");
  for (const id of EARS) on(id, "click", () => live.toggle(id));
  element("computer").hidden = !navigator.mediaDevices?.getDisplayMedia; // as on phones
  on("speak", "click", () => file.click());
  on("interrupt", "click", () => live.interrupt());
  on("connect", "click", () => live.connect());
  on("reset", "click", () => live.player && live.reset());
  on("avatar", "change", () => live.open(Number(element("avatar").value)));
  on("behind", "change", () => live.look());
  on("color", "input", () => {
    element("behind").value = "color";
    live.look();
  });
  on("zoom", "input", () => live.player &&
    live.zoom(Number(element("zoom").value) / live.player.view.zoom));
  on("file", "change", async () => {
    const [chosen] = file.files;
    file.value = "";
    if (chosen) await live.speak(chosen);
  });
  listenToKeys(document, { Escape: (event) => event.repeat || live.interrupt() });
}

async function main() {
  const avatars = await (await fetch("avatars.json")).json();
  avatars.forEach(({ name }, i) => element("avatar").add(new Option(name, i)));
  const live = new Live(avatars);
  await live.open(0);
  listen(live);
  requestAnimationFrame((now) => live.run(now));
  window.live = live;
}

window.addEventListener("error", ({ error }) => complain(error));
main().catch(complain);
