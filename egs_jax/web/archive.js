// Reads zip archives as Python's zipfile writes them: stored or deflated members, no ZIP64, no
// encryption. Before: the bytes of a file; after: avatar.js, which knows what the members mean.

const END = 0x06054b50, ENTRY = 0x02014b50, END_BYTES = 22;

/** Members of an archive; nothing is unpacked before it is asked for. */
export class Archive {
  /** @param {Uint8Array} bytes the whole file */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.members = this.directory();
  }

  /** Method, check sum, sizes and place of every member. @returns {Map<string, object>} */
  directory() {
    let end = this.bytes.length - END_BYTES;
    while (end >= 0 && this.view.getUint32(end, true) !== END) end--;
    if (end < 0) throw new Error("no archive, or one that was cut short");
    const members = new Map();
    let at = this.view.getUint32(end + 16, true);
    for (let left = this.view.getUint16(end + 10, true); left > 0; left--) {
      if (this.view.getUint32(at, true) !== ENTRY) throw new Error("a damaged archive");
      const number = (offset) => this.view.getUint32(at + offset, true);
      const length = (offset) => this.view.getUint16(at + offset, true);
      const name = new TextDecoder().decode(this.bytes.subarray(at + 46, at + 46 + length(28)));
      members.set(name, {
        method: length(10), crc: number(16), packed: number(20), size: number(24), at: number(42),
      });
      at += 46 + length(28) + length(30) + length(32);
    }
    return members;
  }

  /**
   * Unpacks one member; throws if it is missing or damaged.
   * @param {string} name
   * @returns {Promise<Uint8Array>} at the start of a buffer of its own
   */
  async read(name) {
    const member = this.members.get(name);
    if (!member) throw new Error(`${name} is missing`);
    const start = member.at + 30 + this.view.getUint16(member.at + 26, true) +
      this.view.getUint16(member.at + 28, true);
    const packed = this.bytes.slice(start, start + member.packed);
    const data = member.method === 0 ? packed : await inflated(packed);
    if (data.length !== member.size || checksum(data) !== member.crc) {
      throw new Error(`${name} is damaged`);
    }
    return data;
  }
}

async function inflated(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const CHECKS = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** CRC-32 of some bytes. */
function checksum(data) {
  let value = 0xffffffff;
  for (let i = 0; i < data.length; i++) value = CHECKS[(value ^ data[i]) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
