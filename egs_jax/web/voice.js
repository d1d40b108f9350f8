// The sound that a page has sent, and which of it is heard at any time of the session: a server
// says of each run of sound when its first sample is heard. Before: live.js; after: playout.js.

const KEPT = 40; // seconds of sound that are remembered

export class Voice {
  /** @param {number} rate samples a second */
  constructor(rate) {
    Object.assign(this, { rate, sent: 0 });
    /** @type {{first: number, samples: Float32Array}[]} */
    this.pieces = [];
    /** @type {{sample: number, time: number}[]} */
    this.runs = [];
  }

  /** Remembers what is sent next. @param {Float32Array} samples */
  send(samples) {
    this.pieces.push({ first: this.sent, samples });
    this.sent += samples.length;
    while (this.sent - this.pieces[0].first > KEPT * this.rate) this.pieces.shift();
  }

  /** Counts what is sent next and is not to be heard here. */
  skip(count) {
    this.sent += count;
  }

  /** A run begins with a sample at a time of the session. */
  begin(sample, time) {
    this.runs.push({ sample, time });
    if (this.runs.length > 100) this.runs.shift();
  }

  /** Forgets what has not been heard. */
  hush() {
    this.pieces = [];
  }

  /**
   * What is heard from a time on.
   * @returns {Float32Array?} null where nothing is
   */
  at(time, count) {
    const heard = new Float32Array(count);
    let isHeard = false;
    this.runs.forEach((run, i) => {
      const start = run.sample + Math.round((time - run.time) * this.rate);
      const stop = i + 1 < this.runs.length ? this.runs[i + 1].sample : this.sent;
      for (const { first, samples } of this.pieces) {
        const from = Math.max(start, first, run.sample);
        const to = Math.min(start + count, first + samples.length, stop);
        if (from >= to) continue;
        heard.set(samples.subarray(from - first, to - first), from - start);
        isHeard = true;
      }
    });
    return isHeard ? heard : null;
  }
}

/** Sound as a server takes it. @param {Float32Array} samples @returns {Int16Array} */
export function pcm(samples) {
  return Int16Array.from(samples, (value) => Math.max(-1, Math.min(1, value)) * 32767);
}
