// A session at a server: the twin of egs_jax/serve/protocol.py. Before: a WebSocket; after: live.js.

const HEADER = 16, CODES = 1;

/**
 * @typedef {object} Frame
 * @property {boolean} isCoded whether its body is a record of motion.js; else a JPEG
 * @property {boolean} speaking
 * @property {number} number
 * @property {number} time seconds in the session
 * @property {Uint8Array} body
 */

export class Session {
  /**
   * @param {object} hello avatar, rate, want
   * @param {{frame: (frame: Frame) => void, said: (event: object) => void,
   *   closed: () => void}} told what happens
   */
  constructor(hello, told) {
    const address = new URL("socket", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.search = "";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => this.say({ type: "hello", ...hello }));
    this.socket.addEventListener("close", () => told.closed());
    this.socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string") told.said(JSON.parse(data));
      else told.frame(frameOf(data));
    });
  }

  /** Sends a message, or sound; nothing where it is closed. */
  say(message) {
    const { socket } = this;
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(ArrayBuffer.isView(message) ? message : JSON.stringify(message));
  }

  close() {
    this.socket.close();
  }
}

/** @returns {Frame} */
function frameOf(data) {
  const view = new DataView(data);
  return {
    isCoded: view.getUint8(0) === CODES, speaking: view.getUint8(1) === 1,
    number: view.getUint32(4, true), time: view.getFloat64(8, true),
    body: new Uint8Array(data, HEADER),
  };
}
