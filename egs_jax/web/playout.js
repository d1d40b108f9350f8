// When frames that arrive are shown, and their sound is heard: by one clock, that of the sound.
//
// A frame and the 40 ms of sound from its time on are one piece, which is due `zero` after its own
// time. A piece that comes too late moves zero, and all that follows with it, so sound and picture
// cannot drift apart; where pieces wait for longer than they have to, zero moves back. Before:
// socket.js; after: live.js.

const BUFFER = 0.04; // seconds for which a piece waits at least: as unevenly as pieces may arrive
const ROUND = 125; // pieces after which it is looked how long they waited at least

export class Playout {
  constructor() {
    /** Of the sound, which no browser lets begin before a user has touched the page; until then
     * this machine's clock is the clock. */
    this.context = new AudioContext({ latencyHint: "interactive" });
    /** Clock's time of a session's time 0, and how often it had to be moved for a late piece. */
    Object.assign(this, { zero: null, moved: 0, least: Infinity, count: 0 });
    this.waits = 0; // seconds for which the last piece has to wait
  }

  /** Begins anew: another session, or another clock. */
  reset() {
    Object.assign(this, { zero: null, least: Infinity, count: 0 });
  }

  get hasSound() {
    return this.context.state === "running";
  }

  /** Seconds of the clock. */
  now() {
    return this.hasSound ? this.context.currentTime : performance.now() / 1000;
  }

  /** Time in the session of what is seen and heard now; -Infinity before there is any. */
  time() {
    if (this.zero === null) return -Infinity;
    const late = this.hasSound ? this.context.outputLatency || 0 : 0;
    return this.now() - this.zero - late;
  }

  /** Has the sound's clock go on; called where a user has touched the page. */
  async start() {
    if (this.hasSound) return;
    await this.context.resume();
    this.reset();
  }

  /** Takes a piece. @param {number} time of its frame in the session, seconds */
  arrive(time) {
    const now = this.now(), early = this.zero === null ? -Infinity : this.zero + time - now;
    this.waits = Math.max(early, 0);
    if (early < 0) {
      if (this.zero !== null) this.moved++;
      Object.assign(this, { zero: now + BUFFER - time, least: Infinity, count: 0 });
      return;
    }
    this.least = Math.min(this.least, early);
    if (++this.count < ROUND) return;
    if (this.least > 2 * BUFFER) this.zero -= this.least - BUFFER;
    Object.assign(this, { least: Infinity, count: 0 });
  }

  /** Has a piece of sound heard from a time of the session on. @param {Float32Array} samples */
  play(time, samples) {
    if (!this.hasSound) return;
    const { context } = this, buffer = context.createBuffer(1, samples.length, context.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    const rate = context.sampleRate; // pieces meet on whole samples
    source.start(Math.round((this.zero + time) * rate) / rate);
  }
}
