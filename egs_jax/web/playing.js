// What controls do to a picture that speaks: it plays, jumps, turns and zooms. Before: player.js.

export class Playing {
  /**
   * @param {HTMLAudioElement} sound
   * @param {number} duration of the picture [s]
   * @param {(error: Error) => void} complain is told why a sound cannot be played
   */
  constructor(sound, duration, complain) {
    /** `stale`: whether what is drawn is not what should be; `player`: of whoever extends this. */
    Object.assign(this, { sound, duration, complain, stale: true });
  }

  play() {
    if (this.sound.paused) this.sound.play().catch(this.complain);
    else this.sound.pause();
  }

  seek(seconds) {
    this.sound.currentTime = Math.min(Math.max(seconds, 0), this.duration);
    this.stale = true;
  }

  turn(yaw, pitch) {
    this.player.turn(yaw, pitch);
    this.stale = true;
  }

  zoom(factor, x = this.player.view.x, y = this.player.view.y) {
    this.player.zoom(factor, x, y);
    this.stale = true;
  }

  reset() {
    this.player.reset();
    this.stale = true;
  }
}
