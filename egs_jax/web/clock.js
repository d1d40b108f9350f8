// What time it is in a sound that plays. The sound's own time is the only one that is ever used, so
// that pictures cannot drift from it; some browsers tell it in steps, between which this machine's
// clock goes on for at most MOST seconds. Before: an audio element; after: talk.js.

const MOST = 0.1;

export class SoundClock {
  /** @param {HTMLMediaElement} sound */
  constructor(sound) {
    this.sound = sound;
    this.told = -1;
    this.since = 0;
  }

  /** @param {number} now of this machine's clock, ms @returns {number} seconds of the sound */
  seconds(now) {
    const { sound } = this, told = sound.currentTime;
    if (told !== this.told || sound.paused) {
      this.told = told;
      this.since = now;
    }
    return told + Math.min(((now - this.since) / 1000) * sound.playbackRate, MOST);
  }
}
