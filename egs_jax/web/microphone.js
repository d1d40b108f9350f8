// An audio worklet: what a microphone hears, or this computer plays, in pieces of 20 ms. A script of
// its own, without imports; what it posts are Float32Arrays.

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate / 50));
    this.filled = 0;
  }

  process([[channel]]) {
    for (const value of channel ?? []) {
      this.piece[this.filled++] = value;
      if (this.filled < this.piece.length) continue;
      this.port.postMessage(this.piece.slice());
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
